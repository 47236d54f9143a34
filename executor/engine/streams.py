"""Streams: what instances emit, read back from their journals by offset.

Where a stream's items are in the journal is remembered for the instances whose streams were read lately, so that a
reader that follows one looks at new entries only. Items are never taken back: a restart leaves them, and goes on
behind them. Those that went with old executions are passed over: who reads from their offsets gets what came after.

One thread looks at journals, in portions, of which tenants have turns (turns.py): so a long journal, or many of them,
are in nobody else's way for longer than a portion.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import TypeVar

import trio

from executor.core import codec
from executor.core.entries import Emitted
from executor.engine.resident import Key
from executor.engine.turns import Turns
from executor.ports import Emission, StateStore, StoredRow

T = TypeVar("T")

KNOWN_MAX = 256
"""Instances that are remembered. One of the tenant that has the most of them goes for a new one."""
PLACES_MAX = 4_000_000
"""Entries whose places are remembered, besides those of the instance that is being read; each takes 16 bytes."""
PORTION_ENTRIES_MAX = 2_000
PORTION_BYTES = 2 * 1024 * 1024
"""About as much of a journal is looked at in one turn."""
FIRST_PORTION = 64
"""Entries; how long they are is not known yet."""
BYTES_MAX = 4 * 1024 * 1024
"""Of one answer; it has one item at least."""
_EMITTED_TAG = 24


class Known:
    """Of one instance, up to entry `scanned`: by stream, offset of the first item and sequence of each entry (`size` of
    them in all), and how many items there are. `portion`: entries to look at next."""

    __slots__ = ("counts", "created_at_ms", "places", "portion", "scanned", "size")

    def __init__(self, created_at_ms: int) -> None:
        self.created_at_ms = created_at_ms
        self.scanned = 0
        self.portion = FIRST_PORTION
        self.places: dict[str, tuple[array[int], array[int]]] = {}
        self.size = 0
        self.counts: dict[str, int] = {}


class StreamReader:
    """Reads streams on worker threads, one portion at a time."""

    def __init__(self, store: StateStore) -> None:
        self._streams = Streams(store)
        self._turns = Turns(1, 1)

    async def counts(self, row: StoredRow) -> dict[str, int]:
        """Items so far, by stream, in the order of their first items."""
        known = await self._look(row)
        return dict(known.counts)

    async def read(self, row: StoredRow, name: str, offset: int, limit: int) -> list[Emission]:
        """Items from `offset` on, at most `limit`."""
        known = await self._look(row)
        if offset >= known.counts.get(name, 0):
            return []
        return await self._turn(row, lambda: self._streams.items(row, known, name, offset, limit))

    def forget(self, key: Key) -> None:
        """It was deleted: another one of its id has other items."""
        self._streams.forget(key)

    async def _look(self, row: StoredRow) -> Known:
        """What there is up to now. It is held here: what others read meanwhile does not make it begin anew."""
        known = self._streams.known(row)
        while known.scanned < row.sequence and await self._turn(row, lambda: self._streams.portion(row, known)):
            pass
        return known

    async def _turn(self, row: StoredRow, function: Callable[[], T]) -> T:
        async with self._turns.turn(row.tenant):
            return await trio.to_thread.run_sync(function)


class Streams:
    """What is known is kept by the event loop; `portion` and `items` are for one worker thread at a time."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._known: OrderedDict[Key, Known] = OrderedDict()
        self._of_tenant: dict[str, int] = {}

    def forget(self, key: Key) -> None:
        if self._known.pop(key, None) is not None:
            self._of_tenant[key[0]] -= 1
            if not self._of_tenant[key[0]]:
                del self._of_tenant[key[0]]

    def known(self, row: StoredRow) -> Known:
        """What is known of the instance; nothing, if it is another one by now."""
        key = (row.tenant, row.instance)
        known = self._known.get(key)
        if known is None or known.created_at_ms != row.row.created_at_ms or known.scanned > row.sequence:
            self.forget(key)
            if len(self._known) >= KNOWN_MAX:
                most = max(self._of_tenant, key=self._of_tenant.__getitem__)
                self.forget(next(found for found in self._known if found[0] == most))
            known = self._known[key] = Known(row.row.created_at_ms)
            self._of_tenant[row.tenant] = self._of_tenant.get(row.tenant, 0) + 1
        self._known.move_to_end(key)
        self._make_room(key)
        return known

    def _make_room(self, key: Key) -> None:
        """Forget what others have too much of, first of the tenant that has the most."""
        total = sum(known.size for known in self._known.values())
        while total > PLACES_MAX and len(self._known) > 1:
            sizes: Counter[str] = Counter()
            for found, known in self._known.items():
                if found != key:
                    sizes[found[0]] += known.size
            [(most, _)] = sizes.most_common(1)
            gone = next(found for found in self._known if found[0] == most and found != key)
            total -= self._known[gone].size
            self.forget(gone)

    def portion(self, row: StoredRow, known: Known) -> bool:
        """Look at the next entries. Whether there were any."""
        if known.scanned >= row.sequence:
            return False
        wanted = min(known.portion, row.sequence - known.scanned)
        stored = self._store.journal(row.tenant, row.instance, after=known.scanned, limit=wanted)
        for sequence, data in stored:
            if sequence > row.sequence:
                break
            if codec.trace_tag(data) == _EMITTED_TAG:
                entry = codec.decode(data)[0]
                assert isinstance(entry, Emitted), "its tag says so"
                places = known.places.get(entry.stream)
                if places is None:
                    places = known.places[entry.stream] = (array("q"), array("q"))
                places[0].append(entry.first)
                places[1].append(sequence)
                known.size += 1
                known.counts[entry.stream] = entry.first + len(entry.items)
        if not stored:
            return False
        known.scanned = min(stored[-1][0], row.sequence)
        size = sum(len(data) for _, data in stored)
        fitting = len(stored) * PORTION_BYTES // max(size, 1)
        known.portion = max(1, min(fitting, 4 * known.portion, PORTION_ENTRIES_MAX))
        return True

    def items(self, row: StoredRow, known: Known, name: str, offset: int, limit: int) -> list[Emission]:
        """Items from `offset` on, at most `limit`, of those that are known."""
        firsts, sequences = known.places.get(name) or (array("q"), array("q"))
        found: list[Emission] = []
        left = BYTES_MAX
        there = 0
        for index in range(max(0, bisect_right(firsts, offset) - 1), len(firsts)):
            first, sequence = firsts[index], sequences[index]
            if sequence < there:
                continue
            # What was forgotten meanwhile is passed over, without asking for each of its entries.
            [(there, stored)] = self._store.journal(row.tenant, row.instance, after=sequence - 1, limit=1)
            if sequence < there:
                continue
            entry = codec.decode(stored)[0]
            assert isinstance(entry, Emitted), "entries stay what they are"
            for at, item in enumerate(entry.items, start=first):
                if at < offset:
                    continue
                left -= len(item)
                if len(found) == limit or (left < 0 and found):
                    return found
                found.append(Emission(at, item, entry.at_ms, entry.path, entry.attempt))
        return found
