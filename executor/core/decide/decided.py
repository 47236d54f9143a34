"""Decided: what follows from a command, and what every command has to keep to. Commands are hostile."""

from __future__ import annotations

import msgspec

from executor.core.commands import Child, GroupBegin, Sleep, StepDone, StepError, Wait
from executor.core.entries import AnyEntry
from executor.core.instance import Instance

ASKED_BYTES = 16
PATH_CHARS_MAX = 1_024
WHERE_CHARS_MAX = 512
KIND_CHARS = 16
VALUE_BYTES_MAX = 1024 * 1024
NAME_CHARS_MAX = 256
UNDO = "undo/"
"""Scope of the steps that undo others."""


class Violation(Exception):
    """The sandbox sent a command that no honest one sends."""


class Decided(msgspec.Struct, frozen=True, gc=False):
    """Entries to append, in order, and the facet delta that rides with the first of them. `looked`: bytes of unread
    events that had to be looked through."""

    entries: tuple[AnyEntry, ...]
    delta: bytes | None = None
    looked: int = 0


NOTHING = Decided(())


def check_call(command: StepDone | StepError | Sleep | Wait | Child | GroupBegin) -> None:
    if len(command.asked) != ASKED_BYTES or len(command.where) > WHERE_CHARS_MAX:
        raise Violation(f"a malformed command for {command.path[:80]!r}")
    if not 1 <= len(command.path) <= PATH_CHARS_MAX:
        raise Violation("a command with an empty or overlong path")


def check_new(instance: Instance, command: Sleep | Wait | Child | GroupBegin) -> None:
    check_call(command)
    path = command.path
    if (
        path in instance.settled
        or path in instance.retries
        or path in instance.attempts
        or path in instance.executing
        or is_other(instance, path)
    ):
        raise Violation(f"{path} is already journaled")


def is_other(instance: Instance, path: str) -> bool:
    """Whether the path is one of something else than a step."""
    return path in instance.sleeps or path in instance.waits or path in instance.children
