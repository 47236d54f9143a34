"""RoutedInstances: the Instances port over several others. An instance's shard says whose it is; questions about a
tenant go to all of them.

A page is merged from pages of all (pages.py). A cursor is of one layout; of another one it is refused.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec
import trio

from executor.core.errors import PerdureError, Refused, Unavailable
from executor.core.search import COUNT_MAX, Query
from executor.entropy import new_name
from executor.ports import (
    ChildEnd,
    Emission,
    Instances,
    Queried,
    Seen,
    Share,
    Start,
    StoredEntry,
    StoredRow,
    Updated,
    Vitals,
)
from executor.shards.pages import ENDED as _ENDED
from executor.shards.pages import merged_page
from executor.views import LogLine
from facets import shard_of

T = TypeVar("T")


def share_of_part(share: Share, count: int, number: int) -> Share:
    """What part `number` of `count` gets."""
    if share.concurrency is None:
        return share
    part = share.concurrency // count + (number < share.concurrency % count)
    return Share(share.weight, max(1, part))


class RoutedInstances:
    """See `executor.ports.Instances`. `owners[shard]` is the part that has it; `layout` numbers that arrangement."""

    def __init__(self, parts: Sequence[Instances], owners: Sequence[int], *, layout: int) -> None:
        self._parts = list(parts)
        self._owners = list(owners)
        self._layout = layout

    def _of(self, tenant: str, instance: str) -> Instances:
        return self._parts[self._owners[shard_of(tenant, instance)]]

    def _placed(self, start: Start) -> Start:
        """The start; one with limits and a new id has an id of the part where all such of its key are.

        There they begin in the order of arrival and priority, and no part waits for another. The limit holds wherever
        they are.
        """
        options = start.options
        if not start.is_new or options is None or not options.limits or len(self._parts) == 1:
            return start
        tenant, name = start.key
        part = self._owners[shard_of(tenant, options.limits[0].key)]
        while self._owners[shard_of(tenant, name)] != part:
            name = new_name(name.partition("_")[0])
        return msgspec.structs.replace(start, key=(tenant, name))

    async def start(self, start: Start) -> Seen:
        start = self._placed(start)
        return await self._of(*start.key).start(start)

    async def start_many(self, starts: Sequence[Start]) -> list[Seen | PerdureError]:
        starts = [self._placed(start) for start in starts]
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

    async def reschedule(self, tenant: str, instance: str, *, payload: bytes, start_at_ms: int, debounce: str) -> Seen:
        return await self._of(tenant, instance).reschedule(
            tenant, instance, payload=payload, start_at_ms=start_at_ms, debounce=debounce
        )

    async def set_share(self, tenant: str, share: Share) -> None:
        """The bound of runs is shared out among the parts, of which each gets one at least. A part that is being
        started again is told by whoever starts it."""
        for number, part in enumerate(self._parts):
            with suppress(Unavailable):
                await part.set_share(tenant, share_of_part(share, len(self._parts), number))

    async def status(self, tenant: str, instance: str) -> Seen:
        return await self._of(tenant, instance).status(tenant, instance)

    async def outcome(self, tenant: str, instance: str, *, wait_s: float | None) -> Seen:
        return await self._of(tenant, instance).outcome(tenant, instance, wait_s=wait_s)

    async def send_event(self, tenant: str, instance: str, *, id: str, type: str, payload: bytes) -> bool:
        return await self._of(tenant, instance).send_event(tenant, instance, id=id, type=type, payload=payload)

    async def pause(self, tenant: str, instance: str, *, by: str = "") -> Seen:
        return await self._of(tenant, instance).pause(tenant, instance, by=by)

    async def resume(self, tenant: str, instance: str, *, by: str = "") -> Seen:
        return await self._of(tenant, instance).resume(tenant, instance, by=by)

    async def terminate(self, tenant: str, instance: str, *, undo: bool = False, by: str = "") -> Seen:
        return await self._of(tenant, instance).terminate(tenant, instance, undo=undo, by=by)

    async def restart(
        self, tenant: str, instance: str, *, from_step: tuple[str, int] | None = None, by: str = ""
    ) -> Seen:
        return await self._of(tenant, instance).restart(tenant, instance, from_step=from_step, by=by)

    async def retry(self, tenant: str, instance: str, *, by: str = "") -> Seen:
        return await self._of(tenant, instance).retry(tenant, instance, by=by)

    async def set_attributes(self, tenant: str, instance: str, changes: bytes) -> Seen:
        return await self._of(tenant, instance).set_attributes(tenant, instance, changes)

    async def update(self, tenant: str, instance: str, *, id: str, name: str, payload: bytes, wait_s: float) -> Updated:
        return await self._of(tenant, instance).update(
            tenant, instance, id=id, name=name, payload=payload, wait_s=wait_s
        )

    async def ask(self, tenant: str, instance: str, *, name: str, payload: bytes) -> bytes:
        return await self._of(tenant, instance).ask(tenant, instance, name=name, payload=payload)

    async def query(self, tenant: str, instance: str, *, sql: str, parameters: bytes, limit: int) -> Queried:
        return await self._of(tenant, instance).query(tenant, instance, sql=sql, parameters=parameters, limit=limit)

    async def blob_part(self, tenant: str, instance: str, blob: int, part: int) -> bytes:
        return await self._of(tenant, instance).blob_part(tenant, instance, blob, part)

    async def streams(self, tenant: str, instance: str) -> dict[str, int]:
        return await self._of(tenant, instance).streams(tenant, instance)

    async def stream(
        self, tenant: str, instance: str, *, name: str, offset: int, limit: int, wait_s: float
    ) -> list[Emission]:
        return await self._of(tenant, instance).stream(
            tenant, instance, name=name, offset=offset, limit=limit, wait_s=wait_s
        )

    async def delete(self, tenant: str, instance: str) -> None:
        await self._of(tenant, instance).delete(tenant, instance)

    async def child_ended(self, tenant: str, parent: str, end: ChildEnd) -> None:
        await self._of(tenant, parent).child_ended(tenant, parent, end)

    async def close_children(self, tenant: str, parent: str, children: Sequence[str]) -> None:
        by_part: dict[int, list[str]] = {}
        for child in children:
            by_part.setdefault(self._owners[shard_of(tenant, child)], []).append(child)
        errors: list[PerdureError] = []

        async def some(part: int, of_part: list[str]) -> None:
            try:
                await self._parts[part].close_children(tenant, parent, of_part)
            except PerdureError as error:
                errors.append(error)

        async with trio.open_nursery() as nursery:
            for part, of_part in by_part.items():
                nursery.start_soon(some, part, of_part)
        if errors:
            raise errors[0]

    async def journal(self, tenant: str, instance: str, *, after: int, limit: int, wait_s: float) -> list[StoredEntry]:
        return await self._of(tenant, instance).journal(tenant, instance, after=after, limit=limit, wait_s=wait_s)

    async def output(self, tenant: str, instance: str, *, after: int, limit: int, wait_s: float) -> list[LogLine]:
        return await self._of(tenant, instance).output(tenant, instance, after=after, limit=limit, wait_s=wait_s)

    async def image(self, tenant: str, instance: str) -> bytes:
        return await self._of(tenant, instance).image(tenant, instance)

    # --- of all parts

    async def delete_tenant(self, tenant: str) -> None:
        await self._all(lambda part: part.delete_tenant(tenant))

    async def page(
        self, tenant: str, query: Query, *, limit: int, after: str | None
    ) -> tuple[list[StoredRow], str | None]:
        positions = self._positions(after)

        async def one(index: int, part: Instances) -> tuple[list[StoredRow], str | None]:
            if positions[index] == _ENDED:
                return [], None
            # One more than asked for, so that each part's next one is known.
            return await part.page(tenant, query, limit=limit + 1, after=positions[index])

        return merged_page(query, await self._each(one), positions, limit=limit, layout=self._layout)

    async def matches(self, tenant: str, query: Query) -> int:
        found = await self._all(lambda part: part.matches(tenant, query))
        return min(COUNT_MAX + 1, sum(found))

    def _positions(self, after: str | None) -> list[str | None]:
        if after is None:
            return [None] * len(self._parts)
        layout, colon, positions = after.partition(":")
        found = positions.split(".")
        if not colon or layout != str(self._layout) or len(found) != len(self._parts):
            raise Refused(
                f"{after[:80]!r} is not a cursor of this listing.",
                code="bad_request",
                hint="Begin at the first page: the executor may have been started with another number of processes.",
            )
        return [position or None for position in found]

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
