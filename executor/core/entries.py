"""Journal entries: one frozen struct per fact.

An instance *is* its journal. Entries are appended by the executor only, numbered 1, 2, 3 … (the `sequence`, which is
kept beside the entry, not in it), and never changed. What a run may see of the outside world it sees through entries,
in their order; so live execution and replay are the same thing: entries are delivered one by one, and the run goes as
far as it can after each.

Words used by several entries:
  at_ms     when the executor took the fact in; logical time inside `run()` is the `at_ms` of the entry being delivered
  path      identity of a step: scopes, name and occurrence, for example "charge#1" or "audit/hash#3"
  asked     digest of what was asked (kind, name, arguments), see `executor.core.replay`
  where     call site in the pinned commit, "workflows.py:14"
  value     bytes in the form of `executor.core.values`
Tags and field order are the stored format (see `codec.py`): append fields with defaults, never reorder.

Some entries are **traces** (`Trace`): they tell how the instance was executed (activations, attempts, heartbeats), or
what the run showed to the outside (status, streams). How many there are and where they stand depends on timing, so the
chain leaves them out; the run never depends on them. Those in `HIDDEN` are not even sent to it.

Some entries begin the instance's **execution** anew (Started, Continued, Restarted): what a run replays from then on is
the *visible* part of the journal, see `executor.core.visible`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from executor.core.failure import ErrorFact


class StepRef(msgspec.Struct, frozen=True, array_like=True):
    """One side of a mismatch."""

    kind: str
    path: str
    where: str
    asked: bytes = b""


class Entry(msgspec.Struct, frozen=True, array_like=True, tag_field="entry", gc=False):
    """Base of all entries."""

    at_ms: int


class Trace(Entry, frozen=True, array_like=True):
    """Base of the entries that the chain leaves out. See the module."""


class Parent(msgspec.Struct, frozen=True, array_like=True):
    """Who started a child. `path`: the parent's step; `is_awaited`: it wants to be told how the child ends."""

    instance: str
    path: str
    is_awaited: bool


class FlowLimit(msgspec.Struct, frozen=True, array_like=True):
    """At most `count` instances of the tenant with this `key` execute at once. `name` is what people call the limit."""

    name: str
    key: str
    count: int


class StartOptions(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """What a start may say beyond workflow and payload.

    `start_at_ms`: not to be begun before then. `attributes`: an encoded dict of search attributes. `priority`: higher
    goes first among the tenant's own. `limits`: what it queues behind. `unload`: "every-wait" drops the run at every
    wait. `retain_…_ms`: how long it is kept once it has ended (None: as the platform says). `schedule`: the name of the
    schedule that started it, for `scheduled_ms`. `debounce`: a start with the same key
    replaces it while it waits. `depth`: instances above it.
    """

    start_at_ms: int | None = None
    attributes: bytes = b""
    priority: int = 0
    limits: tuple[FlowLimit, ...] = ()
    unload: Literal["", "every-wait"] = ""
    retain_complete_ms: int | None = None
    retain_failed_ms: int | None = None
    parent: Parent | None = None
    schedule: str | None = None
    scheduled_ms: int | None = None
    debounce: str = ""
    depth: int = 0


class Started(Entry, frozen=True, array_like=True, tag=1):
    """The instance exists and is pinned to `commit`. Always entry 1."""

    workflow: str
    commit: str
    payload: bytes
    seed: bytes
    options: StartOptions | None = None


class StepSucceeded(Entry, frozen=True, array_like=True, tag=2):
    path: str
    asked: bytes
    where: str
    attempt: int
    started_at_ms: int
    value: bytes
    form: Literal["value", "sensitive", "stream"] = "value"
    """sensitive: never shown outside; stream: `value` describes a byte stream that is in the facet."""


class AttemptFailed(Entry, frozen=True, array_like=True, tag=3):
    """An attempt failed and will be made again at `retry_at_ms`; `limit` is the number of retries allowed."""

    path: str
    asked: bytes
    where: str
    attempt: int
    started_at_ms: int
    error: ErrorFact
    retry_at_ms: int
    limit: int
    details: bytes = b""
    """Of its last heartbeat, for the next attempt."""
    is_sensitive: bool = False
    """`details` are never shown outside."""


class StepFailed(Entry, frozen=True, array_like=True, tag=4):
    """The last attempt failed; `run()` sees the error."""

    path: str
    asked: bytes
    where: str
    attempt: int
    started_at_ms: int
    error: ErrorFact


class SleepStarted(Entry, frozen=True, array_like=True, tag=5):
    path: str
    asked: bytes
    where: str
    wake_at_ms: int
    is_absolute: bool = False
    """It ends at a date, which a pause does not shift."""


class SleepEnded(Entry, frozen=True, array_like=True, tag=6):
    path: str


class WaitStarted(Entry, frozen=True, array_like=True, tag=7):
    path: str
    asked: bytes
    where: str
    type: str
    deadline_ms: int | None
    match: bytes = b""
    """An encoded dict: what the payload has to have. b"": any payload will do."""


class WaitEnded(Entry, frozen=True, array_like=True, tag=8):
    """`event` is the `number` of the EventReceived that the wait consumed; None: the deadline passed."""

    path: str
    event: int | None


class EventReceived(Entry, frozen=True, array_like=True, tag=9):
    """`number`: 1 for the first event of the instance, and so on."""

    id: str
    type: str
    payload: bytes
    number: int


class Cancelled(Entry, frozen=True, array_like=True, tag=10):
    """The run gave up a pending sleep, wait, child or step (for instance by `asyncio.timeout`).

    What an executing step had done by then may have taken effect, as with any that is cut off.

    A wait that had already consumed an event which the run never saw gives the event back.
    """

    path: str


class Paused(Entry, frozen=True, array_like=True, tag=11):
    """Nothing begins and no timer runs until Resumed. `by`: who asked."""

    by: str = ""


class Resumed(Entry, frozen=True, array_like=True, tag=12):
    """Goes on; durations that had not passed are as long as they were when it was paused."""

    by: str = ""


class Completed(Entry, frozen=True, array_like=True, tag=13):
    value: bytes


class Failed(Entry, frozen=True, array_like=True, tag=14):
    error: ErrorFact


class Terminated(Entry, frozen=True, array_like=True, tag=15):
    by: str = ""


class Held(Entry, frozen=True, array_like=True, tag=16):
    """The instance cannot go on by itself; `code` is of the public catalogue."""

    code: str
    message: str
    recorded: StepRef | None
    requested: StepRef | None


class Unheld(Entry, frozen=True, array_like=True, tag=17):
    """Somebody asked to try again (`resume` of a held instance)."""


# --- how it was executed


class StepStarted(Trace, frozen=True, array_like=True, tag=18):
    """An attempt began (the first: the step was scheduled). One that is lost with its sandbox begins again."""

    path: str
    where: str
    attempt: int


class Activated(Trace, frozen=True, array_like=True, tag=19):
    """The run was begun in a sandbox. `epoch`: which life of the executor this is; what was lost in a crash has no
    Released."""

    epoch: int


class Released(Trace, frozen=True, array_like=True, tag=20):
    """The run was dropped from memory. An end (Completed, Failed, Terminated, Held) drops it too, without this."""

    reason: Literal["waits", "paused", "shutdown", "sandbox died", "moved on"]


class StepHeartbeat(Trace, frozen=True, array_like=True, tag=21):
    """The attempt is alive; `details` are for the next one, and with `is_sensitive` for nobody else."""

    path: str
    attempt: int
    details: bytes
    is_sensitive: bool = False


# --- what the run shows


class StatusSet(Trace, frozen=True, array_like=True, tag=22):
    """`self.status` was set for the `number`-th time in this execution (those in between may be left out)."""

    number: int
    value: bytes


class AttributesSet(Trace, frozen=True, array_like=True, tag=23):
    """Search attributes were changed; `attributes` is an encoded dict of all of them. `number` as in StatusSet; 0: from
    outside."""

    number: int
    attributes: bytes


class Emitted(Trace, frozen=True, array_like=True, tag=24):
    """Items of an output stream; `first` is the place of the first in the stream, from 0.

    From a step: `path` and `attempt`. From `run()`: `path` "", and `number` counts what it emitted in this execution,
    these included, so that a replay does not emit them again.
    """

    stream: str
    first: int
    items: list[bytes]
    path: str
    attempt: int
    number: int


# --- children


ClosePolicy = Literal["terminate", "abandon"]


class ChildRequested(Entry, frozen=True, array_like=True, tag=25):
    """A child is to be started. `commit` None: whatever `channel` is on. `close`: what happens to it if the parent ends
    or gives it up first; `is_awaited`: the step's outcome is the child's."""

    path: str
    asked: bytes
    where: str
    child: str
    workflow: str
    commit: str | None
    channel: str | None
    payload: bytes
    close: ClosePolicy
    is_awaited: bool


class ChildStarted(Entry, frozen=True, array_like=True, tag=26):
    """It exists, pinned to `commit`."""

    path: str
    commit: str


class ChildEnded(Entry, frozen=True, array_like=True, tag=27):
    """How it ended, or why it could not be started. `value`: what it returned; `error`: why it did not."""

    path: str
    state: Literal["complete", "failed", "terminated", "refused"]
    value: bytes | None
    error: ErrorFact | None


class ChildClosed(Trace, frozen=True, array_like=True, tag=37):
    """A child that is wanted no more (its close policy says so) has been terminated, or had ended before."""

    child: str


# --- executions


class Continued(Entry, frozen=True, array_like=True, tag=28):
    """`run()` begins anew with another payload (continue_as_new). Facet, unread events and identity stay. `carried`:
    what else does, so that nothing older need be read (`carrying.py`); b"": the whole journal is."""

    workflow: str
    commit: str
    payload: bytes
    seed: bytes
    carried: bytes = b""


class Restarted(Entry, frozen=True, array_like=True, tag=29):
    """`run()` begins anew; of what is recorded, entries up to sequence `after` count, and, with `keeps_events`, the
    events after it. The facet is as it was then. `undone`: how often the execution has been undone: what is done once
    more after that is not what was undone, and has another idempotency key."""

    after: int
    keeps_events: bool
    by: str = ""
    undone: int = 0


class StartDue(Entry, frozen=True, array_like=True, tag=33):
    """The time of a delayed start has come."""


class Rescheduled(Entry, frozen=True, array_like=True, tag=34):
    """A delayed start was replaced before its time (debounce)."""

    payload: bytes
    start_at_ms: int


# --- undo


class Undoing(Entry, frozen=True, array_like=True, tag=30):
    """What the finished steps did is being undone, the latest first. `error`: why it failed; None: it is terminated.
    The steps that undo have paths "undo/<path of the step>"."""

    error: ErrorFact | None
    by: str = ""


# --- updates


class UpdateAccepted(Entry, frozen=True, array_like=True, tag=31):
    """A request that the workflow's validator let pass; its handler runs now."""

    id: str
    name: str
    payload: bytes


class UpdateEnded(Entry, frozen=True, array_like=True, tag=32):
    """What the handler returned, or raised."""

    id: str
    value: bytes | None
    error: ErrorFact | None


# --- groups


class GroupStarted(Entry, frozen=True, array_like=True, tag=35):
    path: str
    asked: bytes
    where: str


class GroupEnded(Entry, frozen=True, array_like=True, tag=36):
    path: str


AnyEntry = (
    Started
    | StepSucceeded
    | AttemptFailed
    | StepFailed
    | SleepStarted
    | SleepEnded
    | WaitStarted
    | WaitEnded
    | EventReceived
    | Cancelled
    | Paused
    | Resumed
    | Completed
    | Failed
    | Terminated
    | Held
    | Unheld
    | StepStarted
    | Activated
    | Released
    | StepHeartbeat
    | StatusSet
    | AttributesSet
    | Emitted
    | ChildRequested
    | ChildStarted
    | ChildEnded
    | ChildClosed
    | Continued
    | Restarted
    | StartDue
    | Rescheduled
    | Undoing
    | UpdateAccepted
    | UpdateEnded
    | GroupStarted
    | GroupEnded
)

StepRecord = StepSucceeded | AttemptFailed | StepFailed | SleepStarted | WaitStarted | ChildRequested | GroupStarted
"""Entries that record what the run asked for; replay compares each with the request of the same path."""

HIDDEN: frozenset[type[Entry]] = frozenset({StepStarted, Activated, Released, ChildClosed})
"""Kinds that are not sent to the run."""

HIDDEN_TAGS = frozenset({18, 19, 20, 37})
"""Of these kinds."""

UNSHOWN = frozenset({"at_ms", "carried"})
"""Fields that are not among those of an item that readers are shown."""
