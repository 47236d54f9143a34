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
"""

from __future__ import annotations

import msgspec

from executor.core.failure import ErrorFact


class StepRef(msgspec.Struct, frozen=True, array_like=True):
    """One side of a mismatch."""

    kind: str
    path: str
    where: str
    asked: bytes = b""


class Entry(msgspec.Struct, frozen=True, array_like=True, tag_field="entry"):
    """Base of all entries."""

    at_ms: int


class Started(Entry, frozen=True, array_like=True, tag=1):
    """The instance exists and is pinned to `commit`. Always entry 1."""

    workflow: str
    commit: str
    payload: bytes
    seed: bytes


class StepSucceeded(Entry, frozen=True, array_like=True, tag=2):
    path: str
    asked: bytes
    where: str
    attempt: int
    started_at_ms: int
    value: bytes


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


class SleepEnded(Entry, frozen=True, array_like=True, tag=6):
    path: str


class WaitStarted(Entry, frozen=True, array_like=True, tag=7):
    path: str
    asked: bytes
    where: str
    type: str
    deadline_ms: int | None


class WaitEnded(Entry, frozen=True, array_like=True, tag=8):
    """`event` is the sequence of the EventReceived that the wait consumed; None: the deadline passed."""

    path: str
    event: int | None


class EventReceived(Entry, frozen=True, array_like=True, tag=9):
    id: str
    type: str
    payload: bytes


class Cancelled(Entry, frozen=True, array_like=True, tag=10):
    """The run gave up a pending sleep, wait or retry (for instance by `asyncio.timeout`).

    A wait that had already consumed an event which the run never saw gives the event back.
    """

    path: str


class Paused(Entry, frozen=True, array_like=True, tag=11):
    pass


class Resumed(Entry, frozen=True, array_like=True, tag=12):
    pass


class Completed(Entry, frozen=True, array_like=True, tag=13):
    value: bytes


class Failed(Entry, frozen=True, array_like=True, tag=14):
    error: ErrorFact


class Terminated(Entry, frozen=True, array_like=True, tag=15):
    pass


class Held(Entry, frozen=True, array_like=True, tag=16):
    """The instance cannot go on by itself; `code` is of the public catalogue."""

    code: str
    message: str
    recorded: StepRef | None
    requested: StepRef | None


class Unheld(Entry, frozen=True, array_like=True, tag=17):
    """Somebody asked to try again (`resume` of a held instance)."""


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
)

StepRecord = StepSucceeded | AttemptFailed | StepFailed | SleepStarted | WaitStarted
"""Entries that record what the run asked for; replay compares each with the request of the same path."""
