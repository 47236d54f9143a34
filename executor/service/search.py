"""Use cases of listings: which instances there are, and how many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from executor.core import search
from executor.rendering import instance_view
from executor.service.access import Access, Caller, limit_of, rendered
from executor.views import CountView, InstancePage


class Search(Access):
    """Part of Service."""

    async def instances(
        self,
        caller: Caller,
        tenant: str,
        *,
        state: str | Sequence[str] | None = None,
        workflow: str | None = None,
        commit: str | None = None,
        created_from_ms: int | None = None,
        created_to_ms: int | None = None,
        updated_from_ms: int | None = None,
        updated_to_ms: int | None = None,
        where: Any = None,
        order_by: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> InstancePage:
        """Newest first, or as `order_by` says; `next` of a page is `after` of the next.

        `where`: conditions on search attributes, see `executor.core.search`. Raises Refused (`bad_request`) that names
        the condition.
        """
        self.may(caller, tenant, "read")
        query = search.query(
            state=state,
            workflow=workflow,
            commit=commit,
            created_from_ms=created_from_ms,
            created_to_ms=created_to_ms,
            updated_from_ms=updated_from_ms,
            updated_to_ms=updated_to_ms,
            where=where,
            order_by=order_by,
        )
        await self.known(tenant)
        rows, cursor = await self._instances.page(tenant, query, limit=limit_of(limit), after=after)
        size = sum(len(row.row.summary) + len(row.row.attributes) for row in rows)
        return InstancePage(items=await rendered(size, lambda: [instance_view(row) for row in rows]), next=cursor)

    async def count(
        self,
        caller: Caller,
        tenant: str,
        *,
        state: str | Sequence[str] | None = None,
        workflow: str | None = None,
        commit: str | None = None,
        created_from_ms: int | None = None,
        created_to_ms: int | None = None,
        updated_from_ms: int | None = None,
        updated_to_ms: int | None = None,
        where: Any = None,
    ) -> CountView:
        """How many instances `instances` would list; exact up to 10,000. Raises as that."""
        self.may(caller, tenant, "read")
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
        await self.known(tenant)
        found = await self._instances.matches(tenant, query)
        return CountView(count=min(found, search.COUNT_MAX), is_more=found > search.COUNT_MAX)

    async def counts(self, caller: Caller, tenant: str) -> dict[str, int]:
        """How many instances are in each state; states without any are left out."""
        self.may(caller, tenant, "read")
        await self.known(tenant)
        return await self._instances.counts(tenant)
