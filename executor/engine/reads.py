"""Reads: instances from the store, many in one hop to the reading thread. Decoding and folding are done there too."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from executor.core import carrying, codec, summary
from executor.core.entries import Continued
from executor.core.errors import Corrupt, PerdureError, Unavailable
from executor.core.instance import Instance
from executor.core.journal import Journal
from executor.engine.resident import Key
from executor.engine.signal import Landing
from executor.engine.worker import Blocking
from executor.ports import StateStore, StoredMoment, StoredRow

BATCH_MAX = 256
BATCH_BYTES = 64 * 1024 * 1024
"""Of journals: with so many a hop ends, so that no more wait in memory for those that are read with them."""


class Stored:
    """What the store has of an instance: its row (None: there is none), its journal as far as it needs it, and the fold
    of it."""

    __slots__ = ("instance", "journal", "row")

    def __init__(self, row: StoredRow | None, journal: Journal, instance: Instance) -> None:
        self.row = row
        self.journal = journal
        self.instance = instance


def _stopping() -> Unavailable:
    return Unavailable("the executor is stopping", code="shutting_down")


class _Request:
    __slots__ = ("answer", "key", "landing")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.landing = Landing()
        self.answer: Stored | PerdureError = _stopping()


class Reads:
    def __init__(self, store: StateStore, reader: Blocking) -> None:
        self._store = store
        self._reader = reader
        self._wanted: list[_Request] = []
        self._work = trio.Event()
        self._is_over = False

    async def run(self) -> None:
        """Serve until cancelled; whoever waits then is told that the executor stops."""
        batch: list[_Request] = []
        try:
            while True:
                await self._work.wait()
                batch, self._wanted = self._wanted[:BATCH_MAX], self._wanted[BATCH_MAX:]
                if not self._wanted:
                    self._work = trio.Event()
                done = await self._reader.run(self._read_all, batch)
                for request in batch[:done]:
                    request.landing.set()
                self._wanted[:0] = batch[done:]
                batch = []
                if self._wanted:
                    self._work.set()
        finally:
            self._is_over = True
            for request in batch + self._wanted:
                request.landing.set()

    async def read(self, keys: Sequence[Key]) -> list[Stored | PerdureError]:
        """What the store has of each, in that order; an error (Corrupt, or what the store raises) for itself alone."""
        if self._is_over:
            return [_stopping() for _ in keys]
        requests = [_Request(key) for key in keys]
        self._wanted += requests
        self._work.set()
        # They are served in order: the last one lands last.
        await requests[-1].landing.wait()
        return [request.answer for request in requests]

    async def row(self, key: Key) -> StoredRow | None:
        """The row alone."""
        return await self._reader.run(self._store.row, *key)

    async def rows(self, keys: Sequence[Key]) -> list[StoredRow | None]:
        """The rows alone, in one hop."""
        return await self._reader.run(lambda: [self._store.row(*key) for key in keys])

    def _read_all(self, batch: list[_Request]) -> int:
        """How many, of the first, were answered."""
        size = done = 0
        try:
            with self._store.at_once() as moment:
                for request in batch:
                    try:
                        request.answer = found = _stored(moment, request.key)
                        size += found.journal.size
                    except PerdureError as error:
                        request.answer = error
                    done += 1
                    if size >= BATCH_BYTES:
                        break
        except PerdureError as error:
            for request in batch:
                request.answer = error
            return len(batch)
        return done


def _stored(moment: StoredMoment, key: Key) -> Stored:
    row = moment.row(*key)
    if row is None:
        return Stored(None, Journal(), Instance())
    first = summary.reads_from(row.row.summary)
    recent = moment.journal(*key, after=first - 1)
    if len(recent) < row.sequence - first + 1:
        raise Corrupt(
            f'instance "{key[1]}" has {first - 1 + len(recent)} journal entries, its row says {row.sequence}',
            code="corrupt_journal",
        )
    journal = Journal(recent, first=first, earlier=_earlier(moment, key, recent[0]) if first > 1 else None)
    return Stored(row, journal, carrying.load(journal))


def _earlier(moment: StoredMoment, key: Key, begins: bytes) -> dict[int, bytes]:
    """The entries before the one that begins the present execution which the instance needs besides."""
    entry, _ = codec.decode(begins)
    if not isinstance(entry, Continued):
        raise Corrupt(f'the journal of instance "{key[1]}" is not read from its execution on', code="corrupt_journal")
    return moment.entries(*key, carrying.needed(entry))
