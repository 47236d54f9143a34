"""Frames of a sandbox in messages of bounded size."""

from __future__ import annotations

from collections.abc import Iterator

from executor.core.commands import Complete, Emit, StepBegun, StepDone
from executor.sandbox.protocol import CHUNK_BYTES, FromSandbox, Output, QueryAnswer, Turn

MESSAGE_WEIGHT_MAX = 6 * 1024 * 1024
"""Frames are gathered up to about this size; a message may hold FRAME_BYTES_MAX."""


def messages_of(frames: list[FromSandbox]) -> Iterator[list[FromSandbox]]:
    """`frames`, at least one, in order, in messages of bounded size."""
    message: list[FromSandbox] = []
    weight = 0
    for frame in frames:
        own = _weight(frame)
        if message and weight + own > MESSAGE_WEIGHT_MAX:
            yield message
            message, weight = [], 0
        message.append(frame)
        weight += own
    yield message


def _weight(frame: FromSandbox) -> int:
    if isinstance(frame, QueryAnswer):
        return MESSAGE_WEIGHT_MAX
    if not isinstance(frame, Turn):
        return 256 + len(frame.text) * 3 if isinstance(frame, Output) else 1024
    for command in frame.commands:
        if type(command) is StepBegun:
            continue  # with each step there is one
        if isinstance(command, Emit) and sum(map(len, command.items)) > CHUNK_BYTES // 8:
            return MESSAGE_WEIGHT_MAX // 2
        if isinstance(command, StepDone | Complete):
            size = len(command.value)
            if isinstance(command, StepDone) and command.delta is not None:
                size += len(command.delta)
            if size > CHUNK_BYTES // 8:
                return MESSAGE_WEIGHT_MAX // 2
    return 8192
