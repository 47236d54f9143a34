"""What callers see: the answers of the service, the same over Python, HTTP and the command line.

Values of tenants (payloads, outputs) are Python values here; `executor.core.values.to_json` gives their JSON form.
Times are integers in milliseconds since the Unix epoch.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal

import msgspec

State = Literal["queued", "running", "waiting", "paused", "held", "complete", "failed", "terminated"]
FINAL_STATES: frozenset[str] = frozenset({"complete", "failed", "terminated"})


class TenantView(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    created_at_ms: int
    git_path: str
    """Path of the tenant's repository below the server's address: "/git/acme.git"."""


class TokenView(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    tenant: str
    access: Literal["read", "write"]
    label: str
    created_at_ms: int
    expires_at_ms: int | None
    secret: str | None = None
    """Only in the answer to create_token: shown once, stored as a digest."""


class WorkflowView(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    path: str
    line: int


class DeploymentView(msgspec.Struct, frozen=True, kw_only=True):
    """A commit checked and made ready. `channel` None: it was stored without moving a channel."""

    id: int
    tenant: str
    commit: str
    tree: str
    branch: str
    channel: str | None
    workflows: list[WorkflowView]
    warnings: list[str]
    checks: list[str]
    who: str
    message: str
    created_at_ms: int
    live_on: list[str]
    """Channels that are on this commit now."""


class ChannelView(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    commit: str
    pinned: bool
    moved_at_ms: int
    who: str


class ChannelMoveView(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    channel: str
    from_commit: str | None
    to_commit: str
    kind: str
    who: str
    why: str
    at_ms: int


class WaitingFor(msgspec.Struct, frozen=True, kw_only=True):
    """One thing an instance waits for; `str()` tells it to a person."""

    kind: Literal["sleep", "event", "retry"]
    name: str
    until_ms: int | None = None
    """When the sleep ends, the retry is due, or the wait for the event times out (None: never)."""
    type: str | None = None
    attempt: int | None = None
    limit: int | None = None
    error: str | None = None

    def __str__(self) -> str:
        until = f" until {format_ms(self.until_ms)}" if self.until_ms is not None else ""
        if self.kind == "event":
            return f'event "{self.type}" ({self.name}){until}'
        if self.kind == "retry":
            return f"retry {self.attempt} of {self.limit} of {self.name}{until.replace('until', 'at')}: {self.error}"
        return f"sleep {self.name}{until}"


class ErrorView(msgspec.Struct, frozen=True, kw_only=True):
    code: str
    type: str
    message: str
    traceback: str = ""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """`waiting_for` is the wait that ends first, `waits` are all of them. `attempts` counts failed and final attempts
    by step. `error` is set in the states failed and held."""

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

    @property
    def is_final(self) -> bool:
        return self.state in FINAL_STATES


class InstanceView(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a list."""

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


class InstancePage(msgspec.Struct, frozen=True, kw_only=True):
    items: list[InstanceView]
    next: str | None


class JournalItem(msgspec.Struct, frozen=True, kw_only=True):
    """One journal entry: `kind` in snake case ("step_succeeded") and its fields; values are decoded."""

    sequence: int
    at_ms: int
    kind: str
    chain: str
    fields: dict[str, Any]


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """`cursor` grows; ask for lines after it. `step` "" means `run()` itself."""

    cursor: int
    at_ms: int
    stream: Literal["stdout", "stderr", "log"]
    level: str
    step: str
    attempt: int
    text: str


class EventReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """`is_duplicate`: an event of this id was already there, and nothing changed."""

    id: str
    type: str
    is_duplicate: bool


class StartRequest(msgspec.Struct, frozen=True, kw_only=True):
    workflow: str
    payload: Any = None
    id: str | None = None
    channel: str = "live"
    commit: str | None = None


class StartOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """One item of start_many: a status, or an error in its JSON shape."""

    status: Status | None = None
    error: dict[str, Any] | None = None


class GarbageView(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of the tenant's packs before and after, and how many commits were kept for instances."""

    bytes_before: int
    bytes_after: int
    kept_for_instances: int


class Health(msgspec.Struct, frozen=True, kw_only=True):
    ready: bool
    version: str
    epoch: int
    isolation_level: int
    active_runs: int
    sandboxes: int
    pid: int


def format_ms(at_ms: int) -> str:
    """RFC 3339 in UTC, to the millisecond."""

    moment = dt.datetime.fromtimestamp(at_ms / 1000, tz=dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
