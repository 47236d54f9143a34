"""Steps: the beginnings, ends and heartbeats of their attempts."""

from __future__ import annotations

from executor.core import retry
from executor.core.commands import Beat, StepBegun, StepDone, StepError
from executor.core.decide.decided import (
    NOTHING,
    PATH_CHARS_MAX,
    VALUE_BYTES_MAX,
    WHERE_CHARS_MAX,
    Decided,
    Violation,
    check_call,
    is_other,
)
from executor.core.entries import AttemptFailed, StepFailed, StepHeartbeat, StepStarted, StepSucceeded
from executor.core.failure import ErrorFact
from executor.core.instance import Instance

DETAILS_BYTES_MAX = 64 * 1024


def succeeded(instance: Instance, command: StepDone, now_ms: int) -> Decided:
    _check_attempt(instance, command)
    if len(command.value) > VALUE_BYTES_MAX:
        raise Violation(f"step {command.path} returned {len(command.value)} bytes")
    succeeded = StepSucceeded(
        now_ms,
        command.path,
        command.asked,
        command.where,
        command.attempt,
        _at(command.started_at_ms, now_ms),
        command.value,
        command.form,
    )
    return Decided((succeeded,), command.delta)


def failed(instance: Instance, command: StepError, now_ms: int) -> Decided:
    _check_attempt(instance, command)
    return Decided((_failed_attempt(instance, command, now_ms),))


def _at(told_ms: int, now_ms: int) -> int:
    """A time that a sandbox tells of."""
    return max(0, min(told_ms, now_ms))


def _check_attempt(instance: Instance, command: StepDone | StepError) -> None:
    check_call(command)
    if command.path in instance.settled or is_other(instance, command.path):
        raise Violation(f"step {command.path} is already journaled")
    if command.attempt != instance.attempts.get(command.path, 0) + 1:
        raise Violation(f"step {command.path} reports attempt {command.attempt} out of order")


def _failed_attempt(instance: Instance, command: StepError, now_ms: int) -> AttemptFailed | StepFailed:
    error: ErrorFact = command.error.bounded()
    started_at_ms = _at(command.started_at_ms, now_ms)
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


def begun(instance: Instance, command: StepBegun, now_ms: int) -> Decided:
    path = command.path
    if not 1 <= len(path) <= PATH_CHARS_MAX or len(command.where) > WHERE_CHARS_MAX:
        raise Violation("a step with an empty or overlong path began")
    known = instance.executing.get(path)
    if path in instance.settled or (known is not None and known.attempt >= command.attempt):
        return NOTHING
    if command.attempt != instance.attempts.get(path, 0) + 1 or is_other(instance, path):
        raise Violation(f"step {path} begins attempt {command.attempt} out of order")
    at_ms = min(max(command.started_at_ms, instance.updated_at_ms), now_ms)
    return Decided((StepStarted(at_ms, path, command.where, command.attempt),))


def beat(instance: Instance, command: Beat, now_ms: int) -> Decided:
    executing = instance.executing.get(command.path)
    if executing is None or executing.attempt != command.attempt:
        return NOTHING  # It ended in the meantime.
    return Decided((StepHeartbeat(now_ms, command.path, command.attempt, _details(command), command.is_sensitive),))
