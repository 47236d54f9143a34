"""What to append: a command of a run, a message from outside or the clock, to journal entries.

Each function looks at an Instance and returns the entries that follow; it changes nothing. Commands come from a sandbox
and are hostile: one that no honest sandbox sends raises Violation, and the sandbox is ended.
"""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from executor.core import attributes, ids, matching, retry, values
from executor.core.bounds import (
    MATCHES_BYTES_MAX,
    OPEN_MAX,
    RESTART_LOOKED_BYTES_MAX,
    STREAMS_MAX,
    UNREAD_BYTES_MAX,
    UNREAD_EVENTS_MAX,
)
from executor.core.commands import (
    EMIT_ITEMS_MAX,
    AcceptUpdate,
    Beat,
    Cancel,
    Child,
    Command,
    Complete,
    Continue,
    Diverge,
    Emit,
    EndUpdate,
    Fail,
    GroupBegin,
    GroupEnd,
    SetAttributes,
    SetStatus,
    Sleep,
    StepBegun,
    StepDone,
    StepError,
    Undo,
    Undone,
    Wait,
)
from executor.core.entries import (
    AnyEntry,
    AttemptFailed,
    AttributesSet,
    Cancelled,
    ChildRequested,
    Completed,
    Continued,
    Emitted,
    EventReceived,
    Failed,
    GroupEnded,
    GroupStarted,
    Held,
    SleepEnded,
    SleepStarted,
    StartDue,
    StatusSet,
    StepFailed,
    StepHeartbeat,
    StepRef,
    StepStarted,
    StepSucceeded,
    Terminated,
    Undoing,
    UpdateAccepted,
    UpdateEnded,
    WaitEnded,
    WaitStarted,
)
from executor.core.errors import Conflict, Refused
from executor.core.failure import ErrorFact
from executor.core.instance import Instance, event_digest

ASKED_BYTES = 16
PATH_CHARS_MAX = 1_024
WHERE_CHARS_MAX = 512
KIND_CHARS = 16
VALUE_BYTES_MAX = 1024 * 1024
SLEEP_MS_MAX = 100 * 366 * 24 * 3_600_000
STATUS_BYTES_MAX = 4 * 1024
DETAILS_BYTES_MAX = 64 * 1024
STREAM_CHARS_MAX = 100
ATTRIBUTES_BYTES_MAX = 256 * 1024
NAME_CHARS_MAX = 256
UNDO = "undo/"
"""Scope of the steps that undo others."""


class Violation(Exception):
    """The sandbox sent a command that no honest one sends."""


class Decided(msgspec.Struct, frozen=True, gc=False):
    """Entries to append, in order, and the facet delta that rides with the first of them. `looked`: bytes of unread
    events that had to be looked through."""

    entries: tuple[AnyEntry, ...]
    delta: bytes | None = None
    looked: int = 0


NOTHING = Decided(())


def on_command(instance: Instance, command: Command, *, now_ms: int, id: str = "") -> Decided:
    """The answer to one command of a run; `id` is the instance's. Raises Violation."""
    if instance.outcome is not None or instance.held is not None:
        # The instance ended while the command was under way (a terminate from outside): it is too late.
        return NOTHING
    if instance.undoing is not None and _is_of_run(command):
        # It crossed the end of `run()`: as if its process had died just before.
        return NOTHING
    if isinstance(command, _OPENING) and (held := _full(instance, command, now_ms)) is not None:
        return Decided((held,))
    match command:
        case StepBegun():
            return _step_begun(instance, command, now_ms)
        case StepDone():
            _check_attempt(instance, command)
            if len(command.value) > VALUE_BYTES_MAX:
                raise Violation(f"step {command.path} returned {len(command.value)} bytes")
            succeeded = StepSucceeded(
                now_ms,
                command.path,
                command.asked,
                command.where,
                command.attempt,
                min(command.started_at_ms, now_ms),
                command.value,
                command.form,
            )
            return Decided((succeeded,), command.delta)
        case StepError():
            _check_attempt(instance, command)
            return Decided((_failed_attempt(instance, command, now_ms),))
        case Beat():
            return _beat(instance, command, now_ms)
        case Sleep():
            _check_new(instance, command)
            return Decided(_sleep(command, now_ms))
        case Wait():
            _check_new(instance, command)
            return _wait(instance, command, now_ms)
        case Cancel():
            return Decided(_cancel(instance, command, now_ms))
        case Child():
            _check_new(instance, command)
            return Decided((_child(instance, command, now_ms, id),))
        case GroupBegin():
            _check_new(instance, command)
            return Decided((GroupStarted(now_ms, command.path, command.asked, command.where),))
        case GroupEnd():
            return Decided((GroupEnded(now_ms, command.path),)) if command.path in instance.groups else NOTHING
        case SetStatus() | SetAttributes() | Emit():
            return _shown(instance, command, now_ms)
        case AcceptUpdate() | EndUpdate():
            return _update(instance, command, now_ms)
        case Complete() | Continue() | Fail() | Undo() | Undone():
            return Decided((_end(instance, command, now_ms),))
        case Diverge():
            sides = _side(command.recorded), _side(command.requested)
            return Decided((Held(now_ms, "nondeterminism", command.message[:4096], *sides),))


def _is_of_run(command: Command) -> bool:
    """Whether only `run()` itself, which is over, can have asked for it."""
    match command:
        case Complete() | Continue() | Fail() | Undo():
            return True
        case StepBegun() | StepDone() | StepError() | Sleep() | Wait() | Child() | GroupBegin():
            return not command.path.startswith(UNDO)
        case _:
            return False


def _side(ref: StepRef | None) -> StepRef | None:
    """One side of a mismatch, as far as an honest sandbox names it."""
    if ref is None:
        return None
    return StepRef(
        ref.kind[:KIND_CHARS], ref.path[:PATH_CHARS_MAX], ref.where[:WHERE_CHARS_MAX], ref.asked[:ASKED_BYTES]
    )


def _end(instance: Instance, command: Complete | Continue | Fail | Undo | Undone, now_ms: int) -> AnyEntry:
    """How `run()`, or the undoing after it, ended."""
    undoing = instance.undoing
    if isinstance(command, Undone) and undoing is None:
        raise Violation("what was not being undone is undone")
    match command:
        case Complete():
            if len(command.value) > VALUE_BYTES_MAX:
                raise Violation(f"run() returned {len(command.value)} bytes")
            return Completed(now_ms, command.value)
        case Continue():
            if len(command.payload) > VALUE_BYTES_MAX:
                raise Violation(f"continue_as_new() was given {len(command.payload)} bytes")
            start = instance.start
            seed = blake2b(start.seed, digest_size=16, salt=(instance.execution + 1).to_bytes(8, "big")).digest()
            return Continued(now_ms, start.workflow, start.commit, command.payload, seed)
        case Fail():
            return Failed(now_ms, command.error.bounded())
        case Undo():
            return Undoing(now_ms, command.error.bounded())
        case Undone():
            assert undoing is not None
            error = undoing.error
            if error is None:
                return Terminated(now_ms, undoing.by)
            if command.failed:
                names = ", ".join(command.failed[:20])
                message = f"{error.message} (and it could not be undone: {names})"
                error = ErrorFact(error.type, message, error.traceback, error.retryable, error.code).bounded()
            return Failed(now_ms, error)


def on_event(instance: Instance, *, id: str, type: str, payload: bytes, now_ms: int) -> Decided:
    """The entries that an event from outside makes; none if an event of this id is there already.

    Raises Conflict (`event_exists`) if that event had another type or payload.
    """
    known = instance.event_ids.get(id)
    if known is not None:
        if known != event_digest(type, payload):
            raise Conflict(
                f'an event with id "{id}" was sent before with another type or payload',
                code="event_exists",
                hint="Use a new id for a new event.",
            )
        return NOTHING
    _check_unread(instance, payload)
    number = instance.event_count + 1
    received = EventReceived(now_ms, id, type, payload, number)
    path = _taker(instance, received)
    return Decided((received,) if path is None else (received, WaitEnded(now_ms, path, number)))


def _check_unread(instance: Instance, payload: bytes) -> None:
    hint = "Send more when the instance has read some."
    if len(instance.unread) >= UNREAD_EVENTS_MAX:
        raise Refused(
            f"{len(instance.unread)} events wait to be read, the limit is {UNREAD_EVENTS_MAX}",
            code="limit_exceeded",
            hint=hint,
        )
    if instance.unread and instance.unread_bytes + len(payload) > UNREAD_BYTES_MAX:
        raise Refused(
            f"events of {instance.unread_bytes} bytes wait to be read, the limit is {UNREAD_BYTES_MAX}",
            code="limit_exceeded",
            hint=hint,
        )


def _taker(instance: Instance, event: EventReceived) -> str | None:
    """The path of the first wait that takes an event."""
    if not instance.waits:
        return None
    waits = ((path, wait.match) for path, wait in instance.waits.items() if wait.type == event.type)
    return matching.first_wait(waits, event.payload)


def on_clock(instance: Instance, now_ms: int) -> Decided:
    """Ends of the sleeps and waits that are due, in the order in which they fell due. Retries are not entries."""
    if instance.delayed_until_ms is not None:
        return Decided((StartDue(now_ms),)) if instance.delayed_until_ms <= now_ms else NOTHING
    due: list[tuple[int, int, AnyEntry]] = []
    for path, wake_at_ms in instance.sleeps.items():
        if wake_at_ms <= now_ms:
            due.append((wake_at_ms, len(due), SleepEnded(now_ms, path)))
    for path, wait in instance.waits.items():
        if wait.deadline_ms is not None and wait.deadline_ms <= now_ms:
            due.append((wait.deadline_ms, len(due), WaitEnded(now_ms, path, None)))
    return Decided(tuple(entry for _, _, entry in sorted(due, key=lambda item: item[:2])))


def due_retries(instance: Instance, now_ms: int) -> list[AttemptFailed]:
    """Retries whose time has come, in that order."""
    due = [failed for failed in instance.retries.values() if failed.retry_at_ms <= now_ms]
    return sorted(due, key=lambda failed: failed.retry_at_ms)


_OPENING = (StepBegun, StepError, Sleep, Wait, Child, GroupBegin, AcceptUpdate, Emit)
"""Commands after which there is more to look after."""


def _full(instance: Instance, command: Command, now_ms: int) -> Held | None:
    """Why there can be no more; None: there can."""
    if isinstance(command, Emit):
        if command.stream in instance.emitted or len(instance.emitted) < STREAMS_MAX:
            return None
        message = f"it has {len(instance.emitted)} output streams, the limit is {STREAMS_MAX}"
    elif instance.open_count < OPEN_MAX or (isinstance(command, StepError) and command.path in instance.executing):
        return None
    else:
        message = (
            f"{instance.open_count} steps, sleeps, waits, children, groups and updates have begun and not ended, "
            f"the limit is {OPEN_MAX}; step.map(…, concurrency=…) has fewer at once"
        )
    return Held(now_ms, "limit_exceeded", message, None, None)


def _check_call(command: StepDone | StepError | Sleep | Wait | Child | GroupBegin) -> None:
    if len(command.asked) != ASKED_BYTES or len(command.where) > WHERE_CHARS_MAX:
        raise Violation(f"a malformed command for {command.path[:80]!r}")
    if not 1 <= len(command.path) <= PATH_CHARS_MAX:
        raise Violation("a command with an empty or overlong path")


def _check_attempt(instance: Instance, command: StepDone | StepError) -> None:
    _check_call(command)
    if command.path in instance.settled or _is_other(instance, command.path):
        raise Violation(f"step {command.path} is already journaled")
    if command.attempt != instance.attempts.get(command.path, 0) + 1:
        raise Violation(f"step {command.path} reports attempt {command.attempt} out of order")


def _is_other(instance: Instance, path: str) -> bool:
    """Whether the path is one of something else than a step."""
    return path in instance.sleeps or path in instance.waits or path in instance.children


def _check_new(instance: Instance, command: Sleep | Wait | Child | GroupBegin) -> None:
    _check_call(command)
    path = command.path
    if (
        path in instance.settled
        or path in instance.retries
        or path in instance.attempts
        or path in instance.executing
        or _is_other(instance, path)
    ):
        raise Violation(f"{path} is already journaled")


def _failed_attempt(instance: Instance, command: StepError, now_ms: int) -> AttemptFailed | StepFailed:
    error: ErrorFact = command.error.bounded()
    started_at_ms = min(command.started_at_ms, now_ms)
    seed = instance.start.seed + command.path.encode()
    delay = retry.delay_ms(command.retry, command.attempt, seed=seed) if error.retryable else None
    if delay is None:
        return StepFailed(now_ms, command.path, command.asked, command.where, command.attempt, started_at_ms, error)
    return AttemptFailed(
        now_ms,
        command.path,
        command.asked,
        command.where,
        command.attempt,
        started_at_ms,
        error,
        now_ms + delay,
        command.retry.limit,
        _details(command),
        command.is_sensitive,
    )


def _details(command: StepError | Beat) -> bytes:
    if len(command.details) > DETAILS_BYTES_MAX:
        raise Violation(f"step {command.path} sent {len(command.details)} bytes of details")
    return command.details


def _step_begun(instance: Instance, command: StepBegun, now_ms: int) -> Decided:
    path = command.path
    if not 1 <= len(path) <= PATH_CHARS_MAX or len(command.where) > WHERE_CHARS_MAX:
        raise Violation("a step with an empty or overlong path began")
    known = instance.executing.get(path)
    if path in instance.settled or (known is not None and known.attempt >= command.attempt):
        return NOTHING
    if command.attempt != instance.attempts.get(path, 0) + 1 or _is_other(instance, path):
        raise Violation(f"step {path} begins attempt {command.attempt} out of order")
    at_ms = min(max(command.started_at_ms, instance.updated_at_ms), now_ms)
    return Decided((StepStarted(at_ms, path, command.where, command.attempt),))


def _beat(instance: Instance, command: Beat, now_ms: int) -> Decided:
    executing = instance.executing.get(command.path)
    if executing is None or executing.attempt != command.attempt:
        return NOTHING  # It ended in the meantime.
    return Decided((StepHeartbeat(now_ms, command.path, command.attempt, _details(command), command.is_sensitive),))


def _child(instance: Instance, command: Child, now_ms: int, id: str) -> ChildRequested:
    if len(command.payload) > VALUE_BYTES_MAX or len(command.workflow) > NAME_CHARS_MAX:
        raise Violation(f"child {command.path} has a payload of {len(command.payload)} bytes, or an overlong name")
    if command.id is not None and not ids.is_instance_id(command.id):
        raise Violation(f"child {command.path} has a bad id")
    if command.channel is not None and len(command.channel) > NAME_CHARS_MAX:
        raise Violation(f"child {command.path} names a bad channel")
    try:
        values.check(command.payload)  # the executor itself may have to look into it
    except Refused as refused:
        raise Violation(f"child {command.path} has a malformed payload: {refused.message}") from None
    return ChildRequested(
        now_ms,
        command.path,
        command.asked,
        command.where,
        command.id or ids.child_id(id, command.path, instance.execution),
        command.workflow,
        instance.start.commit if command.channel is None else None,
        command.channel,
        command.payload,
        command.close,
        command.is_awaited,
    )


def _shown(instance: Instance, command: SetStatus | SetAttributes | Emit, now_ms: int) -> Decided:
    """What the run shows to the outside."""
    match command:
        case SetStatus():
            if len(command.value) > STATUS_BYTES_MAX:
                raise Violation(f"a status of {len(command.value)} bytes")
            if command.number <= instance.status_number:
                return NOTHING
            return Decided((StatusSet(now_ms, command.number, command.value),))
        case SetAttributes():
            if command.number <= instance.attributes_number:
                return NOTHING
            return Decided((AttributesSet(now_ms, command.number, merged(instance, command.changes)),))
        case Emit():
            if len(command.stream) > STREAM_CHARS_MAX or not 1 <= len(command.items) <= EMIT_ITEMS_MAX:
                raise Violation("a malformed item of a stream")
            if any(len(item) > VALUE_BYTES_MAX for item in command.items):
                raise Violation(f"an item of a stream is over {VALUE_BYTES_MAX} bytes")
            if not command.path and command.number <= instance.emitted_number:
                return NOTHING
            first = instance.emitted.get(command.stream, 0)
            number = 0 if command.path else command.number
            emitted = Emitted(
                now_ms, command.stream, first, command.items, command.path[:PATH_CHARS_MAX], command.attempt, number
            )
            return Decided((emitted,))


def merged(instance: Instance, changes: bytes) -> bytes:
    """The instance's search attributes with these changes, which a run asks for. Raises Violation.

    As they were if there would be too many: the run cannot know of those that were set from outside.
    """
    if len(changes) > ATTRIBUTES_BYTES_MAX:
        raise Violation(f"changes of attributes of {len(changes)} bytes")
    try:
        found = values.decode(changes)
        if type(found) is not dict:
            raise Violation("changes of attributes that are no dict")
        attributes.merge(b"", found)
    except Refused as refused:
        raise Violation(refused.message) from None
    try:
        return attributes.merge(instance.attributes, found)
    except Refused:
        return instance.attributes


def _update(instance: Instance, command: AcceptUpdate | EndUpdate, now_ms: int) -> Decided:
    known = instance.updates.get(command.id)
    if isinstance(command, AcceptUpdate):
        if len(command.id) > NAME_CHARS_MAX or len(command.name) > NAME_CHARS_MAX:
            raise Violation("an update with an overlong name")
        if len(command.payload) > VALUE_BYTES_MAX:
            raise Violation(f"an update of {len(command.payload)} bytes")
        if known is not None or instance.undoing is not None:
            return NOTHING
        return Decided((UpdateAccepted(now_ms, command.id, command.name, command.payload),))
    if not isinstance(known, UpdateAccepted):
        return NOTHING
    if (command.value is None) == (command.error is None) or len(command.value or b"") > VALUE_BYTES_MAX:
        raise Violation(f"update {command.id[:80]} ended in a malformed way")
    error = None if command.error is None else command.error.bounded()
    return Decided((UpdateEnded(now_ms, command.id, command.value, error),))


def _sleep(command: Sleep, now_ms: int) -> tuple[AnyEntry, ...]:
    if (command.duration_ms is None) == (command.until_ms is None):
        raise Violation(f"sleep {command.path} names both or neither of duration and time")
    wake_at_ms = command.until_ms if command.until_ms is not None else now_ms + (command.duration_ms or 0)
    wake_at_ms = min(wake_at_ms, now_ms + SLEEP_MS_MAX)
    is_absolute = command.until_ms is not None and command.is_date
    started = SleepStarted(now_ms, command.path, command.asked, command.where, wake_at_ms, is_absolute)
    if wake_at_ms <= now_ms:
        return (started, SleepEnded(now_ms, command.path))
    return (started,)


def _wait(instance: Instance, command: Wait, now_ms: int) -> Decided:
    try:
        matching.wanted(command.match)
    except Refused as refused:
        raise Violation(f"wait {command.path} has a malformed match: {refused.message}") from None
    if len(command.type) > NAME_CHARS_MAX:
        raise Violation(f"wait {command.path} is for an event with an overlong type")
    if (held := _matches_too_much(instance, command, now_ms)) is not None:
        return Decided((held,))
    deadline_ms = None if command.timeout_ms is None else now_ms + min(command.timeout_ms, SLEEP_MS_MAX)
    started = WaitStarted(now_ms, command.path, command.asked, command.where, command.type, deadline_ms, command.match)
    unread = instance.unread
    events = ((number, unread[number].event.payload) for number in instance.buffered.get(command.type, ()))
    number, looked = matching.first(command.match, events)
    if number is None:
        return Decided((started,), looked=looked)
    return Decided((started, WaitEnded(now_ms, command.path, number)), looked=looked)


def _matches_too_much(instance: Instance, command: Wait, now_ms: int) -> Held | None:
    """An event is held against every open wait of its type, in one call."""
    if matching.is_small(command.match):
        return None
    total = len(command.match)
    total += sum(len(wait.match) for wait in instance.waits.values() if not matching.is_small(wait.match))
    if total <= MATCHES_BYTES_MAX:
        return None
    message = (
        f"its open waits with a match of more than {matching.SMALL_KEYS} keys or {matching.SMALL_BYTES} bytes have "
        f"{total} bytes of matches, the limit is {MATCHES_BYTES_MAX}; match by fewer keys, or wait for fewer at once"
    )
    return Held(now_ms, "limit_exceeded", message, None, None)


def after_restart(instance: Instance, *, now_ms: int) -> tuple[WaitEnded | Held, ...]:
    """What follows a Restarted entry at once: waits that stand again are given the events that were kept.

    It is held if there is more to look through than one call may cost.
    """
    left: dict[str, list[int]] = {}
    looked = 0
    ended: list[WaitEnded | Held] = []
    for path, wait in instance.waits.items():
        if looked > RESTART_LOOKED_BYTES_MAX:
            message = (
                f"the waits that stand again would have to look through more than {RESTART_LOOKED_BYTES_MAX} bytes of "
                "unread events; restart it from its first line"
            )
            return (*ended, Held(now_ms, "limit_exceeded", message, None, None))
        numbers = left.get(wait.type)
        if numbers is None:
            numbers = left[wait.type] = list(instance.buffered.get(wait.type, ()))
        number, cost = matching.first(wait.match, ((each, instance.unread[each].event.payload) for each in numbers))
        looked += cost
        if number is not None:
            numbers.remove(number)
            ended.append(WaitEnded(now_ms, path, number))
    return tuple(ended)


def _cancel(instance: Instance, command: Cancel, now_ms: int) -> tuple[AnyEntry, ...]:
    path = command.path
    if path in instance.sleeps or path in instance.waits or path in instance.retries:
        return (Cancelled(now_ms, path),)
    if path in instance.children or path in instance.executing:
        return (Cancelled(now_ms, path),)
    consumed = instance.consumed.get(path)
    if consumed is None:
        # It ended in the meantime: nothing to undo.
        return ()
    # A run gives up only waits whose event it never saw (the end may have come in the same batch as the entry that
    # made it give up): give the event back, to the next waiter if there is one.
    event = consumed.event
    other = _taker(instance, event)
    if other is not None:
        return (Cancelled(now_ms, path), WaitEnded(now_ms, other, event.number))
    return (Cancelled(now_ms, path),)
