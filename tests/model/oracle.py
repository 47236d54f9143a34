"""The oracle: what the platform promises, in memory, without durability, sandboxes, replay or concurrency.

It knows no entries but by their names. Time stands still until `advance`; between two operations everything has gone as
far as it can. Answers are plain values; a refusal is `Refusal(code)`.
"""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from executor.core.ids import child_id
from tests.model.programs import FAILING, REFUSED, RETRY_LIMIT, UNDO_DELAY_S, UNDO_LIMIT


class Refusal(Exception):
    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass
class Branch:
    """Something that `run()`, or the undoing, waits for. `wake_ms`: when its sleep, deadline or retry is due."""

    path: str
    action: list[Any]
    is_asked: bool = False
    is_done: bool = False
    value: Any = None
    wake_ms: int | None = None
    attempt: int = 0
    child: str = ""


@dataclass
class Run:
    """All that a restart takes back."""

    program: list[Any]
    delayed_until_ms: int | None = None
    next: int = 0
    seen: list[Any] = field(default_factory=list)
    branches: list[Branch] = field(default_factory=list)
    uses: Counter[str] = field(default_factory=Counter)
    steps: int = 0
    undoable: list[tuple[str, int]] = field(default_factory=list)
    status: Any = None
    notes: list[int] = field(default_factory=list)
    updates: dict[str, tuple[int, int | None]] = field(default_factory=dict)
    event_ids: dict[str, tuple[str, Any]] = field(default_factory=dict)
    unread: list[tuple[str, str, Any]] = field(default_factory=list)


@dataclass
class Instance:
    """`marks`: for each step of this execution, what was before it began, and how many events there had been."""

    id: str
    payload: list[Any]
    run: Run
    parent: tuple[str, str] | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    stream: list[Any] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    events: list[tuple[str, str, Any]] = field(default_factory=list)
    execution: int = 0
    paused_ms: int | None = None
    undoing: str = ""
    failed_undo: bool = False
    outcome: str = ""
    result: Any = None
    begin: Run = field(init=False)
    marks: dict[str, tuple[Run, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.begin = deepcopy(self.run)

    @property
    def state(self) -> str:
        """The public one. Nothing is ever seen queued or running, as everything has gone as far as it can."""
        return self.outcome or ("paused" if self.paused_ms is not None else "undoing" if self.undoing else "waiting")

    @property
    def waiting_for(self) -> list[str]:
        """Kinds, sorted."""
        if self.outcome:
            return []
        names = {"sleep": "sleep", "wait": "event", "flaky": "retry", "undo": "retry", "call": "child"}
        found = [names[branch.action[0]] for branch in self.run.branches if not branch.is_done]
        found += ["paused"] * (self.paused_ms is not None) + ["undo"] * bool(self.undoing)
        return sorted(found + ["start"] * (self.run.delayed_until_ms is not None))


class Oracle:
    """See the module. Operations raise Refusal, or answer."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms
        self.instances: dict[str, Instance] = {}

    # --- operations

    def start(self, id: str, payload: list[Any], delay_s: int | None = None, attributes: Any = None) -> str:
        there = self.instances.get(id)
        if there is None:
            until_ms = None if delay_s is None else self.now_ms + delay_s * 1000
            self._begin(Instance(id, payload, Run(payload, until_ms), attributes=dict(attributes or {})))
        elif there.payload != payload:
            raise Refusal("instance_exists")
        return id

    def send_event(self, id: str, event: str, kind: str, payload: Any) -> bool:
        """Whether it was there already."""
        instance = self._get(id)
        known = instance.run.event_ids.get(event)
        if known is not None:
            if known != (kind, payload):
                raise Refusal("event_exists")
            return True
        self._check(instance, refused=("undoing",))
        instance.kinds.append("EventReceived")
        instance.events.append((event, kind, payload))
        self._take(instance, instance.events[-1])
        for branch in instance.run.branches:
            if branch.action[0] == "wait" and branch.is_asked and not branch.is_done and self._read(instance, branch):
                break
        self._go_on(instance)
        return False

    def pause(self, id: str) -> None:
        instance = self._get(id)
        self._check(instance, refused=("undoing",))
        if instance.paused_ms is None:
            instance.paused_ms = self.now_ms
            instance.kinds.append("Paused")

    def resume(self, id: str) -> None:
        instance = self._get(id)
        self._check(instance)
        if instance.paused_ms is not None:
            for branch in instance.run.branches:
                if branch.wake_ms is not None:
                    branch.wake_ms += self.now_ms - instance.paused_ms
            instance.paused_ms = None
            instance.kinds.append("Resumed")
            self._wake(instance)

    def terminate(self, id: str, *, undo: bool = False) -> None:
        instance = self._get(id)
        if instance.outcome == "terminated" or (undo and instance.state == "undoing"):
            return
        self._check(instance)
        if undo and instance.run.steps:
            self._undo(instance, "terminated")
        else:
            self._end(instance, "terminated")

    def restart(self, id: str, step: tuple[str, int] | None = None) -> None:
        instance = self._get(id)
        if instance.undoing and not instance.outcome:
            raise Refusal("invalid_state")
        kept: list[tuple[str, str, Any]] = []
        if step is None:
            before = instance.begin
            instance.marks = {}
        else:
            path = f"{step[0]}#{step[1]}"
            if path not in instance.marks:
                raise Refusal("step_not_found")
            paths = list(instance.marks)
            kept_paths = paths[: paths.index(path)]
            if path.startswith("undo/") or any(f"undo/{each}" in instance.marks for each in kept_paths):
                raise Refusal("invalid_state")
            before, count = instance.marks[path]
            kept = instance.events[count:]
            instance.marks = {each: instance.marks[each] for each in kept_paths}
        abandoned = self._calls(instance)
        instance.run = deepcopy(before)
        for event in kept:
            self._take(instance, event)
        instance.execution += 1
        instance.paused_ms, instance.undoing, instance.outcome, instance.result = None, "", "", None
        instance.failed_undo = False
        instance.kinds.append("Restarted")
        for branch in instance.run.branches:
            if branch.is_asked and not branch.is_done and branch.action[0] == "wait":
                self._read(instance, branch)
        self._close(abandoned)
        self._wake(instance)

    def delete(self, id: str) -> None:
        if not self._get(id).outcome:
            raise Refusal("invalid_state")
        del self.instances[id]

    def set_attributes(self, id: str, changes: dict[str, Any]) -> None:
        instance = self._get(id)
        self._check(instance)
        merged = {**instance.attributes, **changes}
        instance.attributes = {name: value for name, value in merged.items() if value is not None}

    def update(self, id: str, update: str, payload: int) -> int:
        instance = self._get(id)
        run = instance.run
        if update not in run.updates:
            self._check(instance, refused=("paused", "undoing", "delayed"))
            if payload == REFUSED:
                raise Refusal("update_refused")
            if payload != FAILING:
                run.notes.append(payload)
            run.updates[update] = (payload, None if payload == FAILING else len(run.notes))
            instance.kinds += ["UpdateAccepted", "UpdateEnded"]
        known, value = run.updates[update]
        if known != payload:
            raise Refusal("update_exists")
        if value is None:
            raise Refusal("update_failed")
        return value

    def ask(self, id: str) -> list[int]:
        instance = self._get(id)
        self._check(instance, refused=("undoing", "delayed"))
        return instance.run.notes

    def result(self, id: str) -> Any:
        instance = self._get(id)
        codes = {"": "timeout", "failed": "workflow_failed", "terminated": "instance_terminated"}
        if instance.outcome != "complete":
            raise Refusal(codes[instance.outcome])
        return instance.result

    def advance(self, ms: int) -> None:
        self.now_ms += ms
        for instance in list(self.instances.values()):
            self._wake(instance)

    # --- checks

    def _get(self, id: str) -> Instance:
        if id not in self.instances:
            raise Refusal("instance_not_found")
        return self.instances[id]

    def _check(self, instance: Instance, *, refused: tuple[str, ...] = ()) -> None:
        if instance.outcome:
            raise Refusal("instance_finished")
        is_delayed = instance.run.delayed_until_ms is not None
        if instance.state in refused or (is_delayed and "delayed" in refused):
            raise Refusal("invalid_state")

    # --- how it goes on

    def _begin(self, instance: Instance) -> None:
        self.instances[instance.id] = instance
        instance.kinds.append("Started")
        self._wake(instance)

    def _wake(self, instance: Instance) -> None:
        """What is due happens, in the order in which it fell due; retries last."""
        if instance.outcome or instance.paused_ms is not None:
            return
        run = instance.run
        if run.delayed_until_ms is not None:
            if run.delayed_until_ms > self.now_ms:
                return
            run.delayed_until_ms = None
            instance.kinds.append("StartDue")
        pending = [branch for branch in run.branches if not branch.is_done and branch.wake_ms is not None]
        due = [branch for branch in pending if (branch.wake_ms or 0) <= self.now_ms]
        for branch in sorted(due, key=lambda branch: (branch.wake_ms, branch.action[0])):
            if branch.action[0] in {"sleep", "wait"}:
                branch.is_done = True
                branch.value = "timeout" if branch.action[0] == "wait" else None
                instance.kinds.append("WaitEnded" if branch.action[0] == "wait" else "SleepEnded")
            else:
                branch.is_asked = False
        self._go_on(instance)

    def _go_on(self, instance: Instance) -> None:
        """As far as it can."""
        while not instance.outcome and instance.paused_ms is None and instance.run.delayed_until_ms is None:
            run = instance.run
            if not run.branches:
                self._begin_next(instance)
                continue
            for branch in run.branches:
                if not (branch.is_done or branch.is_asked):
                    self._ask(instance, branch)
            for branch in run.branches:
                if not (branch.is_done or branch.is_asked):
                    self._attempt(instance, branch)
            if instance.run is run and not instance.outcome:
                if not all(branch.is_done for branch in run.branches):
                    return
                values = [branch.value for branch in run.branches]
                run.branches = []
                if not instance.undoing:
                    run.seen.append(values if run.program[run.next][0] == "both" else values[0])
                    run.next += 1

    def _begin_next(self, instance: Instance) -> None:
        run = instance.run
        if instance.undoing:
            if run.undoable:
                path, failures = run.undoable.pop()
                run.branches = [Branch(f"undo/{path}", ["undo", failures])]
            else:
                self._end(instance, instance.undoing)
            return
        if run.next == len(run.program):
            instance.result = run.seen
            self._end(instance, "complete")
            return
        action = run.program[run.next]
        match action:
            case ["fail"]:
                if run.undoable:
                    self._undo(instance, "failed")
                else:
                    self._end(instance, "failed")
                return
            case ["anew", program]:
                instance.kinds.append("Continued")
                instance.execution += 1
                kept = {"updates": run.updates, "event_ids": run.event_ids, "unread": run.unread}
                instance.run = Run(program, status=run.status, **kept)
                instance.begin, instance.marks = deepcopy(instance.run), {}
                return
            case ["status", n]:
                run.status = n
            case ["attribute", n]:
                instance.attributes["n"] = n
            case ["emit", n]:
                instance.stream.append(n)
            case _:
                for part in action[1:] if action[0] == "both" else [action]:
                    run.uses[part[0]] += 1
                    run.branches.append(Branch(f"{part[0]}#{run.uses[part[0]]}", part))
                return
        run.seen.append(None)
        run.next += 1

    def _ask(self, instance: Instance, branch: Branch) -> None:
        if branch.path not in instance.marks:
            instance.marks[branch.path] = (deepcopy(instance.run), len(instance.events))
        kind = branch.action[0]
        if kind == "sleep":
            branch.is_asked, branch.wake_ms = True, self.now_ms + branch.action[1] * 1000
            instance.kinds.append("SleepStarted")
        elif kind == "wait":
            timeout_s = branch.action[2]
            branch.is_asked, branch.wake_ms = True, None if timeout_s is None else self.now_ms + timeout_s * 1000
            instance.kinds.append("WaitStarted")
            self._read(instance, branch)
        elif kind == "call":
            branch.is_asked = True
            branch.child = child_id(instance.id, branch.path, instance.execution)
            self._start_child(instance, branch)

    def _start_child(self, instance: Instance, branch: Branch) -> None:
        """Its id may be that of a child of an instance of the same id, which was deleted."""
        program, parent = branch.action[1], (instance.id, branch.path)
        there = self.instances.get(branch.child)
        instance.kinds.append("ChildRequested")
        if there is not None and (there.payload, there.parent) != (program, parent):
            self._child_ended(instance, branch, "child failed")
            return
        instance.kinds.append("ChildStarted")
        if there is None:
            self._begin(Instance(branch.child, program, Run(program), parent=parent))
        elif there.outcome:
            self._child_ended(instance, branch, there.result if there.outcome == "complete" else "child failed")

    def _attempt(self, instance: Instance, branch: Branch) -> None:
        kind, number, *more = branch.action
        branch.attempt += 1
        limit, delay_s = (UNDO_LIMIT, UNDO_DELAY_S) if kind == "undo" else (RETRY_LIMIT, more[-1] if more else 0)
        is_failure = kind in {"flaky", "undo"} and branch.attempt <= number
        if is_failure and branch.attempt <= limit:
            branch.is_asked, branch.wake_ms = True, self.now_ms + delay_s * 1000
            instance.kinds.append("AttemptFailed")
            return
        branch.is_done, branch.wake_ms = True, None
        branch.value = "failed" if is_failure else branch.attempt if kind == "flaky" else number + 1
        instance.failed_undo |= is_failure and kind == "undo"
        instance.kinds.append("StepFailed" if is_failure else "StepSucceeded")
        instance.run.steps += 1
        if kind == "undoable":
            instance.run.undoable.append((branch.path, more[0]))

    # --- events

    def _take(self, instance: Instance, event: tuple[str, str, Any]) -> None:
        instance.run.event_ids[event[0]] = event[1:]
        instance.run.unread.append(event)

    def _read(self, instance: Instance, branch: Branch) -> bool:
        """Give the wait the first unread event that fits."""
        _, wanted, _, match = branch.action
        for event in instance.run.unread:
            name, kind, payload = event
            if kind == wanted and (match is None or match.items() <= payload.items()):
                instance.run.unread.remove(event)
                branch.is_done, branch.value = True, [name, payload]
                instance.kinds.append("WaitEnded")
                return True
        return False

    # --- ends

    def _undo(self, instance: Instance, then: str) -> None:
        abandoned = self._calls(instance)
        instance.run.branches = []
        instance.undoing, instance.paused_ms, instance.run.delayed_until_ms = then, None, None
        instance.kinds.append("Undoing")
        self._close(abandoned)
        self._go_on(instance)

    def _end(self, instance: Instance, state: str) -> None:
        abandoned = self._calls(instance)
        instance.outcome, instance.paused_ms = state, None
        instance.run.branches, instance.run.delayed_until_ms = [], None
        instance.kinds.append({"complete": "Completed", "failed": "Failed", "terminated": "Terminated"}[state])
        self._close(abandoned)
        parent = self.instances.get(instance.parent[0]) if instance.parent is not None else None
        for branch in parent.run.branches if parent is not None else ():
            if branch.child == instance.id and branch.is_asked and not branch.is_done:
                assert parent is not None
                self._child_ended(parent, branch, instance.result if state == "complete" else "child failed")
                self._go_on(parent)

    @staticmethod
    def _child_ended(parent: Instance, branch: Branch, value: Any) -> None:
        branch.is_done, branch.value = True, value
        parent.kinds.append("ChildEnded")

    def _calls(self, instance: Instance) -> list[str]:
        return [branch.child for branch in instance.run.branches if branch.child and not branch.is_done]

    def _close(self, children: list[str]) -> None:
        for child in children:
            if child in self.instances and not self.instances[child].outcome:
                self._end(self.instances[child], "terminated")
