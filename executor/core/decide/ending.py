"""Ending: how `run()` and the undoing after it end, and what comes too late then."""

from __future__ import annotations

from hashlib import blake2b

from executor.core.commands import (
    Child,
    Command,
    Complete,
    Continue,
    Diverge,
    Fail,
    GroupBegin,
    Sleep,
    StepBegun,
    StepDone,
    StepError,
    Undo,
    Undone,
    Wait,
)
from executor.core.decide.decided import (
    ASKED_BYTES,
    KIND_CHARS,
    PATH_CHARS_MAX,
    UNDO,
    VALUE_BYTES_MAX,
    WHERE_CHARS_MAX,
    Violation,
)
from executor.core.entries import AnyEntry, Completed, Continued, Failed, Held, StepRef, Terminated, Undoing
from executor.core.failure import ErrorFact
from executor.core.instance import Instance


def is_of_run(command: Command) -> bool:
    """Whether only `run()` itself, which is over, can have asked for it."""
    match command:
        case Complete() | Continue() | Fail() | Undo():
            return True
        case StepBegun() | StepDone() | StepError() | Sleep() | Wait() | Child() | GroupBegin():
            return not command.path.startswith(UNDO)
        case _:
            return False


def diverged(command: Diverge, now_ms: int) -> Held:
    sides = _side(command.recorded), _side(command.requested)
    return Held(now_ms, "nondeterminism", command.message[:4096], *sides)


def _side(ref: StepRef | None) -> StepRef | None:
    """One side of a mismatch, as far as an honest sandbox names it."""
    if ref is None:
        return None
    return StepRef(
        ref.kind[:KIND_CHARS], ref.path[:PATH_CHARS_MAX], ref.where[:WHERE_CHARS_MAX], ref.asked[:ASKED_BYTES]
    )


def ended(instance: Instance, command: Complete | Continue | Fail | Undo | Undone, now_ms: int) -> AnyEntry:
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
