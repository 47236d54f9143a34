"""Bulk operations: one operation on every instance that a search finds.

A call takes one portion, in the order of creation, the newest first; its cursor says where the next portion begins.
So an instance that begins meanwhile is never among them, and none comes twice, whatever the operation does to it. Each
instance has its own outcome: one that refuses stops nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio

from executor.core import search
from executor.core.errors import NotFound, PerdureError, Refused, Unavailable
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

OPERATIONS = ("pause", "resume", "terminate", "restart", "delete")


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
        """Do `operation` (pause, resume, terminate, restart, delete) to up to `limit` instances that fit.

        `next` of the result is `after` of the next portion; None: that was the last. `dry_run`: change nothing, and
        say how many fit (exact up to 10,000) and the first of their ids. Raises Refused (`bad_request`), Unavailable
        (nothing of this portion was done; what is unavailable in the midst of it is among `errors`).
        """
        self.may(caller, tenant, "write")
        perform = self._perform(operation)
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
        return await _do(rows, perform, cursor)

    def _perform(self, operation: str) -> Callable[[StoredRow], Awaitable[Seen | None]]:
        if operation not in OPERATIONS:
            raise Refused(
                f"{str(operation)[:40]!r} is no bulk operation",
                code="bad_request",
                hint=f"Operations are {', '.join(OPERATIONS)}.",
            )
        instances = self._instances
        call: Callable[[str, str], Awaitable[Seen | None]] = getattr(instances, operation)

        async def perform(row: StoredRow) -> Seen | None:
            return await call(row.tenant, row.instance)

        return perform


async def _do(
    rows: Sequence[StoredRow], perform: Callable[[StoredRow], Awaitable[Seen | None]], cursor: str | None
) -> BulkResult:
    done = unchanged = 0
    errors: dict[int, BulkError] = {}
    limiter = trio.CapacityLimiter(CONCURRENCY)

    async def one(index: int, row: StoredRow) -> None:
        nonlocal done, unchanged
        async with limiter:
            try:
                seen = await perform(row)
            except NotFound:
                unchanged += 1  # deleted meanwhile: nothing is left to do
            except PerdureError as error:
                errors[index] = BulkError(id=row.instance, error=error.to_json())
            else:
                if seen is not None and seen.row.sequence == row.sequence and seen.row.row.state == row.row.state:
                    unchanged += 1
                else:
                    done += 1

    async with trio.open_nursery() as nursery:
        for index, row in enumerate(rows):
            nursery.start_soon(one, index, row)
    if errors and len(errors) == len(rows) and all(error.error["family"] == "unavailable" for error in errors.values()):
        raise _unavailable(errors[min(errors)])
    shown = [errors[index] for index in sorted(errors)][:ERRORS_SHOWN_MAX]
    return BulkResult(matched=len(rows), done=done, unchanged=unchanged, failed=len(errors), errors=shown, next=cursor)


def _unavailable(error: BulkError) -> Unavailable:
    """All of a portion failed for the same reason: nothing was done, and the same call may be made again."""
    told = error.error
    return Unavailable(told["message"], code=told["code"], hint=told["hint"], **told["details"])
