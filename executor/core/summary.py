"""Summary: the small part of an instance that lists and statuses show without reading its journal.

It rides in the instance's row with every record, so it must stay small: attempts are kept for the latest
`ATTEMPTS_SHOWN_MAX` steps that needed more than one.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from executor.core.entries import Failed
from executor.core.failure import ErrorFact
from executor.core.instance import Instance

ATTEMPTS_SHOWN_MAX = 20
WAITS_SHOWN_MAX = 20
MESSAGE_CHARS_MAX = 500


class Wait(msgspec.Struct, frozen=True, array_like=True):
    """One wait: its kind, its path, when it ends, and what its kind adds."""

    kind: Literal["sleep", "event", "retry"]
    path: str
    until_ms: int | None
    type: str | None = None
    attempt: int | None = None
    limit: int | None = None
    error: str | None = None


class Summary(msgspec.Struct, frozen=True, array_like=True):
    waits: list[Wait] = []
    attempts: dict[str, int] = {}
    error: ErrorFact | None = None


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Summary)
_EMPTY = _encoder.encode(Summary())


def encode(instance: Instance) -> bytes:
    """The summary of an instance as bytes."""
    attempts = instance.retried
    if not (instance.sleeps or instance.waits or instance.retries or attempts or instance.outcome or instance.held):
        return _EMPTY
    error = _error(instance)
    waits = [] if instance.outcome is not None else _waits(instance)
    if not (waits or attempts or error):
        return _EMPTY
    shown = dict(list(attempts.items())[-ATTEMPTS_SHOWN_MAX:])
    return _encoder.encode(Summary(waits[:WAITS_SHOWN_MAX], shown, error))


def encode_error(error: ErrorFact) -> bytes:
    """The summary of an instance of which nothing but this is known."""
    return _encoder.encode(Summary(error=error))


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
    waits = [Wait("sleep", path, wake_at_ms) for path, wake_at_ms in instance.sleeps.items()]
    waits.extend(Wait("event", path, wait.deadline_ms, wait.type) for path, wait in instance.waits.items())
    waits.extend(
        Wait(
            "retry",
            path,
            failed.retry_at_ms,
            None,
            failed.attempt,
            failed.limit,
            f"{failed.error.type}: {failed.error.message}"[:MESSAGE_CHARS_MAX],
        )
        for path, failed in instance.retries.items()
    )
    return sorted(waits, key=lambda wait: (wait.until_ms is None, wait.until_ms or 0, wait.path))
