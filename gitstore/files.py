"""Code without a git client: files become a pack, and the pack goes the way of every push (`push.py`)."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping

import pygit2
from dulwich.objects import Blob, Commit, ObjectID, ShaFile, Tree

from . import history, pktline
from .errors import InvalidName, Refused, VersionNotFound
from .libgit import open_repository
from .names import DEFAULT_BRANCH, DEFAULT_CHANNEL, branch_ref
from .parts import Parts
from .push import Push, PushRequest
from .push_options import PushOptions
from .rows import Deployment, RefUpdate
from .shown import shown

__all__ = ["commit_files"]

_FILE = 0o100644
_FOLDER = 0o040000
# Paths of one tree: path → (mode, 40 hex digits).
_Entries = dict[bytes, tuple[int, ObjectID]]


def commit_files(
    parts: Parts,
    tenant: str,
    files: Mapping[str, bytes],
    *,
    message: str,
    who: str,
    branch: str = DEFAULT_BRANCH,
    replace: bool = True,
) -> Deployment:
    """Commit `files` (path → content) to `branch` and make a deployment of the commit. Durable on return.

    On the default branch channel `live` moves to it; on another branch no channel moves. `replace`: the tree is
    exactly `files`; otherwise they are laid over the branch's present tree. The parent is the branch's tip. The same
    tree as the tip's, while `live` is at that tip, changes nothing and returns the deployment there is; a tip that
    `live` has left (a rollback) gets a new commit and moves the channel again.
    Raises Refused (with `diagnostics` for sources that do not compile), Conflict `stale` (the branch moved
    meanwhile), TenantNotFound.
    """
    if not files:
        raise Refused("There are no files to deploy.", code="no_files", hint="Give at least workflows.py.")
    parts.database.tenant(tenant)
    ref = branch_ref(branch)
    found = parts.database.refs(tenant).get(ref)
    tip = found.decode() if found is not None else None
    objects: dict[bytes, ShaFile] = {}
    entries: _Entries = {}
    old_tree: str | None = None
    if tip is not None:
        repository = open_repository(parts.repository_path(tenant))
        old_commit = history.found(repository, tip)
        assert isinstance(old_commit, pygit2.Commit)
        old_tree = str(old_commit.tree_id)
        if not replace:
            entries = dict(_flat(repository, old_commit.tree_id, b""))
    for path, content in files.items():
        blob = Blob.from_string(bytes(content))
        objects[blob.id] = blob
        name = _path_bytes(path)
        mode = entries[name][0] if name in entries else _FILE
        entries[name] = (mode if mode in {_FILE, 0o100755} else _FILE, blob.id)
    tree = _tree(entries, objects)
    if tip is not None and tree.decode() == old_tree:
        present = _present(parts, tenant, tip, branch)
        if present is not None:
            return present
    commit = _commit(tree, tip, message=message, who=who, at_s=parts.now_ms() // 1000)
    objects[commit.id] = commit
    request = PushRequest(
        tenant,
        (RefUpdate(ref, tip, commit.id.decode()),),
        who=who,
        atomic=True,
        options=PushOptions(message=message),
        kind="deploy",
    )
    pack = io.BytesIO(b"".join(pktline.pack_stream(len(objects), _raw(objects))))
    with Push(parts, request) as running:
        running.receive(pack)
        result = running.finish()
    if result.error is not None:
        raise result.error
    assert result.deployment is not None, "an accepted commit_files deploys"
    return result.deployment


def _present(parts: Parts, tenant: str, tip: str, branch: str) -> Deployment | None:
    """The deployment of `tip`, if the channel that deploying again would move is there now."""
    if branch == DEFAULT_BRANCH:
        channel = parts.database.channel(tenant, DEFAULT_CHANNEL)
        if channel is None or channel.commit != tip:
            return None
    try:
        found = parts.database.deployment(tenant, tip)
    except VersionNotFound:
        return None
    return found if found.branch == branch else None


def _path_bytes(path: str) -> bytes:
    try:
        name = path.encode()
    except UnicodeEncodeError:
        raise _invalid(path, "it is not Unicode text") from None
    components = name.split(b"/")
    if not all(components):
        raise _invalid(path, "it is empty, absolute, or has an empty part")
    if b"." in components or b".." in components:
        raise _invalid(path, "'.' and '..' are not allowed")
    if b"\0" in name:
        raise _invalid(path, "it has a NUL character")
    return name


def _invalid(path: str, why: str) -> InvalidName:
    return InvalidName(
        f"{shown(path)!r} is no path of a file: {why}.",
        code="invalid_path",
        hint="Use relative paths with '/' between the parts.",
        details={"path": path},
    )


def _flat(
    repository: pygit2.Repository, tree: pygit2.Oid, prefix: bytes
) -> Iterator[tuple[bytes, tuple[int, ObjectID]]]:
    folder = history.found(repository, tree)
    assert isinstance(folder, pygit2.Tree)
    for entry in folder:
        assert entry.raw_name is not None
        path = prefix + entry.raw_name
        if entry.filemode == _FOLDER:
            yield from _flat(repository, entry.id, path + b"/")
        else:
            yield path, (int(entry.filemode), ObjectID(str(entry.id).encode()))


def _tree(entries: _Entries, objects: dict[bytes, ShaFile]) -> ObjectID:
    """Make the trees of `entries` bottom-up, add them to `objects`, and return the root's id."""
    folders: dict[bytes, Tree] = {b"": Tree()}
    for path in entries:
        for end in range(1, path.count(b"/") + 1):
            folder = b"/".join(path.split(b"/")[:end])
            if folder in entries:
                raise _invalid(path.decode(errors="replace"), f"{shown(folder)!r} is a file")
            folders.setdefault(folder, Tree())
    for path, (mode, oid) in entries.items():
        folder, _, name = path.rpartition(b"/")
        folders[folder].add(name, mode, oid)
    for folder in sorted(folders, key=lambda folder: folder.count(b"/") + bool(folder), reverse=True):
        tree = folders[folder]
        objects[tree.id] = tree
        if folder:
            above, _, name = folder.rpartition(b"/")
            folders[above].add(name, _FOLDER, tree.id)
    return folders[b""].id


def _commit(tree: ObjectID, parent: str | None, *, message: str, who: str, at_s: int) -> Commit:
    commit = Commit()
    commit.tree = tree
    commit.parents = [ObjectID(parent.encode())] if parent is not None else []
    name = "".join(c for c in who if c.isprintable() and c not in "<>").strip() or "perdure"
    commit.author = commit.committer = f"{name} <perdure@localhost>".encode()
    commit.author_time = commit.commit_time = at_s
    commit.author_timezone = commit.commit_timezone = 0
    commit.encoding = b"UTF-8"
    text = message.replace("\0", "").strip() or "deploy"
    commit.message = text.encode(errors="replace") + b"\n"
    return commit


def _raw(objects: Mapping[bytes, ShaFile]) -> Iterator[tuple[str, bytes]]:
    for found in objects.values():
        yield found.type_name.decode(), found.as_raw_string()
