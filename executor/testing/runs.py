"""Runs of instances in this process: begun, given their entries, listened to, dropped.

What they ask for becomes entries by the real rules; when, is the World's to say.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Literal

import msgspec

from executor.core import decide
from executor.core.bounds import STEP_COUNT_MAX
from executor.core.commands import Cancel, Command, StepBegun, StepDone, StepError, Wait
from executor.core.entries import Activated, AnyEntry, Held, Released, WaitEnded
from executor.core.visible import is_visible
from executor.sandbox.protocol import (
    Activate,
    Answer,
    Attempt,
    BlobPart,
    BlobStored,
    Drop,
    Entries,
    FacetImage,
    FacetPages,
    FromSandbox,
    NeedBlob,
    NeedFacet,
    NeedPages,
    Output,
    PutBlob,
    Quiesce,
    Turn,
)
from executor.testing import inside
from executor.testing.clock import VirtualClock
from executor.testing.failures import Nondeterminism, WorkflowFailure
from executor.testing.hosted import Hosted
from executor.testing.mocks import NONE_EXECUTES, Mock, Rules
from executor.testing.process import Process
from executor.testing.tree import WorkingTree
from facets import pages
from facets.delta import stamp_of

EXECUTIONS_MAX = 10_000


class Runs:
    """See the module. `unloads`: a run is dropped at every wait, and replayed when it goes on."""

    def __init__(self, clock: VirtualClock, tree: WorkingTree, process: Process, *, unloads: bool) -> None:
        self.clock = clock
        self.tree = tree
        self.process = process
        self.unloads = unloads
        self.hosted: dict[str, Hosted] = {}
        self.waits: Rules[Mock] = Rules()
        self.answers: dict[int, Answer] = {}
        self.failures: list[WorkflowFailure] = []
        """For the test, in the order in which they were found."""
        self.on_settled: Callable[[Hosted], bool] = lambda _hosted: False
        """Do what follows from an instance's state for others; true if that was something."""
        self.by_number: dict[int, Hosted] = {}
        self._numbers = itertools.count(1)
        self._touched: dict[str, Hosted] = {}
        process.on_question = self._answer_questions

    def next_number(self) -> int:
        return next(self._numbers)

    def append(self, hosted: Hosted, *entries: AnyEntry, delta: bytes | None = None) -> None:
        """Journal entries, and see to what they bring about when it is settled."""
        hosted.append(entries, delta)
        self.touch(hosted)

    def touch(self, hosted: Hosted) -> None:
        self._touched[hosted.id] = hosted

    def settle(self) -> None:
        """Do all that takes neither code that executes nor time."""
        process = self.process
        while True:
            if process.inbox:
                frames, process.inbox = process.inbox, []
                for frame in frames:
                    self._take(frame)
            elif self._touched:
                touched, self._touched = self._touched, {}
                for hosted in touched.values():
                    self._serve(hosted)
            else:
                return

    def _serve(self, hosted: Hosted) -> None:
        instance = hosted.instance
        if self.on_settled(hosted):
            self.touch(hosted)
            return
        if hosted.is_over:
            self.drop(hosted)
        elif instance.is_paused or instance.delayed_until_ms is not None:
            self._quiesce(hosted)
        elif hosted.is_resting:
            if self.unloads and hosted.number is not None and not hosted.is_kept and hosted.is_to_be_unloaded():
                self._release(hosted, "waits")
        else:
            if hosted.number is not None and hosted.execution != instance.execution:
                self.drop(hosted)  # it is of a past that is gone
            if hosted.number is None:
                self._activate(hosted)
            self._send(hosted)
            self._retry(hosted)

    def _activate(self, hosted: Hosted) -> None:
        hosted.activations += 1
        now_ms = self.clock.now_ms
        hosted.append((Activated(now_ms, 1),))
        hosted.number = number = self.next_number()
        hosted.sent = 0
        hosted.execution = hosted.instance.execution
        hosted.is_quiet = hosted.is_quiesced = False
        self.by_number[number] = hosted
        start = hosted.instance.start
        self.process.handle(Activate(number, hosted.id, start.workflow, start.commit, len(hosted.stored)))

    def _send(self, hosted: Hosted) -> None:
        first = hosted.sent + 1
        if first <= len(hosted.stored) and hosted.number is not None:
            hosted.sent = len(hosted.stored)
            hosted.is_quiet = False
            self.process.handle(Entries(hosted.number, first, self.visible(hosted, first, hosted.sent)))

    @staticmethod
    def visible(hosted: Hosted, first: int, last: int) -> list[bytes | int]:
        """Entries as the run is sent them."""
        cuts, carried = hosted.instance.cuts, hosted.instance.carried
        stored = hosted.stored[first - 1 : last]
        return [data if is_visible(data, at, cuts, carried) else 1 for at, data in enumerate(stored, start=first)]

    def _retry(self, hosted: Hosted) -> None:
        for failed in decide.due_retries(hosted.instance, self.clock.now_ms):
            if failed.path not in hosted.attempting and hosted.number is not None:
                hosted.attempting.add(failed.path)
                hosted.is_quiet = False
                self.process.handle(Attempt(hosted.number, failed.path, failed.attempt + 1))

    def _quiesce(self, hosted: Hosted) -> None:
        if hosted.number is None:
            return
        if hosted.is_quiet:
            self._release(hosted, "paused")
        elif not hosted.is_quiesced:
            hosted.is_quiesced = True
            self.process.handle(Quiesce(hosted.number))

    def _release(self, hosted: Hosted, reason: Literal["waits", "paused"]) -> None:
        self.drop(hosted)
        hosted.append((Released(self.clock.now_ms, reason),))

    def drop(self, hosted: Hosted) -> None:
        """End its run, if there is one."""
        number, hosted.number = hosted.number, None
        if number is not None:
            del self.by_number[number]
            self.process.steps.forget(number)
            hosted.attempting.clear()
            hosted.reports.clear()
            hosted.is_quiet = False
            self.process.handle(Drop(number))

    # --- what the run says

    def _take(self, frame: FromSandbox) -> None:
        if isinstance(frame, Answer):
            self.answers[frame.number] = frame
        if isinstance(frame, PutBlob | NeedBlob):
            self._answer_blob(frame)
        hosted = self.by_number.get(getattr(frame, "run", 0))
        if hosted is None:
            return
        if isinstance(frame, Turn):
            self._on_turn(hosted, frame)
        elif isinstance(frame, Output):
            self._on_output(hosted, frame)
        elif isinstance(frame, NeedFacet):
            self.process.handle(FacetImage(frame.run, 0, len(hosted.image), hosted.image))
        elif isinstance(frame, NeedPages):
            self._send_pages(hosted, frame)

    def _on_turn(self, hosted: Hosted, turn: Turn) -> None:
        hosted.idle_after = turn.seen if turn.idle else 0
        for command in turn.commands:
            if isinstance(command, StepDone | StepError):
                hosted.reports.append(command)
            else:
                if isinstance(command, Cancel):
                    self.journal_reports(hosted, of_all=True)  # it may be about one of these steps
                self._journal(hosted, command)
        self.journal_reports(hosted)
        self._hold_if_endless(hosted)
        held = hosted.instance.held
        if held is not None and held.code == "nondeterminism":
            self.fail_as_nondeterministic(hosted, held)

    def _hold_if_endless(self, hosted: Hosted) -> None:
        """As the platform does; and a run that only ever continues as new would never give the test back."""
        instance = hosted.instance
        if hosted.is_over:
            return
        if instance.step_count > STEP_COUNT_MAX:
            message = f"its execution has {instance.step_count} steps, the limit is {STEP_COUNT_MAX}"
        elif instance.execution > EXECUTIONS_MAX:
            message = f"it has continued as new {instance.execution} times; a test lets it do so {EXECUTIONS_MAX} times"
        else:
            return
        self.append(hosted, Held(self.clock.now_ms, "limit_exceeded", message, None, None))

    def _journal(self, hosted: Hosted, command: Command) -> None:
        if isinstance(command, StepDone | StepError | Cancel):
            hosted.attempting.discard(command.path)
        decided = self._decide(hosted, self._as_deployed(command))
        hosted.append(decided.entries, decided.delta)

    def journal_reports(self, hosted: Hosted, *, of_all: bool = False) -> None:
        """Journal how attempts ended, in the order in which they began: parallel steps that end at about the same time
        are recorded equally each time. One that takes longer is not waited for (`of_all`)."""
        steps = self.process.steps
        number = hosted.number or 0
        placed = [(steps.place(number, report.path), report) for report in hosted.reports]
        hosted.reports = []
        if not any(isinstance(report, StepDone) and report.delta for _, report in placed):
            first = NONE_EXECUTES if of_all or not placed else steps.first_executing(number)
            hosted.reports = [report for place, report in placed if place >= first]
            placed = sorted((item for item in placed if item[0] < first), key=_place)
        # Deltas build on each other: with one among them, the order is that in which they came.
        for _, report in placed:
            self._journal(hosted, report)
            steps.forget(number, report.path)
        hosted.note_rest()
        self.touch(hosted)

    def fail_as_nondeterministic(self, hosted: Hosted, held: Held) -> None:
        """The test fails with it, at the end of what is being driven."""
        what, _, _ = held.message.partition(" Resume the instance")  # which is not what a test can do
        message = f'run "{hosted.id}": {self.tree.shown(what)}'
        self.failures.append(Nondeterminism(message, held.recorded, held.requested))

    def _decide(self, hosted: Hosted, command: Command) -> decide.Decided:
        decided = decide.on_command(hosted.instance, command, now_ms=self.clock.now_ms, id=hosted.id)
        if isinstance(command, Wait) and decided.entries:
            rule = self.waits.find(command.path)
            if rule is not None:
                rule.calls.append(((), {}))
                return decide.Decided((decided.entries[0], WaitEnded(self.clock.now_ms, command.path, None)))
        return decided

    def _as_deployed(self, command: Command) -> Command:
        """Places as they would be in a deployment, times as they are in the test."""
        changes: dict[str, object] = {}
        where = getattr(command, "where", None)
        if where:
            changes["where"] = self.tree.shown(where)
        if isinstance(command, StepDone | StepError | StepBegun):
            changes["started_at_ms"] = self.clock.now_ms
        return msgspec.structs.replace(command, **changes) if changes else command

    def _on_output(self, hosted: Hosted, line: Output) -> None:
        if line.step:
            line = msgspec.structs.replace(line, at_ms=self.clock.now_ms)  # it has the real time
        if hosted.take_line(line) and line.stream != "log":
            inside.write(line.stream, line.text + "\n")

    # --- facets

    def _answer_questions(self) -> None:
        """A step blocks everything until its facet is there."""
        frames, self.process.inbox = self.process.inbox, []
        later: list[FromSandbox] = []
        for frame in frames:
            if isinstance(frame, NeedFacet | NeedPages | PutBlob | NeedBlob):
                self._take(frame)
            else:
                later.append(frame)
        self.process.inbox = later + self.process.inbox

    def _answer_blob(self, frame: PutBlob | NeedBlob) -> None:
        hosted = self.by_number.get(frame.run)
        parts = hosted.blobs.setdefault(frame.id, []) if hosted is not None else []
        if isinstance(frame, PutBlob):
            parts += frame.parts
            self.process.handle(BlobStored(frame.run, frame.number))
        else:
            self.process.handle(
                BlobPart(frame.run, frame.number, parts[frame.part] if frame.part < len(parts) else None)
            )

    def _send_pages(self, hosted: Hosted, need: NeedPages) -> None:
        image = hosted.image
        size = pages.CHUNK_BYTES
        pieces = [image[at * size : (at + 1) * size] for at in range(need.first, need.first + need.count)]
        chunks = [pages.pack_chunk(piece.ljust(size, b"\0")) for piece in pieces if piece]
        self.process.handle(FacetPages(need.run, need.number, *stamp_of(image), need.first, chunks))


def _place(item: tuple[int, StepDone | StepError]) -> int:
    return item[0]
