"""Stores for tests of the rows: real commits made with libgit2, pushed through `Database.commit_push` directly."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pygit2

from gitstore import GitStore, Limits, mirror
from gitstore.libgit import open_repository
from gitstore.rows import NewDeployment, PushCommitted, RefUpdate, WorkflowFound

NOW_MS = 1_700_000_000_000
MAIN = b"refs/heads/main"


class Clock:
    """Milliseconds that move only when told."""

    def __init__(self) -> None:
        self.now_ms = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


def open_store(root: Path, limits: Limits | None = None, clock: Clock | None = None) -> GitStore:
    return GitStore.open(root, limits=limits, now_ms=clock or Clock())


def write_commit(
    store: GitStore,
    tenant: str,
    files: Mapping[str, bytes],
    *,
    parents: Sequence[str] = (),
    message: str = "change",
) -> str:
    """A commit as loose objects in the tenant's repository. `files`: path → content, folders by `/`."""
    repository = open_repository(store._parts.ensure_repository(tenant))
    try:
        tree = _write_tree(repository, files)
        author = pygit2.Signature("Kim", "kim@example.com", NOW_MS // 1000, 0)
        before = [pygit2.Oid(hex=one) for one in parents]
        return str(repository.create_commit(None, author, author, message, tree, before))
    finally:
        repository.free()  # a handle is part of a reference cycle, so its files stay open until some later collection


def _write_tree(repository: pygit2.Repository, files: Mapping[str, bytes]) -> pygit2.Oid:
    builder = repository.TreeBuilder()
    folders: dict[str, dict[str, bytes]] = {}
    for path, content in files.items():
        folder, slash, rest = path.partition("/")
        if slash:
            folders.setdefault(folder, {})[rest] = content
        else:
            builder.insert(path, repository.create_blob(content), pygit2.enums.FileMode.BLOB)
    for folder, inner in folders.items():
        builder.insert(folder, _write_tree(repository, inner), pygit2.enums.FileMode.TREE)
    return builder.write()


def new_deployment(commit: str, *, branch: str = "main", key: str | None = None) -> NewDeployment:
    found = WorkflowFound("Onboarding", "workflows.py", 3, "workflows")
    return NewDeployment(commit, "7" * 40, branch, (found,), ("slow",), key or (commit + "0" * 24))


def push(
    store: GitStore,
    tenant: str,
    new: str | None,
    *,
    ref: bytes = MAIN,
    deploy: bool = True,
    channel: str | None = "live",
    who: str = "kim",
    message: str = "",
    pins: Sequence[str] = (),
) -> PushCommitted:
    """Move one ref to `new` from wherever it is; deploy it if it is a branch."""
    found = store.refs(tenant).get(ref)
    result = store._parts.database.commit_push(
        tenant,
        [RefUpdate(ref, found.decode() if found else None, new)],
        atomic=False,
        deployment=new_deployment(new, branch=ref.decode().removeprefix("refs/heads/")) if deploy and new else None,
        channel=channel if deploy else None,
        who=who,
        message=message,
        pins=pins,
    )
    mirror.rewrite(store._parts, tenant)
    return result


def git(repository: Path, *arguments: str) -> str:
    """A real git, told about no configuration but the repository's own."""
    environment = {"PATH": "/usr/bin:/bin:/usr/local/bin", "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nonexistent"}
    done = subprocess.run(
        ["git", "-c", "safe.directory=*", "-C", str(repository), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
