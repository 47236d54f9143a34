"""Runner: drives runs. It lets instances whose turn has come be activated, sends their runs what is durable, and ends
them. How they are begun is in `activating.py`, what they say in `hearing.py`.
"""

from __future__ import annotations

import logging
from itertools import count
from typing import TYPE_CHECKING, Literal

import trio

from executor.core import decide
from executor.core.entries import Activated, Held, Released
from executor.core.visible import is_visible
from executor.engine.activating import Activating
from executor.engine.asking import is_unjournaled
from executor.engine.blobs import Blobs
from executor.engine.hearing import Hearing
from executor.engine.parked import Parked
from executor.engine.resident import Resident, Run
from executor.engine.sandboxes import WarmSandbox, WarmSandboxes
from executor.engine.scheduler import Queued
from executor.engine.signal import Signal
from executor.ports import CodeSource, SandboxHost
from executor.sandbox.protocol import (
    Activate,
    Attempt,
    Drop,
    Entries,
    GoOn,
    Quiesce,
)
from executor.sandbox.spec import DeathReason, SandboxDied

if TYPE_CHECKING:
    from executor.engine.engine import Engine

log = logging.getLogger(__name__)

DEATH_PAUSE_S = 0.05
READ_TOGETHER_MAX = 64
FEW = 4
"""So many entries are at most some MiB, and sent as they are."""


class Runner:
    def __init__(self, engine: Engine, host: SandboxHost, code: CodeSource) -> None:
        limits = engine.limits
        self._engine = engine
        self._blobs = Blobs(engine)
        self._activating = Activating(engine, self)
        self._hearing = Hearing(engine, self, self._blobs)
        self._parked = Parked(self._let_go, is_off=limits.unloads_at_every_wait)
        self.sandboxes = WarmSandboxes(
            host,
            code,
            count_max=limits.sandboxes_max,
            idle_s=limits.sandbox_idle_s,
            on_frames=self._hearing.on_frames,
            on_death=self._on_death,
            on_short=self._parked.clear,
            disk=engine.committer,
        )
        self._numbers = count(1)
        self._running = 0
        self.nursery: trio.Nursery | None = None
        self.is_quiescing = False
        self._quiet = Signal()

    @property
    def run_count(self) -> int:
        """Runs in sandboxes now."""
        return self._running

    @property
    def sandbox_count(self) -> int:
        """Sandbox processes now."""
        return len(self.sandboxes)

    # --- life

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Activate what is queued, within the bound of active runs, until cancelled."""
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            await nursery.start(self.sandboxes.run)
            nursery.start_soon(self._parked.run)
            task_status.started()
            queue, places, ballast = self._engine.queue, self._engine.places, self._engine.ballast
            slots = places.slots
            while True:
                on_disk: list[Queued] = []
                while places.has_room and (queued := queue.take()) is not None:
                    key = queued.key
                    if self.is_quiescing:
                        continue
                    weight = ballast.taken(key)
                    has_place = slots is not None and bool(queued.limits)
                    if slots is not None and has_place and not places.reserve(key, queued.limits):
                        nursery.start_soon(self._activating.ask_for_slot, queued, slots, weight)
                        continue
                    if weight:
                        if not has_place:
                            places.take(key, queued.limits)
                        nursery.start_soon(self._activating.heavy, queued, weight)
                        continue
                    if self._activating.now(key):
                        if has_place:
                            places.release(key)
                        continue
                    if not has_place:
                        places.take(key, queued.limits)
                    if self._engine.residents.get(key) is None:
                        on_disk.append(queued)
                    else:
                        nursery.start_soon(self._activating.guarded, queued)
                for first in range(0, len(on_disk), READ_TOGETHER_MAX):
                    nursery.start_soon(self._activating.read, on_disk[first : first + READ_TOGETHER_MAX])
                if self._parked and queue.wants_places:
                    self._parked.clear()  # Their places are wanted.
                else:
                    await queue.changed.wait()

    async def quiesce(self) -> None:
        """Let no new step start, and return when none executes."""
        self.is_quiescing = True
        self._parked.clear()
        for warm in self.sandboxes.all():
            for run, _ in warm.runs.values():
                self._quiesce_run(run)
        while self._running:
            await self._quiet.wait()

    def stop(self) -> None:
        """End all sandboxes. What was not journaled is done again after the next start."""
        self.is_quiescing = True
        self.sandboxes.stop()

    # --- beginning

    def begin(self, resident: Resident, warm: WarmSandbox) -> None:
        engine = self._engine
        is_paused = resident.instance.is_paused  # then it is asked something, and starts nothing
        run = Run(
            next(self._numbers), warm, 0, resident.instance.execution, is_quiesced=is_paused, is_only_asked=is_paused
        )
        resident.run = run
        resident.traces.append(Activated(engine.clock.now_ms(), engine.store.epoch))
        warm.runs[run.number] = (run, resident)
        self._running += 1
        self._engine.places.take(resident.key, resident.limits)
        self._sweep_blobs(resident)
        start = resident.instance.start
        warm.post(Activate(run.number, resident.key[1], start.workflow, start.commit, resident.durable, is_paused))
        self._send(resident, run)
        engine.asking.begun(resident)
        self._ask_due_retries(resident, run)
        self.set_alarm(resident, run)

    # --- what the durable state asks for

    def settle(self, resident: Resident) -> None:
        """Send on what is durable, or end the run if nothing more is to be done now."""
        run = resident.run
        if run is None:
            return
        instance = resident.instance
        if not instance.can_go_on or run.execution != instance.execution or run.is_released:
            if resident.is_settled:
                self.drop(resident)
        elif (
            instance.is_paused
            or self.is_quiescing
            or self._engine.ballast.is_over(resident.key)
            or (run.is_quiesced and not self._goes_on(resident, run))
        ):
            # A run at rest that was told to start nothing more never does: after a resume it makes room for another.
            if not run.is_quiet or not resident.is_settled:
                self._quiesce_run(run)
            elif self._engine.committer.is_over:
                self.drop(resident)
            elif resident.asked and not self.is_quiescing:
                pass  # It answers first.
            elif is_unjournaled(resident):
                self._drop_untold(resident)
            else:
                reason: Literal["paused", "shutdown", "moved on"] = "paused"
                if not instance.is_paused:
                    reason = "shutdown" if self.is_quiescing else "moved on"
                run.is_released = True
                self._engine.commit(resident, (Released(self._engine.clock.now_ms(), reason),))
        elif resident.is_resting:
            if resident.is_settled and not resident.asked:
                if self._parked.keep(resident):
                    if self._engine.queue.wants_places:
                        self._engine.queue.changed.notify()  # `run` lets it go again.
                elif is_unjournaled(resident):
                    self._drop_untold(resident)
                else:
                    self._let_go(resident)
        else:
            self._parked.discard(resident)
            self._send(resident, run)
            # One that was kept at rest has no alarm: what woke it may be a retry.
            self._ask_due_retries(resident, run)

    def drop(self, resident: Resident) -> None:
        """End the run, if there is one: the sandbox forgets it."""
        run = resident.run
        if run is not None:
            run.sandbox.post(Drop(run.number))
            self._leave(resident, run)

    def _let_go(self, resident: Resident) -> None:
        """A run that was kept at rest goes; the journal says so."""
        run = resident.run
        if run is None or self._engine.committer.is_over:
            self.drop(resident)
            self._engine.residents.evict(resident)
        elif not run.is_released and not resident.asked:
            run.is_released = True
            self._engine.commit(resident, (Released(self._engine.clock.now_ms(), "waits"),))

    def _drop_untold(self, resident: Resident) -> None:
        """A run that only answered questions goes as it came: the journal knows nothing of it."""
        resident.traces.pop()
        self.drop(resident)

    def releases(self, resident: Resident) -> bool:
        """Whether its run, which is at rest, goes with the commit that says so, and is not kept for a while."""
        run = resident.run
        return run is not None and not run.is_released and not resident.asked and not self._parked.wants(resident)

    def _sweep_blobs(self, resident: Resident) -> None:
        swept = self._blobs.to_sweep(resident)
        if swept is not None and self.nursery is not None:
            self.nursery.start_soon(self._blobs.sweep, *swept)

    def _leave(self, resident: Resident, run: Run, *, has_died: bool = False) -> None:
        self._parked.discard(resident)
        resident.run = None
        if run.blobs:
            self._sweep_blobs(resident)
        if resident.asked:
            self._engine.asking.left(resident, has_died=has_died)
        self.sandboxes.leave(run.sandbox, run)
        self._running -= 1
        self._engine.places.release(resident.key)
        self._engine.ballast.leave(resident.key)
        self._quiet.notify()

    def _send(self, resident: Resident, run: Run) -> None:
        behind = resident.durable - run.sent
        if behind <= 0:
            return
        run.is_quiet = False
        if behind <= FEW:
            instance, first = resident.instance, run.sent + 1
            shown: list[bytes | int] = []
            for sequence in range(first, first + behind):
                data = resident.journal.get(sequence)
                is_sent = data is not None and is_visible(data, sequence, instance.cuts, instance.carried)
                shown.append(data if data is not None and is_sent else 1)
            run.sent += behind
            run.sandbox.post(Entries(run.number, first, shown))
            return
        run.sandbox.post_journal(run, resident.journal, resident.durable, resident.instance)

    def _quiesce_run(self, run: Run) -> None:
        if not run.is_quiesced:
            run.is_quiesced = True
            run.sandbox.post(Quiesce(run.number))

    def _goes_on(self, resident: Resident, run: Run) -> bool:
        """After a resume: whether it starts steps again, as some that it has begun still execute."""
        if run.is_quiet or run.is_only_asked or not resident.is_settled:
            return False
        run.is_quiesced = False
        run.goes_on_at = resident.durable
        run.sandbox.post(GoOn(run.number))
        self.set_alarm(resident, run)
        return True

    # --- time

    def on_time(self, resident: Resident) -> None:
        """A sleep, deadline or retry of a resident with a run may be due."""
        run = resident.run
        if run is None or not resident.needs_run or resident.instance.is_paused:
            return
        due = decide.on_clock(resident.instance, self._engine.clock.now_ms())
        if due.entries:
            self._engine.commit(resident, due.entries)
        self._ask_due_retries(resident, run)
        self.set_alarm(resident, run)

    def _ask_due_retries(self, resident: Resident, run: Run) -> None:
        if run.is_quiesced or not resident.instance.retries:
            return
        for failed in decide.due_retries(resident.instance, self._engine.clock.now_ms()):
            if failed.path not in run.attempting:
                run.attempting.add(failed.path)
                run.sandbox.post(Attempt(run.number, failed.path, failed.attempt + 1))

    def set_alarm(self, resident: Resident, run: Run) -> None:
        """Every timer of a run that is in memory rings; nothing is asked of the disk."""
        wake_at_ms = resident.instance.next_wake_ms(besides=run.attempting)
        if wake_at_ms is not None:
            self._engine.timers.alarm_at(wake_at_ms, resident.key)

    # --- deaths

    def _on_death(self, warm: WarmSandbox, died: SandboxDied) -> None:
        log.warning("sandbox died", extra={"tenant": warm.place[0], "commit": warm.place[1], "reason": died.reason})
        for run, resident in list(warm.runs.values()):
            self._leave(resident, run, has_died=True)
            if not run.is_released:
                resident.traces.append(Released(self._engine.clock.now_ms(), "sandbox died"))
            self.died(resident, died.reason, died.detail)

    def died(self, resident: Resident, reason: DeathReason, detail: str) -> None:
        sequence = resident.instance.sequence
        resident.deaths = resident.deaths + 1 if resident.died_at == sequence else 1
        resident.died_at = sequence
        if self.is_quiescing or not resident.needs_run:
            self._engine.settle(resident)
        elif resident.deaths >= self._engine.limits.deaths_max:
            message = f"its sandbox died {resident.deaths} times at the same point, the last time: {reason}, {detail}"
            held = Held(self._engine.clock.now_ms(), "sandbox_killed", message, None, None)
            self._engine.commit(resident, (held,))
        else:
            self.later(resident, DEATH_PAUSE_S * 2**resident.deaths)

    def later(self, resident: Resident, pause_s: float) -> None:
        if self.nursery is not None and not self.is_quiescing:
            resident.holds += 1
            self.nursery.start_soon(self._settle_later, resident, pause_s)

    async def _settle_later(self, resident: Resident, pause_s: float) -> None:
        await trio.sleep(pause_s)
        resident.holds -= 1
        self._engine.settle(resident)
