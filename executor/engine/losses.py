"""Losses: what was not written, or cannot be read. Memory is given up; the instance goes on from what the disk has."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import trio

from executor.core import summary
from executor.core.entries import Held
from executor.core.errors import Corrupt, NotFound, PerdureError, Unavailable
from executor.core.failure import ErrorFact
from executor.engine.resident import Key, Resident
from executor.ports import Append, Row

if TYPE_CHECKING:
    from executor.engine.engine import Engine

log = logging.getLogger(__name__)

FULL_DISK_PAUSE_S = 1.0


class Losses:
    """`beginning`: instances whose last commit was refused and that begin again after a pause."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._nursery: trio.Nursery | None = None
        self.beginning: set[Key] = set()

    async def run(self) -> None:
        """Own the tasks of those that begin again, until cancelled."""
        async with trio.open_nursery() as self._nursery:
            await trio.sleep_forever()

    def lose(self, resident: Resident, error: PerdureError) -> None:
        """Its last commit was not written: memory is ahead of the disk. Drop it, and begin again from the disk."""
        if resident.is_lost:
            return
        resident.is_lost = True
        resident.loss = error
        self._engine.runner.drop(resident)
        self._engine.residents.forget(resident)
        self._engine.watchers.changed(resident.key)
        if self._engine.committer.is_over:
            return
        if resident.durable and self._nursery is not None and resident.key not in self.beginning:
            self.beginning.add(resident.key)
            self._nursery.start_soon(self._begin_again, resident.key, error)

    async def _begin_again(self, key: Key, error: PerdureError) -> None:
        try:
            if isinstance(error, Unavailable):
                await trio.sleep(FULL_DISK_PAUSE_S)
            self.beginning.discard(key)
            async with self._engine.residents.hold(key) as resident:
                if isinstance(error, Unavailable):
                    # Nothing may execute before there is room for its result: the row, as it is, tries it out.
                    await self._engine.commit_and_wait(resident, (), row_alone=True)
                else:
                    # What the run asked for breaks a limit of the store, and would again: a person has to look.
                    held = Held(self._engine.clock.now_ms(), "limit_exceeded", error.message, None, None)
                    await self._engine.commit_and_wait(resident, (held,))
        except NotFound:
            return  # Deleted meanwhile.
        except Unavailable:
            return  # Refused again: that began another pause.
        except Corrupt as corrupt:
            await self.hold_corrupt(key, corrupt)

    async def hold_corrupt(self, key: Key, corrupt: Corrupt) -> None:
        """A journal that cannot be read: take the instance out of the index of due ones, keep its bytes."""
        log.error("instance cannot be read", extra={"tenant": key[0], "instance": key[1], "error": str(corrupt)})
        try:
            # Between two batches: a deletion cannot come between the look at the row and the new one.
            await self._engine.committer.exclusive(partial(self._hold_row, key, corrupt))
        except Unavailable as full:
            log.warning(
                "its row could not be written", extra={"tenant": key[0], "instance": key[1], "error": str(full)}
            )
        self._engine.watchers.changed(key)

    def _hold_row(self, key: Key, corrupt: Corrupt) -> None:
        store = self._engine.store
        found = store.row(*key)
        if found is not None:
            fact = summary.encode_error(
                ErrorFact("Corrupt", corrupt.message, "", False, corrupt.code), found.row.summary
            )
            old = found.row
            now_ms = self._engine.clock.now_ms()
            held = Row("held", None, old.workflow, old.commit, old.created_at_ms, now_ms, fact, old.attributes)
            store.append([Append(*key, 0, b"", None, held)])
