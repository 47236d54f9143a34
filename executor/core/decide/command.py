"""Commands of a run, each to the entries that follow."""

from __future__ import annotations

from executor.core import ids, values
from executor.core.bounds import OPEN_MAX, STREAMS_MAX
from executor.core.commands import (
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
from executor.core.decide.decided import NAME_CHARS_MAX, NOTHING, VALUE_BYTES_MAX, Decided, Violation, check_new
from executor.core.decide.ending import diverged, ended, is_of_run
from executor.core.decide.shown import shown, update
from executor.core.decide.steps import beat, begun, failed, succeeded
from executor.core.decide.waits import cancel, sleep, wait
from executor.core.entries import ChildRequested, GroupEnded, GroupStarted, Held
from executor.core.errors import Refused
from executor.core.instance import Instance


def on_command(instance: Instance, command: Command, *, now_ms: int, id: str = "") -> Decided:
    """The answer to one command of a run; `id` is the instance's. Raises Violation."""
    if instance.outcome is not None or instance.held is not None:
        # The instance ended while the command was under way (a terminate from outside): it is too late.
        return NOTHING
    if instance.undoing is not None and is_of_run(command):
        # It crossed the end of `run()`: as if its process had died just before.
        return NOTHING
    if isinstance(command, _OPENING) and (held := _full(instance, command, now_ms)) is not None:
        return Decided((held,))
    match command:
        case StepBegun():
            return begun(instance, command, now_ms)
        case StepDone():
            return succeeded(instance, command, now_ms)
        case StepError():
            return failed(instance, command, now_ms)
        case Beat():
            return beat(instance, command, now_ms)
        case Sleep():
            check_new(instance, command)
            return Decided(sleep(command, now_ms))
        case Wait():
            check_new(instance, command)
            return wait(instance, command, now_ms)
        case Cancel():
            return Decided(cancel(instance, command, now_ms))
        case Child():
            check_new(instance, command)
            return Decided((_child(instance, command, now_ms, id),))
        case GroupBegin():
            check_new(instance, command)
            return Decided((GroupStarted(now_ms, command.path, command.asked, command.where),))
        case GroupEnd():
            return Decided((GroupEnded(now_ms, command.path),)) if command.path in instance.groups else NOTHING
        case SetStatus() | SetAttributes() | Emit():
            return shown(instance, command, now_ms)
        case AcceptUpdate() | EndUpdate():
            return update(instance, command, now_ms)
        case Complete() | Continue() | Fail() | Undo() | Undone():
            return Decided((ended(instance, command, now_ms),))
        case Diverge():
            return Decided((diverged(command, now_ms),))


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
