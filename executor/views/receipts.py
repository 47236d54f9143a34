"""Answers to what an instance was told."""

from __future__ import annotations

from typing import Any

import msgspec


class UpdateReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to an update: what its handler returned. `is_duplicate`: one of this id had been accepted before, and
    this is the answer to that one."""

    id: str
    name: str
    value: Any
    is_duplicate: bool


class EventReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """`is_duplicate`: an event of this id was already there, and nothing changed."""

    id: str
    type: str
    is_duplicate: bool
