"""Restart and retry: an instance of the oracle goes back to what it was."""

from __future__ import annotations

from copy import deepcopy

from tests.model.runs import STEPS, Runs
from tests.model.states import Event, Instance, Refusal, Run


class Rewinding(Runs):
    """Part of Oracle."""

    def _restart(self, instance: Instance, path: str | None) -> None:
        if instance.undoing and not instance.outcome:
            raise Refusal("invalid_state")
        if path is None:
            instance.marks = {}
            self._go_back(instance, instance.begin, [])
        else:
            self._go_back(instance, *self._before(instance, path))

    def _retry(self, instance: Instance) -> None:
        """Only what has failed, and by a step."""
        if instance.outcome in {"complete", "terminated"}:
            raise Refusal("instance_finished")
        if instance.outcome != "failed" or not instance.run.failed:
            raise Refusal("invalid_state")
        self._go_back(instance, *self._before(instance, instance.run.failed))

    @staticmethod
    def _before(instance: Instance, path: str) -> tuple[Run, list[Event]]:
        """What was before the step began, and the events since. Forgets the steps since."""
        if path not in instance.marks:
            raise Refusal("step_not_found")
        paths = list(instance.marks)
        kept = paths[: paths.index(path)]
        if path.startswith("undo/"):
            raise Refusal("invalid_state")
        before, count = instance.marks[path]
        undone = {each.removeprefix("undo/") for each in paths if each.startswith("undo/")}
        if undone & set(before.undoable):
            raise Refusal("invalid_state")
        instance.marks = {each: instance.marks[each] for each in kept}
        return before, instance.events[count:]

    def _go_back(self, instance: Instance, before: Run, events: list[Event]) -> None:
        closed = self._wanted_no_more(instance)
        instance.run = run = deepcopy(before)
        for event in events:
            self._take(run, event)
        instance.execution += 1
        instance.paused_ms, instance.undoing, instance.outcome = None, "", ""
        instance.result, instance.error = None, ""
        instance.kinds.append("Restarted")
        for branch in run.branches:
            # What executed then has to begin again.
            branch.is_asked &= branch.kind not in STEPS or branch.is_done or branch.wake_ms is not None
        for branch in run.branches:
            if branch.is_open and branch.kind == "wait":
                self._read(instance, branch)
        self._close([child for child in closed if child not in run.kept_children])
        self._wake(instance)
