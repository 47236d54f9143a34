"""WorkflowRun: the handle of one instance of a test."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from executor.core import decide, values
from executor.core.entries import (
    HIDDEN,
    AnyEntry,
    Emitted,
    Paused,
    Restarted,
    Resumed,
    Terminated,
    Undoing,
    Unheld,
    UpdateEnded,
)
from executor.core.errors import Conflict
from executor.core.ids import parse_event_id, parse_event_type
from executor.core.lifecycle import State, check
from executor.core.rewind import before_failure, before_named, sequences
from executor.rendering import journal_item
from executor.sandbox.protocol import Ask, Update
from executor.testing import answers, looking
from executor.testing.answers import encoded
from executor.testing.failures import NeverEnds, WorkflowFailure
from executor.testing.hosted import Hosted
from executor.testing.looking import FacetSeen, StepsSeen
from executor.testing.mocks import names
from executor.testing.world import JUMPS_MAX, World
from executor.views import EventReceipt, JournalItem, LogLine, Status, WaitingFor

R = TypeVar("R")

FOR_EVER = 1 << 62
"""A time that nothing passes."""


class WorkflowRun(Generic[R]):
    """One instance. What it does by itself without time passing is always done when a method returns."""

    def __init__(self, world: World, hosted: Hosted) -> None:
        self._world = world
        self._hosted = hosted
        self.id = hosted.id

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r}, {self.state})"

    # --- letting it go on

    def result(self) -> R:
        """What `run()` returned, moving the clock as far as it takes.

        Raises TenantError (it failed; the original exception is its cause), Conflict (`instance_terminated`,
        `instance_held`), NeverEnds (it waits for what only the test can bring; the message says for what).
        """
        came = self._world.drive(lambda: self._hosted.is_over, until_ms=FOR_EVER)
        if came != "done":
            raise self._never("end", came)
        instance = self._hosted.instance
        if instance.held is not None and instance.outcome is None:
            raise Conflict(f'instance "{self.id}" is held: {instance.held.message}', code="instance_held")
        failed = self._hosted.failure
        if failed is not None:
            raise answers.failed(self.id, failed.error, self._world.errors)
        if isinstance(instance.outcome, Terminated):
            raise Conflict(f'instance "{self.id}" was terminated and has no result', code="instance_terminated")
        code = self._world.tree.workflows[instance.start.workflow]
        found: R = values.decode(self._stored_result(), declared=code.result_type, what="result")
        return found

    def run_until_waiting(self, name: str | None = None) -> WaitingFor:
        """Let it go on, sleeps and retries passing, until it waits for an event; or, with `name`, until its sleep,
        retry, wait or child of that name is open. Returns what it waits for.

        Raises NeverEnds, WorkflowFailure (it ended before).
        """
        came = self._world.drive(lambda: self._hosted.is_over or self._waiting_for(name) is not None, until_ms=FOR_EVER)
        found = self._waiting_for(name)
        if found is not None:
            return found
        what = "wait for an event" if name is None else f"wait at {name!r}"
        if came == "done":
            failed = self._hosted.failure
            cause = None if failed is None else answers.failed(self.id, failed.error, self._world.errors)
            raise WorkflowFailure(f'run "{self.id}" is {self.state} and did not {what}') from cause
        raise self._never(what, came)

    def _waiting_for(self, name: str | None) -> WaitingFor | None:
        if not self._hosted.is_resting:
            return None
        for wait in self.waits:
            if wait.kind == "event" if name is None else names(name, None, wait.path):
                return wait
        return None

    # --- what others do to it

    def send_event(self, type: str, payload: Any = None, *, id: str | None = None) -> EventReceipt:
        """Send an event. Early ones are kept for their wait; the same id counts once. Raises Conflict, Refused."""
        instance = self._hosted.instance
        event = parse_event_id(f"event-{instance.event_count + 1}" if id is None else id)
        kind = parse_event_type(type)
        decided = decide.on_event(
            instance, id=event, type=kind, payload=encoded(payload, "payload"), now_ms=self._world.clock.now_ms
        )
        if decided.entries:
            check("send_event", self.state, self.id)
            self._append(*decided.entries)
        return EventReceipt(id=event, type=kind, is_duplicate=not decided.entries)

    def pause(self) -> Status:
        """Nothing begins and no timer runs until `resume`."""
        if check("pause", self.state, self.id):
            self._append(Paused(self._world.clock.now_ms))
        return self.status

    def resume(self) -> Status:
        """Go on: durations are as long as they were when it was paused."""
        if check("resume", self.state, self.id):
            now_ms = self._world.clock.now_ms
            self._hosted.is_resting = False
            self._append(Unheld(now_ms) if self._hosted.instance.held is not None else Resumed(now_ms))
        return self.status

    def terminate(self, *, undo: bool = False) -> Status:
        """End it now. `undo`: undo what its finished steps did, and then end it."""
        if check("terminate_undoing" if undo else "terminate", self.state, self.id):
            now_ms = self._world.clock.now_ms
            instance = self._hosted.instance
            if undo and instance.step_count:
                self._append(*((Unheld(now_ms),) if instance.held is not None else ()), Undoing(now_ms, None))
            else:
                self._append(Terminated(now_ms))
        return self.status

    def restart(self, from_step: tuple[str, int] | str | None = None) -> Status:
        """Run it again, from its first line or from a step, keeping what was recorded before that.

        Raises NotFound (`step_not_found`), Conflict (`invalid_state`: it would keep the result of an undone step).
        """
        check("restart", self.state, self.id)
        after = self._hosted.instance.begin_at if from_step is None else self._before(from_step)
        return self._go_back(after, keeps_events=from_step is not None)

    def retry(self) -> Status:
        """Let a failed run go on from the step that failed it, with new attempts. Raises Conflict."""
        check("retry", self.state, self.id)
        return self._go_back(before_failure(self._recorded(), id=self.id), keeps_events=True)

    def update(self, name: str, payload: Any = None, *, id: str | None = None) -> Any:
        """Have the workflow's update handler answer, moving the clock as far as it takes.

        The same id is the same update. Raises Refused (`update_refused`: by the validator), NotFound
        (`unknown_handler`), TenantError (the handler raised), NeverEnds.
        """
        check("update", self.state, self.id)
        hosted, world = self._hosted, self._world
        given = f"update-{len(hosted.instance.updates) + 1}" if id is None else id
        number = world.next_number()

        def ended() -> UpdateEnded | None:
            found = hosted.instance.updates.get(given)
            return found if isinstance(found, UpdateEnded) else None

        if ended() is None:
            arguments = (number, given, name, encoded(payload, "payload"))
            came = world.ask(
                hosted, lambda run: Update(run, *arguments), lambda: number in world.answers or bool(ended())
            )
            if came != "done":
                raise self._never(f"answer update {name!r}", came)
        found = ended()
        if found is not None:
            return answers.of(found.value, found.error, world.errors)
        refused = world.answers.pop(number)
        return answers.of(refused.value, refused.error, world.errors)

    def ask(self, name: str, payload: Any = None) -> Any:
        """What the workflow's query handler answers. Raises NotFound (`unknown_handler`), TenantError."""
        check("ask", self.state, self.id)
        world = self._world
        number = world.next_number()
        question = encoded(payload, "payload")
        came = world.ask(self._hosted, lambda run: Ask(run, number, name, question), lambda: number in world.answers)
        if came != "done":
            raise self._never(f"answer query {name!r}", came)
        answer = world.answers.pop(number)
        return answers.of(answer.value, answer.error, world.errors)

    # --- looking at it

    @property
    def status(self) -> Status:
        """As the platform shows it: state, waits, attempts, error, output, what `self.status` shows, attributes."""
        return looking.status(self._hosted)

    @property
    def state(self) -> State:
        return self._hosted.state

    @property
    def waiting_for(self) -> WaitingFor | None:
        """What stops it, or the wait that ends first."""
        return self.status.waiting_for

    @property
    def waits(self) -> list[WaitingFor]:
        return self.status.waits

    @property
    def steps(self) -> StepsSeen:
        """Its steps by path, or by name where that is unique."""
        return StepsSeen(self._hosted.journal)

    @property
    def journal(self) -> list[JournalItem]:
        """All that happened, as the platform's journal shows it."""
        return [journal_item(sequence, stored) for sequence, stored in enumerate(self._hosted.stored, start=1)]

    def journal_kinds(self, *, traces: bool = False) -> list[str]:
        """The journal in short: "step_succeeded charge#1", "event_received approved", "completed".

        Without `traces` what depends on how it was executed is left out: activations, releases, starts of attempts.
        """
        return looking.kinds(self._hosted.journal, hidden=frozenset() if traces else frozenset(HIDDEN))

    @property
    def logs(self) -> list[LogLine]:
        """What it printed and logged, each line once, however often it was replayed."""
        return list(self._hosted.lines)

    @property
    def facet(self) -> FacetSeen:
        """Its database, for reading."""
        return FacetSeen(self._hosted.image)

    @property
    def attributes(self) -> dict[str, Any]:
        """Its search attributes."""
        return self.status.attributes

    @property
    def activations(self) -> int:
        """How often it was begun in a sandbox: once, and once after each wait at which it was unloaded."""
        return self._hosted.activations

    @property
    def children(self) -> dict[str, WorkflowRun[Any]]:
        """Children that it started, by the path of the step."""
        found: dict[str, WorkflowRun[Any]] = {}
        for hosted in self._world.hosted.values():
            parent = hosted.instance.parent
            if parent is not None and parent.instance == self.id:
                found[parent.path] = WorkflowRun(self._world, hosted)
        return found

    def stream(self, name: str) -> list[Any]:
        """The items of an output stream so far, in order."""
        emitted = (entry for entry in self._hosted.journal if isinstance(entry, Emitted) and entry.stream == name)
        return [values.decode(item) for entry in emitted for item in entry.items]

    # --- inside

    def _append(self, *entries: AnyEntry) -> None:
        self._world.append(self._hosted, *entries)
        self._world.drive()

    def _stored_result(self) -> bytes:
        value: bytes = self._hosted.instance.outcome.value  # type: ignore[union-attr]  # it is Completed
        return value

    def _before(self, step: tuple[str, int] | str) -> int:
        name, occurrence = (step, 1) if isinstance(step, str) else step
        return before_named(self._recorded(), name, occurrence, id=self.id)

    def _recorded(self) -> list[tuple[int, AnyEntry]]:
        journal, instance = self._hosted.journal, self._hosted.instance
        counted = sequences(instance.begin_at, instance.sequence, instance.cuts)
        return [(sequence, journal[sequence - 1]) for sequence in counted]

    def _go_back(self, after: int, *, keeps_events: bool) -> Status:
        self._world.drop(self._hosted)
        now_ms = self._world.clock.now_ms
        self._append(Restarted(now_ms, after, keeps_events=keeps_events, undone=self._hosted.instance.undone))
        for ended in decide.after_restart(self._hosted.instance, now_ms=now_ms):
            self._append(ended)
        return self.status

    def _never(self, what: str, came: str) -> NeverEnds:
        if self._world.is_closed:
            return NeverEnds(f'run "{self.id}" is {self.state} and goes no further: its WorkflowTest is closed')
        waits = self._told_waits()
        if came == "jumps":
            now = f"{self._world.clock.now:%Y-%m-%d}"
            return NeverEnds(
                f'run "{self.id}" did not {what} within {JUMPS_MAX:,} jumps of the clock (it is {now} now); '
                f"it waits for {waits}"
            )
        hints = ["resume it: run.resume()" for wait in self.waits if wait.kind == "paused"] or [
            f'send it: run.send_event("{wait.type}", …)' for wait in self.waits if wait.kind == "event"
        ]
        hint = f"; {hints[0]}" if hints else ""
        return NeverEnds(f'run "{self.id}" ({self.state}) can never {what} by itself: it waits for {waits}{hint}')

    def _told_waits(self) -> str:
        """All that it waits for, and what its children do."""
        told: list[str] = []
        for wait in self.waits:
            child = self._world.hosted.get(wait.child or "")
            behind = f", which waits for {WorkflowRun[Any](self._world, child)._told_waits()}" if child else ""
            told.append(f"{wait}{behind}")
        updates = self._world.tree.workflows[self._hosted.instance.start.workflow].updates
        if not told and updates:
            return f"an update ({', '.join(updates)})"
        return "; ".join(told) or "nothing that the platform knows"
