"""Commands: what a run asks the executor for, or reports to it. Each is answered by journal entries (`decide.py`)."""

from __future__ import annotations

from typing import Literal

import msgspec

from executor.core.entries import StepRef
from executor.core.failure import ErrorFact


class RetryPolicy(msgspec.Struct, frozen=True, array_like=True):
    """`limit` retries after the first attempt; the delay before retry n is computed by `executor.core.retry`."""

    limit: int = 5
    delay_ms: int = 1_000
    backoff: Literal["constant", "linear", "exponential"] = "exponential"
    max_delay_ms: int = 3_600_000
    jitter: float = 0.1


class CommandBase(msgspec.Struct, frozen=True, array_like=True, tag_field="frame"):
    """Base of all commands."""


class StepDone(CommandBase, frozen=True, tag=40):
    """An attempt succeeded. `delta` is what it wrote to the facet (None: nothing)."""

    path: str
    asked: bytes
    where: str
    attempt: int
    started_at_ms: int
    value: bytes
    delta: bytes | None = None


class StepError(CommandBase, frozen=True, tag=41):
    """An attempt failed; its facet writes are rolled back. The executor decides between retry and failure."""

    path: str
    asked: bytes
    where: str
    attempt: int
    started_at_ms: int
    error: ErrorFact
    retry: RetryPolicy


class Sleep(CommandBase, frozen=True, tag=42):
    """Exactly one of `duration_ms` (counted from when the executor journals it) and `until_ms` is set."""

    path: str
    asked: bytes
    where: str
    duration_ms: int | None
    until_ms: int | None


class Wait(CommandBase, frozen=True, tag=43):
    path: str
    asked: bytes
    where: str
    type: str
    timeout_ms: int | None


class Cancel(CommandBase, frozen=True, tag=44):
    """The run gave up a sleep, wait or retry that it asked for earlier."""

    path: str


class Complete(CommandBase, frozen=True, tag=45):
    value: bytes


class Fail(CommandBase, frozen=True, tag=46):
    error: ErrorFact


class Diverge(CommandBase, frozen=True, tag=47):
    """The journal records something that the run did not ask for (or asks differently)."""

    message: str
    recorded: StepRef | None
    requested: StepRef | None


Command = StepDone | StepError | Sleep | Wait | Cancel | Complete | Fail | Diverge
