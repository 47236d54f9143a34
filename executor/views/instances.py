"""Instances, as callers see them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from executor.views.waits import Queued, WaitingFor

State = Literal["queued", "running", "waiting", "paused", "held", "undoing", "complete", "failed", "terminated"]
FINAL_STATES: frozenset[str] = frozenset({"complete", "failed", "terminated"})


class Executing(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that is under way, as far as it is journaled."""

    path: str
    attempt: int
    since_ms: int


class ParentView(msgspec.Struct, frozen=True, kw_only=True):
    """The instance that started this one, and the path of the step that did."""

    id: str
    path: str


class ErrorView(msgspec.Struct, frozen=True, kw_only=True):
    code: str
    type: str
    message: str
    traceback: str = ""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """`waiting_for` is what stops it as a whole, or the wait that ends first; `waits` are all of them (at most 20).
    `attempts` counts failed and final attempts by step. `error` is set in the states failed and held.

    `status`: what the run shows by `self.status`. `attributes`: its search attributes. `executing`: attempts under way.
    `warnings`: limits that it comes near to. `parent`: who started it, if an instance did. `queued`: while it waits for
    its turn.
    """

    tenant: str
    id: str
    workflow: str
    commit: str
    state: State
    waiting_for: WaitingFor | None
    waits: list[WaitingFor]
    attempts: dict[str, int]
    error: ErrorView | None
    output: Any
    sequence: int
    created_at_ms: int
    updated_at_ms: int
    status: Any = None
    attributes: dict[str, Any] = {}
    executing: list[Executing] = []
    warnings: list[str] = []
    parent: ParentView | None = None
    queued: Queued | None = None

    @property
    def is_final(self) -> bool:
        return self.state in FINAL_STATES


class InstanceView(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a list; as in Status."""

    tenant: str
    id: str
    workflow: str
    commit: str
    state: State
    waiting_for: WaitingFor | None
    wake_at_ms: int | None
    sequence: int
    created_at_ms: int
    updated_at_ms: int
    status: Any = None
    attributes: dict[str, Any] = {}
    parent: ParentView | None = None


class InstancePage(msgspec.Struct, frozen=True, kw_only=True):
    items: list[InstanceView]
    next: str | None


class CountView(msgspec.Struct, frozen=True, kw_only=True):
    """How many instances a search finds; `is_more`: more than `count`, which is the bound of exact counting then."""

    count: int
    is_more: bool = False
