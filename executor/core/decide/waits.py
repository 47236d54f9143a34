"""Waits: sleeps, events and what is due; which wait is given which event."""

from __future__ import annotations

from executor.core import matching
from executor.core.bounds import MATCHES_BYTES_MAX, RESTART_LOOKED_BYTES_MAX, UNREAD_BYTES_MAX, UNREAD_EVENTS_MAX
from executor.core.commands import Cancel, Sleep, Wait
from executor.core.decide.decided import NAME_CHARS_MAX, NOTHING, Decided, Violation
from executor.core.entries import (
    AnyEntry,
    AttemptFailed,
    Cancelled,
    EventReceived,
    Held,
    SleepEnded,
    SleepStarted,
    StartDue,
    WaitEnded,
    WaitStarted,
)
from executor.core.errors import Conflict, Refused
from executor.core.instance import Instance, event_digest

SLEEP_MS_MAX = 100 * 366 * 24 * 3_600_000
FIRST_MS = -62_135_596_800_000
"""The year 1: no date is before it."""


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


def sleep(command: Sleep, now_ms: int) -> tuple[AnyEntry, ...]:
    if (command.duration_ms is None) == (command.until_ms is None):
        raise Violation(f"sleep {command.path} names both or neither of duration and time")
    wake_at_ms = command.until_ms if command.until_ms is not None else now_ms + (command.duration_ms or 0)
    wake_at_ms = max(FIRST_MS, min(wake_at_ms, now_ms + SLEEP_MS_MAX))
    is_absolute = command.until_ms is not None and command.is_date
    started = SleepStarted(now_ms, command.path, command.asked, command.where, wake_at_ms, is_absolute)
    if wake_at_ms <= now_ms:
        return (started, SleepEnded(now_ms, command.path))
    return (started,)


def wait(instance: Instance, command: Wait, now_ms: int) -> Decided:
    try:
        matching.wanted(command.match)
    except Refused as refused:
        raise Violation(f"wait {command.path} has a malformed match: {refused.message}") from None
    if len(command.type) > NAME_CHARS_MAX:
        raise Violation(f"wait {command.path} is for an event with an overlong type")
    if (held := _matches_too_much(instance, command, now_ms)) is not None:
        return Decided((held,))
    deadline_ms = None if command.timeout_ms is None else now_ms + max(0, min(command.timeout_ms, SLEEP_MS_MAX))
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


def cancel(instance: Instance, command: Cancel, now_ms: int) -> tuple[AnyEntry, ...]:
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
