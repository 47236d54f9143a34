"""Runner: drives runs. It activates instances whose turn has come, talks to their sandboxes, and ends their runs.

What a run asks for becomes entries by `core.decide`; what is durable is sent back. A frame from a sandbox can concern
only runs that were given out on that sandbox's own channel.
"""

from __future__ import annotations

import logging
from itertools import count
from time import perf_counter
from typing import TYPE_CHECKING, Literal

import trio

from executor.core import decide
from executor.core.bounds import (
    HISTORY_BYTES_MAX,
    HISTORY_ENTRIES_MAX,
    JOURNAL_ENTRIES_MAX,
    LOOKED_BYTES_MAX,
    WARN_AT,
)
from executor.core.commands import Cancel, Child, StepDone, StepError
from executor.core.decide.decided import PATH_CHARS_MAX
from executor.core.entries import Activated, AnyEntry, Failed, Held, Released
from executor.core.errors import Corrupt, NotFound, Refused, Unavailable
from executor.core.failure import ErrorFact
from executor.core.instance import Instance
from executor.core.visible import is_visible
from executor.engine.asking import is_unjournaled
from executor.engine.blobs import Blobs
from executor.engine.commit import apply
from executor.engine.facets import FacetSender
from executor.engine.parked import Parked
from executor.engine.resident import Key, Resident, Run
from executor.engine.sandboxes import WarmSandbox, WarmSandboxes
from executor.engine.scheduler import Queued
from executor.engine.signal import Signal
from executor.ports import CodeSource, OutputText, SandboxHost, Slots
from executor.sandbox.protocol import (
    Activate,
    Answer,
    Attempt,
    Drop,
    Entries,
    FromSandbox,
    GoOn,
    NeedBlob,
    NeedFacet,
    NeedPages,
    Output,
    Pong,
    PutBlob,
    Quiesce,
    Turn,
)
from executor.sandbox.spec import DeathReason, SandboxDied, SandboxFailed

if TYPE_CHECKING:
    from executor.engine.engine import Engine

log = logging.getLogger(__name__)

DEATHS_BEFORE_ALONE = 2
DEATH_PAUSE_S = 0.05
UNAVAILABLE_PAUSE_S = 1.0
READ_TOGETHER_MAX = 64
OUTPUT_TEXT_CHARS_MAX = 10_000
"""A sandbox cuts at 8 KiB, and says so."""
OUTPUT_LEVEL_CHARS_MAX = 64
OUTPUT_AT_MS_MAX = 253_402_300_799_999
"""The end of the year 9999."""
FEW = 4
"""So many entries are at most some MiB, and sent as they are."""


class Runner:
    def __init__(self, engine: Engine, host: SandboxHost, code: CodeSource) -> None:
        limits = engine.limits
        self._engine = engine
        self._facets = FacetSender(engine)
        self._blobs = Blobs(engine)
        self._parked = Parked(self._let_go, is_off=limits.unloads_at_every_wait)
        self._sandboxes = WarmSandboxes(
            host,
            code,
            count_max=limits.sandboxes_max,
            idle_s=limits.sandbox_idle_s,
            on_frames=self._on_frames,
            on_death=self._on_death,
            on_short=self._parked.clear,
            disk=engine.committer,
        )
        self._numbers = count(1)
        self._running = 0
        self._nursery: trio.Nursery | None = None
        self._is_quiescing = False
        self._quiet = Signal()

    @property
    def run_count(self) -> int:
        """Runs in sandboxes now."""
        return self._running

    @property
    def sandbox_count(self) -> int:
        """Sandbox processes now."""
        return len(self._sandboxes)

    # --- life

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Activate what is queued, within the bound of active runs, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self._sandboxes.run)
            nursery.start_soon(self._parked.run)
            task_status.started()
            queue, places = self._engine.queue, self._engine.places
            slots = places.slots
            while True:
                on_disk: list[Queued] = []
                while places.has_room and (queued := queue.take()) is not None:
                    key = queued.key
                    if self._is_quiescing:
                        continue
                    has_place = slots is not None and bool(queued.limits)
                    if slots is not None and has_place and not places.reserve(key, queued.limits):
                        nursery.start_soon(self._ask_for_slot, queued, slots)
                        continue
                    if self._activate_now(key):
                        if has_place:
                            places.release(key)
                        continue
                    if not has_place:
                        places.take(key, queued.limits)
                    if self._engine.residents.get(key) is None:
                        on_disk.append(queued)
                    else:
                        nursery.start_soon(self._activate_guarded, queued)
                for first in range(0, len(on_disk), READ_TOGETHER_MAX):
                    nursery.start_soon(self._activate_read, on_disk[first : first + READ_TOGETHER_MAX])
                if self._parked and queue.wants_places:
                    self._parked.clear()  # Their places are wanted.
                else:
                    await queue.changed.wait()

    async def quiesce(self) -> None:
        """Let no new step start, and return when none executes."""
        self._is_quiescing = True
        self._parked.clear()
        for warm in self._sandboxes.all():
            for run, _ in warm.runs.values():
                self._quiesce_run(run)
        while self._running:
            await self._quiet.wait()

    def stop(self) -> None:
        """End all sandboxes. What was not journaled is done again after the next start."""
        self._is_quiescing = True
        self._sandboxes.stop()

    # --- activation

    def _activate_now(self, key: Key) -> bool:
        """Begin at once if nothing has to be waited for: the instance is in memory and its sandbox is warm."""
        resident = self._engine.residents.get(key)
        if resident is None or not resident.is_settled or resident.deaths >= DEATHS_BEFORE_ALONE:
            return False
        if not resident.needs_run or resident.run is not None:
            return True
        warm = self._sandboxes.warm(key[0], resident.instance.start.commit)
        if warm is None:
            return False
        self._fire_due(resident)
        self._begin(resident, warm)
        return True

    def _fire_due(self, resident: Resident) -> None:
        if resident.instance.is_paused:
            return
        due = decide.on_clock(resident.instance, self._engine.clock.now_ms())
        if due.entries:
            self._engine.commit(resident, due.entries)

    async def _ask_for_slot(self, queued: Queued, slots: Slots) -> None:
        """Activate an instance that has its place, if the limits of all processes together let it."""
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
            queue.put(key, priority=priority, limits=limits, is_first=True)
            places.release(key)
            return
        places.admit(key, limits)
        if self._is_quiescing or self._activate_now(key):
            places.release(key)
        else:
            await self._activate_guarded(queued)

    async def _activate_read(self, queued: list[Queued]) -> None:
        """Activate instances that wait on disk, read together. Each has its place already."""
        residents = self._engine.residents
        for one, resident in zip(queued, await residents.hold_many([one.key for one in queued]), strict=True):
            key = one.key
            if isinstance(resident, Resident):
                is_done = self._is_quiescing or self._activate_now(key)
                residents.release(resident)
            else:
                is_done = isinstance(resident, NotFound)  # deleted while it was queued
            if is_done:
                self._engine.places.release(key)
            elif self._nursery is not None:
                self._nursery.start_soon(self._activate_guarded, one)

    async def _activate_guarded(self, queued: Queued) -> None:
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
                warm = await self._sandboxes.reserve(
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
                self._died(resident, died.reason, died.detail)
                return
            except Unavailable as error:
                log.warning("no sandbox", extra={"tenant": key[0], "instance": key[1], "error": str(error)})
                self._later(resident, UNAVAILABLE_PAUSE_S)
                return
            try:
                if resident.needs_run and resident.run is None and not self._is_quiescing:
                    if warm.is_dead:
                        self._died(resident, "crashed", "it ended before the instance was begun")
                    else:
                        self._begin(resident, warm)
            finally:
                self._sandboxes.release(warm)

    def _begin(self, resident: Resident, warm: WarmSandbox) -> None:
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
        self._set_alarm(resident, run)

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
        elif instance.is_paused or self._is_quiescing or (run.is_quiesced and not self._goes_on(resident, run)):
            # A run at rest that was told to start nothing more never does: after a resume it makes room for another.
            if not run.is_quiet or not resident.is_settled:
                self._quiesce_run(run)
            elif self._engine.committer.is_over:
                self.drop(resident)
            elif resident.asked and not self._is_quiescing:
                pass  # It answers first.
            elif is_unjournaled(resident):
                self._drop_untold(resident)
            else:
                reason: Literal["paused", "shutdown", "moved on"] = "paused"
                if not instance.is_paused:
                    reason = "shutdown" if self._is_quiescing else "moved on"
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
        if swept is not None and self._nursery is not None:
            self._nursery.start_soon(self._blobs.sweep, *swept)

    def _leave(self, resident: Resident, run: Run, *, has_died: bool = False) -> None:
        self._parked.discard(resident)
        resident.run = None
        if run.blobs:
            self._sweep_blobs(resident)
        if resident.asked:
            self._engine.asking.left(resident, has_died=has_died)
        self._sandboxes.leave(run.sandbox, run)
        self._running -= 1
        self._engine.places.release(resident.key)
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
        self._set_alarm(resident, run)
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
        self._set_alarm(resident, run)

    def _ask_due_retries(self, resident: Resident, run: Run) -> None:
        if run.is_quiesced or not resident.instance.retries:
            return
        for failed in decide.due_retries(resident.instance, self._engine.clock.now_ms()):
            if failed.path not in run.attempting:
                run.attempting.add(failed.path)
                run.sandbox.post(Attempt(run.number, failed.path, failed.attempt + 1))

    def _set_alarm(self, resident: Resident, run: Run) -> None:
        """Every timer of a run that is in memory rings; nothing is asked of the disk."""
        wake_at_ms = resident.instance.next_wake_ms(besides=run.attempting)
        if wake_at_ms is not None:
            self._engine.timers.alarm_at(wake_at_ms, resident.key)

    # --- what sandboxes say

    def _on_frames(self, warm: WarmSandbox, frames: list[FromSandbox], until_s: float) -> list[FromSandbox]:
        """See `intake.OnFrames`."""
        count = len(frames)
        for number, frame in enumerate(frames, start=1):
            match frame:
                case Turn():
                    rest = self._on_turn(warm, frame, until_s)
                    if rest is not None:
                        return [rest, *frames[number:]]
                case Output():
                    self._on_output(warm, frame)
                case NeedFacet() | NeedPages():
                    found = warm.runs.get(frame.run)
                    if found is not None and self._nursery is not None:
                        wrong = self._facets.accept(frame)
                        if wrong is None:
                            self._nursery.start_soon(self._facets.answer, found[1], found[0], frame)
                        else:
                            self._sandboxes.condemn(warm, wrong)
                case PutBlob() | NeedBlob():
                    wrong = self._blobs.accept(warm, frame)
                    if wrong is not None:
                        self._sandboxes.condemn(warm, wrong)
                    elif self._nursery is not None:
                        self._nursery.start_soon(self._blobs.answer, warm, warm.runs.get(frame.run), frame)
                case Answer():
                    found = warm.runs.get(frame.run)
                    if found is not None:
                        self._engine.asking.answered(found[1], frame)
                case Pong():
                    pass
                case _:
                    self._sandboxes.condemn(warm, f"an unexpected {type(frame).__name__} frame")
            if warm.is_dead:
                break
            if number < count and perf_counter() > until_s:
                return frames[number:]
        return []

    def _on_turn(self, warm: WarmSandbox, turn: Turn, until_s: float) -> Turn | None:
        """The answer is what is left at `until_s`: as if the sandbox had said it in a Turn of its own."""
        found = warm.runs.get(turn.run)
        if found is None:
            return None  # It was dropped while the frame was under way.
        run, resident = found
        instance = resident.instance
        if turn.seen > run.sent:
            self._sandboxes.condemn(warm, "a turn names an entry that was not sent")
            return None
        if run.execution != instance.execution or run.is_released:
            return None  # It is of a past that is gone, or goes: what it reports is done again.
        now_ms = self._engine.clock.now_ms()
        if self._is_over_a_limit(resident, run, len(turn.commands), now_ms):
            return None
        bytes_max = self._engine.limits.journal_bytes_max
        resolved_before = instance.resolved_at
        row_rests, resident.is_resting = resident.is_resting, False
        rest: Turn | None = None
        last = len(turn.commands) - 1
        try:
            for index, command in enumerate(turn.commands):
                if isinstance(command, StepDone | StepError | Cancel):
                    run.attempting.discard(command.path)
                decided = decide.on_command(instance, command, now_ms=now_ms, id=resident.key[1])
                if index == last:
                    self._note_idle(resident, run, turn, resolved_before)
                if decided.delta:
                    self._engine.store.check_delta(decided.delta)
                run.looked += decided.looked
                if decided.entries:
                    apply(resident, decided.entries, decided.delta)
                if resident.journal_bytes > bytes_max or run.looked > LOOKED_BYTES_MAX:
                    # A few bytes of commands may be many of journal, or much work: a turn does not go on beyond.
                    self._is_over_a_limit(resident, run, 0, now_ms)
                    return None
                if index < last and perf_counter() > until_s:
                    rest = Turn(turn.run, turn.seen, turn.commands[index + 1 :], turn.idle)
                    run.is_quiet = False
                    break
        except (decide.Violation, Refused) as violation:
            if resident.unsent:
                self._engine.commit(resident, ())
            self._sandboxes.condemn(warm, str(violation))
            return None
        if not turn.commands:
            self._note_idle(resident, run, turn, resolved_before)
        if resident.unsent or (resident.is_resting and not row_rests):
            # With nothing to journal the index must know that it rests, or a restart would activate it for nothing.
            self._engine.commit(resident, ())
        if not resident.is_resting:
            self._set_alarm(resident, run)
        self._engine.settle(resident)
        return rest

    def _is_over_a_limit(self, resident: Resident, run: Run, more: int, now_ms: int) -> bool:
        """Hold an instance whose execution has grown too long: replay is linear in it, and a loop without end must not
        fill the disk. Before that its log warns."""
        instance, limits = resident.instance, self._engine.limits
        if (
            instance.step_count < WARN_AT * limits.steps_max
            and instance.sequence - instance.begin_at < WARN_AT * JOURNAL_ENTRIES_MAX - more
            and instance.sequence < HISTORY_ENTRIES_MAX - more
            and resident.journal_bytes < WARN_AT * limits.journal_bytes_max
            and resident.history_bytes < WARN_AT * HISTORY_BYTES_MAX
            and run.looked <= LOOKED_BYTES_MAX
        ):
            return False
        if run.looked > LOOKED_BYTES_MAX:
            message = (
                f"its waits with a match have looked through {run.looked} bytes of unread events, the limit is "
                f"{LOOKED_BYTES_MAX}; wait for events of the type without a match, or read them as they come"
            )
            return self._hold_over(resident, message, now_ms)
        history = (
            ("all its executions have", instance.sequence + more, "journal entries", HISTORY_ENTRIES_MAX),
            ("its execution with all restarts has", resident.history_bytes, "bytes of journal", HISTORY_BYTES_MAX),
        )
        for which, found, what, limit in history:
            if found > limit:
                message = f"{which} {found} {what}, the limit is {limit}; start another instance"
                return self._hold_over(resident, message, now_ms)
        measured = (
            ("steps", instance.step_count, limits.steps_max),
            ("journal entries", instance.sequence - instance.begin_at + more, JOURNAL_ENTRIES_MAX),
            ("bytes of journal", resident.journal_bytes, limits.journal_bytes_max),
        )
        for what, found, limit in measured:
            if found < WARN_AT * limit:
                continue
            hint = "self.continue_as_new(payload) begins a new execution"
            if found > limit:
                return self._hold_over(
                    resident, f"its execution has {found} {what}, the limit is {limit}; {hint}", now_ms
                )
            if not resident.is_warned:
                resident.is_warned = True
                text = f"this execution has {found} {what} of at most {limit}; {hint}"
                position = instance.sequence
                line = OutputText(*resident.key, position, 0, now_ms, "log", "WARNING", "", 0, text)
                self._engine.output.add(line)
        return False

    def _hold_over(self, resident: Resident, message: str, now_ms: int) -> bool:
        """It goes on only when somebody has changed something. Always True."""
        instance = resident.instance
        is_going = instance.held is None and instance.outcome is None
        held = (Held(now_ms, "limit_exceeded", message, None, None),) if is_going else ()
        if held or resident.unsent:
            self._engine.commit(resident, held)
        return True

    def _note_idle(self, resident: Resident, run: Run, turn: Turn, resolved_at: int) -> None:
        """Whether the run rests: it is idle, has seen all that could let it go on, and is not merely held back."""
        run.is_quiet = turn.idle and turn.seen == run.sent and not run.attempting
        is_up_to_date = turn.seen >= resolved_at and resident.instance.resolved_at == resolved_at
        is_free = not run.attempting and not run.is_quiesced and not _awaits_start(resident.instance, turn)
        is_free = is_free and turn.seen >= run.goes_on_at
        resident.is_resting = turn.idle and is_up_to_date and is_free

    def _on_output(self, warm: WarmSandbox, line: Output) -> None:
        found = warm.runs.get(line.run)
        if found is None:
            return
        tenant, instance = found[1].key
        self._engine.output.add(
            OutputText(
                tenant,
                instance,
                line.position,
                line.number,
                max(0, min(line.at_ms, OUTPUT_AT_MS_MAX)),
                line.stream,
                line.level[:OUTPUT_LEVEL_CHARS_MAX],
                line.step[:PATH_CHARS_MAX],
                line.attempt,
                line.text[:OUTPUT_TEXT_CHARS_MAX],
            )
        )

    # --- deaths

    def _on_death(self, warm: WarmSandbox, died: SandboxDied) -> None:
        log.warning("sandbox died", extra={"tenant": warm.place[0], "commit": warm.place[1], "reason": died.reason})
        for run, resident in list(warm.runs.values()):
            self._leave(resident, run, has_died=True)
            if not run.is_released:
                resident.traces.append(Released(self._engine.clock.now_ms(), "sandbox died"))
            self._died(resident, died.reason, died.detail)

    def _died(self, resident: Resident, reason: DeathReason, detail: str) -> None:
        sequence = resident.instance.sequence
        resident.deaths = resident.deaths + 1 if resident.died_at == sequence else 1
        resident.died_at = sequence
        if self._is_quiescing or not resident.needs_run:
            self._engine.settle(resident)
        elif resident.deaths >= self._engine.limits.deaths_max:
            message = f"its sandbox died {resident.deaths} times at the same point, the last time: {reason}, {detail}"
            held = Held(self._engine.clock.now_ms(), "sandbox_killed", message, None, None)
            self._engine.commit(resident, (held,))
        else:
            self._later(resident, DEATH_PAUSE_S * 2**resident.deaths)

    def _later(self, resident: Resident, pause_s: float) -> None:
        if self._nursery is not None and not self._is_quiescing:
            resident.holds += 1
            self._nursery.start_soon(self._settle_later, resident, pause_s)

    async def _settle_later(self, resident: Resident, pause_s: float) -> None:
        await trio.sleep(pause_s)
        resident.holds -= 1
        self._engine.settle(resident)


def _awaits_start(instance: Instance, turn: Turn) -> bool:
    """Whether a child is about to be started, the turn's last command included: that takes a moment, which is not worth
    a release."""
    command = turn.commands[-1] if turn.commands else None
    if not instance.children and type(command) is not Child:
        return False
    starting = set(instance.to_start) if instance.children else set[str]()
    match command:
        case Child(path=path):
            starting.add(path)
        case Cancel(path=path):
            starting.discard(path)
        case _:
            pass
    return bool(starting)
