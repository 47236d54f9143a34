"""What to append: a command of a run, a message from outside or the clock, to journal entries.

Each function looks at an Instance and returns the entries that follow; it changes nothing. Commands come from a sandbox
and are hostile: one that no honest sandbox sends raises Violation, and the sandbox is ended.
"""

from __future__ import annotations

import msgspec

from executor.core import retry
from executor.core.commands import Cancel, Command, Complete, Diverge, Fail, Sleep, StepDone, StepError, Wait
from executor.core.entries import (
    AnyEntry,
    AttemptFailed,
    Cancelled,
    Completed,
    EventReceived,
    Failed,
    Held,
    SleepEnded,
    SleepStarted,
    StepFailed,
    StepSucceeded,
    WaitEnded,
    WaitStarted,
)
from executor.core.errors import Conflict
from executor.core.failure import ErrorFact
from executor.core.instance import Instance, event_digest

ASKED_BYTES = 16
PATH_CHARS_MAX = 1_024
WHERE_CHARS_MAX = 512
VALUE_BYTES_MAX = 1024 * 1024
SLEEP_MS_MAX = 100 * 366 * 24 * 3_600_000


class Violation(Exception):
    """The sandbox sent a command that no honest one sends."""


class Decided(msgspec.Struct, frozen=True):
    """Entries to append, in order, and the facet delta that rides with the first of them."""

    entries: tuple[AnyEntry, ...]
    delta: bytes | None = None


NOTHING = Decided(())


def on_command(instance: Instance, command: Command, *, now_ms: int) -> Decided:
    """The answer to one command of a run. Raises Violation."""
    if instance.outcome is not None or instance.held is not None:
        # The instance ended while the command was under way (a terminate from outside): it is too late.
        return NOTHING
    match command:
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
            )
            return Decided((succeeded,), command.delta)
        case StepError():
            _check_attempt(instance, command)
            return Decided((_failed_attempt(instance, command, now_ms),))
        case Sleep():
            _check_new(instance, command)
            return Decided(_sleep(command, now_ms))
        case Wait():
            _check_new(instance, command)
            return Decided(_wait(instance, command, now_ms))
        case Cancel():
            return Decided(_cancel(instance, command, now_ms))
        case Complete():
            if len(command.value) > VALUE_BYTES_MAX:
                raise Violation(f"run() returned {len(command.value)} bytes")
            return Decided((Completed(now_ms, command.value),))
        case Fail():
            return Decided((Failed(now_ms, command.error.bounded()),))
        case Diverge():
            held = Held(now_ms, "nondeterminism", command.message[:4096], command.recorded, command.requested)
            return Decided((held,))


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
    received = EventReceived(now_ms, id, type, payload)
    sequence = instance.sequence + 1
    for path, wait in instance.waits.items():
        if wait.type == type:
            return Decided((received, WaitEnded(now_ms, path, sequence)))
    return Decided((received,))


def on_clock(instance: Instance, now_ms: int) -> Decided:
    """Ends of the sleeps and waits that are due, in the order in which they fell due. Retries are not entries."""
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


def _check_call(command: StepDone | StepError | Sleep | Wait) -> None:
    if len(command.asked) != ASKED_BYTES or len(command.where) > WHERE_CHARS_MAX:
        raise Violation(f"a malformed command for {command.path[:80]!r}")
    if not 1 <= len(command.path) <= PATH_CHARS_MAX:
        raise Violation("a command with an empty or overlong path")


def _check_attempt(instance: Instance, command: StepDone | StepError) -> None:
    _check_call(command)
    if command.path in instance.settled or command.path in instance.sleeps or command.path in instance.waits:
        raise Violation(f"step {command.path} is already journaled")
    if command.attempt != instance.attempts.get(command.path, 0) + 1:
        raise Violation(f"step {command.path} reports attempt {command.attempt} out of order")


def _check_new(instance: Instance, command: Sleep | Wait) -> None:
    _check_call(command)
    path = command.path
    if (
        path in instance.settled
        or path in instance.sleeps
        or path in instance.waits
        or path in instance.retries
        or path in instance.attempts
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
    )


def _sleep(command: Sleep, now_ms: int) -> tuple[AnyEntry, ...]:
    if (command.duration_ms is None) == (command.until_ms is None):
        raise Violation(f"sleep {command.path} names both or neither of duration and time")
    wake_at_ms = command.until_ms if command.until_ms is not None else now_ms + (command.duration_ms or 0)
    wake_at_ms = min(wake_at_ms, now_ms + SLEEP_MS_MAX)
    started = SleepStarted(now_ms, command.path, command.asked, command.where, wake_at_ms)
    if wake_at_ms <= now_ms:
        return (started, SleepEnded(now_ms, command.path))
    return (started,)


def _wait(instance: Instance, command: Wait, now_ms: int) -> tuple[AnyEntry, ...]:
    deadline_ms = None if command.timeout_ms is None else now_ms + min(command.timeout_ms, SLEEP_MS_MAX)
    started = WaitStarted(now_ms, command.path, command.asked, command.where, command.type, deadline_ms)
    waiting = instance.buffered.get(command.type)
    if waiting:
        return (started, WaitEnded(now_ms, command.path, waiting[0]))
    return (started,)


def _cancel(instance: Instance, command: Cancel, now_ms: int) -> tuple[AnyEntry, ...]:
    path = command.path
    if path in instance.sleeps or path in instance.waits or path in instance.retries:
        return (Cancelled(now_ms, path),)
    consumed = instance.consumed.get(path)
    if consumed is None:
        # A sleep that ended in the meantime, or a step that was executing: nothing to undo.
        return ()
    # A run gives up only waits whose event it never saw (the end may have come in the same batch as the entry that
    # made it give up): give the event back, to the next waiter if there is one.
    event_type, event = consumed
    for other, wait in instance.waits.items():
        if wait.type == event_type:
            return (Cancelled(now_ms, path), WaitEnded(now_ms, other, event))
    return (Cancelled(now_ms, path),)
