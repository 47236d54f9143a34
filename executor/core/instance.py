"""Instance: the fold of a journal. What the executor knows of an instance is a function of its entries, nothing else.

Invariants:
- `apply` is the only way to change an Instance, and takes entries in journal order (Restarted: `folding.py` alone);
- a path is in at most one of `sleeps`, `waits`, `retries` and `children`, and in none of them once it is `settled`;
- an event is in `buffered` or was consumed by exactly one wait.

What most instances have nothing of is the shared, empty NONE until something comes: an instance that executes a step is
a few hundred bytes.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Collection
from copy import copy
from dataclasses import dataclass, field
from hashlib import blake2b
from types import MappingProxyType
from typing import Any, TypeVar, cast

import msgspec

from executor.core import blobs, codec
from executor.core.bounds import EVENT_IDS_KEPT_MAX, UPDATES_CARRIED_BYTES, UPDATES_CARRIED_MAX, UPDATES_KEPT_MAX
from executor.core.entries import (
    Activated,
    AnyEntry,
    AttemptFailed,
    AttributesSet,
    Cancelled,
    ChildClosed,
    ChildEnded,
    ChildRequested,
    ChildStarted,
    Completed,
    Continued,
    Emitted,
    EventReceived,
    Failed,
    GroupEnded,
    GroupStarted,
    Held,
    Parent,
    Paused,
    Released,
    Rescheduled,
    Restarted,
    Resumed,
    SleepEnded,
    SleepStarted,
    StartDue,
    Started,
    StatusSet,
    StepFailed,
    StepHeartbeat,
    StepStarted,
    StepSucceeded,
    Terminated,
    Undoing,
    Unheld,
    UpdateAccepted,
    UpdateEnded,
    WaitEnded,
    WaitStarted,
)
from executor.core.errors import Corrupt
from executor.core.lifecycle import State

RESOLVING: frozenset[type] = frozenset(
    {
        Started,
        StepSucceeded,
        StepFailed,
        SleepEnded,
        WaitEnded,
        StartDue,
        ChildStarted,
        ChildEnded,
        Continued,
        Restarted,
        Undoing,
        UpdateAccepted,
    }
)
"""Entries after which `run()` can go on."""

Outcome = Completed | Failed | Terminated
_ENDED: dict[type[Outcome], State] = {Completed: "complete", Failed: "failed", Terminated: "terminated"}

NONE: dict[Any, Any] = cast("dict[Any, Any]", MappingProxyType({}))
"""What there is none of: shared, and never changed."""


def _none() -> dict[Any, Any]:
    return NONE


NONE_SET: set[Any] = cast("set[Any]", frozenset())


class Child(msgspec.Struct, frozen=True):
    """A child that the parent still has to do with."""

    request: ChildRequested
    is_started: bool = False


class Consumed(msgspec.Struct, frozen=True):
    """The event that a wait was given, and where it is in the journal."""

    sequence: int
    event: EventReceived


_K = TypeVar("_K")
_V = TypeVar("_V")


def _with(found: dict[_K, _V], key: _K, value: _V) -> dict[_K, _V]:
    """`found` with one more, in place unless there was none."""
    if found is NONE:
        return {key: value}
    found[key] = value
    return found


def _without(found: dict[_K, _V], key: _K) -> dict[_K, _V]:
    found.pop(key, None)
    return found or NONE


def _and(found: set[_K], item: _K) -> set[_K]:
    if found is NONE_SET:
        return {item}
    found.add(item)
    return found


def _but(found: set[_K], item: _K) -> set[_K]:
    if item in found:
        found.discard(item)
    return found or NONE_SET


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
    # The execution: `run()` from its first line.
    execution: int = 0
    """How often it began anew."""
    begin: Started | Continued | None = None
    begin_at: int = 1
    """What `run()` begins with, and the sequence of that entry."""
    cuts: tuple[tuple[int, int], ...] = ()
    carried: set[int] = NONE_SET
    """Ranges of entries that this execution has nothing to do with, but for the events `carried` over."""
    step_count: int = 0
    # What `run()` waits for.
    sleeps: dict[str, int] = field(default_factory=dict)
    absolute: set[str] = NONE_SET
    """Those of `sleeps` that end at a date."""
    waits: dict[str, WaitStarted] = field(default_factory=dict)
    retries: dict[str, AttemptFailed] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)
    attempts: dict[str, int] = field(default_factory=dict)
    retried: dict[str, int] = field(default_factory=dict)
    """Those of `attempts` that tell something: more than one, or one that failed and will be tried again."""
    executing: dict[str, StepStarted] = field(default_factory=_none)
    blobs: dict[str, int] = field(default_factory=_none)
    """path of a step that gave a byte stream -> id of the stream."""
    groups: set[str] = NONE_SET
    """Paths of groups that have begun and not ended."""
    delayed_until_ms: int | None = None
    is_rescheduled: bool = False
    """The payload of the start was replaced."""
    # Events.
    event_count: int = 0
    event_ids: dict[str, bytes] = field(default_factory=dict)
    buffered: dict[str, deque[int]] = field(default_factory=dict)
    unread: dict[int, Consumed] = field(default_factory=_none)
    """type -> numbers of events that nobody has consumed, in order; and those events by number."""
    unread_bytes: int = 0
    """Of their payloads."""
    consumed: dict[str, Consumed] = field(default_factory=dict)
    """path of an ended wait -> its event."""
    # Children.
    children: dict[str, Child] = field(default_factory=_none)
    """path -> a child that is not started yet, is awaited, or is to be closed when this instance ends."""
    to_start: dict[str, ChildRequested] = field(default_factory=_none)
    """Those that were asked for and are not known to exist."""
    awaiting: dict[str, ChildRequested] = field(default_factory=_none)
    """Those whose end `run()` waits for."""
    to_close: set[str] = NONE_SET
    """Ids of children to be terminated now."""
    # Requests from outside, and what is shown there.
    updates: dict[str, UpdateAccepted | UpdateEnded] = field(default_factory=_none)
    """The latest, by id; what has not ended is not forgotten."""
    update_digests: dict[str, bytes] = field(default_factory=_none)
    updates_open: int = 0
    """How many of them have not ended."""
    status: bytes = b""
    status_number: int = 0
    attributes: bytes = b""
    attributes_number: int = 0
    emitted: dict[str, int] = field(default_factory=_none)
    """stream -> items so far."""
    emitted_number: int = 0
    heartbeats: dict[str, StepHeartbeat] = field(default_factory=_none)
    # State.
    paused: Paused | None = None
    undoing: Undoing | None = None
    undone: int = 0
    """How often this execution was undone, in all its restarts."""
    held: Held | None = None
    outcome: Outcome | None = None

    @property
    def start(self) -> Started:
        """Entry 1. Raises Corrupt if the journal does not begin with one."""
        if self.started is None:
            raise Corrupt("the journal does not begin with Started", code="corrupt_journal")
        return self.started

    @property
    def parent(self) -> Parent | None:
        """Who started it, if an instance did."""
        options = self.start.options
        return None if options is None else options.parent

    @property
    def can_go_on(self) -> bool:
        """It has not ended, and is not held."""
        return self.outcome is None and self.held is None

    @property
    def open_count(self) -> int:
        """How much it has to look after at once."""
        timers = len(self.sleeps) + len(self.waits) + len(self.retries)
        return timers + len(self.executing) + len(self.children) + len(self.groups) + self.updates_open

    @property
    def is_paused(self) -> bool:
        return self.paused is not None

    def state(self, *, is_resting: bool) -> State:
        """The public state; `is_resting`: nothing executes and the run cannot go on before another entry comes."""
        if self.outcome is not None:
            return _ENDED[type(self.outcome)]
        if self.held is not None:
            return "held"
        if self.paused is not None:
            return "paused"
        if self.undoing is not None:
            return "undoing"
        if is_resting or self.delayed_until_ms is not None:
            return "waiting"
        return "queued" if self.sequence <= 1 else "running"

    def next_wake_ms(self, *, besides: Collection[str] = ()) -> int | None:
        """When the first sleep, deadline or retry is due; None: only an event can wake it.

        `besides`: retries that are being made and so are no longer waited for.
        """
        if self.delayed_until_ms is not None:
            return self.delayed_until_ms
        if not (self.sleeps or self.waits or self.retries):
            return None
        due = list(self.sleeps.values())
        due.extend(wait.deadline_ms for wait in self.waits.values() if wait.deadline_ms is not None)
        due.extend(retry.retry_at_ms for path, retry in self.retries.items() if path not in besides)
        return min(due, default=None)

    def copy(self) -> Instance:
        """One that can be changed without changing this one."""
        twin = copy(self)
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not NONE and isinstance(value, dict | set):
                setattr(twin, name, value.copy())
        twin.buffered = {kind: queue.copy() for kind, queue in self.buffered.items()}
        return twin

    # --- the fold

    def apply(self, entry: AnyEntry) -> None:
        """Take the next entry in. Raises Corrupt if no correct executor can have written it here."""
        self.sequence += 1
        self.chain = codec.chain_after(self.chain, entry)
        self.updated_at_ms = entry.at_ms
        if type(entry) in RESOLVING:
            self.resolved_at = self.sequence
        if (self.sequence == 1) != isinstance(entry, Started):
            raise Corrupt(f"entry {self.sequence} is a {type(entry).__name__}", code="corrupt_journal")
        match entry:
            case Activated():
                self.executing = NONE
            case StepStarted():
                self.executing = _with(self.executing, entry.path, entry)
            case StepSucceeded() | StepFailed():
                path = entry.path
                self._attempt_over(path)
                self.retries.pop(path, None)
                self.attempts[path] = entry.attempt
                if entry.attempt > 1:
                    self.retried[path] = entry.attempt
                self.settled.add(path)
                self.step_count += 1
                if type(entry) is StepSucceeded and entry.form == "stream":
                    self.blobs = _with(self.blobs, path, blobs.named(entry.value))
            case AttemptFailed():
                self._attempt_over(entry.path)
                self.retries[entry.path] = entry
                self.attempts[entry.path] = self.retried[entry.path] = entry.attempt
            case StepHeartbeat():
                self.heartbeats = _with(self.heartbeats, entry.path, entry)
            case SleepStarted():
                self.sleeps[entry.path] = entry.wake_at_ms
                if entry.is_absolute:
                    self.absolute = _and(self.absolute, entry.path)
            case SleepEnded():
                self.sleeps.pop(entry.path)
                self.settled.add(entry.path)
            case WaitStarted():
                self.waits[entry.path] = entry
            case WaitEnded():
                self._end_wait(entry)
            case EventReceived():
                self.take_event(self.sequence, entry)
            case Cancelled():
                self._cancel(entry.path)
            case ChildRequested():
                self.ask_for_child(entry.path, entry)
            case ChildStarted():
                self._child_started(entry.path)
            case ChildEnded():
                self._forget_child(entry.path)
                self.settled.add(entry.path)
            case ChildClosed():
                self.to_close = _but(self.to_close, entry.child)
            case GroupStarted():
                self.groups = _and(self.groups, entry.path)
                self.settled.add(entry.path)
            case GroupEnded():
                self.groups = _but(self.groups, entry.path)
            case UpdateAccepted():
                self._accept_update(entry)
            case UpdateEnded():
                self.updates_open -= isinstance(self.updates.get(entry.id), UpdateAccepted)
                self.updates = _with(self.updates, entry.id, entry)
            case StatusSet():
                self.status, self.status_number = entry.value, entry.number
            case AttributesSet():
                self.attributes = entry.attributes
                self.attributes_number = max(self.attributes_number, entry.number)
            case Emitted():
                self.emitted = _with(self.emitted, entry.stream, entry.first + len(entry.items))
                self.emitted_number = max(self.emitted_number, entry.number)
            case Released():
                self.executing = NONE
            case Started():
                self._start(entry)
            case StartDue():
                self.delayed_until_ms = None
            case Rescheduled():
                self.begin = self.started = msgspec.structs.replace(self.start, payload=entry.payload)
                self.delayed_until_ms = entry.start_at_ms
                self.begin_at = self.sequence  # a restart begins with what it says
                self.is_rescheduled = True
            case Continued():
                self._continue(entry)
            case Restarted():
                raise Corrupt("a restart needs the journal", code="corrupt_journal")
            case Paused():
                self.paused = entry
            case Resumed():
                self._resume(entry.at_ms)
            case Held():
                self.held = entry
                self.executing = NONE
            case Unheld():
                self.held = None
            case Undoing():
                self._abandon_run()
                self.undoing = entry
                self.undone += 1
            case Completed() | Failed() | Terminated():
                self._abandon_run()
                self.outcome = entry

    def _start(self, entry: Started) -> None:
        self.started = self.begin = entry
        if entry.options is not None:
            self.delayed_until_ms = entry.options.start_at_ms
            self.attributes = entry.options.attributes

    def _attempt_over(self, path: str) -> None:
        if path in self.executing:
            self.executing = _without(self.executing, path)
        if path in self.heartbeats:
            self.heartbeats = _without(self.heartbeats, path)

    # --- events

    def take_event(self, sequence: int, entry: EventReceived) -> None:
        """An event that came in entry `sequence`."""
        self.event_count = max(self.event_count, entry.number)
        self.event_ids[entry.id] = event_digest(entry.type, entry.payload)
        self.buffer(Consumed(sequence, entry))

    def buffer(self, kept: Consumed) -> None:
        """An event waits to be read."""
        event = kept.event
        queue = self.buffered.setdefault(event.type, deque())
        if queue and queue[-1] > event.number:  # given back: to its place in the order of arrival
            insort(queue, event.number)
        else:
            queue.append(event.number)
        self.unread = _with(self.unread, event.number, kept)
        self.unread_bytes += len(event.payload)

    def _end_wait(self, entry: WaitEnded) -> None:
        wait = self.waits.pop(entry.path)
        self.settled.add(entry.path)
        if entry.event is not None:
            queue = self.buffered[wait.type]
            queue.remove(entry.event)
            if not queue:
                del self.buffered[wait.type]  # as if none had come: a later execution is told of those that wait only
            self.consumed[entry.path] = given = self.unread.pop(entry.event)
            self.unread_bytes -= len(given.event.payload)

    def _cancel(self, path: str) -> None:
        self.sleeps.pop(path, None)
        self.waits.pop(path, None)
        self.retries.pop(path, None)
        if self.retried.get(path) == 1:
            del self.retried[path]
        self.settled.add(path)
        self._attempt_over(path)
        given_back = self.consumed.pop(path, None)
        if given_back is not None:
            self.buffer(given_back)
        self._give_up_child(path)

    # --- updates

    def _accept_update(self, entry: UpdateAccepted) -> None:
        if len(self.updates) >= UPDATES_KEPT_MAX:
            oldest = next((name for name, known in self.updates.items() if isinstance(known, UpdateEnded)), None)
            if oldest is not None:
                del self.updates[oldest], self.update_digests[oldest]
        self.updates = _with(self.updates, entry.id, entry)
        self.update_digests = _with(self.update_digests, entry.id, event_digest(entry.name, entry.payload))
        self.updates_open += 1

    # --- children

    def ask_for_child(self, path: str, request: ChildRequested) -> None:
        """Whether it is there is not known, or no more."""
        self.children = _with(self.children, path, Child(request))
        self.to_start = _with(self.to_start, path, request)
        if request.is_awaited:
            self.awaiting = _with(self.awaiting, path, request)

    def _child_started(self, path: str) -> None:
        child = self.children.get(path)
        if child is None:
            return
        if child.request.is_awaited or child.request.close == "terminate":
            self.children = _with(self.children, path, Child(child.request, is_started=True))
            if path in self.to_start:
                self.to_start = _without(self.to_start, path)
        else:
            self._forget_child(path)
        if not child.request.is_awaited:
            self.settled.add(path)

    def _give_up_child(self, path: str) -> None:
        child = self.children.get(path)
        if child is not None:
            self._forget_child(path)
            if child.request.close == "terminate":
                self.to_close = _and(self.to_close, child.request.child)

    def _forget_child(self, path: str) -> None:
        if path in self.children:
            self.children = _without(self.children, path)
        if path in self.to_start:
            self.to_start = _without(self.to_start, path)
        if path in self.awaiting:
            self.awaiting = _without(self.awaiting, path)

    # --- ends and beginnings

    def _abandon_run(self) -> None:
        """`run()` waits for nothing any more."""
        self.sleeps.clear()
        self.waits.clear()
        self.retries.clear()
        self.executing = self.heartbeats = NONE
        self.absolute = self.groups = NONE_SET
        self.delayed_until_ms = None
        self.paused = None
        for path in list(self.children):
            self._give_up_child(path)

    def _continue(self, entry: Continued) -> None:
        self._abandon_run()
        self.execution += 1
        self.begin, self.begin_at = entry, self.sequence
        self.cuts = ((1, self.sequence - 1),)
        self.carried = {kept.sequence for kept in self.unread.values()} or NONE_SET
        self.step_count = self.undone = 0
        self.settled.clear()
        self.attempts.clear()
        self.retried.clear()
        self.consumed.clear()
        self.blobs = NONE
        self._forget_ids()
        self._forget_updates()
        self.status_number = self.attributes_number = self.emitted_number = 0

    def _forget_ids(self) -> None:
        """Of events: those of the unread ones and of the newest are kept."""
        unread = {kept.event.id for kept in self.unread.values()}
        old = [name for name in self.event_ids if name not in unread]
        for name in old[: max(0, len(self.event_ids) - EVENT_IDS_KEPT_MAX)]:
            del self.event_ids[name]

    def _forget_updates(self) -> None:
        """The newest answers are kept. What has no answer never gets one: its handler was of the run that is over."""
        kept: dict[str, UpdateEnded] = {}
        size = 0
        for name, known in reversed(self.updates.items()):
            if isinstance(known, UpdateEnded):
                size += (
                    len(known.value or b"") if known.error is None else len(known.error.message + known.error.traceback)
                )
                if len(kept) >= UPDATES_CARRIED_MAX or size > UPDATES_CARRIED_BYTES:
                    break
                kept[name] = known
        self.updates = dict(reversed(kept.items())) or NONE
        self.update_digests = {name: self.update_digests[name] for name in self.updates} or NONE
        self.updates_open = 0

    def _resume(self, now_ms: int) -> None:
        """Durations are as long as they were when it was paused; dates stay."""
        if self.paused is None:
            return
        shift = max(0, now_ms - self.paused.at_ms)
        self.paused = None
        for path, at_ms in self.sleeps.items():
            if path not in self.absolute:
                self.sleeps[path] = at_ms + shift
        for path, wait in self.waits.items():
            if wait.deadline_ms is not None:
                self.waits[path] = msgspec.structs.replace(wait, deadline_ms=wait.deadline_ms + shift)
        for path, failed in self.retries.items():
            self.retries[path] = msgspec.structs.replace(failed, retry_at_ms=failed.retry_at_ms + shift)
