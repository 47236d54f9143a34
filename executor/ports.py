"""Ports: what the engine and the service need of the world. Adapters implement them; only `main` names adapters.

Synchronous methods touch files: they are called in worker threads. Each has a contract suite in `tests/contracts`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, Protocol

import msgspec

from executor.core.entries import FlowLimit, StartOptions
from executor.core.errors import PerdureError
from executor.core.failure import ErrorFact
from executor.core.search import Query
from executor.sandbox.protocol import FromSandbox, ToSandbox
from executor.sandbox.spec import DeathReason, SandboxSpec
from executor.views import (
    ChannelMoveView,
    ChannelView,
    DeploymentView,
    FiringView,
    GarbageView,
    LogLine,
    Queued,
    TenantView,
    TokenView,
)


class Clock(Protocol):
    """Wall-clock time. Real in production, virtual in tests."""

    def now_ms(self) -> int: ...
    async def sleep_until_ms(self, at_ms: int) -> None: ...


# --- state. Structs, not dataclasses: several are made for every record, and these take a tenth of the time.


class Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the index knows of an instance, as of a record. `wake_at_ms` None: no timer wakes it. `attributes`: what it
    can be found by (`executor.core.attributes`)."""

    state: str
    wake_at_ms: int | None
    workflow: str
    commit: str
    created_at_ms: int
    updated_at_ms: int
    summary: bytes
    attributes: bytes = b""


class Append(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """One record to append. `sequence` 0 changes the row only, and has neither entry nor delta.

    Its shape is that of `facets.Record`, tag and all: the adapter hands it on as it is, and so the log has it.
    """

    tenant: str
    instance: str
    sequence: int
    entry: bytes
    delta: bytes | None
    row: Row


class StoredRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A row as stored, with its key, the sequence of its last entry, and a number that grows with each new instance."""

    tenant: str
    instance: str
    generation: int
    sequence: int
    row: Row


@dataclass(frozen=True, slots=True)
class OutputText:
    """A captured line on its way to the store; (position, number, step, attempt) identifies it."""

    tenant: str
    instance: str
    position: int
    number: int
    at_ms: int
    stream: Literal["stdout", "stderr", "log"]
    level: str
    step: str
    attempt: int
    text: str


class Pages(NamedTuple):
    """Packed chunks of a facet's image from `first` on, and size and checksum of that image."""

    size: int
    checksum: int
    first: int
    chunks: list[bytes]


StoredEntry = tuple[int, bytes]
"""A journal entry as it is stored, behind its sequence."""


class StoredMoment(Protocol):
    """What the store has at one moment; for one thread. Each raises Corrupt for an instance that cannot be read."""

    def row(self, tenant: str, instance: str) -> StoredRow | None: ...
    def journal(self, tenant: str, instance: str, *, after: int = 0) -> list[bytes]: ...
    def entries(self, tenant: str, instance: str, sequences: Sequence[int]) -> dict[int, bytes]:
        """Those entries of a journal by sequence, in that order, which should be theirs; not what was forgotten."""
        ...


class StateStore(Protocol):
    """Journals, facets and the index. `append` is called by one thread at a time, reads by several."""

    @property
    def epoch(self) -> int: ...

    def append(self, records: Sequence[Append]) -> None:
        """All or nothing, durable on return, one fsync. Raises Unavailable (`storage_full`: nothing was written, try
        again later), Conflict (fenced: another executor owns the data), Corrupt (write failed: stop the process)."""

    def check_delta(self, delta: bytes) -> None:
        """Raises Refused if these bytes cannot be a facet delta. Cheap; called on the event loop."""

    def row(self, tenant: str, instance: str) -> StoredRow | None: ...
    def journal(self, tenant: str, instance: str, *, after: int = 0, limit: int | None = None) -> list[StoredEntry]:
        """What was forgotten is left out."""
        ...

    def forget(self, tenant: str, instance: str, *, before: int, but: Sequence[int], keep_bytes: int) -> None:
        """Entries before that one, which is durable, may go, the oldest first, as long as `keep_bytes`, stored, remain
        of them; but the first, and those of `but`. A hint, carried out later: at once, for any thread; never fails."""
        ...

    def at_once(self) -> AbstractContextManager[StoredMoment]:
        """Reads of one moment: what is appended or deleted meanwhile is not seen in the block."""
        ...

    def image(self, tenant: str, instance: str) -> bytes:
        """The facet as of the last durable record, an ordinary SQLite file; b"": it has none."""
        ...

    def facet(self, tenant: str, instance: str) -> bytes | Pages:
        """What a sandbox needs to begin: the image, or the first pages of a large one. Raises Corrupt."""
        ...

    def pages(self, tenant: str, instance: str, first: int, count: int) -> Pages:
        """Chunks of the image as of the last durable record. Raises NotFound, Corrupt."""
        ...

    def revert(self, tenant: str, instance: str, *, after: int) -> bytes | None:
        """The delta from the present facet to that as of entry `after`; None: they are the same.

        Raises NotFound, Refused (`facet_refused`: what led there is not kept, or it changes too much), Corrupt."""
        ...

    def may_have_blobs(self, generation: int) -> bool:
        """Whether an instance may have byte streams. Cheap; called on the event loop."""
        ...

    def put_blob(
        self, tenant: str, instance: str, id: int, first: int, parts: Sequence[bytes], *, keep: Collection[int]
    ) -> None:
        """Append parts to a stream, durable on return; `first` 0 begins it, and takes away all others but `keep`.

        Raises NotFound, Refused (`payload_too_large`, `bad_request`: out of order), Unavailable (`storage_full`), Corrupt
        (write failed: stop the process)."""

    def blob_part(self, tenant: str, instance: str, id: int, number: int) -> bytes | None:
        """A part; None: there is no such stream, or it has fewer. Raises NotFound, Corrupt."""
        ...

    def sweep_blobs(self, generation: int, keep: Collection[int]) -> None:
        """Take away all streams of an instance but `keep`. Raises Unavailable, Corrupt."""

    def due(self, now_ms: int, *, limit: int) -> list[StoredRow]: ...
    def next_wake_ms(self) -> int | None: ...
    def in_states(self, states: Collection[str], *, limit: int, after: int) -> list[StoredRow]:
        """Oldest first; `after`: `generation` of the last row of the page before."""
        ...

    def page(
        self, tenant: str, query: Query, *, limit: int, after: str | None
    ) -> tuple[list[StoredRow], str | None]: ...
    def matches(self, tenant: str, query: Query) -> int:
        """How many instances a search finds; COUNT_MAX + 1 if there are more than COUNT_MAX."""
        ...

    def counts(self, tenant: str) -> dict[str, int]: ...
    def commits(self, tenant: str) -> set[str]: ...
    def delete(self, tenant: str, instance: str) -> None: ...
    def delete_many(self, keys: Sequence[tuple[str, str]]) -> None: ...
    def delete_tenant(self, tenant: str) -> None: ...
    def expire(self, before_ms: Mapping[str, int], *, after: int) -> tuple[list[tuple[str, str]], int | None]:
        """Delete instances without wake time, in these states since before the time given for each, behind generation
        `after`: a portion, and where the next begins (None: that was the last)."""
        ...

    def append_output(self, lines: Sequence[OutputText]) -> None: ...
    def output(self, tenant: str, instance: str, *, after: int, limit: int) -> list[LogLine]: ...
    def backup(self, target: Path) -> None: ...
    def check(self) -> list[str]: ...
    def close(self) -> None: ...


# --- instances: what the service asks of whoever owns them


class Start(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An instance to be made, pinned to `commit`. `key`: tenant and id. `is_new`: its id was drawn just now and cannot
    be taken. `options` are written into its journal; they do not count when an id is started again."""

    key: tuple[str, str]
    workflow: str
    commit: str
    payload: bytes
    is_new: bool = False
    options: StartOptions | None = None


class ChildStart(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A child to be made; its options say whose it is. `channel` not None: on whatever that is on; the commit of
    `start` counts for nothing then."""

    start: Start
    channel: str | None = None


class ChildEnd(msgspec.Struct, frozen=True, array_like=True):
    """How a child ended that step `path` of its parent waits for. `value`: what it returned, encoded, if its state is
    complete; else `error` says why it did not."""

    path: str
    child: str
    commit: str
    state: Literal["complete", "failed", "terminated"]
    value: bytes | None
    error: ErrorFact | None


class Share(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a tenant gets. `weight`: turns, relative to other tenants, 1 to 100; `concurrency`: runs at once, within the
    share that no tenant can exceed (None: that share)."""

    weight: int = 1
    concurrency: int | None = None


class Seen(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An instance as it is durably. `output`: what `run()` returned, encoded; None in any state but complete.
    `queued`: where it waits for its turn, if that is known and it does."""

    row: StoredRow
    output: bytes | None = None
    queued: Queued | None = None


class Queried(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a query of a facet gave, as of entry `sequence` or a later one; `is_cut`: there were more rows.

    The values in `rows` are None, int, finite float, str or bytes."""

    columns: list[str]
    rows: list[list[Any]]
    is_cut: bool
    sequence: int


class Emission(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One item of an output stream, encoded. `step`: path of the step that emitted it, "" for `run()`."""

    offset: int
    item: bytes
    at_ms: int
    step: str
    attempt: int


class Updated(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The end of an update: exactly one of `value` and `error` is set. `is_new`: this request made it."""

    value: bytes | None
    error: ErrorFact | None
    is_new: bool


class Vitals(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How the owner of instances is. `epoch`: which owner of the stored data it is; `active_runs`, `sandboxes`: now."""

    is_ready: bool
    epoch: int
    active_runs: int
    sandboxes: int


class Instances(Protocol):
    """The instances of all tenants, wherever they are: in this process, or in several others.

    An unknown instance is NotFound (`instance_not_found`); whether its tenant exists is not looked at. Everything may
    raise Unavailable (`busy`, `shutting_down`, `storage_full`), with `retry_after_s` where it is known.
    """

    async def start(self, start: Start) -> Seen:
        """Make the instance, durably; the one that is there if it has the same workflow and payload.

        Raises Conflict (`instance_exists`)."""
        ...

    async def start_many(self, starts: Sequence[Start]) -> list[Seen | PerdureError]:
        """As many `start`s, in that order, in one group commit where they are together; each fails for itself alone."""
        ...

    async def reschedule(self, tenant: str, instance: str, *, payload: bytes, start_at_ms: int, debounce: str) -> Seen:
        """Replace payload and time of a delayed start that was debounced by this key, durably.

        Raises Conflict (`invalid_state`): it has begun already, or was not."""
        ...

    async def set_share(self, tenant: str, share: Share) -> None:
        """What the tenant gets, from now on; not kept: the code store has it."""

    async def status(self, tenant: str, instance: str) -> Seen: ...
    async def outcome(self, tenant: str, instance: str, *, wait_s: float | None) -> Seen:
        """As `status`, once the instance has ended or is held, or after `wait_s` (None: however long it takes)."""
        ...

    async def send_event(self, tenant: str, instance: str, *, id: str, type: str, payload: bytes) -> bool:
        """Take an event in, durably. False: one of this id is there already.

        Raises Conflict (`instance_finished`, `event_exists`)."""
        ...

    async def pause(self, tenant: str, instance: str, *, by: str = "") -> Seen: ...
    async def resume(self, tenant: str, instance: str, *, by: str = "") -> Seen: ...
    async def terminate(self, tenant: str, instance: str, *, undo: bool = False, by: str = "") -> Seen:
        """`undo`: what its finished steps did is undone first."""
        ...

    async def restart(
        self, tenant: str, instance: str, *, from_step: tuple[str, int] | None = None, by: str = ""
    ) -> Seen:
        """Run it again, durably, from its first line, or from the step of that name and occurrence.

        Raises NotFound (`step_not_found`), Conflict (`invalid_state`), Refused (`facet_refused`)."""
        ...

    async def retry(self, tenant: str, instance: str, *, by: str = "") -> Seen:
        """Let a failed one go on, durably, from the step that failed it, with new attempts.

        Raises Conflict (`instance_finished`, `invalid_state`), Refused (`facet_refused`)."""
        ...

    async def set_attributes(self, tenant: str, instance: str, changes: bytes) -> Seen:
        """`changes`: of `attributes.encode_changes`. Durable on return. Raises Refused (`bad_request`)."""
        ...

    async def delete(self, tenant: str, instance: str) -> None:
        """Everything of an ended instance, durably. Raises Conflict (`invalid_state`)."""

    async def delete_tenant(self, tenant: str) -> None:
        """All instances of a tenant, durably, whatever state they are in. Idempotent."""

    async def page(
        self, tenant: str, query: Query, *, limit: int, after: str | None
    ) -> tuple[list[StoredRow], str | None]:
        """Instances in the query's order, and the cursor of the next page (None: this was the last).

        Raises Refused (`bad_request`)."""
        ...

    async def matches(self, tenant: str, query: Query) -> int:
        """How many instances a search finds; COUNT_MAX + 1 if there are more than COUNT_MAX."""
        ...

    async def counts(self, tenant: str) -> dict[str, int]: ...
    async def commits(self, tenant: str) -> set[str]: ...
    async def journal(self, tenant: str, instance: str, *, after: int, limit: int, wait_s: float) -> list[StoredEntry]:
        """Entries behind `after`, but for what was forgotten; [] if there is none, the instance having ended or
        `wait_s` having passed."""
        ...

    async def output(self, tenant: str, instance: str, *, after: int, limit: int, wait_s: float) -> list[LogLine]:
        """Captured lines, as `journal`; what was captured before the call is there."""
        ...

    async def image(self, tenant: str, instance: str) -> bytes:
        """The facet as an ordinary SQLite file; b"": it has none."""
        ...

    async def query(self, tenant: str, instance: str, *, sql: str, parameters: bytes, limit: int) -> Queried:
        """The first `limit` rows of one statement that reads the facet as of the last durable record, in any state.
        `parameters`: MessagePack of a list or a map.

        Raises Refused (`facet_refused`), Unavailable (`sandbox_unavailable`)."""
        ...

    async def update(self, tenant: str, instance: str, *, id: str, name: str, payload: bytes, wait_s: float) -> Updated:
        """Hand an update to the workflow: durable once accepted; returns when its handler has ended.

        The same id is the same update. Raises Refused (`update_refused`), NotFound (`unknown_handler`), Conflict
        (`instance_finished`, `invalid_state`, `update_exists`), Unavailable (`timeout`, `sandbox_unavailable`)."""
        ...

    async def ask(self, tenant: str, instance: str, *, name: str, payload: bytes) -> bytes:
        """What the workflow's query handler answers, encoded.

        Raises NotFound (`unknown_handler`), TenantError (`query_failed`), Conflict, Unavailable, as `update`."""
        ...

    async def streams(self, tenant: str, instance: str) -> dict[str, int]:
        """Items so far, by output stream."""
        ...

    async def stream(
        self, tenant: str, instance: str, *, name: str, offset: int, limit: int, wait_s: float
    ) -> list[Emission]:
        """Items of a stream from `offset` on; [] if there is none, the instance having ended or `wait_s` having
        passed."""
        ...

    async def child_ended(self, tenant: str, parent: str, end: ChildEnd) -> None:
        """Journal in `parent` how its child ended, durably, if it still waits for that. Idempotent; a parent that is
        gone, has ended or wants it no more is no error."""

    async def close_children(self, tenant: str, parent: str, children: Sequence[str]) -> None:
        """Terminate those of these instances that are children of `parent` and have not ended, durably. Idempotent."""

    async def vitals(self) -> Vitals: ...
    async def backup(self, target: Path) -> None:
        """A consistent copy of each store into the directory `target`, which exists."""

    async def check(self) -> list[str]:
        """Problems found in what is stored; []: none."""
        ...


class Peers(Protocol):
    """What an engine asks of other instances of the same data, wherever they are: in this process, or in another.

    Everything is idempotent: a caller that died, or got no answer, asks again. Everything may raise Unavailable: the
    process that has the other instance is being started, or at its bound.
    """

    async def start_children(self, starts: Sequence[ChildStart]) -> list[Seen | PerdureError]:
        """Make them, durably, each on a commit that the code store keeps; each fails for itself alone.

        A child that is there already is it, if it has the same parent, workflow and payload. Per child: Conflict
        (`instance_exists`), Refused (`unknown_workflow`, `not_deployed`), NotFound, Unavailable."""
        ...

    async def close_children(self, tenant: str, parent: str, children: Sequence[str]) -> None:
        """See `Instances.close_children`."""

    async def child_ended(self, tenant: str, parent: str, end: ChildEnd) -> None:
        """See `Instances.child_ended`."""


class Slots(Protocol):
    """Which of several processes may begin an instance behind limits: the limits of all of them together. Kept in
    memory by the front; what a process has goes back when it ends."""

    on_granted: Callable[[str, tuple[FlowLimit, ...]], None]
    """Told the tenant and limits of what was refused before: there is one now, and it is taken."""

    async def take(self, tenant: str, limits: tuple[FlowLimit, ...]) -> bool:
        """One slot of each of the limits, or none of any. False: `on_granted` will be called, in the order of asking;
        until then do not ask for the same again. Raises Unavailable."""
        ...

    def give(self, tenant: str, limits: tuple[FlowLimit, ...]) -> None:
        """Give back what was taken."""


# --- code


class CodeSource(Protocol):
    """Tenants, their tokens, repositories and versions. Errors are PerdureError."""

    def create_tenant(self, name: str) -> TenantView: ...
    def tenant(self, name: str) -> TenantView: ...
    def tenants(self) -> list[TenantView]: ...
    def set_tenant(self, name: str, *, weight: int, concurrency: int | None) -> TenantView:
        """Durable on return."""
        ...

    def delete_tenant(self, name: str) -> None: ...
    def create_token(
        self, tenant: str, *, access: Literal["read", "write"], expires_at_ms: int | None, label: str
    ) -> TokenView: ...
    def verify_token(self, secret: str) -> TokenView | None: ...
    def tokens(self, tenant: str) -> list[TokenView]: ...
    def revoke_token(self, tenant: str, token_id: str) -> None: ...
    def deploy(
        self, tenant: str, files: Mapping[str, bytes], *, message: str, who: str, branch: str
    ) -> DeploymentView: ...
    def versions(self, tenant: str, *, limit: int, before: int | None) -> list[DeploymentView]: ...
    def version(self, tenant: str, commit: str) -> DeploymentView: ...
    def files(self, tenant: str, commit: str) -> dict[str, int]: ...
    def file(self, tenant: str, commit: str, path: str) -> bytes: ...
    def channels(self, tenant: str) -> list[ChannelView]: ...
    def startable(self, tenant: str, *, channel: str, commit: str | None) -> tuple[str, Mapping[str, str]]:
        """What a start needs to know: the full commit (of `channel`, or the one asked for) and its workflows: name, and
        what it declares (JSON, see `core.flow`; "": nothing)."""
        ...

    def channel_history(self, tenant: str, channel: str, *, limit: int) -> list[ChannelMoveView]: ...
    def rollback(self, tenant: str, *, to: str, channel: str, who: str, why: str) -> ChannelMoveView: ...
    def pin_channel(self, tenant: str, commit: str, *, channel: str, who: str, why: str) -> ChannelView: ...
    def unpin_channel(self, tenant: str, *, channel: str, who: str, why: str) -> ChannelView: ...
    def keep_for_instances(self, tenant: str, commit: str) -> None:
        """Keep `commit` through garbage collection from now on. Durable on return; idempotent."""

    def bundle(self, tenant: str, commit: str) -> Path: ...
    def collect_garbage(self, tenant: str, *, keep: Collection[str]) -> GarbageView: ...
    def git_advertise(self, tenant: str, service: str, *, protocol: str | None) -> bytes: ...
    def git_exchange(
        self, tenant: str, service: str, body: BinaryIO, *, who: str, protocol: str | None
    ) -> Iterator[bytes]: ...
    def backup(self, target: Path) -> None: ...
    def close(self) -> None: ...


# --- schedules


class ScheduleRow(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule as stored. `spec` is a `core.schedule.ScheduleSpec` as JSON, `payload` an encoded value.

    `revision` grows with every change. `cursor_ms`: times up to it are dealt with, or written down as pending.
    `due_ms`: when the next one is to be dealt with; None: never, or paused. `running`: instances it started of which it
    is not known that they have ended.
    """

    tenant: str
    name: str
    workflow: str
    channel: str
    origin: Literal["api", "code"]
    payload: bytes
    spec: bytes
    created_at_ms: int
    cursor_ms: int
    due_ms: int | None
    revision: int = 0
    paused_by: str | None = None
    running: tuple[str, ...] = ()


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """A time of a schedule that is to be fired, with what it is to start: written before anything else is done.

    `retry_at_ms` None: it waits for an earlier instance to end.
    """

    tenant: str
    name: str
    scheduled_ms: int
    workflow: str
    channel: str
    payload: bytes
    attempts: int = 0
    retry_at_ms: int | None = 0
    reason: str = ""


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """A pending time with what became of it, and the instances of its schedule that are running now."""

    pending: Pending
    firing: FiringView
    running: tuple[str, ...]


class Advanced(msgspec.Struct, frozen=True, kw_only=True):
    """A decision about the times of `row` up to `cursor_ms`: what is to be fired, what is not, when to look again."""

    row: ScheduleRow
    pending: tuple[Pending, ...]
    firings: tuple[FiringView, ...]
    cursor_ms: int
    due_ms: int | None


class ScheduleStore(Protocol):
    """Schedules of all tenants. Everything that changes is durable on return, one transaction, one fsync. Raises
    Unavailable (`storage_full`, `busy`), Corrupt. Thread-safe."""

    def add(self, row: ScheduleRow, *, count_max: int) -> ScheduleRow:
        """The row; the one that is there if it says the same. Raises Conflict (`schedule_exists`), Refused
        (`limit_exceeded`: the tenant has `count_max` of that origin)."""
        ...

    def declare(self, tenant: str, rows: Sequence[ScheduleRow]) -> None:
        """Make these the tenant's schedules of origin "code". One that is there and says the same stays as it is; one
        that says something else keeps its pause, its history, and a later cursor. The others are out of sight until
        they are declared again; what is pending of them is dropped."""

    def delete(self, tenant: str, name: str) -> None:
        """Raises NotFound (`schedule_not_found`), Conflict (`invalid_state`: it is declared in code)."""

    def delete_tenant(self, tenant: str) -> None: ...
    def pause(self, tenant: str, name: str, *, by: str) -> None: ...
    def resume(self, tenant: str, name: str, *, revision: int, cursor_ms: int, due_ms: int | None) -> bool:
        """False: it has changed since `revision`, look again."""
        ...

    def get(self, tenant: str, name: str) -> ScheduleRow:
        """Raises NotFound (`schedule_not_found`)."""
        ...

    def of_tenant(self, tenant: str) -> list[ScheduleRow]: ...
    def tenants(self) -> list[str]:
        """Those that have any."""
        ...

    def due(self, now_ms: int, *, limit: int) -> list[ScheduleRow]: ...
    def next_ms(self) -> int | None:
        """When the next schedule is due, or the next pending time to be tried."""
        ...

    def advance(self, decisions: Sequence[Advanced]) -> None:
        """Write them down. Those about a schedule that has changed since its `row` was read are left out."""

    def startable(self, now_ms: int, *, limit: int) -> list[tuple[ScheduleRow, Pending]]:
        """The oldest pending time of each schedule that is not paused, if it is to be tried by now."""
        ...

    def pending(self, tenant: str, name: str) -> list[Pending]: ...
    def waiting(self) -> list[Pending]:
        """All that wait for an earlier instance to end, the oldest of each schedule."""
        ...

    def settle(self, settled: Sequence[Settled], delayed: Sequence[Pending]) -> None:
        """Those are done with; these are still pending, as they are now."""

    def record(self, tenant: str, name: str, firing: FiringView) -> None:
        """A firing outside of the schedule's times; its instance is running now."""

    def firings(self, tenant: str, name: str, *, limit: int) -> list[FiringView]:
        """Newest first."""
        ...

    def backup(self, target: Path) -> None: ...
    def check(self) -> list[str]: ...
    def close(self) -> None: ...


# --- sandboxes


class Sandbox(Protocol):
    """One sandbox process."""

    async def send(self, frames: Sequence[ToSandbox]) -> None:
        """Raises SandboxDied."""

    async def receive(self) -> list[FromSandbox]:
        """The next frames, at least one. Raises SandboxDied."""
        ...

    def kill(self, reason: DeathReason = "killed", detail: str = "") -> None: ...


class SandboxHost(Protocol):
    """Starts sandboxes."""

    async def open(self, spec: SandboxSpec) -> Sandbox:
        """A sandbox with the version's code imported. Raises SandboxFailed (the code raised while it was imported),
        SandboxDied (it ended before it was ready), Unavailable (`sandbox_unavailable`)."""
        ...
