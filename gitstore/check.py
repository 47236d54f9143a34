"""Checks of every new object, connectivity, and the unfolding of trees under limits. Runs in a limited child only.

What must stay true of a repository whose pushes all passed here:
- it is closed: every id that an object names exists, and has the kind that the name says;
- no tree has an entry that leaves its folder, or means git's own folder, on any file system git clients use;
- no symbolic link of a tip leads outside its tree, and no tip unfolds beyond the limits.

Each new object is read once, so the work is linear in the push, whatever the history. What an old object names was
checked when it was new; an id proves nothing, being in *this* repository does.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pygit2
from pygit2.enums import ObjectType

from .errors import LimitExceeded, Refused
from .limits import Limits
from .shown import shown

MODE_TREE, MODE_FILE, MODE_EXECUTABLE, MODE_LINK, MODE_SUBMODULE = b"40000", b"100644", b"100755", b"120000", b"160000"
# What git wrote before 2005-05; it means MODE_FILE, and old histories cannot be pushed without it.
_MODE_GROUP_WRITABLE = b"100664"
_KIND_BY_MODE = {
    MODE_TREE: ObjectType.TREE,
    MODE_FILE: ObjectType.BLOB,
    MODE_EXECUTABLE: ObjectType.BLOB,
    MODE_LINK: ObjectType.BLOB,
    _MODE_GROUP_WRITABLE: ObjectType.BLOB,
}
_KIND_NAMES = {ObjectType.COMMIT: "commit", ObjectType.TREE: "tree", ObjectType.BLOB: "file", ObjectType.TAG: "tag"}
_KINDS = {b"commit": ObjectType.COMMIT, b"tree": ObjectType.TREE, b"blob": ObjectType.BLOB, b"tag": ObjectType.TAG}
_LINK_BYTES_MAX = 4095  # PATH_MAX without its NUL

_PERSON = re.compile(rb"[^<>\n\0]*<[^<>\n\0]*> [0-9]{1,12} [+-][0-9]{4}")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_SHORT_GIT = re.compile(rb"git~[0-9]+", re.IGNORECASE)
# Code points that HFS+ ignores when it compares names. Source: git, utf8.c, next_hfs_char.
_HFS_IGNORED = dict.fromkeys([*range(0x200C, 0x2010), *range(0x202A, 0x202F), *range(0x206A, 0x2070), 0xFEFF])


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """One line of a tree object; `oid` is 20 raw bytes."""

    mode: bytes
    name: bytes
    oid: bytes


@dataclass(frozen=True, slots=True)
class File:
    """A file of an unfolded tree; `path` in UTF-8, `oid` 20 raw bytes, `size` in bytes."""

    path: str
    mode: bytes
    oid: bytes
    size: int


class _Wrong(Exception):
    """Why an object is refused; `name` is the tree entry at fault, if there is one."""

    def __init__(self, why: str, *, name: bytes | None = None, hint: str | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.name = name
        self.hint = hint


class Objects:
    """The objects of a repository, or of a quarantine and its repository behind it."""

    def __init__(self, objects_path: Path) -> None:
        self._odb = pygit2.Odb(str(objects_path))

    def kind(self, oid: bytes) -> ObjectType | None:
        """None: there is no such object."""
        try:
            return ObjectType(self._odb.read_header(pygit2.Oid(raw=oid))[0])
        except KeyError:
            return None

    def size(self, oid: bytes) -> int:
        """Bytes of the object's content."""
        return int(self._odb.read_header(pygit2.Oid(raw=oid))[1])

    def read(self, oid: bytes) -> tuple[ObjectType, bytes]:
        kind, content = self._odb.read(pygit2.Oid(raw=oid))
        return ObjectType(kind), content

    def tree(self, oid: bytes) -> list[TreeEntry]:
        """The entries of a tree that has passed the checks."""
        return list(tree_entries(self.read(oid)[1]))

    def tree_of(self, oid: bytes) -> bytes | None:
        """The tree of a commit or tag (tags of tags followed); None for a tag of a file."""
        while True:
            kind, content = self.read(oid)
            if kind == ObjectType.TREE:
                return oid
            if kind == ObjectType.BLOB:
                return None
            # `tree <40 hex>` of a commit, `object <40 hex>` of a tag: the first line of a checked object.
            oid = bytes.fromhex(content[: content.index(b"\n")].split(b" ", 1)[1].decode())


def tree_entries(content: bytes) -> Iterator[TreeEntry]:
    """Split a tree object. Raises _Wrong where it is not one."""
    position, end = 0, len(content)
    while position < end:
        space = content.find(b" ", position, position + 8)
        zero = content.find(b"\0", space) if space >= 0 else -1
        if zero < 0 or zero + 21 > end:
            raise _Wrong("the tree object ends in the middle of an entry")
        yield TreeEntry(content[position:space], content[space + 1 : zero], content[zero + 1 : zero + 21])
        position = zero + 21


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
    if _CONTROL.search(name):
        return "a name may not contain control characters"
    if _means_git(name):
        return "the name means git's own folder on some file systems"
    return None


def _means_git(name: bytes) -> bool:
    """Whether Linux, Windows (short names, streams, trailing dots) or macOS (ignored characters) take it for `.git`."""
    # NTFS: `.git::$INDEX_ALLOCATION`, `.git `, `.git.` all open `.git`. Source: git, path.c, is_ntfs_dotgit.
    plain = name.split(b":", 1)[0].rstrip(b" .").lower()
    if plain == b".git" or _SHORT_GIT.fullmatch(plain):
        return True
    if name.isascii():
        return False
    text = name.decode(errors="replace").translate(_HFS_IGNORED)
    return unicodedata.normalize("NFKC", text).casefold().rstrip(" .") == ".git"


class ObjectChecks:
    """The checks of one push's new objects (20 raw bytes each), with what is behind them in `objects`."""

    def __init__(self, objects: Objects, new: Sequence[bytes], limits: Limits) -> None:
        self._objects = objects
        self._limits = limits
        self._new = dict.fromkeys(new, ObjectType.BLOB)
        self._known: dict[bytes, ObjectType | None] = {}
        self._links: set[bytes] = set()

    def run(self) -> None:
        """Check them all. Raises Refused `object_refused`, naming the path and why."""
        for oid in self._new:
            kind = self._objects.kind(oid)
            assert kind is not None, "the index lists only objects of the pack"
            self._new[oid] = kind
        checks = {ObjectType.COMMIT: self._commit, ObjectType.TREE: self._tree, ObjectType.TAG: self._tag}
        for oid, kind in self._new.items():
            check = checks.get(kind)
            if check is not None:
                try:
                    check(self._objects.read(oid)[1])
                except _Wrong as wrong:
                    self._refuse(oid, kind, wrong)

    def _named(self, oid: bytes, kind: ObjectType, *, name: bytes | None = None) -> None:
        """The object that is named must be new or in this repository, and of the kind that its place asks for."""
        found = self._new.get(oid)
        if found is None:
            if oid not in self._known:
                self._known[oid] = self._objects.kind(oid)
            found = self._known[oid]
        if found is None:
            raise _Wrong(
                f"the {_KIND_NAMES[kind]} {oid.hex()} is in neither the push nor this repository",
                name=name,
                hint="Run `git fsck`, then push again.",
            )
        if found != kind:
            raise _Wrong(f"{oid.hex()} is a {_KIND_NAMES[found]}, not a {_KIND_NAMES[kind]}", name=name)

    def _tree(self, content: bytes) -> None:
        seen: set[bytes] = set()
        previous = b""
        for entry in tree_entries(content):
            name = entry.name
            problem = name_problem(name, bytes_max=self._limits.name_bytes_max)
            if problem is not None:
                raise _Wrong(problem, name=name)
            if entry.mode == MODE_SUBMODULE:
                raise _Wrong(
                    "submodules are not supported",
                    name=name,
                    hint="Commit the files themselves, or name the library in a lock file.",
                )
            kind = _KIND_BY_MODE.get(entry.mode)
            if kind is None:
                raise _Wrong(f"a tree entry may not have the mode {shown(entry.mode)}", name=name)
            if name in seen:
                raise _Wrong("the name occurs twice in its folder", name=name)
            seen.add(name)
            key = name + b"/" if kind == ObjectType.TREE else name
            if key < previous:
                raise _Wrong("the entries of its folder are not sorted", name=name)
            previous = key
            self._named(entry.oid, kind, name=name)
            if entry.mode == MODE_LINK:
                if name.lower() == b".gitmodules":
                    raise _Wrong("this name may not be a symbolic link", name=name)
                self._link(entry)

    def _link(self, entry: TreeEntry) -> None:
        if entry.oid in self._links:
            return
        problem = link_problem(self._objects, entry.oid)
        if problem is not None:
            raise _Wrong(problem, name=entry.name, hint="Links may only lead to files of the same repository.")
        self._links.add(entry.oid)

    def _commit(self, content: bytes) -> None:
        lines = _header_lines(content)
        self._named(_id_line(lines, b"tree"), ObjectType.TREE)
        while lines and lines[-1].startswith(b"parent "):
            self._named(_id_line(lines, b"parent"), ObjectType.COMMIT)
        for role in (b"author", b"committer"):
            _person_line(lines, role)

    def _tag(self, content: bytes) -> None:
        lines = _header_lines(content)
        oid = _id_line(lines, b"object")
        kind = _KINDS.get(_line(lines, b"type"))
        if kind is None:
            raise _Wrong("its type line is malformed")
        self._named(oid, kind)
        if not _line(lines, b"tag"):
            raise _Wrong("its tag line is malformed")
        if lines and lines[-1].startswith(b"tagger "):  # the oldest tags have none
            _person_line(lines, b"tagger")

    def _refuse(self, oid: bytes, kind: ObjectType, wrong: _Wrong) -> NoReturn:
        if kind == ObjectType.TREE:
            folder, commit = self._path_of(oid)
            path = folder + (wrong.name if wrong.name is not None else b"")
            place = shown(path) or f"tree {oid.hex()}"
            within = f" (commit {commit.hex()[:10]})" if commit is not None else ""
        else:
            path, within = b"", ""
            place = f"{_KIND_NAMES[kind]} {oid.hex()}"
        raise Refused(
            f"{place}: {wrong.why}{within}.",
            code="object_refused",
            hint=wrong.hint,
            details={"object": oid.hex(), "path": path.decode(errors="backslashreplace")},
        )

    def _path_of(self, tree: bytes) -> tuple[bytes, bytes | None]:
        """The folder (with its slash) where a new commit holds `tree`, and that commit; only new trees are walked."""
        visited: set[bytes] = set()
        for commit, kind in self._new.items():
            if kind != ObjectType.COMMIT:
                continue
            try:
                todo = [(_id_line(_header_lines(self._objects.read(commit)[1]), b"tree"), b"")]
                while todo:
                    oid, folder = todo.pop()
                    if oid == tree:
                        return folder, commit
                    if oid in visited or self._new.get(oid) != ObjectType.TREE or len(folder) > 4096:
                        continue
                    visited.add(oid)
                    todo += [
                        (entry.oid, folder + entry.name + b"/")
                        for entry in self._objects.tree(oid)
                        if entry.mode == MODE_TREE
                    ]
            except _Wrong:  # another malformed object on the way; the search is only for the message
                continue
        return b"", None


def _header_lines(content: bytes) -> list[bytes]:
    """The header of a commit or tag, last line first, to be popped in order."""
    header, _, _ = content.partition(b"\n\n")
    if b"\0" in header:
        raise _Wrong("its header contains a NUL")
    return header.split(b"\n")[::-1]


def _line(lines: list[bytes], name: bytes) -> bytes:
    line = lines.pop() if lines else b""
    if not line.startswith(name + b" "):
        raise _Wrong(f"its {name.decode()} line is missing")
    return line[len(name) + 1 :]


def _id_line(lines: list[bytes], name: bytes) -> bytes:
    value = _line(lines, name)
    if re.fullmatch(rb"[0-9a-f]{40}", value) is None:
        raise _Wrong(f"its {name.decode()} line is malformed")
    return bytes.fromhex(value.decode())


def _person_line(lines: list[bytes], name: bytes) -> None:
    if _PERSON.fullmatch(_line(lines, name)) is None:
        raise _Wrong(f"its {name.decode()} line is malformed")


def link_problem(objects: Objects, oid: bytes) -> str | None:
    """Why a symbolic link with this target is refused wherever it is; None if that depends on its place, or never."""
    if objects.size(oid) > _LINK_BYTES_MAX:
        return f"a symbolic link may not be longer than {_LINK_BYTES_MAX} bytes"
    target = objects.read(oid)[1]
    if not target:
        return "the symbolic link is empty"
    if _CONTROL.search(target):
        return "the symbolic link contains control characters"
    if target.startswith(b"/") or b"\\" in target or re.match(rb"[A-Za-z]:", target):
        return f"the symbolic link leads outside the repository: {shown(target)}"
    parts = [part for part in target.split(b"/") if part not in (b"", b".")]
    if any(_means_git(part) for part in parts):
        return f"the symbolic link leads into git's own folder: {shown(target)}"
    # `name/..` is not `.` when name is itself a link, so going up is only allowed before going down.
    if b".." in parts[_climb(target) :]:
        return f"the symbolic link goes up after going down: {shown(target)}"
    return None


def _climb(target: bytes) -> int:
    """How many folders above its own a checked link leads."""
    count = 0
    for part in target.split(b"/"):
        if part == b"..":
            count += 1
        elif part not in (b"", b"."):
            break
    return count


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
                        self._climbs[entry.oid] = _climb(self._objects.read(entry.oid)[1])
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
                f"{name}: a branch must name a commit; {hex_oid} is a {_KIND_NAMES[kind]}.",
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
