"""Waking: instances whose time in the wake index has come. At rest: their timers are journaled, many in one batch, and
they are queued. In any state: what they owe to others is begun with, or they have expired (see obligations.py).

In the order in which they fell due, and no faster than runs find places: what is due waits on disk, where it costs
nothing, while the queue is long.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from executor.core import decide, summary
from executor.core.entries import AnyEntry
from executor.core.errors import Corrupt, NotFound
from executor.engine import losses
from executor.engine.resident import Key, Resident
from executor.engine.signal import Landing
from executor.ports import StoredRow

if TYPE_CHECKING:
    from executor.engine.engine import Engine


TIMED = ("waiting", "undoing")
"""States in which timers run."""


class Waking:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def wake(self, rows: list[StoredRow]) -> None:
        """Return once the rows are no longer due, durably."""
        engine = self._engine
        await engine.queue.until_shorter_than(engine.limits.waking_queue_max)
        # Long journals one after the other: together they might be more than fits into memory.
        groups = [[row for row in rows if not summary.size_of(row.row.summary)]]
        groups += [[row] for row in rows if summary.size_of(row.row.summary)]
        is_hindered = False
        for group in groups:
            is_hindered = await self._wake_together([(row.tenant, row.instance) for row in group]) or is_hindered
        if is_hindered or any((row.tenant, row.instance) in engine.losses.beginning for row in rows):
            # The disk is full, or fails: they are still due, and would be asked for again at once.
            await trio.sleep(losses.FULL_DISK_PAUSE_S)

    async def _wake_together(self, keys: list[Key]) -> bool:
        """Whether something hindered it."""
        engine = self._engine
        awake = [key for key in keys if key not in engine.losses.beginning]
        is_hindered = len(awake) < len(keys)
        landing = None
        expired: list[Resident] = []
        for key, resident in zip(awake, await engine.residents.hold_many(awake), strict=True):
            if isinstance(resident, Corrupt):
                await engine.losses.hold_corrupt(key, resident)
            elif isinstance(resident, Resident):
                is_expired = False
                try:
                    if not resident.is_settled:
                        # The store is behind a commit under way: let it catch up before it is asked again.
                        await engine.until_durable(resident, resident.instance.sequence)
                    is_expired = not resident.is_lost and engine.obligations.is_expired(resident)
                    if is_expired:
                        expired.append(resident)
                    else:
                        landing = self._fire(resident) or landing
                finally:
                    if not is_expired:
                        engine.residents.release(resident)
            else:
                is_hindered = is_hindered or not isinstance(resident, NotFound)
        if landing is not None:
            await landing.wait()
        if expired:
            is_hindered = not await self._expire(expired) or is_hindered
        return is_hindered

    def _fire(self, resident: Resident) -> Landing | None:
        engine = self._engine
        state = engine.state(resident)
        if resident.is_lost or state in ("queued", "running"):
            return None  # Its row has no time, or has one until the commit under way is written.
        now_ms = engine.clock.now_ms()
        engine.obligations.postpone(resident)
        wake_at_ms = resident.instance.next_wake_ms()
        if state not in TIMED or wake_at_ms is None or wake_at_ms > now_ms:
            # Something is owed, which `settle` begins with; or the row is stale (a lost hint). Write it again.
            entries: tuple[AnyEntry, ...] = ()
        else:
            entries = decide.on_clock(resident.instance, now_ms).entries
            resident.is_resting = False
        landing = Landing()
        engine.commit(resident, entries, landing=landing)
        return landing

    async def _expire(self, expired: list[Resident]) -> bool:
        try:
            return await self._engine.obligations.expire(expired)
        finally:
            for resident in expired:
                self._engine.residents.release(resident)
