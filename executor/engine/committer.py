"""Committer: the group commit. Records of many instances go to disk in one batch and one fsync.

While a batch is being written the next one gathers, so a lone record is not delayed and a crowd shares. `on_done` is
called in the order of submission, after the batch is durable (None) or was not written (the error: the disk is full,
or a record of that unit breaks a limit of the store; the others go on without it).
Any other failure of the store is fatal: it leaves `run`, and the executor stops. A failed fsync is never retried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from executor.core.errors import PerdureError, Refused, Unavailable
from executor.engine.resident import Key
from executor.ports import Append, StateStore

BATCH_RECORDS_MAX = 2_000
BATCH_BYTES_MAX = 8 * 1024 * 1024

OnDone = Callable[[PerdureError | None], None]
Unit = tuple[Sequence[Append], OnDone]


def _key(record: Append) -> Key:
    return record.tenant, record.instance


class Committer:
    """One per state store."""

    def __init__(self, store: StateStore) -> None:
        self._store = store
        self._pending: list[Unit] = []
        self._work = trio.Event()
        self._writing = trio.Lock()
        self._in_flight: list[Unit] = []
        self._failure: PerdureError | None = None
        self.is_over = False
        self.batch_count = 0
        self.record_count = 0

    def submit(self, records: Sequence[Append], on_done: OnDone) -> None:
        """Queue `records` as one unit: they become durable together or not at all. Once `run` is over, never."""
        if self.is_over:
            on_done(self._failure or Unavailable("the executor is stopping", code="shutting_down"))
            return
        self._pending.append((records, on_done))
        self._work.set()

    async def exclusive(self, work: Callable[[], None]) -> None:
        """Run a write of another kind (a deletion) in a thread, between two batches."""
        async with self._writing:
            await trio.to_thread.run_sync(work)

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
                with trio.CancelScope(shield=True):
                    async with self._writing:
                        await self._write_batch()
        except PerdureError as failure:
            self._failure = failure
            raise
        finally:
            self.is_over = True
            units, self._in_flight, self._pending = self._in_flight + self._pending, [], []
            for _, on_done in units:
                on_done(self._failure or Unavailable("the executor is stopping", code="shutting_down"))

    async def _write_batch(self) -> None:
        units = self._in_flight = self._take()
        records = [record for unit, _ in units for record in unit]
        if records:
            error: PerdureError | None = None
            try:
                await trio.to_thread.run_sync(self._store.append, records)
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
            else:
                self.batch_count += 1
                self.record_count += len(records)
            for _, on_done in units:
                on_done(error)

    def _withdraw(self, keys: set[Key]) -> list[Unit]:
        """Take back what is pending of these instances: it rests on records that were not written."""
        units = [unit for unit in self._pending if any(_key(record) in keys for record in unit[0])]
        self._pending = [unit for unit in self._pending if unit not in units]
        return units

    def _set_aside(self, units: list[Unit], refused: Refused) -> None:
        key = (str(refused.details.get("tenant")), str(refused.details.get("instance")))
        self._pending = units + self._pending
        guilty = self._withdraw({key})
        if not guilty:
            raise refused
        self._work.set()
        for _, on_done in guilty:
            on_done(refused)

    def _take(self) -> list[Unit]:
        count = size = taken = 0
        for records, _ in self._pending:
            taken += 1
            count += len(records)
            size += sum(len(record.entry) + len(record.delta or b"") for record in records)
            if count >= BATCH_RECORDS_MAX or size >= BATCH_BYTES_MAX:
                break
        units, self._pending = self._pending[:taken], self._pending[taken:]
        if not self._pending:
            self._work = trio.Event()
        return units
