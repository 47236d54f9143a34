"""A tenant's instances: one by its id, and those that fit."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec

from executor.core.errors import PerdureError, Refused
from executor.platform import payloads
from executor.platform.asynchronous.caller import PAGE, AsyncOfTenant
from executor.platform.asynchronous.run import AsyncRun
from executor.platform.payloads import Where
from executor.views import BulkResult, CountView, InstancePage, InstanceView, Status
from executor.workflow import Workflow


class AsyncSearch(AsyncOfTenant):
    """Part of AsyncTenant."""

    async def instance(self, id: str) -> AsyncRun[Any]:
        """Raises NotFound (`instance_not_found`)."""
        status: Status = await self._call("status", id)
        return AsyncRun(self, status.id)

    async def instances(
        self,
        *,
        state: str | Sequence[str] | None = None,
        workflow: str | type[Workflow[Any, Any]] | None = None,
        commit: str | None = None,
        created_from: datetime | None = None,
        created_to: datetime | None = None,
        updated_from: datetime | None = None,
        updated_to: datetime | None = None,
        where: Where | None = None,
        order_by: str | None = None,
        limit: int | None = 100,
    ) -> list[InstanceView]:
        """The first `limit` instances that fit (None: all of them), newest first.

        `state`: one or several. Times: from is included, to is not. `where`: conditions on search attributes, all of
        which must hold: {"customer": "acme", "amount": {">": 5, "<=": 10}}, or [("amount", ">", 5)]; operators are
        = != < <= > >= in exists prefix. `order_by`: created, updated or the name of an attribute; with - before it,
        the greatest comes first. Raises Refused (`bad_request`) that names the condition.
        """
        fits = payloads.search(
            state=state,
            workflow=workflow,
            commit=commit,
            created_from=created_from,
            created_to=created_to,
            updated_from=updated_from,
            updated_to=updated_to,
            where=where,
        )
        if limit is not None and limit < 1:
            raise Refused(f"limit is {limit}.", hint="Give 1 or more, or None for all.")
        found: list[InstanceView] = []
        after: str | None = None
        while limit is None or len(found) < limit:
            size = PAGE if limit is None else min(PAGE, limit - len(found))
            page: InstancePage = await self._call("instances", **fits, order_by=order_by, limit=size, after=after)
            found += page.items
            after = page.next
            if after is None:
                break
        return found

    async def count(
        self,
        *,
        state: str | Sequence[str] | None = None,
        workflow: str | type[Workflow[Any, Any]] | None = None,
        commit: str | None = None,
        created_from: datetime | None = None,
        created_to: datetime | None = None,
        updated_from: datetime | None = None,
        updated_to: datetime | None = None,
        where: Where | None = None,
    ) -> CountView:
        """How many instances fit; exact up to 10,000, beyond that `is_more` is true."""
        fits = payloads.search(
            state=state,
            workflow=workflow,
            commit=commit,
            created_from=created_from,
            created_to=created_to,
            updated_from=updated_from,
            updated_to=updated_to,
            where=where,
        )
        found: CountView = await self._call("count", **fits)
        return found

    async def bulk(
        self,
        operation: Literal["pause", "resume", "terminate", "restart", "retry", "delete"],
        *,
        state: str | Sequence[str] | None = None,
        workflow: str | type[Workflow[Any, Any]] | None = None,
        commit: str | None = None,
        created_from: datetime | None = None,
        created_to: datetime | None = None,
        updated_from: datetime | None = None,
        updated_to: datetime | None = None,
        where: Where | None = None,
        limit: int | None = None,
        dry_run: bool = False,
    ) -> BulkResult:
        """Do `operation` to the instances that fit: the newest `limit` of them (None: all).

        Instances that begin after the call are not among them. Each has its own outcome: the result counts what was
        done, what was so already, and what failed, with the first 100 errors. `dry_run`: change nothing; `matched` is
        how many fit (exact up to 10,000, beyond that `is_more`), `ids` the first of them. Raises Refused
        (`bad_request`); Unavailable, with `details["so_far"]` if some was done before.
        """
        fits = payloads.search(
            state=state,
            workflow=workflow,
            commit=commit,
            created_from=created_from,
            created_to=created_to,
            updated_from=updated_from,
            updated_to=updated_to,
            where=where,
        )
        if limit is not None and limit < 1:
            raise Refused(f"limit is {limit}.", hint="Give 1 or more, or None for all.")
        total = BulkResult(matched=0)
        while True:
            size = PAGE if limit is None else min(PAGE, limit - total.matched)
            try:
                portion: BulkResult = await self._call(
                    "bulk", operation=operation, **fits, limit=size, after=total.next, dry_run=dry_run
                )
            except PerdureError as error:
                if total.matched:
                    error.details["so_far"] = msgspec.to_builtins(total)
                raise
            if dry_run:
                return portion
            total = payloads.sum_of(total, portion)
            if total.next is None or total.matched == limit:
                return total
