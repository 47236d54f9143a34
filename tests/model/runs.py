"""How an instance of the oracle goes on: what is due happens, and everything goes as far as it can.

In rounds, as the platform's: `run()` sees outcomes one by one, in the order of the journal, and asks; what it asks for is
journaled in the order of asking; then its steps report, in the order of their beginning.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from executor.core.ids import child_id
from tests.model.programs import RETRY_LIMIT, UNDO_DELAY_S, UNDO_LIMIT
from tests.model.states import Branch, Event, Instance, Run
from tests.model.works import Sequence

STEPS = {"do", "flaky", "strict", "item", "check", "write", "undoable", "undo", "hold"}
ENDED = {"complete": "Completed", "failed": "Failed", "terminated": "Terminated"}


class Runs:
    """Part of Oracle. Children are `Families`'."""

    now_ms: int
    instances: dict[str, Instance]

    # --- of other parts

    def _start_child(self, instance: Instance, branch: Branch) -> None:
        raise NotImplementedError

    def _close(self, children: list[str]) -> None:
        raise NotImplementedError

    def _tell_parent(self, instance: Instance) -> None:
        raise NotImplementedError

    def _wanted_no_more(self, instance: Instance) -> list[str]:
        raise NotImplementedError

    def _may_run(self, instance: Instance) -> bool:
        return True

    def _has_rested(self, instance: Instance) -> None: ...

    # --- time

    def _begin(self, instance: Instance) -> None:
        self.instances[instance.id] = instance
        instance.run.now_ms = instance.begin.now_ms = self.now_ms
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
            run.now_ms = self.now_ms
            instance.kinds.append("StartDue")
        due = [branch for branch in run.branches if branch.is_open and branch.wake_ms is not None]
        due = [branch for branch in due if (branch.wake_ms or 0) <= self.now_ms]
        for branch in sorted(due, key=lambda branch: (branch.wake_ms, branch.kind == "wait")):
            if branch.kind in {"sleep", "pause", "wait"}:
                kind = "WaitEnded" if branch.kind == "wait" else "SleepEnded"
                self._settle(instance, branch, kind, "timeout" if branch.kind == "wait" else None)
        for branch in sorted(due, key=lambda branch: branch.wake_ms or 0):
            if branch.kind in STEPS:
                branch.is_asked, branch.wake_ms = False, None
                run.branches.remove(branch)
                run.branches.append(branch)
        self._go_on(instance)

    # --- rounds

    def _go_on(self, instance: Instance) -> None:
        """As far as it can."""
        while instance.run.delayed_until_ms is None and not instance.outcome and instance.paused_ms is None:
            run = instance.run
            if not self._may_run(instance):
                return
            if instance.undoing:
                self._undo_next(instance)
            else:
                self._look(instance)
            if instance.run is not run or instance.outcome:
                continue
            asked = [branch for branch in run.branches if not branch.is_asked]
            for branch in asked:
                self._ask(instance, branch)
            instance.kinds += ["Cancelled"] * len(run.given_up)
            run.given_up = []
            for branch in asked:
                if branch.kind in STEPS:
                    self._attempt(instance, branch)
                elif branch.child:
                    self._start_child(instance, branch)
            if not (asked or run.news):
                self._has_rested(instance)
                return

    def _look(self, instance: Instance) -> None:
        """`run()` sees what came, one outcome after the other."""
        run = instance.run
        if run.root is None:
            run.root = Sequence(actions=run.program)
            run.root.go_on(instance)
        self._see(instance, run.root)
        if run.root.is_over:
            left = [branch for branch in run.branches if branch.kind in {"group", "group left"}]
            instance.kinds += ["GroupStarted" if branch.kind == "group" else "GroupEnded" for branch in left]
            instance.kinds += ["Cancelled"] * len(run.given_up)
            self._over(instance, run.root)

    @staticmethod
    def _see(instance: Instance, root: Sequence) -> None:
        run = instance.run
        while run.news and not root.is_over:
            branch = run.news.pop(0)
            if branch in run.branches:
                before = len(run.given_up)
                branch.is_seen = True
                run.branches.remove(branch)
                run.now_ms = max(run.now_ms, branch.at_ms)
                root.go_on(instance)
                if root.is_over:
                    del run.given_up[before:]  # the end says it

    def _over(self, instance: Instance, root: Sequence) -> None:
        kind, what = root.raised or ("", None)
        if kind == "anew":
            self._continue(instance, what)
        elif kind == "failed":
            instance.error = what
            if instance.run.undoable:
                self._undo(instance, "failed")
            else:
                self._end(instance, "failed")
        else:
            instance.result = root.value
            self._end(instance, "complete")

    def _continue(self, instance: Instance, program: list[Any]) -> None:
        run = instance.run
        closed = self._wanted_no_more(instance)
        instance.kinds.append("Continued")
        instance.execution += 1
        instance.run = Run(
            program,
            now_ms=self.now_ms,
            status=run.status,
            updates=run.updates,
            event_ids=run.event_ids,
            unread=run.unread,
            facet=run.facet,
        )
        instance.begin, instance.marks = deepcopy(instance.run), {}
        self._close(closed)

    # --- what is asked

    def _ask(self, instance: Instance, branch: Branch) -> None:
        run = instance.run
        if branch.path not in instance.marks:
            instance.marks[branch.path] = (deepcopy(run), len(instance.events))
        branch.is_asked = True
        match branch.action:
            case ["group" | "group left"]:
                run.branches.remove(branch)
                instance.kinds.append("GroupStarted" if branch.kind == "group" else "GroupEnded")
            case ["sleep", s]:
                branch.wake_ms = self.now_ms + s * 1000
                instance.kinds.append("SleepStarted")
            case ["pause", ms]:
                branch.wake_ms = self.now_ms + ms
                instance.kinds.append("SleepStarted")
            case ["wait", _, timeout_s, _]:
                branch.wake_ms = None if timeout_s is None else self.now_ms + timeout_s * 1000
                instance.kinds.append("WaitStarted")
                self._read(instance, branch)
            case ["call" | "start", *_]:
                branch.child = child_id(instance.id, branch.path, instance.execution)
                instance.kinds.append("ChildRequested")

    def _attempt(self, instance: Instance, branch: Branch) -> None:
        if branch.kind == "hold":
            return
        branch.attempt += 1
        failures, limit, delay_s = _failures(branch.action)
        is_failure = branch.attempt <= failures
        if is_failure and branch.attempt <= limit:
            branch.wake_ms = self.now_ms + delay_s * 1000
            instance.kinds.append("AttemptFailed")
            return
        self._step_over(instance, branch, is_failure=is_failure)

    def _step_over(self, instance: Instance, branch: Branch, *, is_failure: bool = False) -> None:
        run = instance.run
        branch.has_failed = is_failure
        if is_failure and branch.kind != "undo":
            run.failed = branch.path
        if not is_failure and branch.kind == "undoable":
            run.undoable[branch.path] = (branch.number, branch.action[2])
        if not is_failure and branch.kind == "write":
            run.facet = [*(run.facet or []), branch.action[1]]
        run.steps += 1
        value = "failed" if is_failure else _value(branch, run)
        self._settle(instance, branch, "StepFailed" if is_failure else "StepSucceeded", value)

    def _settle(self, instance: Instance, branch: Branch, kind: str, value: Any) -> None:
        """It has its outcome."""
        branch.is_done, branch.wake_ms, branch.value, branch.at_ms = True, None, value, self.now_ms
        instance.run.news.append(branch)
        instance.kinds.append(kind)

    # --- events

    @staticmethod
    def _take(run: Run, event: Event) -> None:
        run.event_ids[event[0]] = event[1:]
        run.unread.append(event)

    def _read(self, instance: Instance, branch: Branch) -> bool:
        """Give the wait the first unread event that fits."""
        _, wanted, _, match = branch.action
        for event in instance.run.unread:
            name, kind, payload = event
            if kind == wanted and (match is None or match.items() <= payload.items()):
                instance.run.unread.remove(event)
                self._settle(instance, branch, "WaitEnded", [name, payload])
                return True
        return False

    # --- ends

    def _undo(self, instance: Instance, then: str) -> None:
        closed = self._wanted_no_more(instance)
        instance.run.branches, instance.run.news = [], []
        instance.undoing, instance.paused_ms, instance.run.delayed_until_ms = then, None, None
        instance.kinds.append("Undoing")
        self._close(closed)
        self._go_on(instance)

    def _undo_next(self, instance: Instance) -> None:
        """The one asked for last first."""
        run = instance.run
        run.branches = [branch for branch in run.branches if not branch.is_done]
        run.news = []
        if run.branches:
            return
        if not run.undoable:
            self._end(instance, instance.undoing)
            return
        path = max(run.undoable, key=lambda path: run.undoable[path])
        _, failures = run.undoable.pop(path)
        run.branches = [Branch(f"undo/{path}", ["undo", failures])]

    def _end(self, instance: Instance, state: str) -> None:
        closed = self._wanted_no_more(instance)
        instance.outcome, instance.paused_ms = state, None
        instance.run.branches, instance.run.news, instance.run.delayed_until_ms = [], [], None
        instance.kinds.append(ENDED[state])
        self._has_rested(instance)
        self._close(closed)
        self._tell_parent(instance)


def _failures(action: list[Any]) -> tuple[int, int, int]:
    """How often the step of an action fails, how many retries it has, and how long after."""
    match action:
        case ["undo", failures]:
            return failures, UNDO_LIMIT, UNDO_DELAY_S
        case ["strict" | "item", failures, *_] if failures < 0:
            return 1, 0, 0
        case ["flaky" | "strict", failures, delay_s]:
            return failures, RETRY_LIMIT, delay_s
        case ["write", _, failures]:
            return failures, RETRY_LIMIT, UNDO_DELAY_S
        case ["item", failures]:
            return failures, RETRY_LIMIT, UNDO_DELAY_S
    return 0, 0, 0


def _value(branch: Branch, run: Run) -> Any:
    """What the step returns."""
    match branch.action:
        case ["flaky" | "strict" | "item", *_]:
            return branch.attempt
        case ["check"]:
            return int(branch.path.rpartition("#")[2])
        case ["write", *_]:
            return len(run.facet or [])
        case [_, x, *_]:
            return x + 1
    return None
