"""LocalInstances: the Instances port over an engine and a store in this process.

Single rows are read on the event loop: a few pages of a B-tree, mostly in memory, cost less than the way to a thread
and back. Whatever reads more than one instance, or an image, goes to a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from executor.core import attributes
from executor.core.errors import NotFound, PerdureError, Unavailable
from executor.core.lifecycle import ACTIVE, FINAL
from executor.core.search import Query
from executor.engine.engine import Engine
from executor.engine.portions import journal_page, output_of
from executor.engine.resident import Key
from executor.engine.streams import StreamReader
from executor.engine.turns import Turns
from executor.engine.watchers import ENDED, Watch
from executor.ports import (
    ChildEnd,
    Emission,
    Queried,
    Seen,
    Share,
    Start,
    StateStore,
    StoredEntry,
    StoredRow,
    Updated,
    Vitals,
)
from executor.views import LogLine, Queued

T = TypeVar("T")

READERS = 16
SEARCHES = 4
"""So many read journals, output and images, and so many search, at once; half of them of one tenant. The threads of the
process are for all: who searches a million instances, or reads at a hundred places, waits behind itself."""
OUTPUT_BYTES = 8 * 1024 * 1024
"""Of instances that were started before and have ended, in the answer to many starts."""


class LocalInstances:
    """See `executor.ports.Instances`. `place`: where a backup keeps this store, below its directory."""

    def __init__(self, engine: Engine, store: StateStore, *, place: str = "state") -> None:
        self._engine = engine
        self._store = store
        self._place = place
        self._streams = StreamReader(store)
        self._readers = Turns(READERS, READERS // 2)
        self._searches = Turns(SEARCHES, SEARCHES // 2)

    # --- changing

    async def start(self, start: Start) -> Seen:
        [seen] = await self.start_many([start])
        if isinstance(seen, PerdureError):
            raise seen
        return seen

    async def start_many(self, starts: Sequence[Start]) -> list[Seen | PerdureError]:
        answers: list[Seen | PerdureError] = []
        left = OUTPUT_BYTES
        for row in await self._engine.start_many(starts):
            if isinstance(row, PerdureError):
                answers.append(row)
            elif left < 0 and row.row.state == "complete":
                answers.append(_too_much(row))
            else:
                seen = self._seen_of(row)
                left -= len(seen.output or b"")
                answers.append(seen)
        return answers

    async def reschedule(self, tenant: str, instance: str, *, payload: bytes, start_at_ms: int, debounce: str) -> Seen:
        key = (tenant, instance)
        return self._seen_of(
            await self._engine.starting.reschedule(key, payload=payload, start_at_ms=start_at_ms, debounce=debounce)
        )

    async def set_share(self, tenant: str, share: Share) -> None:
        self._engine.places.set_share(tenant, share)

    async def send_event(self, tenant: str, instance: str, *, id: str, type: str, payload: bytes) -> bool:
        return await self._engine.send_event((tenant, instance), id=id, type=type, payload=payload)

    async def pause(self, tenant: str, instance: str, *, by: str = "") -> Seen:
        await self._engine.pause((tenant, instance), by=by)
        return self._seen((tenant, instance))

    async def resume(self, tenant: str, instance: str, *, by: str = "") -> Seen:
        await self._engine.resume((tenant, instance), by=by)
        return self._seen((tenant, instance))

    async def terminate(self, tenant: str, instance: str, *, undo: bool = False, by: str = "") -> Seen:
        await self._engine.terminate((tenant, instance), undo=undo, by=by)
        return self._seen((tenant, instance))

    async def restart(
        self, tenant: str, instance: str, *, from_step: tuple[str, int] | None = None, by: str = ""
    ) -> Seen:
        await self._engine.restart((tenant, instance), from_step=from_step, by=by)
        return self._seen((tenant, instance))

    async def retry(self, tenant: str, instance: str, *, by: str = "") -> Seen:
        await self._engine.retry((tenant, instance), by=by)
        return self._seen((tenant, instance))

    async def set_attributes(self, tenant: str, instance: str, changes: bytes) -> Seen:
        await self._engine.set_attributes((tenant, instance), attributes.decode_changes(changes))
        return self._seen((tenant, instance))

    async def update(self, tenant: str, instance: str, *, id: str, name: str, payload: bytes, wait_s: float) -> Updated:
        return await self._engine.asking.update((tenant, instance), id=id, name=name, payload=payload, wait_s=wait_s)

    async def ask(self, tenant: str, instance: str, *, name: str, payload: bytes) -> bytes:
        return await self._engine.asking.ask((tenant, instance), name=name, payload=payload)

    async def delete(self, tenant: str, instance: str) -> None:
        await self._engine.delete((tenant, instance))
        self._streams.forget((tenant, instance))

    async def delete_tenant(self, tenant: str) -> None:
        await self._engine.delete_tenant(tenant)

    async def child_ended(self, tenant: str, parent: str, end: ChildEnd) -> None:
        await self._engine.obligations.children.child_ended((tenant, parent), end)

    async def close_children(self, tenant: str, parent: str, children: Sequence[str]) -> None:
        await self._engine.obligations.children.close_children(tenant, parent, children)

    # --- looking at one

    async def status(self, tenant: str, instance: str) -> Seen:
        return self._seen((tenant, instance))

    async def outcome(self, tenant: str, instance: str, *, wait_s: float | None) -> Seen:
        key = (tenant, instance)
        until = _deadline(wait_s)
        async with self._engine.watchers.watching(key) as watch:
            while True:
                seen = self._seen(key, watch)
                if seen.row.row.state in ENDED:
                    return seen
                if wait_s is None:
                    await watch.wait_ended()
                    continue
                with trio.move_on_at(until) as bound:
                    await watch.wait_ended()
                if bound.cancelled_caught:
                    return self._seen(key, watch)

    async def journal(self, tenant: str, instance: str, *, after: int, limit: int, wait_s: float) -> list[StoredEntry]:
        key = (tenant, instance)
        async with self._engine.watchers.watching(key) as watch:
            until = _deadline(wait_s)
            while True:
                row = self._row(key)
                if row.sequence > after or row.row.state in FINAL or not await _changes(watch, until):
                    break
        return await _in_turn(self._readers, tenant, lambda: journal_page(self._store, key, after, limit))

    async def output(self, tenant: str, instance: str, *, after: int, limit: int, wait_s: float) -> list[LogLine]:
        key = (tenant, instance)
        async with self._engine.watchers.watching(key) as watch:
            until = _deadline(wait_s)
            while True:
                row = self._row(key)
                await self._engine.output.flush()
                read = partial(self._store.output, *key, after=after, limit=limit)
                lines = await _in_turn(self._readers, tenant, read)
                if lines or row.row.state in FINAL or not await _changes(watch, until):
                    return lines

    async def image(self, tenant: str, instance: str) -> bytes:
        self._row((tenant, instance))
        return await _in_turn(self._readers, tenant, lambda: self._store.image(tenant, instance))

    async def blob_part(self, tenant: str, instance: str, blob: int, part: int) -> bytes:
        self._row((tenant, instance))
        read = partial(self._store.blob_part, tenant, instance, blob, part)
        return await _in_turn(self._readers, tenant, read) or b""

    async def query(self, tenant: str, instance: str, *, sql: str, parameters: bytes, limit: int) -> Queried:
        return await self._engine.querying.query((tenant, instance), sql=sql, parameters=parameters, limit=limit)

    async def streams(self, tenant: str, instance: str) -> dict[str, int]:
        row = self._row((tenant, instance))
        return await self._streams.counts(row)

    async def stream(
        self, tenant: str, instance: str, *, name: str, offset: int, limit: int, wait_s: float
    ) -> list[Emission]:
        key = (tenant, instance)
        async with self._engine.watchers.watching(key) as watch:
            until = _deadline(wait_s)
            while True:
                row = self._row(key)
                items = await self._streams.read(row, name, offset, limit)
                if items or row.row.state in FINAL or not await _changes(watch, until):
                    return items

    # --- looking at many

    async def page(
        self, tenant: str, query: Query, *, limit: int, after: str | None
    ) -> tuple[list[StoredRow], str | None]:
        read = partial(self._store.page, tenant, query, limit=limit, after=after)
        return await _in_turn(self._searches, tenant, read)

    async def matches(self, tenant: str, query: Query) -> int:
        return await _in_turn(self._searches, tenant, lambda: self._store.matches(tenant, query))

    async def counts(self, tenant: str) -> dict[str, int]:
        return await trio.to_thread.run_sync(self._store.counts, tenant)

    async def commits(self, tenant: str) -> set[str]:
        return await trio.to_thread.run_sync(self._store.commits, tenant)

    # --- the owner itself

    async def vitals(self) -> Vitals:
        runs, sandboxes = self._engine.active_counts()
        return Vitals(not self._engine.is_stopping, self._store.epoch, runs, sandboxes)

    async def backup(self, target: Path) -> None:
        await self._engine.committer.drain()
        await trio.to_thread.run_sync(self._backup, target / self._place)

    def _backup(self, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        self._store.backup(target)

    async def check(self) -> list[str]:
        return await trio.to_thread.run_sync(self._store.check)

    # --- inside

    def _row(self, key: Key) -> StoredRow:
        resident = self._engine.residents.get(key)
        row = resident.row if resident is not None and not resident.is_lost else None
        row = row or self._store.row(*key)
        if row is None:
            raise NotFound(f'tenant "{key[0]}" has no instance "{key[1]}"', code="instance_not_found")
        return row

    def _seen(self, key: Key, watch: Watch | None = None) -> Seen:
        """`watch`: one on `key`, which may know already what the store would say."""
        row = (watch.row if watch is not None else None) or self._row(key)
        return self._seen_of(row, watch.output if watch is not None else None)

    def _seen_of(self, row: StoredRow, output: bytes | None = None) -> Seen:
        if row.row.state == "complete" and output is None:
            output = output_of(self._store, row)
        return Seen(row, output, self._queued(row) if row.row.state in ACTIVE else None)

    def _queued(self, row: StoredRow) -> Queued | None:
        waiting = self._engine.queue.waiting((row.tenant, row.instance))
        return None if waiting is None else Queued(limit=waiting.limit, position=waiting.position)


def _too_much(row: StoredRow) -> Unavailable:
    return Unavailable(
        f'instance "{row.instance}" is there and has ended; with its output the answer would be too large',
        code="busy",
        hint="Ask for its status, or start fewer at once.",
        retry_after_s=1,
    )


async def _in_turn(turns: Turns, tenant: str, read: Callable[[], T]) -> T:
    async with turns.turn(tenant):
        return await trio.to_thread.run_sync(read)


def _deadline(wait_s: float | None) -> float:
    # NaN counts as 0, in this order of the arguments.
    return trio.current_time() + (float("inf") if wait_s is None else max(0.0, wait_s))


async def _changes(watch: Watch, until: float) -> bool:
    """Wait for the next change. False: the time was up first. Only the waiting is bounded, never the look."""
    with trio.move_on_at(until) as bound:
        await watch.wait()
    return not bound.cancelled_caught
