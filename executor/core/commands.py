"""Commands: what a run asks the executor for, or reports to it. Each is answered by journal entries (`decide.py`)."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from executor.core.entries import StepRef
from executor.core.failure import ErrorFact

EMIT_ITEMS_MAX = 10_000
"""Items of one Emit."""
UNDONE_MAX = 100_000
"""Steps that one Undone may name."""


class RetryPolicy(msgspec.Struct, frozen=True, array_like=True):
    """`limit` retries after the first attempt; the delay before retry n is computed by `executor.core.retry`."""

    limit: int = 5
    delay_ms: int = 1_000
    backoff: Literal["constant", "linear", "exponential"] = "exponential"
    max_delay_ms: int = 3_600_000
    jitter: float = 0.1


class CommandBase(msgspec.Struct, frozen=True, array_like=True, tag_field="frame", gc=False):
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
    form: Literal["value", "sensitive", "stream"] = "value"


class StepError(CommandBase, frozen=True, tag=41):
    """An attempt failed; its facet writes are rolled back. The executor decides between retry and failure."""

    path: str
    asked: bytes
    where: str
    attempt: int
    started_at_ms: int
    error: ErrorFact
    retry: RetryPolicy
    details: bytes = b""
    is_sensitive: bool = False


class Sleep(CommandBase, frozen=True, tag=42):
    """Exactly one of `duration_ms` (counted from when the executor journals it) and `until_ms` is set. `is_date`: that
    is a date which somebody chose, not a duration that was added up."""

    path: str
    asked: bytes
    where: str
    duration_ms: int | None
    until_ms: int | None
    is_date: bool = False


class Wait(CommandBase, frozen=True, tag=43):
    path: str
    asked: bytes
    where: str
    type: str
    timeout_ms: int | None
    match: bytes = b""


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


class StepBegun(CommandBase, frozen=True, tag=48):
    """An attempt began. Sent along with what comes next; alone only if that takes a while."""

    path: str
    where: str
    attempt: int
    started_at_ms: int


class Beat(CommandBase, frozen=True, tag=49):
    """A heartbeat of an attempt, to be kept."""

    path: str
    attempt: int
    details: bytes
    is_sensitive: bool = False


class SetStatus(CommandBase, frozen=True, tag=50):
    """The run has set its status `number` times in this execution; this is the latest."""

    number: int
    value: bytes


class SetAttributes(CommandBase, frozen=True, tag=51):
    """As SetStatus. `changes`: an encoded dict; a value None takes the attribute away."""

    number: int
    changes: bytes


class Emit(CommandBase, frozen=True, tag=52):
    """Items for an output stream; see `entries.Emitted`."""

    stream: str
    items: Annotated[list[bytes], msgspec.Meta(max_length=EMIT_ITEMS_MAX)]
    path: str
    attempt: int
    number: int


class Child(CommandBase, frozen=True, tag=53):
    """Start a child. `channel` None: on the parent's commit. `id` None: the executor derives one from the step."""

    path: str
    asked: bytes
    where: str
    workflow: str
    payload: bytes
    channel: str | None
    id: str | None
    close: Literal["terminate", "abandon"]
    is_awaited: bool


class Continue(CommandBase, frozen=True, tag=54):
    """`run()` is to begin anew with this payload."""

    payload: bytes


class Undo(CommandBase, frozen=True, tag=55):
    """`run()` failed, and there are finished steps to undo first."""

    error: ErrorFact


class Undone(CommandBase, frozen=True, tag=56):
    """All is undone, but for the steps named in `failed`."""

    failed: Annotated[list[str], msgspec.Meta(max_length=UNDONE_MAX)]


class AcceptUpdate(CommandBase, frozen=True, tag=57):
    id: str
    name: str
    payload: bytes


class EndUpdate(CommandBase, frozen=True, tag=58):
    id: str
    value: bytes | None
    error: ErrorFact | None


class GroupBegin(CommandBase, frozen=True, tag=59):
    path: str
    asked: bytes
    where: str


class GroupEnd(CommandBase, frozen=True, tag=60):
    path: str


Command = (
    StepDone
    | StepError
    | Sleep
    | Wait
    | Cancel
    | Complete
    | Fail
    | Diverge
    | StepBegun
    | Beat
    | SetStatus
    | SetAttributes
    | Emit
    | Child
    | Continue
    | Undo
    | Undone
    | AcceptUpdate
    | EndUpdate
    | GroupBegin
    | GroupEnd
)
