"""What people should know of a tree's files, though nothing is wrong: for the warnings of a deployment."""

from __future__ import annotations

from collections.abc import Mapping

from .meanings import Read
from .shown import shown

LOCK_FILES = ("requirements.txt", "pylock.toml")

LFS_HEAD = b"version https://git-lfs.github.com/spec/"


def notes_on(sizes: Mapping[str, int], read: Read, *, source_bytes_max: int) -> list[str]:
    """Lock files that nobody obeys, sources too large to compile, pointers without their files."""
    notes = [
        f"{path}: dependencies are not installed by this version of the platform"
        for path in LOCK_FILES
        if path in sizes
    ]
    large = [path for path, size in sizes.items() if path.endswith(".py") and size > source_bytes_max]
    notes += [f"{shown(path)}: too large to be compiled; it is kept as data" for path in large[:5]]
    # A pointer file of Git LFS is at most some hundred bytes long.
    pointers = [path for path, size in sorted(sizes.items()) if size < 1024 and read(path).startswith(LFS_HEAD)]
    if pointers:
        more = f" and {len(pointers) - 1} more" if len(pointers) > 1 else ""
        notes.append(f"{shown(pointers[0])}{more}: a Git LFS pointer; the file itself is not here")
    return notes
