"""Checks of every new object, and connectivity. Runs in a limited child only.

What must stay true of a repository whose pushes all passed here:
- it is closed: every id that an object names exists, and has the kind that the name says;
- no tree has an entry that leaves its folder, or means git's own folder, on any file system git clients use;
- no symbolic link of a tip leads outside its tree, and no tip unfolds beyond the limits (`unfold.py`).

Each new object is read once, so the work is linear in the push, whatever the history. What an old object names was
checked when it was new; an id proves nothing, being in *this* repository does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from pygit2.enums import ObjectType

from .entry_names import name_problem
from .errors import Refused
from .headers import header_lines, id_line, line_of, person_line
from .limits import Limits
from .links import link_problem
from .objects import (
    KIND_BY_MODE,
    KIND_NAMES,
    KINDS,
    MODE_LINK,
    MODE_SUBMODULE,
    MODE_TREE,
    Objects,
    TreeEntry,
    Wrong,
    tree_entries,
)
from .shown import shown


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
                except Wrong as wrong:
                    self._refuse(oid, kind, wrong)

    def _named(self, oid: bytes, kind: ObjectType, *, name: bytes | None = None) -> None:
        """The object that is named must be new or in this repository, and of the kind that its place asks for."""
        found = self._new.get(oid)
        if found is None:
            if oid not in self._known:
                self._known[oid] = self._objects.kind(oid)
            found = self._known[oid]
        if found is None:
            raise Wrong(
                f"the {KIND_NAMES[kind]} {oid.hex()} is in neither the push nor this repository",
                name=name,
                hint="Run `git fsck`, then push again.",
            )
        if found != kind:
            raise Wrong(f"{oid.hex()} is a {KIND_NAMES[found]}, not a {KIND_NAMES[kind]}", name=name)

    def _tree(self, content: bytes) -> None:
        seen: set[bytes] = set()
        previous = b""
        for entry in tree_entries(content):
            name = entry.name
            problem = name_problem(name, bytes_max=self._limits.name_bytes_max)
            if problem is not None:
                raise Wrong(problem, name=name)
            if entry.mode == MODE_SUBMODULE:
                raise Wrong(
                    "submodules are not supported",
                    name=name,
                    hint="Commit the files themselves, or name the library in a lock file.",
                )
            kind = KIND_BY_MODE.get(entry.mode)
            if kind is None:
                raise Wrong(f"a tree entry may not have the mode {shown(entry.mode)}", name=name)
            if name in seen:
                raise Wrong("the name occurs twice in its folder", name=name)
            seen.add(name)
            key = name + b"/" if kind == ObjectType.TREE else name
            if key < previous:
                raise Wrong("the entries of its folder are not sorted", name=name)
            previous = key
            self._named(entry.oid, kind, name=name)
            if entry.mode == MODE_LINK:
                if name.lower() == b".gitmodules":
                    raise Wrong("this name may not be a symbolic link", name=name)
                self._link(entry)

    def _link(self, entry: TreeEntry) -> None:
        if entry.oid in self._links:
            return
        problem = link_problem(self._objects, entry.oid)
        if problem is not None:
            raise Wrong(problem, name=entry.name, hint="Links may only lead to files of the same repository.")
        self._links.add(entry.oid)

    def _commit(self, content: bytes) -> None:
        lines = header_lines(content)
        self._named(id_line(lines, b"tree"), ObjectType.TREE)
        while lines and lines[-1].startswith(b"parent "):
            self._named(id_line(lines, b"parent"), ObjectType.COMMIT)
        for role in (b"author", b"committer"):
            person_line(lines, role)

    def _tag(self, content: bytes) -> None:
        lines = header_lines(content)
        oid = id_line(lines, b"object")
        kind = KINDS.get(line_of(lines, b"type"))
        if kind is None:
            raise Wrong("its type line is malformed")
        self._named(oid, kind)
        if not line_of(lines, b"tag"):
            raise Wrong("its tag line is malformed")
        if lines and lines[-1].startswith(b"tagger "):  # the oldest tags have none
            person_line(lines, b"tagger")

    def _refuse(self, oid: bytes, kind: ObjectType, wrong: Wrong) -> NoReturn:
        if kind == ObjectType.TREE:
            folder, commit = self._path_of(oid)
            path = folder + (wrong.name if wrong.name is not None else b"")
            place = shown(path) or f"tree {oid.hex()}"
            within = f" (commit {commit.hex()[:10]})" if commit is not None else ""
        else:
            path, within = b"", ""
            place = f"{KIND_NAMES[kind]} {oid.hex()}"
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
                todo = [(id_line(header_lines(self._objects.read(commit)[1]), b"tree"), b"")]
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
            except Wrong:  # another malformed object on the way; the search is only for the message
                continue
        return b"", None
