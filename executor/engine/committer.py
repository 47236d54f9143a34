"""Committer: the group commit. Records of many instances go to disk in one batch and one fsync.

While a batch is being written the next one gathers, so a lone record is not delayed and a crowd shares. `on_done` is
called in the order of submission, after the batch is durable (None) or was not written (the error: the disk is full,
or a record of that unit breaks a limit of the store; the others go on without it).
Any other failure of the store is fatal: it leaves `run`, and the executor stops. A failed fsync is never retried.
What waits to be written is bounded: `is_full` says that nothing new should be taken in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import trio

from executor.core.errors import PerdureError, Refused, Unavailable
from executor.engine.resident import Key
from executor.engine.signal import Signal
from executor.engine.worker import Blocking
from executor.ports import Append, StateStore

BATCH_RECORDS_MAX = 2_000
BATCH_BYTES_MAX = 8 * 1024 * 1024
PENDING_BYTES_MAX = 64 * 1024 * 1024
RECORD_BYTES = 256
"""What a record costs besides its content."""

T = TypeVar("T")
OnDone = Callable[[PerdureError | None], None]
Unit = tuple[Sequence[Append], int, OnDone]
"""Records, their size in bytes, and whom to tell."""


def _key(record: Append) -> Key:
    return record.tenant, record.instance


class Committer:
    """One per state store. `writer` runs the store's writes."""

    def __init__(self, store: StateStore, writer: Blocking) -> None:
        self._store = store
        self._writer = writer
        self._pending: list[Unit] = []
        self._pending_bytes = 0
        self._work = trio.Event()
        self._taken = Signal()
        self._writing = trio.Lock()
        self._in_flight: list[Unit] = []
        self._failure: PerdureError | None = None
        self.is_over = False

    def submit(self, records: Sequence[Append], size: int, on_done: OnDone) -> None:
        """Queue `records` as one unit: they become durable together or not at all. Once `run` is over, never."""
        if self.is_over:
            on_done(self._failure or Unavailable("the executor is stopping", code="shutting_down"))
            return
        if not self._pending:
            self._work.set()
        self._pending.append((records, size, on_done))
        self._pending_bytes += size

    @property
    def is_full(self) -> bool:
        """Whether more waits to be written than should: the disk is slow, or more comes in than it can take."""
        return self._pending_bytes > PENDING_BYTES_MAX

    @property
    def is_behind(self) -> bool:
        """As `is_full`, while there is hope: whoever can wait, waits (`caught_up`)."""
        return self._pending_bytes > PENDING_BYTES_MAX and not self.is_over

    async def caught_up(self) -> None:
        """Return when it is not behind."""
        while self.is_behind:
            await self._taken.wait()

    async def exclusive(self, work: Callable[[], T]) -> T:
        """Run a write of another kind (a deletion) in the writer's thread, between two batches."""
        async with self._writing:
            return await self._writer.run(work)

    async def drain(self) -> None:
        """Wait until everything submitted so far is written, or nothing more can be: `run` is over."""
        while not self.is_over and (self._pending or self._writing.locked()):
            await trio.lowlevel.checkpoint()
            async with self._writing:
                pass

    async def run(self) -> None:
        """Write batches until cancelled. A batch that has begun is finished first.

        When a write fails for good, the error leaves here, and is told to all whose records were not written.
        """
        try:
            while True:
                await self._work.wait()
                try:
                    self._writing.acquire_nowait()  # without the turn of the loop that `async with` takes
                except trio.WouldBlock:
                    await self._writing.acquire()
                try:
                    await self._write_batch()
                finally:
                    self._writing.release()
        except PerdureError as failure:
            self._failure = failure
            raise
        finally:
            self.is_over = True
            self._taken.notify()
            units, self._in_flight, self._pending = self._in_flight + self._pending, [], []
            for _, _, on_done in units:
                on_done(self._failure or Unavailable("the executor is stopping", code="shutting_down"))

    async def _write_batch(self) -> None:
        units = self._in_flight = self._take()
        records = units[0][0] if len(units) == 1 else [record for unit in units for record in unit[0]]
        if records:
            error: PerdureError | None = None
            try:
                await self._writer.run(self._store.append, records)
            except Unavailable as full:
                if full.code != "storage_full":
                    raise
                error = full
            except Refused as refused:
                # One record breaks a limit of the store and nothing was written: do without its unit.
                self._in_flight = []
                self._set_aside(units, refused)
                return
            self._in_flight = []
            if error is not None:
                units = units + self._withdraw({_key(record) for record in records})
            for _, _, on_done in units:
                on_done(error)

    def _withdraw(self, keys: set[Key]) -> list[Unit]:
        """Take back what is pending of these instances: it rests on records that were not written."""
        units = [unit for unit in self._pending if any(_key(record) in keys for record in unit[0])]
        self._pending = [unit for unit in self._pending if unit not in units]
        self._pending_bytes -= sum(unit[1] for unit in units)
        self._taken.notify()
        return units

    def _set_aside(self, units: list[Unit], refused: Refused) -> None:
        key = (str(refused.details.get("tenant")), str(refused.details.get("instance")))
        self._pending = units + self._pending
        self._pending_bytes += sum(unit[1] for unit in units)
        guilty = self._withdraw({key})
        if not guilty:
            raise refused
        self._work.set()
        for _, _, on_done in guilty:
            on_done(refused)

    def _take(self) -> list[Unit]:
        pending = self._pending
        if self._pending_bytes < BATCH_BYTES_MAX and len(pending) < BATCH_RECORDS_MAX // 2:
            units, self._pending = pending, []
        else:
            count = size = taken = 0
            for records, unit_bytes, _ in pending:
                taken += 1
                count += len(records)
                size += unit_bytes
                if count >= BATCH_RECORDS_MAX or size >= BATCH_BYTES_MAX:
                    break
            units, self._pending = pending[:taken], pending[taken:]
        self._pending_bytes -= sum(unit[1] for unit in units)
        self._taken.notify()
        if not self._pending:
            self._work = trio.Event()
        return units
