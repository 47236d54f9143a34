"""Streams: what instances emit, read back from their journals by offset.

Where a stream's items are in the journal is remembered for the instances whose streams were read lately, so that a
reader that follows one looks at new entries only. Items are never taken back: a restart leaves them, and goes on
behind them. Those that went with old executions are passed over: who reads from their offsets gets what came after.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from operator import itemgetter

from executor.core import codec
from executor.core.entries import Emitted
from executor.engine.resident import Key
from executor.ports import Emission, StateStore, StoredRow

KNOWN_MAX = 256
SCAN_ENTRIES = 2_000
BYTES_MAX = 4 * 1024 * 1024
"""Of one answer; it has one item at least."""
_EMITTED_TAG = 24
_first_of = itemgetter(0)


class _Known:
    """Of one instance, up to entry `scanned`: by stream, (offset of the first item, sequence) of each entry, and how
    many items there are."""

    __slots__ = ("counts", "created_at_ms", "places", "scanned")

    def __init__(self, created_at_ms: int) -> None:
        self.created_at_ms = created_at_ms
        self.scanned = 0
        self.places: dict[str, list[tuple[int, int]]] = {}
        self.counts: dict[str, int] = {}


class Streams:
    """Synchronous: for one worker thread at a time."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._known: OrderedDict[Key, _Known] = OrderedDict()

    def forget(self, key: Key) -> None:
        """It was deleted: another one of its id has other items."""
        self._known.pop(key, None)

    def counts(self, row: StoredRow) -> dict[str, int]:
        """Items so far, by stream, in the order of their first items."""
        return dict(self._scanned(row).counts)

    def read(self, row: StoredRow, name: str, offset: int, limit: int) -> list[Emission]:
        """Items from `offset` on, at most `limit`."""
        known = self._scanned(row)
        places = known.places.get(name, [])
        if offset >= known.counts.get(name, 0):
            return []
        found: list[Emission] = []
        left = BYTES_MAX
        there = 0
        for first, sequence in places[max(0, bisect_right(places, offset, key=_first_of) - 1) :]:
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

    def _scanned(self, row: StoredRow) -> _Known:
        key = (row.tenant, row.instance)
        known = self._known.get(key)
        if known is None or known.created_at_ms != row.row.created_at_ms or known.scanned > row.sequence:
            known = self._known[key] = _Known(row.row.created_at_ms)
        self._known.move_to_end(key)
        while len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)
        while known.scanned < row.sequence:
            stored = self._store.journal(*key, after=known.scanned, limit=SCAN_ENTRIES)
            for sequence, data in stored:
                if codec.trace_tag(data) == _EMITTED_TAG:
                    entry = codec.decode(data)[0]
                    assert isinstance(entry, Emitted), "its tag says so"
                    known.places.setdefault(entry.stream, []).append((entry.first, sequence))
                    known.counts[entry.stream] = entry.first + len(entry.items)
            if not stored:
                break
            known.scanned = stored[-1][0]
        return known
