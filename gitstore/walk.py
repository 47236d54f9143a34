"""Everything that a set of commits needs: one walk, each object once."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import pygit2
from pygit2.enums import FileMode

from .errors import Corrupt
from .libgit import GitObject, read_object


@dataclass(frozen=True, slots=True)
class Reached:
    """Full hex ids in the order found: tags and commits, then trees, then blobs."""

    commits: int
    objects: tuple[str, ...]


def reach(repository: pygit2.Repository, roots: Iterable[str], present: Collection[str]) -> Reached:
    """All objects reachable from `roots`. `present`: ids of all objects there are; blobs are only looked up in it.

    Raises Corrupt `object_missing` when one is absent or unreadable, so that nothing is ever removed on the strength
    of half a walk.
    """
    heads: dict[str, None] = {}
    commits = 0
    trees: dict[str, None] = {}
    blobs: dict[str, None] = {}
    queue: list[tuple[str, str]] = [(root, "a root") for root in sorted(set(roots), reverse=True)]
    while queue:
        oid, source = queue.pop()
        if oid in heads:
            continue
        found = _read(repository, oid, source)
        if isinstance(found, pygit2.Commit):
            heads[oid] = None
            commits += 1
            queue.extend((str(parent), f"commit {oid}") for parent in found.parent_ids)
            _trees(repository, str(found.tree_id), f"commit {oid}", trees, blobs)
        elif isinstance(found, pygit2.Tag):
            heads[oid] = None
            queue.append((str(found.target), f"tag {oid}"))
        elif isinstance(found, pygit2.Tree):
            _trees(repository, oid, source, trees, blobs)
        else:
            blobs[oid] = None
    for oid in blobs:
        if oid not in present:
            raise _missing(oid, "a tree")
    return Reached(commits, (*heads, *trees, *blobs))


def _trees(
    repository: pygit2.Repository, root: str, source: str, trees: dict[str, None], blobs: dict[str, None]
) -> None:
    queue = [(root, source)]
    while queue:
        oid, above = queue.pop()
        if oid in trees:
            continue
        tree = _read(repository, oid, above)
        if not isinstance(tree, pygit2.Tree):
            raise _missing(oid, above)
        trees[oid] = None
        for entry in tree:
            if entry.filemode == FileMode.TREE:
                queue.append((str(entry.id), f"tree {oid}"))
            elif entry.filemode != FileMode.COMMIT:  # a submodule's commit lives elsewhere
                blobs[str(entry.id)] = None


def _read(repository: pygit2.Repository, oid: str, source: str) -> GitObject:
    try:
        return read_object(repository, oid)
    except (KeyError, pygit2.GitError):
        raise _missing(oid, source) from None


def _missing(oid: str, source: str) -> Corrupt:
    return Corrupt(
        f"Object {oid}, named by {source}, is missing or unreadable.",
        code="object_missing",
        hint="Nothing was removed. Push its commit again, or restore the repository from a backup.",
        details={"oid": oid, "named_by": source},
    )
