"""Names that no tree entry may have: those that leave their folder, or mean git's own on some file system."""

from __future__ import annotations

import re
import unicodedata

CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_SHORT_GIT = re.compile(rb"git~[0-9]+", re.IGNORECASE)
# Code points that HFS+ ignores when it compares names. Source: git, utf8.c, next_hfs_char.
_HFS_IGNORED = dict.fromkeys([*range(0x200C, 0x2010), *range(0x202A, 0x202F), *range(0x206A, 0x2070), 0xFEFF])


def name_problem(name: bytes, *, bytes_max: int) -> str | None:
    """Why `name` may not be an entry of a tree; None if it may."""
    if not name:
        return "a tree entry has an empty name"
    if name in (b".", b".."):
        return f"a tree entry may not be named '{name.decode()}'"
    if len(name) > bytes_max:
        return f"the name is {len(name)} bytes long, {bytes_max} are allowed (name_bytes_max)"
    if b"/" in name or b"\\" in name:
        return "a name may not contain a slash or backslash"
    if CONTROL.search(name):
        return "a name may not contain control characters"
    if means_git(name):
        return "the name means git's own folder on some file systems"
    return None


def means_git(name: bytes) -> bool:
    """Whether Linux, Windows (short names, streams, trailing dots) or macOS (ignored characters) take it for `.git`."""
    # NTFS: `.git::$INDEX_ALLOCATION`, `.git `, `.git.` all open `.git`. Source: git, path.c, is_ntfs_dotgit.
    plain = name.split(b":", 1)[0].rstrip(b" .").lower()
    if plain == b".git" or _SHORT_GIT.fullmatch(plain):
        return True
    if name.isascii():
        return False
    text = name.decode(errors="replace").translate(_HFS_IGNORED)
    return unicodedata.normalize("NFKC", text).casefold().rstrip(" .") == ".git"
