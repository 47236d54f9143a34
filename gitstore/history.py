"""Which commits and objects a fetch sends: walks over one tenant's repository, with shallow clients.

Everything is computed from ids that were checked to be reachable from refs, over objects that were checked when
they were pushed, so a walk is bounded by the size of the tenant's own repository.
Source: gitprotocol-pack, "Packfile Negotiation" and "Shallow clone"; git's shallow.c for what a depth means.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TypeAlias, cast

import pygit2

from .errors import Corrupt

__all__ = [
    "DEPTH_INFINITE",
    "Deepen",
    "Selection",
    "ShallowChange",
    "ancestors",
    "covered",
    "peel",
    "select",
    "shallow",
]

# The binding's stubs do not say that these are all of its Object.
GitObject: TypeAlias = pygit2.Commit | pygit2.Tree | pygit2.Blob | pygit2.Tag
# What `git fetch --unshallow` sends for "all of it".
DEPTH_INFINITE = 0x7FFFFFFF


@dataclass(frozen=True, slots=True)
class Deepen:
    """What a client asked about history: `depth` commits, only those `since` (seconds), or nothing (both None)."""

    depth: int | None = None
    since_s: int | None = None
    is_relative: bool = False

    @property
    def is_wanted(self) -> bool:
        return self.depth is not None or self.since_s is not None


@dataclass(frozen=True, slots=True)
class ShallowChange:
    """Commits whose parents the client will not have (`shallow`), and those it will get them for (`unshallow`)."""

    shallow: frozenset[str] = frozenset()
    unshallow: frozenset[str] = frozenset()


@dataclass(slots=True)
class Selection:
    """Ids of the objects of a pack, in the order they are written; each once."""

    objects: dict[str, None] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.objects)


def found(repository: pygit2.Repository, oid: str | pygit2.Oid) -> GitObject:
    """The object `oid`. Raises Corrupt if it is missing: what refs lead to was complete when it was pushed."""
    try:
        return cast("GitObject", repository[oid])
    except (KeyError, pygit2.GitError) as error:
        raise Corrupt(
            f"The object {oid} of this repository cannot be read.",
            code="object_missing",
            hint="Restore the repository from a backup.",
            details={"oid": str(oid)},
        ) from error


def _commit(repository: pygit2.Repository, oid: str) -> pygit2.Commit:
    commit = found(repository, oid)
    assert isinstance(commit, pygit2.Commit)
    return commit


def parents(repository: pygit2.Repository, oid: str) -> list[str]:
    return [str(parent) for parent in _commit(repository, oid).parent_ids]


def peel(repository: pygit2.Repository, oid: str) -> tuple[list[str], GitObject]:
    """The annotated tags from `oid` on (outermost first) and the object under them."""
    tags: list[str] = []
    target = found(repository, oid)
    while isinstance(target, pygit2.Tag):
        tags.append(str(target.id))
        target = found(repository, target.target)
    return tags, target


def ancestors(
    repository: pygit2.Repository,
    starts: Iterable[str],
    *,
    cut: AbstractSet[str] = frozenset(),
    stop: AbstractSet[str] = frozenset(),
) -> dict[str, None]:
    """`starts` and all before them, nearest first; not past commits in `cut`, not into commits in `stop`."""
    seen = dict.fromkeys(start for start in starts if start not in stop)
    queue = deque(seen)
    while queue:
        oid = queue.popleft()
        if oid in cut:
            continue
        for parent in parents(repository, oid):
            if parent not in seen and parent not in stop:
                seen[parent] = None
                queue.append(parent)
    return seen


def covered(repository: pygit2.Repository, wants: Iterable[str], common: AbstractSet[str]) -> bool:
    """Whether every commit of `wants` has a commit of `common` among its ancestors (or is one).

    One walk down to the common commits, then one up again along the edges seen: a walk for each want would let a
    client with many branches make this quadratic.
    """
    wanted = set(wants)
    seen = set(wanted)
    children: dict[str, list[str]] = {}
    queue = deque(wanted - common)
    while queue:
        oid = queue.popleft()
        for parent in parents(repository, oid):
            children.setdefault(parent, []).append(oid)
            if parent not in seen:
                seen.add(parent)
                if parent not in common:
                    queue.append(parent)
    good = seen & common
    queue = deque(good)
    while queue:
        fresh = [child for child in children.get(queue.popleft(), ()) if child not in good]
        good.update(fresh)
        queue.extend(fresh)
    return wanted <= good


def _boundary(
    repository: pygit2.Repository, starts: Iterable[str], inside: Callable[[str, int], bool]
) -> tuple[set[str], set[str]]:
    """Commits reached from `starts` with all their parents inside, and those with a parent left out."""
    level = list(dict.fromkeys(starts))
    seen = set(level)
    whole: set[str] = set()
    edge: set[str] = set()
    depth = 1
    while level:
        following: list[str] = []
        for oid in level:
            before = parents(repository, oid)
            if before and not all(inside(parent, depth + 1) for parent in before):
                edge.add(oid)
                continue
            whole.add(oid)
            fresh = [parent for parent in before if parent not in seen]
            seen.update(fresh)
            following += fresh
        level = following
        depth += 1
    return whole, edge


def shallow(
    repository: pygit2.Repository, wants: Collection[str], deepen: Deepen, client_shallow: AbstractSet[str]
) -> ShallowChange:
    """What changes at the client's edge of history when it fetches `wants` under `deepen`."""
    if not deepen.is_wanted:
        return ShallowChange()
    if deepen.since_s is not None:
        since_s = deepen.since_s
        whole, edge = _boundary(repository, wants, lambda oid, _: _commit(repository, oid).commit_time >= since_s)
    else:
        assert deepen.depth is not None
        depth, starts = deepen.depth, wants
        if deepen.is_relative and client_shallow:
            depth, starts = depth + 1, client_shallow
        limit = depth
        whole, edge = _boundary(repository, starts, lambda _, at: limit >= DEPTH_INFINITE or at <= limit)
    return ShallowChange(frozenset(edge), frozenset(client_shallow & whole))


def select(
    repository: pygit2.Repository,
    wants: Iterable[str],
    common: Iterable[str],
    *,
    change: ShallowChange,
    client_shallow: AbstractSet[str] = frozenset(),
    tags: Iterable[tuple[str, str]] = (),
) -> Selection:
    """The objects that make `wants` complete for a client that has `common`.

    `common`: commits. `tags`: (tag object, commit) pairs to add when the commit is sent (`include-tag`).
    Complete means: every object reachable from `wants`, up to the shallow edge the client then has.
    """
    selection = Selection()
    commits: list[str] = []
    others: list[GitObject] = []
    for want in wants:
        chain, target = peel(repository, want)
        selection.objects.update(dict.fromkeys(chain))
        if isinstance(target, pygit2.Commit):
            commits.append(str(target.id))
        else:
            others.append(target)
    common = list(common)
    has = ancestors(repository, common, cut=client_shallow)
    cut = change.shallow | (client_shallow - change.unshallow)
    # A client with a shallow edge may lack what lies behind commits it has, so the walk may not stop at them.
    walked = ancestors(repository, commits, cut=cut, stop=frozenset() if client_shallow else has.keys())
    sent = [oid for oid in walked if oid not in has]
    selection.objects.update(dict.fromkeys(sent))
    for tag, commit in tags:
        if commit in selection.objects:
            selection.objects[tag] = None
    known: set[str] = set()
    # Trees that the client has for sure: a few are enough to leave out nearly all that did not change.
    edge = set(common[:32]) | {
        parent for oid in sent if oid not in cut for parent in parents(repository, oid) if parent in has
    }
    for oid in edge:
        _collect(repository, _commit(repository, oid).tree_id, known, None)
    for oid in sent:
        _collect(repository, _commit(repository, oid).tree_id, known, selection.objects)
    for target in others:
        if isinstance(target, pygit2.Tree):
            _collect(repository, target.id, known, selection.objects)
        else:
            selection.objects[str(target.id)] = None
    return selection


def _collect(repository: pygit2.Repository, root: pygit2.Oid, known: set[str], into: dict[str, None] | None) -> None:
    """Add the tree `root` and everything below it that is not in `known` to `known` and, if given, to `into`."""
    stack = [root]
    while stack:
        oid = stack.pop()
        name = str(oid)
        if name in known:
            continue
        known.add(name)
        if into is not None:
            into[name] = None
        tree = found(repository, oid)
        assert isinstance(tree, pygit2.Tree)
        for entry in tree:
            if entry.filemode == pygit2.enums.FileMode.TREE:
                stack.append(entry.id)
                continue
            blob = str(entry.id)
            if blob not in known:
                known.add(blob)
                if into is not None:
                    into[blob] = None
