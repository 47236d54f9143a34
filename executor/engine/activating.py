"""Activating: a queued instance gets its run, if it still needs one: at once, or after what has to be waited for: its
journal, a slot, a sandbox.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from executor.core import decide
from executor.core.entries import AnyEntry, Failed, Held
from executor.core.errors import Corrupt, NotFound, Unavailable
from executor.core.failure import ErrorFact
from executor.engine.resident import Key, Resident
from executor.engine.scheduler import Queued
from executor.ports import Slots
from executor.sandbox.spec import SandboxDied, SandboxFailed

if TYPE_CHECKING:
    from executor.engine.engine import Engine
    from executor.engine.runner import Runner

log = logging.getLogger(__name__)

DEATHS_BEFORE_ALONE = 2
UNAVAILABLE_PAUSE_S = 1.0


class Activating:
    """The part of the runner that begins runs."""

    def __init__(self, engine: Engine, runner: Runner) -> None:
        self._engine = engine
        self._runner = runner

    def now(self, key: Key) -> bool:
        """Begin at once if nothing has to be waited for: the instance is in memory and its sandbox is warm."""
        resident = self._engine.residents.get(key)
        if resident is None or not resident.is_settled or resident.deaths >= DEATHS_BEFORE_ALONE:
            return False
        if not resident.needs_run or resident.run is not None:
            return True
        warm = self._runner.sandboxes.warm(key[0], resident.instance.start.commit)
        if warm is None:
            return False
        self._fire_due(resident)
        self._runner.begin(resident, warm)
        return True

    def _fire_due(self, resident: Resident) -> None:
        if resident.instance.is_paused:
            return
        due = decide.on_clock(resident.instance, self._engine.clock.now_ms())
        if due.entries:
            self._engine.commit(resident, due.entries)

    async def ask_for_slot(self, queued: Queued, slots: Slots, size: int) -> None:
        """Activate an instance that has its place, if the limits of all processes together let it. `size`: of its
        journal, if that is long."""
        queue, places = self._engine.queue, self._engine.places
        key, priority, limits = queued
        try:
            has_slot = await slots.take(key[0], limits)
        except Unavailable as hindered:
            log.warning("no slot", extra={"tenant": key[0], "instance": key[1], "error": str(hindered)})
            await trio.sleep(UNAVAILABLE_PAUSE_S)
            has_slot = False
            places.answered(key[0], limits)
        if not has_slot:
            self._engine.ballast.queued(key, size)
            queue.put(key, priority=priority, limits=limits, is_first=True)
            places.release(key)
            return
        places.admit(key, limits)
        if size and not self._runner.is_quiescing:
            await self.heavy(queued, size)
        elif self._runner.is_quiescing or self.now(key):
            places.release(key)
        else:
            await self.guarded(queued)

    async def read(self, queued: list[Queued]) -> None:
        """Activate instances that wait on disk, read together. Each has its place already."""
        residents = self._engine.residents
        for one, resident in zip(queued, await residents.hold_many([one.key for one in queued]), strict=True):
            key = one.key
            if isinstance(resident, Resident):
                is_done = self._runner.is_quiescing or self.now(key)
                residents.release(resident)
            else:
                is_done = isinstance(resident, NotFound)  # deleted while it was queued
            if is_done:
                self._engine.places.release(key)
            elif self._runner.nursery is not None:
                self._runner.nursery.start_soon(self.guarded, one)

    async def heavy(self, queued: Queued, size: int) -> None:
        """Activate one with a long journal once there is room for it. It has its place already."""
        ballast = self._engine.ballast
        await ballast.enter(queued.key, size)
        try:
            await self.guarded(queued, size)
        finally:
            resident = self._engine.residents.get(queued.key)
            if resident is None or resident.run is None:
                ballast.leave(queued.key)

    async def guarded(self, queued: Queued, size: int = 0) -> None:
        """Activate one that has its place already, and give that back."""
        key = queued.key
        try:
            await self._activate(key)
        except NotFound:
            pass  # Deleted while it was queued.
        except Corrupt as corrupt:
            await self._engine.losses.hold_corrupt(key, corrupt)
        except Unavailable as hindered:
            if hindered.code != "shutting_down":
                log.warning("not activated", extra={"tenant": key[0], "instance": key[1], "error": str(hindered)})
                await trio.sleep(UNAVAILABLE_PAUSE_S)
                self._engine.ballast.queued(key, size)
                self._engine.queue.put(key, priority=queued.priority, limits=queued.limits)
        finally:
            self._engine.places.release(key)

    async def _activate(self, key: Key) -> None:
        engine = self._engine
        async with engine.residents.hold(key) as resident:
            # What a run that has died reported is not asked for again: let it become durable first.
            await engine.until_durable(resident, resident.instance.sequence)
            if not resident.needs_run or resident.run is not None:
                return
            self._fire_due(resident)
            try:
                warm = await self._runner.sandboxes.reserve(
                    key, resident.instance.start.commit, alone=resident.deaths >= DEATHS_BEFORE_ALONE
                )
            except SandboxFailed as failed:
                self._not_loadable(resident, failed.error)
                return
            except NotFound as missing:
                if missing.code != "version_not_found":
                    raise  # Its tenant is being deleted.
                message = f"the code of its commit is gone: {missing.message}"
                held = Held(engine.clock.now_ms(), "code_not_loadable", message, None, None)
                engine.commit(resident, (held,))
                return
            except SandboxDied as died:
                self._runner.died(resident, died.reason, died.detail)
                return
            except Unavailable as error:
                log.warning("no sandbox", extra={"tenant": key[0], "instance": key[1], "error": str(error)})
                self._runner.later(resident, UNAVAILABLE_PAUSE_S)
                return
            try:
                if resident.needs_run and resident.run is None and not self._runner.is_quiescing:
                    if warm.is_dead:
                        self._runner.died(resident, "crashed", "it ended before the instance was begun")
                    else:
                        self._runner.begin(resident, warm)
            finally:
                self._runner.sandboxes.release(warm)

    def _not_loadable(self, resident: Resident, error: ErrorFact) -> None:
        """Code that cannot be imported fails an instance that has done nothing yet, and holds one that has."""
        now_ms = self._engine.clock.now_ms()
        entry: AnyEntry
        if resident.instance.sequence == 1:
            fact = ErrorFact(error.type, error.message, error.traceback, False, "code_not_loadable")
            entry = Failed(now_ms, fact.bounded())
        else:
            message = f"the code of its commit cannot be imported: {error.type}: {error.message}"
            entry = Held(now_ms, "code_not_loadable", message, None, None)
        self._engine.commit(resident, (entry,))
