"""What `run()` does of an action, as a tree: each work asks for branches, and looks at those that `run()` has seen.

A work is begun when the code comes to it, and goes on after each single outcome, as code does on its loop. Nothing here
knows of journals, clocks or other instances.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.model.states import Branch, Instance

Raised = tuple[str, Any]
"""What code raises that nothing catches: ("failed", code), ("anew", program)."""


@dataclass(eq=False)
class Work:
    value: Any = None
    raised: Raised | None = None
    is_over: bool = False

    def go_on(self, instance: Instance) -> None:
        """As far as the outcomes that `run()` has seen let it."""

    def end(self, value: Any, raised: Raised | None = None) -> None:
        self.value, self.raised, self.is_over = value, raised, True


@dataclass(eq=False)
class Single(Work):
    """One branch."""

    branch: Branch | None = None

    def go_on(self, instance: Instance) -> None:
        branch = self.branch
        assert branch is not None
        if not branch.is_seen:
            return
        if branch.has_failed and branch.kind == "strict":
            self.end(None, ("failed", "step_failed"))
        else:
            self.end(branch.value)


@dataclass(eq=False)
class Sequence(Work):
    """Actions one after the other, below the path `scope`."""

    actions: list[Any] = field(default_factory=list)
    scope: str = ""
    values: list[Any] = field(default_factory=list)
    current: Work | None = None

    def go_on(self, instance: Instance) -> None:
        while not self.is_over:
            if len(self.values) == len(self.actions):
                self.end(self.values)
                return
            if self.current is None:
                self.current = begun(instance, self.scope, self.actions[len(self.values)])
            self.current.go_on(instance)
            if not self.current.is_over:
                return
            if self.current.raised is not None:
                self.end(None, self.current.raised)
                return
            self.values.append(self.current.value)
            self.current = None


@dataclass(eq=False)
class Group(Sequence):
    """A sequence in a group."""

    path: str = ""

    def go_on(self, instance: Instance) -> None:
        super().go_on(instance)
        if self.is_over:
            instance.run.branches.append(Branch(self.path, ["group left"]))


@dataclass(eq=False)
class Both(Work):
    """Two at the same time."""

    parts: list[Work] = field(default_factory=list)

    def go_on(self, instance: Instance) -> None:
        for part in self.parts:
            if not part.is_over:
                part.go_on(instance)
        if all(part.is_over for part in self.parts):
            self.end([part.value for part in self.parts])


@dataclass(eq=False)
class Map(Work):
    """A step for each item, at most so many at once."""

    scope: str = ""
    items: list[int] = field(default_factory=list)
    stops: bool = False
    begun: list[Branch] = field(default_factory=list)
    workers: list[Branch] = field(default_factory=list)
    """What each of them is at."""

    def begin(self, instance: Instance, at_once: int) -> None:
        self.workers = [self._next(instance) for _ in self.items[:at_once]]

    def _next(self, instance: Instance) -> Branch:
        index = len(self.begun)
        self.begun.append(instance.run.ask(self.scope, ["item", self.items[index]], f"map[{index}]"))
        return self.begun[-1]

    def go_on(self, instance: Instance) -> None:
        for worker, branch in enumerate(self.workers):
            if not branch.is_seen:
                continue
            if branch.has_failed and self.stops:
                for other in self.workers:
                    if not other.is_seen:
                        instance.run.give_up(other)
                self.end("failed")
                return
            if len(self.begun) < len(self.items):
                self.workers[worker] = self._next(instance)
        if all(branch.is_seen for branch in self.begun) and len(self.begun) == len(self.items):
            self.end([branch.value for branch in self.begun])


@dataclass(eq=False)
class Poll(Work):
    """Steps in a group, with pauses, until one has the wanted number; over its time one last step is made."""

    path: str = ""
    wanted: int = 0
    every_s: int = 0
    until_ms: int | None = None
    branch: Branch | None = None

    def go_on(self, instance: Instance) -> None:
        run = instance.run
        while not self.is_over:
            if self.branch is None:
                self.branch = run.ask(f"{self.path}/", ["check"])
            if not self.branch.is_seen:
                return
            if self.branch.kind == "pause":
                self.branch = None
                continue
            left_ms = None if self.until_ms is None else self.until_ms - run.now_ms
            if self.branch.value >= self.wanted or (left_ms is not None and left_ms <= 0):
                self.end(self.branch.value if self.branch.value >= self.wanted else "poll timeout")
                run.branches.append(Branch(self.path, ["group left"]))
                return
            pause_ms = self.every_s * 1000 if left_ms is None else min(self.every_s * 1000, left_ms)
            self.branch = run.ask(f"{self.path}/", ["pause", pause_ms])


def begun(instance: Instance, scope: str, action: list[Any]) -> Work:
    """The work of an action; see `tests.model.programs`."""
    run = instance.run
    done: dict[str, Any] = {"is_over": True}
    match action:
        case ["status", n]:
            run.status = n
            return Work(**done)
        case ["attribute", n]:
            instance.attributes["n"] = n
            return Work(**done)
        case ["emit", n]:
            instance.stream.append(n)
            return Work(**done)
        case ["fail"]:
            return Work(raised=("failed", "workflow_failed"), **done)
        case ["anew", program]:
            return Work(raised=("anew", program), **done)
        case ["both", *parts]:
            # The tasks of a map are made by a task, and so come after what their neighbour asks for.
            order = sorted(range(len(parts)), key=lambda index: parts[index][0] == "map")
            found = {index: begun(instance, scope, parts[index]) for index in order}
            return Both(parts=[found[index] for index in range(len(parts))])
        case ["group", actions]:
            path = run.ask(scope, ["group"]).path
            return Group(actions=actions, scope=f"{path}/", path=path)
        case ["map", items, at_once, stops]:
            mapped = Map(scope=scope, items=items, stops=stops)
            mapped.begin(instance, at_once)
            return mapped
        case ["poll", wanted, every_s, timeout_s]:
            path = run.ask(scope, ["group"], "poll").path
            until_ms = None if timeout_s is None else run.now_ms + timeout_s * 1000
            return Poll(path=path, wanted=wanted, every_s=every_s, until_ms=until_ms)
        case _:
            return Single(branch=run.ask(scope, action))
