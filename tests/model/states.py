"""What the oracle knows of an instance. Data only; whatever a restart takes back is in `Run`, which is copied whole."""

from __future__ import annotations

from collections import Counter
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.model.works import Sequence

Event = tuple[str, str, Any]
"""Id, type, payload."""


class Refusal(Exception):
    """An operation that the platform refuses with this code."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(eq=False)
class Branch:
    """Something that `run()`, or the undoing, asked for. `wake_ms`: when its sleep, deadline or retry is due.

    `is_asked`: the journal has it, or its step executes. `is_done`: it has its outcome; `is_seen`: `run()` knows.
    `number`: its place in the order of asking.
    """

    path: str
    action: list[Any]
    number: int = 0
    is_asked: bool = False
    is_done: bool = False
    is_seen: bool = False
    has_failed: bool = False
    value: Any = None
    at_ms: int = 0
    """When it had its outcome."""
    wake_ms: int | None = None
    attempt: int = 0
    child: str = ""

    @property
    def kind(self) -> str:
        return str(self.action[0])

    @property
    def is_open(self) -> bool:
        return self.is_asked and not self.is_done

    @property
    def is_held(self) -> bool:
        """Its step executes until the test says a word."""
        return self.kind == "hold" and self.is_open


@dataclass(eq=False)
class Run:
    """All that a restart takes back. `news`: outcomes that `run()` has not seen, in the order of the journal."""

    program: list[Any]
    delayed_until_ms: int | None = None
    root: Sequence | None = None
    branches: list[Branch] = field(default_factory=list)
    news: list[Branch] = field(default_factory=list)
    given_up: list[Branch] = field(default_factory=list)
    uses: Counter[str] = field(default_factory=Counter)
    asked: int = 0
    now_ms: int = 0
    steps: int = 0
    failed: str = ""
    """The step, or called child, that failed last."""
    undoable: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By path: the number of its asking, and how often undoing it fails."""
    kept_children: list[str] = field(default_factory=list)
    """Those that were started to be closed with this instance."""
    facet: list[int] | None = None
    status: Any = None
    notes: list[int] = field(default_factory=list)
    updates: dict[str, tuple[int, int | None]] = field(default_factory=dict)
    event_ids: dict[str, tuple[str, Any]] = field(default_factory=dict)
    unread: list[Event] = field(default_factory=list)

    def ask(self, scope: str, action: list[Any], name: str = "") -> Branch:
        """A request of `run()`, under its path."""
        full = f"{scope}{name or action[0]}"
        self.uses[full] += 1
        self.asked += 1
        branch = Branch(f"{full}#{self.uses[full]}", action, self.asked)
        self.branches.append(branch)
        return branch

    def give_up(self, branch: Branch) -> None:
        """`run()` wants it no more."""
        self.branches.remove(branch)
        if branch.is_open:
            self.given_up.append(branch)


@dataclass(eq=False)
class Instance:
    """`marks`: for each step of this execution, what was before it began, and how many events there had been."""

    id: str
    payload: list[Any]
    run: Run
    workflow: str = "Job"
    commit: str = ""
    parent: tuple[str, str] | None = None
    is_awaited: bool = False
    attributes: dict[str, Any] = field(default_factory=dict)
    stream: list[Any] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    execution: int = 0
    paused_ms: int | None = None
    is_queued: bool = False
    undoing: str = ""
    error: str = ""
    """The code of what failed it."""
    outcome: str = ""
    result: Any = None
    begin: Run = field(init=False)
    marks: dict[str, tuple[Run, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.begin = deepcopy(self.run)

    @property
    def is_executing(self) -> bool:
        return any(branch.is_held for branch in self.run.branches)

    @property
    def state(self) -> str:
        """The public one. Only what waits for the test's word is ever seen running, as everything else has gone as far
        as it can."""
        if self.outcome or self.paused_ms is not None:
            return self.outcome or "paused"
        if self.is_queued:
            return "queued" if len(self.kinds) == 1 else "running"
        return "undoing" if self.undoing else "running" if self.is_executing else "waiting"

    @property
    def waiting_for(self) -> list[str]:
        """Kinds, sorted."""
        if self.outcome:
            return []
        names = {"sleep": "sleep", "pause": "sleep", "wait": "event", "call": "child"}
        opened = [branch for branch in self.run.branches if branch.is_open and not branch.is_held]
        found = [names.get(branch.kind, "retry") for branch in opened]
        found += ["paused"] * (self.paused_ms is not None) + ["undo"] * bool(self.undoing)
        found += ["queued"] * self.is_queued
        return sorted(found + ["start"] * (self.run.delayed_until_ms is not None))
