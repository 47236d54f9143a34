"""What callers see: the answers of the service, the same over Python, HTTP and the command line.

Values of tenants (payloads, outputs) are Python values here; `executor.core.values.to_json` gives their JSON form.
Times are integers in milliseconds since the Unix epoch.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

import msgspec

State = Literal["queued", "running", "waiting", "paused", "held", "undoing", "complete", "failed", "terminated"]
FINAL_STATES: frozenset[str] = frozenset({"complete", "failed", "terminated"})


class TenantView(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    created_at_ms: int
    git_path: str
    """Path of the tenant's repository below the server's address: "/git/acme.git"."""
    weight: int = 1
    """Turns when instances wait for places, relative to other tenants."""
    concurrency: int | None = None
    """Runs at once, within the share that no tenant can exceed; None: that share."""


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
    schedule: list[Any] = []
    """What its class declares: each a cron text, or the arguments of `Schedule`."""
    flow: dict[str, Any] | None = None
    """The arguments of the `Flow` that its class declares."""


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
    """One thing an instance waits for; `str()` tells it to a person.

    start: its delayed start is at `until_ms`; sleep: ends then; event: one of `type`, until then (None: for ever);
    retry: number `attempt` of `limit`, made at `until_ms`, `error` being the last one; child: the end of instance
    `child`; paused: by `by` since `since_ms`, until somebody resumes it; held: `error` says why, until somebody acts;
    queued: its turn, `position` being 1 for the next, behind what `type` names; undo: that what it did is undone,
    because of `error` or because `by` asked.

    `name` is the step's with its scopes, and `path` its path; both "" where the instance as a whole waits. Times of a
    paused instance are those from before: they shift by as long as the pause lasts, but for dates.
    """

    kind: Literal["start", "sleep", "event", "retry", "child", "paused", "held", "queued", "undo"]
    name: str
    path: str = ""
    until_ms: int | None = None
    type: str | None = None
    attempt: int | None = None
    limit: int | None = None
    error: str | None = None
    child: str | None = None
    by: str | None = None
    since_ms: int | None = None
    position: int | None = None

    def __str__(self) -> str:
        until = f" until {format_ms(self.until_ms)}" if self.until_ms is not None else ""
        since = f" since {format_ms(self.since_ms)}" if self.since_ms is not None else ""
        by = f" by {self.by}" if self.by else ""
        match self.kind:
            case "start":
                return f"its start{until.replace('until', 'at')}"
            case "event":
                return f'event "{self.type}" ({self.name}){until}'
            case "retry":
                return (
                    f"retry {self.attempt} of {self.limit} of {self.name}{until.replace('until', 'at')}: {self.error}"
                )
            case "child":
                return f'child "{self.child}" ({self.name})'
            case "paused":
                return f"resume, paused{by}{since}"
            case "held":
                return f"help, held{since}: {self.error}"
            case "queued":
                return f"its turn, number {self.position} behind {self.type}"
            case "undo":
                return f"the undoing of its steps{by}{since}" + (f": {self.error}" if self.error else "")
            case "sleep":
                return f"sleep {self.name}{until}"


class Executing(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that is under way, as far as it is journaled."""

    path: str
    attempt: int
    since_ms: int


class ParentView(msgspec.Struct, frozen=True, kw_only=True):
    """The instance that started this one, and the path of the step that did."""

    id: str
    path: str


class Queued(msgspec.Struct, frozen=True, kw_only=True):
    """What an instance that waits for its turn waits behind ("platform", "tenant", or the name of a limit), and its
    position there: 1 is the next."""

    limit: str
    position: int


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


SENSITIVE: dict[str, Any] = {"$sensitive": True}
"""Stands for the output of a sensitive step, wherever a value is shown. Compared by identity: a tenant's own dict that
looks like it is a value as any other."""


class CountView(msgspec.Struct, frozen=True, kw_only=True):
    """How many instances a search finds; `is_more`: more than `count`, which is the bound of exact counting then."""

    count: int
    is_more: bool = False


class BulkError(msgspec.Struct, frozen=True, kw_only=True):
    """Why one instance of a bulk operation refused: the JSON shape of every error."""

    id: str
    error: dict[str, Any]


class BulkResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the instances that a bulk operation found.

    `unchanged`: they were as wished already, or gone. `errors`: of the first 100 of the `failed`. `next`: `after` of
    the next portion, None if there is none. Of a dry run: `matched` is how many fit, `is_more` that there are more than
    that, `ids` the first of them.
    """

    matched: int
    done: int = 0
    unchanged: int = 0
    failed: int = 0
    errors: list[BulkError] = []
    next: str | None = None
    is_more: bool = False
    ids: list[str] = []


class ResultView(msgspec.Struct, frozen=True):
    """The answer to `result`: what `run()` returned, as a JSON value."""

    output: Any


class JournalItem(msgspec.Struct, frozen=True, kw_only=True):
    """One journal entry: `kind` in snake case ("step_succeeded") and its fields; values are decoded. docs/journal.md.

    `attempt`: of the step that it is about. `parent`: path of what it belongs to: the group around a step, the step
    that an item of a stream came from, the step that is undone; None: the run itself.
    """

    sequence: int
    at_ms: int
    kind: str
    chain: str
    attempt: int | None = None
    parent: str | None = None
    fields: dict[str, Any]


class StreamItem(msgspec.Struct, frozen=True, kw_only=True):
    """One item of an output stream. `step` is the path of the step that emitted it, "" for `run()` itself, and
    `attempt` which attempt of it (0 for `run()`)."""

    offset: int
    item: Any
    at_ms: int
    step: str
    attempt: int


class StreamView(msgspec.Struct, frozen=True, kw_only=True):
    """`count` items so far: the next one has that offset."""

    name: str
    count: int


class QueryResult(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of a facet query, as of journal entry `sequence` or a later one. `is_cut`: there were more than `limit`."""

    columns: list[str]
    rows: list[list[Any]]
    is_cut: bool
    sequence: int


class UpdateReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to an update: what its handler returned. `is_duplicate`: one of this id had been accepted before, and
    this is the answer to that one."""

    id: str
    name: str
    value: Any
    is_duplicate: bool


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
    """`delay` ("1 hour", or seconds) or `at`: not to be begun before then. `attributes`: search attributes. `priority`:
    -100 to 100, higher goes first among the tenant's own (None: as the workflow declares). `retention`: how long it is
    kept once it has ended, by "complete" and "failed". `unload`: "every-wait" drops its run at every wait.
    """

    workflow: str
    payload: Any = None
    id: str | None = None
    channel: str = "live"
    commit: str | None = None
    delay: str | float | None = None
    at: Annotated[dt.datetime, msgspec.Meta(tz=True)] | None = None
    attributes: dict[str, Any] | None = None
    priority: int | None = None
    retention: dict[str, str | float] | None = None
    unload: Literal["every-wait"] | None = None


class StartOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """One item of start_many: a status, or an error in its JSON shape."""

    status: Status | None = None
    error: dict[str, Any] | None = None


class FiringView(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one time of a schedule. `scheduled_ms`: the time; `at_ms`: when it was dealt with; `instance`: the
    one it started. `missed` tells of all times from `scheduled_ms` to `until_ms`, which came while nothing could fire.
    """

    scheduled_ms: int
    at_ms: int
    outcome: Literal["fired", "triggered", "skipped", "missed", "failed"]
    instance: str | None = None
    until_ms: int | None = None
    reason: str = ""


class ScheduleView(msgspec.Struct, frozen=True, kw_only=True):
    """When a workflow is started by itself. `origin` code: the version on the channel declares it.

    `next_ms`: the times ahead, without jitter; none while it is paused, or when it has ended. `running`: instances it
    started that had not ended when it last fired; `waiting`: times that are due and not fired yet. `firings`: newest
    first, the last one in a list, up to 100 of one schedule."""

    name: str
    workflow: str
    channel: str
    origin: Literal["api", "code"]
    payload: Any
    cron: str | None
    every_ms: int | None
    timezone: str
    start_ms: int | None
    end_ms: int | None
    overlap: Literal["skip", "queue", "cancel", "allow"]
    catch_up: Literal["none", "last", "all"]
    catch_up_window_ms: int | None
    jitter_ms: int
    paused: bool
    paused_by: str
    created_at_ms: int
    next_ms: list[int]
    running: list[str]
    waiting: list[int]
    firings: list[FiringView]


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
