"""Shown: what a run says to the outside: status, attributes, streams, and the updates that it takes."""

from __future__ import annotations

from executor.core import attributes, values
from executor.core.commands import EMIT_ITEMS_MAX, AcceptUpdate, Emit, EndUpdate, SetAttributes, SetStatus
from executor.core.decide.decided import NAME_CHARS_MAX, NOTHING, PATH_CHARS_MAX, VALUE_BYTES_MAX, Decided, Violation
from executor.core.entries import AttributesSet, Emitted, StatusSet, UpdateAccepted, UpdateEnded
from executor.core.errors import Refused
from executor.core.instance import Instance

STATUS_BYTES_MAX = 4 * 1024
STREAM_CHARS_MAX = 100
ATTRIBUTES_BYTES_MAX = 256 * 1024


def shown(instance: Instance, command: SetStatus | SetAttributes | Emit, now_ms: int) -> Decided:
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


def update(instance: Instance, command: AcceptUpdate | EndUpdate, now_ms: int) -> Decided:
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
