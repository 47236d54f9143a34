"""Bulk operations: one operation on every instance that a search finds.

A call takes one portion, in the order of creation, the newest first; its cursor says where the next portion begins.
So an instance that begins meanwhile is never among them, and none comes twice, whatever the operation does to it. Each
instance has its own outcome: one that refuses stops nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal, TypeAlias, cast

import trio

from executor.core import search
from executor.core.errors import Conflict, NotFound, PerdureError, Refused, Unavailable
from executor.core.lifecycle import TABLE, Operation, State
from executor.ports import Seen, StoredRow
from executor.service.access import Caller
from executor.service.search import Search
from executor.views import BulkError, BulkResult

PORTION_MAX = 1_000
"""Instances of one call."""
CONCURRENCY = 64
"""Of them at once: enough to share group commits."""
ERRORS_SHOWN_MAX = 100
IDS_SHOWN_MAX = 20

Perform: TypeAlias = Callable[[StoredRow], Awaitable[Seen | None]]


class Bulk(Search):
    """Part of Service."""

    async def bulk(
        self,
        caller: Caller,
        tenant: str,
        operation: str,
        *,
        state: str | Sequence[str] | None = None,
        workflow: str | None = None,
        commit: str | None = None,
        created_from_ms: int | None = None,
        created_to_ms: int | None = None,
        updated_from_ms: int | None = None,
        updated_to_ms: int | None = None,
        where: Any = None,
        limit: int = PORTION_MAX,
        after: str | None = None,
        dry_run: bool = False,
    ) -> BulkResult:
        """Do `operation` (pause, resume, terminate, restart, retry, delete) to up to `limit` instances that fit.

        `next` of the result is `after` of the next portion; None: that was the last. `dry_run`: change nothing, and
        say how many fit (exact up to 10,000) and the first of their ids. Raises Refused (`bad_request`), Unavailable
        (nothing of this portion was done; what is unavailable in the midst of it is among `errors`).
        """
        self.may(caller, tenant, "write")
        perform = self._perform(operation, caller.who)
        query = search.query(
            state=state,
            workflow=workflow,
            commit=commit,
            created_from_ms=created_from_ms,
            created_to_ms=created_to_ms,
            updated_from_ms=updated_from_ms,
            updated_to_ms=updated_to_ms,
            where=where,
        )
        if type(limit) is not int or not 1 <= limit <= PORTION_MAX:
            raise Refused(f"limit is {limit!r}; it is 1 to {PORTION_MAX}", code="bad_request")
        await self.known(tenant)
        if dry_run:
            rows, _ = await self._instances.page(tenant, query, limit=IDS_SHOWN_MAX, after=after)
            found = await self._instances.matches(tenant, query)
            return BulkResult(
                matched=min(found, search.COUNT_MAX),
                is_more=found > search.COUNT_MAX,
                ids=[row.instance for row in rows],
            )
        rows, cursor = await self._instances.page(tenant, query, limit=limit, after=after)
        return await _do(operation, rows, perform, cursor)

    def _perform(self, operation: str, by: str) -> Perform:
        instances = self._instances
        known: dict[str, Perform] = {
            "pause": lambda row: instances.pause(row.tenant, row.instance, by=by),
            "resume": lambda row: instances.resume(row.tenant, row.instance, by=by),
            "terminate": lambda row: instances.terminate(row.tenant, row.instance, by=by),
            "restart": lambda row: instances.restart(row.tenant, row.instance, by=by),
            "retry": lambda row: instances.retry(row.tenant, row.instance, by=by),
            "delete": lambda row: instances.delete(row.tenant, row.instance),
        }
        found = known.get(operation)
        if found is None:
            raise Refused(
                f"{str(operation)[:40]!r} is no bulk operation",
                code="bad_request",
                hint=f"Operations are {', '.join(known)}.",
            )
        return found


async def _do(operation: str, rows: Sequence[StoredRow], perform: Perform, cursor: str | None) -> BulkResult:
    outcomes: list[Literal["done", "unchanged"] | PerdureError | None] = [None] * len(rows)
    limiter = trio.CapacityLimiter(CONCURRENCY)

    async def one(index: int, row: StoredRow) -> None:
        async with limiter:
            outcomes[index] = await _outcome(operation, row, perform)

    async with trio.open_nursery() as nursery:
        for index, row in enumerate(rows):
            nursery.start_soon(one, index, row)
    errors = [
        (row.instance, outcome)
        for row, outcome in zip(rows, outcomes, strict=True)
        if isinstance(outcome, PerdureError)
    ]
    if errors and len(errors) == len(rows) and all(isinstance(error, Unavailable) for _, error in errors):
        raise errors[0][1]  # nothing was done: the same call may be made again
    return BulkResult(
        matched=len(rows),
        done=outcomes.count("done"),
        unchanged=outcomes.count("unchanged"),
        failed=len(errors),
        errors=[BulkError(id=name, error=error.to_json()) for name, error in errors[:ERRORS_SHOWN_MAX]],
        next=cursor,
    )


async def _outcome(operation: str, row: StoredRow, perform: Perform) -> Literal["done", "unchanged"] | PerdureError:
    try:
        seen = await perform(row)
    except NotFound:
        return "unchanged"  # deleted meanwhile: nothing is left to do
    except Conflict as error:
        return "unchanged" if operation == "terminate" and error.code == "instance_finished" else error
    except PerdureError as error:
        return error
    is_so_already = TABLE[cast("Operation", operation)][cast("State", row.row.state)] == "nothing"
    return "unchanged" if is_so_already or (seen is not None and seen.row.sequence == row.sequence) else "done"
