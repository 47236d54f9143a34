"""Parents and children of the oracle."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from tests.model.runs import Runs
from tests.model.states import Branch, Instance, Run


class Families(Runs):
    """Part of Oracle."""

    live: str
    """The commit that channel `live` is on."""

    def _start_child(self, instance: Instance, branch: Branch) -> None:
        """Its id may be that of a child of an instance of the same id, which was deleted."""
        kind, program, more = branch.action
        is_awaited = kind == "call"
        there = self.instances.get(branch.child)
        if there is not None and (there.payload, there.parent, there.is_awaited) != (
            program,
            (instance.id, branch.path),
            is_awaited,
        ):
            self._child_ended(instance, branch, "child failed", is_failure=True)
            return
        if is_awaited:
            instance.kinds.append("ChildStarted")
        else:
            self._settle(instance, branch, "ChildStarted", branch.child)
            if more == "terminate":
                instance.run.kept_children.append(branch.child)
        if there is None:
            commit = self.live if more == "live" else instance.commit
            parent = (instance.id, branch.path)
            self._begin(
                Instance(branch.child, program, Run(program), commit=commit, parent=parent, is_awaited=is_awaited)
            )
        elif is_awaited and there.outcome:
            is_complete = there.outcome == "complete"
            value = deepcopy(there.result) if is_complete else "child failed"
            self._child_ended(instance, branch, value, is_failure=not is_complete)

    def _tell_parent(self, instance: Instance) -> None:
        if instance.parent is None or not instance.is_awaited or instance.parent[0] not in self.instances:
            return
        parent = self.instances[instance.parent[0]]
        for branch in parent.run.branches:
            if branch.kind == "call" and branch.child == instance.id and branch.is_open:
                is_complete = instance.outcome == "complete"
                value = deepcopy(instance.result) if is_complete else "child failed"
                self._child_ended(parent, branch, value, is_failure=not is_complete)
                self._go_on(parent)
                return

    def _child_ended(self, parent: Instance, branch: Branch, value: Any, *, is_failure: bool) -> None:
        if is_failure:
            parent.run.failed = branch.path
        self._settle(parent, branch, "ChildEnded", value)

    def _wanted_no_more(self, instance: Instance) -> list[str]:
        """Children that go when `run()` does."""
        run = instance.run
        called = [branch.child for branch in run.branches if branch.kind == "call" and branch.is_open]
        kept, run.kept_children = run.kept_children, []
        return called + kept

    def _close(self, children: list[str]) -> None:
        for child in children:
            if child in self.instances and not self.instances[child].outcome:
                self._end(self.instances[child], "terminated")
