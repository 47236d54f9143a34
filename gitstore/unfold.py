"""The unfolding of trees under limits: what a tip holds, and each of its files. Runs in a limited child only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pygit2.enums import ObjectType

from .errors import LimitExceeded, Refused
from .limits import Limits
from .links import climb_of
from .objects import KIND_NAMES, MODE_LINK, MODE_TREE, Objects, TreeEntry
from .shown import shown


@dataclass(frozen=True, slots=True)
class File:
    """A file of an unfolded tree; `path` in UTF-8, `oid` 20 raw bytes, `size` in bytes."""

    path: str
    mode: bytes
    oid: bytes
    size: int


@dataclass(slots=True)
class _Unfolded:
    """What a tree unfolds to. `climb` is how many levels above this tree some link in it leads, `climber` its path."""

    entries: int = 0
    size: int = 0
    depth: int = 1
    path_bytes: int = 0
    climb: int = 0
    climber: bytes = b""


class TreeSizes:
    """What trees unfold to, each distinct tree counted once: a 695-byte pack with 10^8 files costs nine look-ups."""

    def __init__(self, objects: Objects, limits: Limits) -> None:
        self._objects = objects
        self._limits = limits
        self._done: dict[bytes, _Unfolded] = {}
        self._climbs: dict[bytes, int] = {}

    def check(self, root: bytes, *, name: str) -> None:
        """Raises LimitExceeded, Refused `object_refused` if the tree `root` may not be unfolded; `name` says whose."""
        found = self._unfold(root)
        limits = self._limits
        bounds = (
            ("The number of files and folders in", "tree_files_max", limits.tree_files_max, found.entries),
            ("The size in bytes of all files in", "tree_bytes_max", limits.tree_bytes_max, found.size),
            ("The depth of folders in", "tree_depth_max", limits.tree_depth_max, found.depth),
            ("The length in bytes of the longest path in", "path_bytes_max", limits.path_bytes_max, found.path_bytes),
        )
        for what, limit, bound, value in bounds:
            if value > bound:
                raise LimitExceeded(f"{what} {name}", limit=limit, bound=bound, found=value)
        if found.climb > 0:
            raise Refused(
                f"{shown(found.climber)}: the symbolic link leads outside the repository ({name}).",
                code="object_refused",
                hint="Links may only lead to files of the same repository.",
                details={"path": found.climber.decode(errors="backslashreplace")},
            )

    def _unfold(self, root: bytes) -> _Unfolded:
        """Depth first with a stack of our own: the depth is the sender's choice."""
        stack: list[tuple[bytes, list[TreeEntry] | None]] = [(root, None)]
        # No tree can hold itself (its id would have to be known before it exists), so this ends.
        while stack:
            oid, entries = stack.pop()
            if oid in self._done:
                continue
            if entries is None:
                entries = self._objects.tree(oid)
                missing = [e.oid for e in entries if e.mode == MODE_TREE and e.oid not in self._done]
                if missing:
                    stack.append((oid, entries))
                    stack += [(child, None) for child in dict.fromkeys(missing)]
                    continue
            self._done[oid] = self._sum(entries)
        return self._done[root]

    def _sum(self, entries: Iterable[TreeEntry]) -> _Unfolded:
        total = _Unfolded()
        for entry in entries:
            total.entries += 1
            length = len(entry.name)
            climb, climber = 0, entry.name
            if entry.mode == MODE_TREE:
                sub = self._done[entry.oid]
                total.entries += sub.entries
                total.size += sub.size
                total.depth = max(total.depth, sub.depth + 1)
                length += 1 + sub.path_bytes
                climb, climber = sub.climb - 1, entry.name + b"/" + sub.climber[:4096]
            else:
                total.size += self._objects.size(entry.oid)
                if entry.mode == MODE_LINK:
                    if entry.oid not in self._climbs:
                        self._climbs[entry.oid] = climb_of(self._objects.read(entry.oid)[1])
                    climb = self._climbs[entry.oid]
            total.path_bytes = max(total.path_bytes, length)
            if climb > total.climb:
                total.climb, total.climber = climb, climber
        return total


def check_tips(objects: Objects, tips: Sequence[tuple[bytes, str]], limits: Limits) -> None:
    """Each tip (ref, 40 hex) exists; branches name commits; what it unfolds to is within limits. Raises Refused."""
    sizes = TreeSizes(objects, limits)
    for ref, hex_oid in tips:
        oid = bytes.fromhex(hex_oid)
        kind = objects.kind(oid)
        name = shown(ref)
        if kind is None:
            raise Refused(
                f"{name}: the object {hex_oid} is in neither the push nor this repository.",
                code="object_missing",
                hint="Push again; if it stays, run `git fsck`.",
                details={"ref": name, "object": hex_oid},
            )
        if ref.startswith(b"refs/heads/") and kind != ObjectType.COMMIT:
            raise Refused(
                f"{name}: a branch must name a commit; {hex_oid} is a {KIND_NAMES[kind]}.",
                code="object_refused",
                details={"ref": name, "object": hex_oid},
            )
        tree = objects.tree_of(oid)
        if tree is not None:
            sizes.check(tree, name=name)


def unfold(objects: Objects, root: bytes, limits: Limits, *, name: str) -> list[File]:
    """All files of a tree (links included), sorted by path.

    Raises as `TreeSizes.check`, and Refused for a path that is not UTF-8. The order is that of the paths' bytes, for
    everybody who makes something from it that must be the same each time.
    """
    TreeSizes(objects, limits).check(root, name=name)
    files: list[File] = []
    todo = [(root, "")]
    while todo:
        oid, folder = todo.pop()
        for entry in objects.tree(oid):
            try:
                path = folder + entry.name.decode()
            except UnicodeDecodeError:
                raise Refused(
                    f"{shown(folder)}{shown(entry.name)}: the name is not UTF-8 ({name}).",
                    code="object_refused",
                    hint="Rename the file.",
                    details={"path": folder + shown(entry.name)},
                ) from None
            if entry.mode == MODE_TREE:
                todo.append((entry.oid, path + "/"))
            else:
                files.append(File(path, entry.mode, entry.oid, objects.size(entry.oid)))
    files.sort(key=lambda file: file.path.encode())
    return files
