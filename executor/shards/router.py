"""RoutedInstances: the Instances port over several others. An instance's shard says whose it is; questions about a
tenant go to all of them.

A page is merged from pages of all, newest first. Each part lists its own in the order of their making, so the merge
takes whichever part's next one is the youngest, and the cursor says for each part where it goes on: pages join to one
list, which instances that begin meanwhile do not shift. A cursor is of one layout; of another one it is refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import trio

from executor.core.errors import PerdureError, Refused, Unavailable
from executor.ports import Instances, Seen, Start, StoredRow, Vitals
from executor.views import LogLine
from facets import shard_of

T = TypeVar("T")


class RoutedInstances:
    """See `executor.ports.Instances`. `owners[shard]` is the part that has it; `layout` numbers that arrangement."""

    def __init__(self, parts: Sequence[Instances], owners: Sequence[int], *, layout: int) -> None:
        self._parts = list(parts)
        self._owners = list(owners)
        self._layout = layout

    def _of(self, tenant: str, instance: str) -> Instances:
        return self._parts[self._owners[shard_of(tenant, instance)]]

    async def start(self, start: Start) -> Seen:
        return await self._of(*start.key).start(start)

    async def start_many(self, starts: Sequence[Start]) -> list[Seen | PerdureError]:
        by_part: dict[int, list[int]] = {}
        for index, start in enumerate(starts):
            by_part.setdefault(self._owners[shard_of(*start.key)], []).append(index)
        answers: list[Seen | PerdureError | None] = [None] * len(starts)

        async def some(part: int, indexes: list[int]) -> None:
            try:
                found = await self._parts[part].start_many([starts[index] for index in indexes])
            except PerdureError as error:
                found = [error] * len(indexes)
            for index, answer in zip(indexes, found, strict=True):
                answers[index] = answer

        if len(by_part) == 1:
            [(part, indexes)] = by_part.items()
            await some(part, indexes)
        else:
            async with trio.open_nursery() as nursery:
                for part, indexes in by_part.items():
                    nursery.start_soon(some, part, indexes)
        return [answer for answer in answers if answer is not None]

    async def status(self, tenant: str, instance: str) -> Seen:
        return await self._of(tenant, instance).status(tenant, instance)

    async def outcome(self, tenant: str, instance: str, *, wait_s: float | None) -> Seen:
        return await self._of(tenant, instance).outcome(tenant, instance, wait_s=wait_s)

    async def send_event(self, tenant: str, instance: str, *, id: str, type: str, payload: bytes) -> bool:
        return await self._of(tenant, instance).send_event(tenant, instance, id=id, type=type, payload=payload)

    async def pause(self, tenant: str, instance: str) -> Seen:
        return await self._of(tenant, instance).pause(tenant, instance)

    async def resume(self, tenant: str, instance: str) -> Seen:
        return await self._of(tenant, instance).resume(tenant, instance)

    async def terminate(self, tenant: str, instance: str) -> Seen:
        return await self._of(tenant, instance).terminate(tenant, instance)

    async def delete(self, tenant: str, instance: str) -> None:
        await self._of(tenant, instance).delete(tenant, instance)

    async def journal(self, tenant: str, instance: str, *, after: int, limit: int, wait_s: float) -> list[bytes]:
        return await self._of(tenant, instance).journal(tenant, instance, after=after, limit=limit, wait_s=wait_s)

    async def output(self, tenant: str, instance: str, *, after: int, limit: int, wait_s: float) -> list[LogLine]:
        return await self._of(tenant, instance).output(tenant, instance, after=after, limit=limit, wait_s=wait_s)

    async def image(self, tenant: str, instance: str) -> bytes:
        return await self._of(tenant, instance).image(tenant, instance)

    # --- of all parts

    async def delete_tenant(self, tenant: str) -> None:
        await self._all(lambda part: part.delete_tenant(tenant))

    async def page(
        self,
        tenant: str,
        *,
        state: str | None,
        workflow: str | None,
        commit: str | None,
        limit: int,
        after: str | None,
    ) -> tuple[list[StoredRow], str | None]:
        positions = self._positions(after)
        # One more than asked for, so that each part's next one is known.
        found = await self._each(
            lambda index, part: part.page(
                tenant, state=state, workflow=workflow, commit=commit, limit=limit + 1, after=positions[index]
            )
        )
        lists = [rows for rows, _ in found]
        taken = [0] * len(lists)
        merged: list[StoredRow] = []
        while len(merged) < limit:
            heads = [index for index, rows in enumerate(lists) if taken[index] < len(rows)]
            if not heads:
                break
            index = max(heads, key=lambda index: (lists[index][taken[index]].row.created_at_ms, -index))
            merged.append(lists[index][taken[index]])
            taken[index] += 1
        if all(taken[index] == len(rows) for index, rows in enumerate(lists)):
            return merged, None
        nexts: list[int] = []
        for index, rows in enumerate(lists):
            if taken[index] < len(rows):
                nexts.append(rows[taken[index]].generation + 1)
            else:
                nexts.append(rows[-1].generation if rows else 0)
        return merged, f"{self._layout}:{'.'.join(map(str, nexts))}"

    def _positions(self, after: str | None) -> list[str | None]:
        if after is None:
            return [None] * len(self._parts)
        layout, colon, positions = after.partition(":")
        found = positions.split(".")
        if not colon or layout != str(self._layout) or len(found) != len(self._parts) or not all(map(_is_key, found)):
            raise Refused(
                f"{after[:80]!r} is not a cursor of this listing.",
                code="bad_request",
                hint="Begin at the first page: the executor may have been started with another number of processes.",
            )
        return [*found]

    async def counts(self, tenant: str) -> dict[str, int]:
        total: dict[str, int] = {}
        for counts in await self._all(lambda part: part.counts(tenant)):
            for state, count in counts.items():
                total[state] = total.get(state, 0) + count
        return total

    async def commits(self, tenant: str) -> set[str]:
        return set[str]().union(*await self._all(lambda part: part.commits(tenant)))

    async def vitals(self) -> Vitals:
        async def one(part: Instances) -> Vitals:
            try:
                return await part.vitals()
            except Unavailable:
                return Vitals(is_ready=False, epoch=0, active_runs=0, sandboxes=0)

        found = await self._all(one)
        return Vitals(
            all(vitals.is_ready for vitals in found),
            max(vitals.epoch for vitals in found),
            sum(vitals.active_runs for vitals in found),
            sum(vitals.sandboxes for vitals in found),
        )

    async def backup(self, target: Path) -> None:
        await self._all(lambda part: part.backup(target))

    async def check(self) -> list[str]:
        return [problem for problems in await self._all(lambda part: part.check()) for problem in problems]

    async def _all(self, ask: Callable[[Instances], Awaitable[T]]) -> list[T]:
        return await self._each(lambda _, part: ask(part))

    async def _each(self, ask: Callable[[int, Instances], Awaitable[T]]) -> list[T]:
        """Ask all parts at the same time. Raises the first error once all have answered."""
        answers: dict[int, T] = {}
        errors: list[PerdureError] = []

        async def one(index: int, part: Instances) -> None:
            try:
                answers[index] = await ask(index, part)
            except PerdureError as error:
                errors.append(error)

        async with trio.open_nursery() as nursery:
            for index, part in enumerate(self._parts):
                nursery.start_soon(one, index, part)
        if errors:
            raise errors[0]
        return [answers[index] for index in range(len(self._parts))]


def _is_key(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19
