"""Instance: the fold of a journal. What the executor knows of an instance is a function of its entries, nothing else.

Invariants:
- `apply` is the only way to change an Instance, and takes entries in journal order;
- a path is in at most one of `sleeps`, `waits` and `retries`, and in none of them once it is `settled`;
- an event is in `buffered` or was consumed by exactly one wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from hashlib import blake2b

from executor.core import codec
from executor.core.entries import (
    AnyEntry,
    AttemptFailed,
    Cancelled,
    Completed,
    EventReceived,
    Failed,
    Held,
    Paused,
    Resumed,
    SleepEnded,
    SleepStarted,
    Started,
    StepFailed,
    StepSucceeded,
    Terminated,
    Unheld,
    WaitEnded,
    WaitStarted,
)
from executor.core.errors import Corrupt
from executor.core.lifecycle import State

RESOLVING = (StepSucceeded, StepFailed, SleepEnded, WaitEnded)
"""Entries after which `run()` can go on."""


Outcome = Completed | Failed | Terminated
_ENDED: dict[type[Outcome], State] = {Completed: "complete", Failed: "failed", Terminated: "terminated"}


def event_digest(type: str, payload: bytes) -> bytes:
    """What "the same event" means when an id comes twice."""
    return blake2b(type.encode() + b"\0" + payload, digest_size=16).digest()


@dataclass(slots=True)
class Instance:
    """See the module's text. `resolved_at` is the sequence of the last entry that lets `run()` go on."""

    sequence: int = 0
    chain: bytes = codec.CHAIN_START
    started: Started | None = None
    updated_at_ms: int = 0
    resolved_at: int = 0
    sleeps: dict[str, int] = field(default_factory=dict)
    waits: dict[str, WaitStarted] = field(default_factory=dict)
    retries: dict[str, AttemptFailed] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)
    attempts: dict[str, int] = field(default_factory=dict)
    retried: dict[str, int] = field(default_factory=dict)
    """Those of `attempts` that tell something: more than one, or one that failed and will be tried again."""
    buffered: dict[str, deque[int]] = field(default_factory=dict)
    consumed: dict[str, tuple[str, int]] = field(default_factory=dict)
    """path of an ended wait -> (event type, event sequence)."""
    event_ids: dict[str, bytes] = field(default_factory=dict)
    is_paused: bool = False
    held: Held | None = None
    outcome: Outcome | None = None

    @property
    def start(self) -> Started:
        """Entry 1. Raises Corrupt if the journal does not begin with one."""
        if self.started is None:
            raise Corrupt("the journal does not begin with Started", code="corrupt_journal")
        return self.started

    def state(self, *, is_resting: bool) -> State:
        """The public state; `is_resting`: nothing executes and the run cannot go on before another entry comes."""
        if self.outcome is not None:
            return _ENDED[type(self.outcome)]
        if self.held is not None:
            return "held"
        if self.is_paused:
            return "paused"
        if is_resting:
            return "waiting"
        return "queued" if self.sequence <= 1 else "running"

    def next_wake_ms(self, *, besides: Collection[str] = ()) -> int | None:
        """When the first sleep, deadline or retry is due; None: only an event can wake it.

        `besides`: retries that are being made and so are no longer waited for.
        """
        if not (self.sleeps or self.waits or self.retries):
            return None
        due = list(self.sleeps.values())
        due.extend(wait.deadline_ms for wait in self.waits.values() if wait.deadline_ms is not None)
        due.extend(retry.retry_at_ms for path, retry in self.retries.items() if path not in besides)
        return min(due, default=None)

    def apply(self, entry: AnyEntry) -> None:
        """Take the next entry in. Raises Corrupt if no correct executor can have written it here."""
        self.sequence += 1
        self.chain = codec.chain_after(self.chain, entry)
        self.updated_at_ms = entry.at_ms
        if isinstance(entry, RESOLVING):
            self.resolved_at = self.sequence
        if (self.sequence == 1) != isinstance(entry, Started):
            raise Corrupt(f"entry {self.sequence} is a {type(entry).__name__}", code="corrupt_journal")
        match entry:
            case Started():
                self.started = entry
            case StepSucceeded() | StepFailed():
                self.retries.pop(entry.path, None)
                self.attempts[entry.path] = entry.attempt
                if entry.attempt > 1:
                    self.retried[entry.path] = entry.attempt
                self.settled.add(entry.path)
            case AttemptFailed():
                self.retries[entry.path] = entry
                self.attempts[entry.path] = self.retried[entry.path] = entry.attempt
            case SleepStarted():
                self.sleeps[entry.path] = entry.wake_at_ms
            case SleepEnded():
                self.sleeps.pop(entry.path)
                self.settled.add(entry.path)
            case WaitStarted():
                self.waits[entry.path] = entry
            case WaitEnded():
                self._end_wait(entry)
            case EventReceived():
                self.event_ids[entry.id] = event_digest(entry.type, entry.payload)
                self.buffered.setdefault(entry.type, deque()).append(self.sequence)
            case Cancelled():
                self._cancel(entry.path)
            case Paused():
                self.is_paused = True
            case Resumed():
                self.is_paused = False
            case Held():
                self.held = entry
            case Unheld():
                self.held = None
            case Completed() | Failed() | Terminated():
                self.outcome = entry

    def _end_wait(self, entry: WaitEnded) -> None:
        wait = self.waits.pop(entry.path)
        self.settled.add(entry.path)
        if entry.event is not None:
            self.buffered[wait.type].remove(entry.event)
            self.consumed[entry.path] = (wait.type, entry.event)

    def _cancel(self, path: str) -> None:
        self.sleeps.pop(path, None)
        self.waits.pop(path, None)
        self.retries.pop(path, None)
        if self.retried.get(path) == 1:
            del self.retried[path]
        self.settled.add(path)
        given_back = self.consumed.pop(path, None)
        if given_back is not None:
            event_type, event = given_back
            queue = self.buffered.setdefault(event_type, deque())
            # Back to its place in the order of arrival.
            self.buffered[event_type] = deque(sorted((*queue, event)))


def fold(journal: list[AnyEntry]) -> Instance:
    """The instance whose journal this is."""
    instance = Instance()
    for entry in journal:
        instance.apply(entry)
    return instance
