"""Summary: the small part of an instance that lists and statuses show without reading its journal.

It rides in the instance's row with every record, so it must stay small: attempts are kept for the latest
`ATTEMPTS_SHOWN_MAX` steps that needed more than one, waits and executing steps for the first so many, and every text
is cut.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import islice
from operator import itemgetter
from typing import Literal

import msgspec

from executor.core.bounds import WARN_AT, Bounds
from executor.core.entries import AttemptFailed, ChildRequested, Continued, Failed, FlowLimit, WaitStarted
from executor.core.failure import ErrorFact
from executor.core.instance import Instance

ATTEMPTS_SHOWN_MAX = 20
WAITS_SHOWN_MAX = 20
EXECUTING_SHOWN_MAX = 20
MESSAGE_CHARS_MAX = 500
LARGE = 1024 * 1024
"""A journal of so many bytes counts where memory is shared out (engine/ballast.py)."""

WaitKind = Literal["start", "sleep", "event", "retry", "child", "paused", "held", "undo"]


class Wait(msgspec.Struct, frozen=True, array_like=True):
    """One thing that is waited for: its kind, its path ("": the instance as a whole), when it ends, and what its kind
    adds. `error`: the last one of a retry, why it is held, or what the undoing is for."""

    kind: WaitKind
    path: str
    until_ms: int | None
    type: str | None = None
    attempt: int | None = None
    limit: int | None = None
    error: str | None = None
    child: str | None = None
    by: str | None = None
    since_ms: int | None = None


class Executing(msgspec.Struct, frozen=True, array_like=True):
    """An attempt that was begun and has not reported."""

    path: str
    attempt: int
    since_ms: int


class Summary(msgspec.Struct, frozen=True, array_like=True):
    """`status`: the value that the run shows, encoded; b"": none. `parent`: instance and path of the step that started
    it. `priority`, `limits`: as it was started with, for the queue of the next life. `reads_from`: sequence from which
    on its journal is needed; `size`: the bytes of that, if it is LARGE."""

    waits: list[Wait] = []
    attempts: dict[str, int] = {}
    error: ErrorFact | None = None
    status: bytes = b""
    executing: list[Executing] = []
    warnings: list[str] = []
    parent: tuple[str, str] | None = None
    priority: int = 0
    limits: tuple[FlowLimit, ...] = ()
    reads_from: int = 1
    size: int = 0


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Summary)
_EMPTY = _encoder.encode(Summary())
DEFAULT = Bounds()


def encode(instance: Instance, bounds: Bounds = DEFAULT, *, journal_bytes: int = 0, size: int = 0) -> bytes:
    """The summary of an instance as bytes. `journal_bytes`: of its present execution; `size`: of all that is needed."""
    attempts = instance.retried
    started = instance.started
    if not (
        instance.sleeps
        or instance.waits
        or instance.retries
        or attempts
        or type(instance.outcome) is Failed
        or instance.executing
        or instance.children
        or instance.status
        or instance.held
        or instance.paused
        or instance.undoing
        or (started is not None and started.options is not None)
        or instance.begin_at > 1
        or size >= LARGE
        or instance.step_count >= bounds.steps * WARN_AT
        or instance.sequence >= bounds.journal_entries * WARN_AT
        or journal_bytes >= bounds.journal_bytes * WARN_AT
    ):
        return _EMPTY
    parent = None if started is None else instance.parent
    is_over = instance.outcome is not None
    shown = Summary(
        [] if is_over else _waits(instance)[:WAITS_SHOWN_MAX],
        dict(list(attempts.items())[-ATTEMPTS_SHOWN_MAX:]) if attempts else {},
        _error(instance),
        instance.status,
        [] if is_over else _executing(instance),
        [] if is_over else _warnings(instance, bounds, journal_bytes),
        None if parent is None else (parent.instance, parent.path),
        reads_from=instance.begin_at if isinstance(instance.begin, Continued) and instance.begin.carried else 1,
        size=size if size >= LARGE else 0,
    )
    if not is_over and started is not None and started.options is not None:
        options = started.options
        if options.priority or options.limits:
            shown = msgspec.structs.replace(shown, priority=options.priority, limits=options.limits)
    return _encoder.encode(shown)


def encode_error(error: ErrorFact, before: bytes) -> bytes:
    """The summary of an instance of which nothing but this is known. `before`: the one that it had."""
    return _encoder.encode(Summary(error=error, reads_from=reads_from(before), size=size_of(before)))


def turn_of(data: bytes) -> tuple[int, tuple[FlowLimit, ...]]:
    """What decides when the turn of an instance with this summary comes: priority and limits."""
    if not data or data == _EMPTY:
        return 0, ()
    found = decode(data)
    return found.priority, found.limits


def reads_from(data: bytes) -> int:
    """The sequence from which on the journal of an instance with this summary is needed."""
    return 1 if not data or data == _EMPTY else decode(data).reads_from


def size_of(data: bytes) -> int:
    """Bytes of the journal that an instance with this summary needs; 0: it is not LARGE."""
    return 0 if not data or data == _EMPTY else decode(data).size


def decode(data: bytes) -> Summary:
    """The summary that `encode` wrote; b"" is an empty one."""
    return _decoder.decode(data) if data else Summary()


def _error(instance: Instance) -> ErrorFact | None:
    if isinstance(instance.outcome, Failed):
        return instance.outcome.error
    if instance.held is not None and instance.outcome is None:
        return ErrorFact("Held", instance.held.message, "", False, instance.held.code)
    return None


def _waits(instance: Instance) -> list[Wait]:
    """What stops it as a whole comes first, then what ends first, then children in the order in which it asked."""
    foremost: list[Wait] = []
    if instance.held is not None:
        held = instance.held
        foremost.append(Wait("held", "", None, held.code, error=held.message[:MESSAGE_CHARS_MAX], since_ms=held.at_ms))
    if instance.paused is not None:
        foremost.append(Wait("paused", "", None, by=instance.paused.by or None, since_ms=instance.paused.at_ms))
    if instance.undoing is not None:
        undoing = instance.undoing
        why = None if undoing.error is None else _brief(undoing.error)
        foremost.append(Wait("undo", "", None, error=why, by=undoing.by or None, since_ms=undoing.at_ms))
    if instance.delayed_until_ms is not None:
        foremost.append(Wait("start", "", instance.delayed_until_ms))
    # There may be thousands, and this is done at each commit: what is not shown is not made.
    first = heapq.nsmallest(WAITS_SHOWN_MAX, _ends(instance), key=itemgetter(0, 1, 2))
    shown = [_shown(path, waits) for _, _, path, waits in first]
    children = islice(instance.awaiting.items(), WAITS_SHOWN_MAX - len(shown))
    return foremost + shown + [_shown(path, request) for path, request in children]


_Waits = int | WaitStarted | AttemptFailed | ChildRequested


def _ends(instance: Instance) -> Iterator[tuple[bool, int, str, _Waits]]:
    """Of all but children: by when it ends (whether never; when) and path: what tells of the wait."""
    for path, wake_at_ms in instance.sleeps.items():
        yield False, wake_at_ms, path, wake_at_ms
    for path, wait in instance.waits.items():
        yield wait.deadline_ms is None, wait.deadline_ms or 0, path, wait
    for path, failed in instance.retries.items():
        if path not in instance.executing:
            yield False, failed.retry_at_ms, path, failed


def _shown(path: str, waits: _Waits) -> Wait:
    match waits:
        case int():
            return Wait("sleep", path, waits)
        case WaitStarted():
            return Wait("event", path, waits.deadline_ms, waits.type)
        case AttemptFailed():
            error = _brief(waits.error)
            return Wait("retry", path, waits.retry_at_ms, None, waits.attempt, waits.limit, error)
        case ChildRequested():
            return Wait("child", path, None, waits.workflow, child=waits.child)


def _executing(instance: Instance) -> list[Executing]:
    shown = islice(instance.executing.values(), EXECUTING_SHOWN_MAX)
    return [Executing(step.path, step.attempt, step.at_ms) for step in shown]


def _brief(error: ErrorFact) -> str:
    return f"{error.type}: {error.message}"[:MESSAGE_CHARS_MAX]


def _warnings(instance: Instance, bounds: Bounds, journal_bytes: int) -> list[str]:
    """What will hold it before long: its owner can still act, by continue_as_new for instance."""
    found: list[str] = []
    for what, count, count_max in (
        ("steps", instance.step_count, bounds.steps),
        ("journal entries", instance.sequence - instance.begin_at, bounds.journal_entries),
        ("bytes of journal", journal_bytes, bounds.journal_bytes),
    ):
        if count >= count_max * WARN_AT:
            remedy = "self.continue_as_new(payload) begins another"
            found.append(f"this execution has {count} {what} of at most {count_max}; {remedy}")
    return found
