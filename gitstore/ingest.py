"""Quarantine for an incoming pack. (Signatures first; the body follows within the hour.)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol


@dataclass(frozen=True, slots=True)
class NewTip:
    """A ref that the push wants to point at `oid` (40 hex digits); `ref` is the full name, `refs/heads/…` or `refs/tags/…`."""

    ref: bytes
    oid: str


class Quarantine(Protocol):
    """One push's objects, invisible to everyone else until `publish()`. Use as a context manager: leaving discards."""

    objects_path: Path
    pack_bytes: int
    object_count: int

    def add_pack(self, body: BinaryIO) -> None:
        """Read exactly one pack from `body`, scanning while spooling; stops reading at the trailer. Raises Refused."""

    def check(self, new_tips: Sequence[NewTip]) -> None:
        """Index and check in a limited child: every new object, connectivity, every tip's tree. Raises Refused.

        May be called without `add_pack` (a ref set to a commit that the repository has already).
        """

    def publish(self) -> None:
        """Make the checked objects part of the repository. Durable on return. Nothing to do without new objects."""

    def discard(self) -> None:
        """Remove the quarantine. Safe to call twice, and after `publish()`."""

    def __enter__(self) -> Quarantine: ...
    def __exit__(self, *args: object) -> None: ...


def start(parts: object, tenant: str) -> Quarantine:
    """Begin a push: the repository is made if this is its first."""
    raise NotImplementedError


def sweep(parts: object) -> int:
    """Remove quarantines and half-made bundles that a crash left behind; returns how many. Called at open."""
    raise NotImplementedError
