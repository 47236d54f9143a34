"""Objects of a repository as they are stored: kinds, contents, the entries of trees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pygit2
from pygit2.enums import ObjectType

MODE_TREE, MODE_FILE, MODE_EXECUTABLE, MODE_LINK, MODE_SUBMODULE = b"40000", b"100644", b"100755", b"120000", b"160000"
# What git wrote before 2005-05; it means MODE_FILE, and old histories cannot be pushed without it.
_MODE_GROUP_WRITABLE = b"100664"
KIND_BY_MODE = {
    MODE_TREE: ObjectType.TREE,
    MODE_FILE: ObjectType.BLOB,
    MODE_EXECUTABLE: ObjectType.BLOB,
    MODE_LINK: ObjectType.BLOB,
    _MODE_GROUP_WRITABLE: ObjectType.BLOB,
}
KIND_NAMES = {ObjectType.COMMIT: "commit", ObjectType.TREE: "tree", ObjectType.BLOB: "file", ObjectType.TAG: "tag"}
KINDS = {b"commit": ObjectType.COMMIT, b"tree": ObjectType.TREE, b"blob": ObjectType.BLOB, b"tag": ObjectType.TAG}


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """One line of a tree object; `oid` is 20 raw bytes."""

    mode: bytes
    name: bytes
    oid: bytes


class Wrong(Exception):
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
            raise Wrong("the tree object ends in the middle of an entry")
        yield TreeEntry(content[position:space], content[space + 1 : zero], content[zero + 1 : zero + 21])
        position = zero + 21
