"""Names and their parsers. Tenants' names belong to the code store; what else callers name is parsed here."""

from __future__ import annotations

import re
from base64 import b32encode
from hashlib import blake2b
from typing import NewType

from executor.core.errors import Refused

TenantName = NewType("TenantName", str)
InstanceId = NewType("InstanceId", str)
EventId = NewType("EventId", str)
EventType = NewType("EventType", str)

INSTANCE_ID_CHARS_MAX = 100
EVENT_NAME_CHARS_MAX = 100
_CHILD_DIGEST_CHARS = 26

_INSTANCE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@+-]{0,99}")
_EVENT_NAME = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,100}")


def parse_instance_id(text: object) -> InstanceId:
    """Letters, digits and `_ . : @ + -`, at most 100, not beginning with a punctuation mark other than `_`."""
    if isinstance(text, str) and _INSTANCE_ID.fullmatch(text):
        return InstanceId(text)
    raise Refused(
        f"{_shown(text)} is not an instance id",
        code="invalid_name",
        hint="Use 1 to 100 letters, digits and _ . : @ + -, beginning with a letter, a digit or _.",
    )


def is_instance_id(text: str) -> bool:
    """Whether `parse_instance_id` takes it."""
    return _INSTANCE_ID.fullmatch(text) is not None


def child_id(parent: str, path: str, execution: int) -> InstanceId:
    """The id of the child that step `path` of `parent` starts in that execution; the same whenever it is asked for.

    It begins like the parent's, as far as there is room, so that a tree is read off a listing; what tells it from every
    other is the digest of all three, 130 bits of it.
    """
    # Lengths first: no two different triples are the same text.
    whole = f"{len(parent)}:{parent}{len(path)}:{path}{execution}".encode()
    digest = b32encode(blake2b(whole, digest_size=17).digest()).decode("ascii").lower()[:_CHILD_DIGEST_CHARS]
    return InstanceId(f"{parent[: INSTANCE_ID_CHARS_MAX - _CHILD_DIGEST_CHARS - 1]}.{digest}")


def parse_event_type(text: object) -> EventType:
    """1 to 100 characters, no control characters."""
    if isinstance(text, str) and _EVENT_NAME.fullmatch(text):
        return EventType(text)
    raise Refused(
        f"{_shown(text)} is not an event type", code="invalid_name", hint="Use 1 to 100 printable characters."
    )


def parse_update_id(text: object) -> str:
    """As an instance id: it becomes part of the paths of the handler's steps."""
    if isinstance(text, str) and _INSTANCE_ID.fullmatch(text):
        return text
    raise Refused(
        f"{_shown(text)} is not an update id",
        code="invalid_name",
        hint="Use 1 to 100 letters, digits and _ . : @ + -, beginning with a letter, a digit or _.",
    )


def parse_event_id(text: object) -> EventId:
    """1 to 100 characters, no control characters."""
    if isinstance(text, str) and _EVENT_NAME.fullmatch(text):
        return EventId(text)
    raise Refused(f"{_shown(text)} is not an event id", code="invalid_name", hint="Use 1 to 100 printable characters.")


def _shown(text: object) -> str:
    shown = repr(text)
    return shown if len(shown) <= 80 else shown[:77] + "..."
