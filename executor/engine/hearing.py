"""Hearing: what sandboxes say. What a run asks for becomes entries by `core.decide`.

A frame from a sandbox can concern only runs that were given out on that sandbox's own channel.
"""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from executor.core import decide
from executor.core.bounds import LOOKED_BYTES_MAX
from executor.core.commands import Cancel, Child, StepDone, StepError
from executor.core.decide.decided import PATH_CHARS_MAX
from executor.core.errors import Refused
from executor.core.instance import Instance
from executor.engine import limits
from executor.engine.blobs import Blobs
from executor.engine.commit import apply
from executor.engine.facets import FacetSender
from executor.engine.resident import Resident, Run
from executor.engine.sandboxes import WarmSandbox
from executor.ports import OutputText
from executor.sandbox.protocol import Answer, FromSandbox, NeedBlob, NeedFacet, NeedPages, Output, Pong, PutBlob, Turn

if TYPE_CHECKING:
    from executor.engine.engine import Engine
    from executor.engine.runner import Runner

OUTPUT_TEXT_CHARS_MAX = 10_000
"""A sandbox cuts at 8 KiB, and says so."""
OUTPUT_LEVEL_CHARS_MAX = 64
OUTPUT_AT_MS_MAX = 253_402_300_799_999
"""The end of the year 9999."""


class Hearing:
    """The part of the runner that takes frames in."""

    def __init__(self, engine: Engine, runner: Runner, blobs: Blobs) -> None:
        self._engine = engine
        self._runner = runner
        self._blobs = blobs
        self._facets = FacetSender(engine)

    def on_frames(self, warm: WarmSandbox, frames: list[FromSandbox], until_s: float) -> list[FromSandbox]:
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
                    nursery = self._runner.nursery
                    if found is not None and nursery is not None:
                        wrong = self._facets.accept(frame)
                        if wrong is None:
                            nursery.start_soon(self._facets.answer, found[1], found[0], frame)
                        else:
                            self._runner.sandboxes.condemn(warm, wrong)
                case PutBlob() | NeedBlob():
                    wrong = self._blobs.accept(warm, frame)
                    if wrong is not None:
                        self._runner.sandboxes.condemn(warm, wrong)
                    elif self._runner.nursery is not None:
                        self._runner.nursery.start_soon(self._blobs.answer, warm, warm.runs.get(frame.run), frame)
                case Answer():
                    found = warm.runs.get(frame.run)
                    if found is not None:
                        self._engine.asking.answered(found[1], frame)
                case Pong():
                    pass
                case _:
                    self._runner.sandboxes.condemn(warm, f"an unexpected {type(frame).__name__} frame")
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
            self._runner.sandboxes.condemn(warm, "a turn names an entry that was not sent")
            return None
        if run.execution != instance.execution or run.is_released:
            return None  # It is of a past that is gone, or goes: what it reports is done again.
        now_ms = self._engine.clock.now_ms()
        if limits.is_over(self._engine, resident, run, len(turn.commands), now_ms):
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
                    limits.is_over(self._engine, resident, run, 0, now_ms)
                    return None
                if index < last and perf_counter() > until_s:
                    rest = Turn(turn.run, turn.seen, turn.commands[index + 1 :], turn.idle)
                    run.is_quiet = False
                    break
        except (decide.Violation, Refused) as violation:
            if resident.unsent:
                self._engine.commit(resident, ())
            self._runner.sandboxes.condemn(warm, str(violation))
            return None
        if not turn.commands:
            self._note_idle(resident, run, turn, resolved_before)
        if resident.unsent or (resident.is_resting and not row_rests):
            # With nothing to journal the index must know that it rests, or a restart would activate it for nothing.
            self._engine.commit(resident, ())
        if not resident.is_resting:
            self._runner.set_alarm(resident, run)
        self._engine.settle(resident)
        return rest

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


def _awaits_start(instance: Instance, turn: Turn) -> bool:
    """Whether a child is about to be started, the turn's last command included: that takes a moment, which is not worth
    a release."""
    command = turn.commands[-1] if turn.commands else None
    match command:
        case Child():
            return True
        case Cancel(path=path) if path in instance.to_start:
            return len(instance.to_start) > 1
        case _:
            return bool(instance.to_start)
