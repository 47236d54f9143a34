"""Symbolic links: where they may lead."""

from __future__ import annotations

import re

from .entry_names import CONTROL, means_git
from .objects import Objects
from .shown import shown

_LINK_BYTES_MAX = 4095  # PATH_MAX without its NUL


def link_problem(objects: Objects, oid: bytes) -> str | None:
    """Why a symbolic link with this target is refused wherever it is; None if that depends on its place, or never."""
    if objects.size(oid) > _LINK_BYTES_MAX:
        return f"a symbolic link may not be longer than {_LINK_BYTES_MAX} bytes"
    target = objects.read(oid)[1]
    if not target:
        return "the symbolic link is empty"
    if CONTROL.search(target):
        return "the symbolic link contains control characters"
    if target.startswith(b"/") or b"\\" in target or re.match(rb"[A-Za-z]:", target):
        return f"the symbolic link leads outside the repository: {shown(target)}"
    parts = [part for part in target.split(b"/") if part not in (b"", b".")]
    if any(means_git(part) for part in parts):
        return f"the symbolic link leads into git's own folder: {shown(target)}"
    # `name/..` is not `.` when name is itself a link, so going up is only allowed before going down.
    if b".." in parts[climb_of(target) :]:
        return f"the symbolic link goes up after going down: {shown(target)}"
    return None


def climb_of(target: bytes) -> int:
    """How many folders above its own a checked link leads."""
    count = 0
    for part in target.split(b"/"):
        if part == b"..":
            count += 1
        elif part not in (b"", b"."):
            break
    return count
