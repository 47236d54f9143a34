"""Matching: which events a wait takes. What both sides are made of is hostile: the form is checked before it is used,
and looking costs no more than a pass over the bytes for most events that do not fit."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from executor.core import values
from executor.core.bounds import MATCH_BYTES_MAX
from executor.core.errors import Refused

LOOK_BYTES = 64
"""What it costs to look at an event at all."""
SEARCH_SHARE = 32
"""A search costs that part of a decoding."""
SMALL_BYTES = 256
SMALL_KEYS = 3
_EXACT = frozenset({type(None), bool, int, str, bytes})
"""Types of which equal values have equal bytes."""


class Wanted:
    """What a payload must have: each key (dots reach into it) with an equal value of the same type."""

    __slots__ = ("_marks", "_places")

    def __init__(self, wanted: dict[str, Any]) -> None:
        self._places = [(key.split("."), (type(value), value)) for key, value in wanted.items()]
        self._marks: list[bytes] | None = None

    def may_fit(self, payload: bytes) -> bool:
        """False: it certainly does not. A key stands right before its value in the encoded form."""
        if self._marks is None:
            self._marks = [
                values.encode(keys[-1]) + (values.encode(value) if kind in _EXACT else b"")
                for keys, (kind, value) in self._places
            ]
        return all(mark in payload for mark in self._marks)

    def fits(self, found: Any) -> bool:
        """Whether a decoded payload has it all."""
        return all(_at(found, keys) == wanted for keys, wanted in self._places)


@lru_cache(maxsize=64)  # what is made of the largest takes half a MiB
def wanted(match: bytes) -> Wanted | None:
    """What an encoded match asks for; None (b""): any payload will do. Raises Refused for bytes that are none."""
    if not match:
        return None
    found = values.check(match, what="match", bytes_max=MATCH_BYTES_MAX)
    if type(found) is not dict:
        raise Refused("match is no dict", code="value_refused")
    return Wanted(found)


def matches(match: bytes, payload: bytes) -> bool:
    """Whether an event's payload has what a wait asks for."""
    asked = wanted(match)
    return asked is None or (asked.may_fit(payload) and asked.fits(_decoded(payload)))


def first(match: bytes, events: Iterable[tuple[int, bytes]]) -> tuple[int | None, int]:
    """The first of these events (number, payload) that fits, and what it cost to look, in bytes."""
    asked = wanted(match)
    cost = 0
    for number, payload in events:
        if asked is None:
            return number, cost
        cost += LOOK_BYTES + len(payload) // SEARCH_SHARE
        if asked.may_fit(payload):
            cost += len(payload)
            if asked.fits(_decoded(payload)):
                return number, cost
    return None, cost


def first_wait(waits: Iterable[tuple[str, bytes]], payload: bytes) -> str | None:
    """The path of the first of these waits (path, match) that takes the payload, which is decoded once at most."""
    found: Any = None
    is_decoded = False
    for path, match in waits:
        if not match:
            return path
        if not is_decoded:
            found, is_decoded = _decoded(payload), True
        asked = values.decode(match)  # as it was journaled, so it was checked
        if type(asked) is dict and _has_all(found, asked):
            return path
    return None


def is_small(match: bytes) -> bool:
    """Whether looking at it costs next to nothing: there may be thousands of these. Others have a common bound."""
    return not match or (len(match) <= SMALL_BYTES and 0x80 <= match[0] <= 0x80 + SMALL_KEYS)  # a map of so many keys


def _decoded(payload: bytes) -> Any:
    """None, which has no keys, for what cannot be read."""
    try:
        return values.decode(payload)
    except Refused:
        return None


def _has_all(found: Any, asked: dict[str, Any]) -> bool:
    """As `Wanted.fits`, for one look."""
    if type(found) is not dict:
        return not asked
    for key, value in asked.items():
        if "." in key:
            if _at(found, key.split(".")) != (type(value), value):
                return False
        elif key not in found or type(found[key]) is not type(value) or found[key] != value:
            return False
    return True


def _at(value: Any, keys: list[str]) -> tuple[type, Any] | None:
    """The value at a path of keys, with its type (1 is not True); None if there is none."""
    for key in keys:
        if type(value) is not dict or key not in value:
            return None
        value = value[key]
    return type(value), value
