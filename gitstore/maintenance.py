"""Garbage collection and verification of one tenant's repository, safe beside readers.

What must stay true:
- Nothing is removed before everything that is kept sits in a new pack, checked and on disk. A crash leaves both
  packs, and the next collection finishes the work.
- The tenant's lock is held throughout: pushes wait before their last check, and look at the objects again when
  they see that a collection ran (`parts.TenantLock`).
- Readers never notice: a handle that still has the old pack open reads on, one that misses it looks again and finds
  the new one. Source: 38 repacks under readers by id, no error in 950k reads (libgit2, dulwich, git).
- If any object that should be kept cannot be read, nothing at all is removed.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pygit2

from . import incoming, mirror
from .durable import sync
from .errors import Corrupt, Unavailable
from .libgit import open_repository
from .names import bundle_path, bundles_root, is_bundle, parse_commit, trash_root
from .parts import Parts
from .repository import Repositories
from .rows import GarbageReport
from .walk import reach

_HEX = frozenset("0123456789abcdef")


@dataclass(slots=True)
class _Swept:
    objects_kept: int = 0
    commits_kept: int = 0
    objects_removed: int = 0
    packs_removed: int = 0
    leftovers_removed: int = 0
    bytes_before: int = 0
    bytes_after: int = 0


def collect_garbage(parts: Parts, repositories: Repositories, tenant: str, *, keep: Collection[str]) -> GarbageReport:
    """Remove what neither refs, channel history, pins nor `keep` (full commit ids) need, and leave one pack.

    A repository without garbage, loose objects or too many packs is left as it is. Also removes quarantines and
    temporary files older than `leftover_age_s`, and bundles of versions that are not kept by name.
    Raises Corrupt `object_missing` (nothing was removed), Unavailable (disk full), TenantNotFound, InvalidName.
    """
    extra = {parse_commit(commit) for commit in keep}
    with _disk_errors(tenant), parts.removing, parts.lock(tenant) as lock:
        if mirror.problems(parts, tenant):
            mirror.rewrite(parts, tenant)
        content = parts.database.mirror_content(tenant)
        roots = {oid.decode() for oid in content.refs.values()} | content.kept | extra
        path = parts.repository_path(tenant)
        swept = _Swept()
        if (path / "HEAD").exists():
            lock.collections += 1
            swept.bytes_before = _objects_bytes(path)
            _collect_objects(path, roots, parts.limits.pack_count_max, swept)
            repositories.forget(tenant)  # its handle holds the old packs open
            swept.leftovers_removed = remove_leftovers(path, parts.limits.leftover_age_s)
            swept.bytes_after = _objects_bytes(path)
        elif roots:
            raise Corrupt(
                f"The repository of tenant {tenant!r} is missing.",
                code="object_missing",
                hint="Restore it from a backup.",
            )
        removed: list[str] = []
        parts.database.forget_bundles(tenant, keep=roots, remove_bundle=bundle_remover(parts, removed))
    return GarbageReport(
        commits_kept=swept.commits_kept,
        objects_kept=swept.objects_kept,
        objects_removed=swept.objects_removed,
        packs_removed=swept.packs_removed,
        leftovers_removed=swept.leftovers_removed,
        bundles_removed=len(removed),
        bytes_before=swept.bytes_before,
        bytes_after=swept.bytes_after,
    )


def verify(parts: Parts, tenant: str) -> list[str]:
    """Problems of a tenant in words, none if sound: rows, mirror, and every object that is kept, read and hashed."""
    problems = parts.database.check()
    with parts.lock(tenant):
        problems += mirror.problems(parts, tenant)
        content = parts.database.mirror_content(tenant)
        path = parts.repository_path(tenant)
        if not (path / "HEAD").exists():
            return problems
        repository = open_repository(path)
        try:
            odb = repository.odb
            present = {str(oid) for oid in odb}
            roots = {oid.decode() for oid in content.refs.values()} | content.kept
            try:
                reached = reach(repository, roots, present)
            except Corrupt as error:
                return [*problems, error.message]
            for oid in reached.objects:
                try:
                    odb.read(oid)  # libgit2 hashes what it reads and compares
                except (KeyError, pygit2.GitError) as error:
                    problems.append(f"object {oid} cannot be read: {error}")
        finally:
            repository.free()
    return problems


def delete_tenant(parts: Parts, repositories: Repositories, tenant: str) -> None:
    """Remove a tenant: rows first (from then on it does not exist), then bundles of its own, then its repository.

    A crash in between leaves a repository without a row, which `sweep` removes at the next open and
    `discard_repository` before the name is used again. Raises TenantNotFound.
    """
    with parts.removing, parts.lock(tenant):
        parts.database.delete_tenant(tenant, remove_bundle=bundle_remover(parts, []))
        repositories.forget(tenant)
        discard_repository(parts, tenant)


def discard_repository(parts: Parts, tenant: str) -> None:
    """Take the repository of this name, if there is one, out of sight in one move, then remove it."""
    path = parts.repository_path(tenant)
    if not path.exists():
        return
    target = trash_root(parts.root) / f"{path.name}.{os.urandom(6).hex()}"
    with _disk_errors(tenant):
        path.rename(target)
        sync(path.parent)
    shutil.rmtree(target, ignore_errors=True)  # what resists goes at the next open


def sweep(parts: Parts) -> int:
    """Remove what crashes left: trash, quarantines, repositories without a tenant, bundles half made or named by no
    row. Returns how many. Called at open, when nobody else uses the store.
    """
    removed = 0
    for path in trash_root(parts.root).iterdir():
        shutil.rmtree(path, ignore_errors=True)
        removed += 1
    known = {row.name for row in parts.database.tenants()}
    for path in (parts.root / "repositories").iterdir():
        if path.suffix == ".git" and path.stem not in known:
            discard_repository(parts, path.stem)
            removed += 1
    removed += incoming.sweep(parts)
    orphans: list[str] = []
    for path in bundles_root(parts.root).iterdir():
        if is_bundle(path.name):
            orphans.append(path.stem)
        else:
            path.unlink()
            removed += 1
    gone: list[str] = []
    parts.database.remove_unused_bundles(orphans, bundle_remover(parts, gone))
    return removed + len(gone)


def bundle_remover(parts: Parts, removed: list[str]) -> _BundleRemover:
    """For `Database`: deletes a bundle's file, and notes its key in `removed`."""
    return _BundleRemover(parts.root, removed)


@dataclass(frozen=True, slots=True)
class _BundleRemover:
    root: Path
    removed: list[str]

    def __call__(self, key: str) -> None:
        path = bundle_path(self.root, key)
        if path.exists():
            path.unlink(missing_ok=True)
            self.removed.append(key)


def remove_leftovers(repository: Path, age_s: int) -> int:
    """Remove quarantines without an owner, and half-made packs and other temporary files that nobody has touched for
    `age_s`; say how many there were.
    """
    pack = repository / "objects" / "pack"
    candidates = [
        *(path for path in pack.iterdir() if path.name.startswith(("tmp_", ".tmp"))),
        # Of a pack without an index: git and this program write the index last and remove it first.
        *(path for path in pack.glob("pack-*") if not path.with_suffix(".idx").exists() and path.suffix != ".keep"),
        *repository.glob(".*.tmp"),
    ]
    oldest_kept_s = time.time() - age_s
    stale = [path for path in candidates if path.lstat().st_mtime < oldest_kept_s]
    for path in stale:
        path.unlink()
    quarantines = (repository / "objects").glob(f"{incoming.INCOMING_PREFIX}*")
    return len(stale) + sum(incoming.remove_if_abandoned(folder) for folder in quarantines)


def _collect_objects(path: Path, roots: Collection[str], pack_count_max: int, swept: _Swept) -> None:
    packs = [idx for idx in (path / "objects" / "pack").glob("pack-*.idx") if not idx.with_suffix(".keep").exists()]
    loose = list(_loose(path))
    repository = open_repository(path)
    try:
        present = {str(oid) for oid in repository.odb}
        reached = reach(repository, roots, present)
        swept.commits_kept, swept.objects_kept = reached.commits, len(reached.objects)
        swept.objects_removed = len(present) - len(reached.objects)
        if not swept.objects_removed and not loose and len(packs) <= pack_count_max:
            return
        new = _write_pack(repository, path, reached.objects)
    finally:
        repository.free()
    # Indexes of what is about to go: git would trust them. All are made again by whoever wants them.
    for stale in ("pack/multi-pack-index", "info/commit-graph", "info/packs"):
        (path / "objects" / stale).unlink(missing_ok=True)
    shutil.rmtree(path / "objects" / "info" / "commit-graphs", ignore_errors=True)
    for idx in packs:
        if idx.stem != new:
            # The index first: a pack without one is nothing, an index without its pack is an error.
            for file in (idx, *(other for other in idx.parent.glob(f"{idx.stem}.*") if other != idx)):
                file.unlink(missing_ok=True)
            swept.packs_removed += 1
    for file in loose:
        file.unlink(missing_ok=True)
    for folder in {file.parent for file in loose}:
        if not any(folder.iterdir()):
            folder.rmdir()


def _write_pack(repository: pygit2.Repository, path: Path, objects: Collection[str]) -> str | None:
    """One new pack of exactly `objects`, durable and visible on return: its name, or None for no objects."""
    if not objects:
        return None
    folder = path / "objects" / f"{incoming.INCOMING_PREFIX}gc-{os.urandom(6).hex()}"
    (folder / "pack").mkdir(parents=True)
    try:
        builder = pygit2.PackBuilder(repository)
        builder.set_threads(1)
        for oid in objects:
            builder.add(pygit2.Oid(hex=oid))
        builder.write(str(folder / "pack"))
        (idx,) = (folder / "pack").glob("pack-*.idx")
        # libgit2 made the index by hashing what it wrote, so equal ids are equal contents.
        if {str(oid) for oid in pygit2.Odb(str(folder))} != set(objects):
            raise Corrupt(f"The new pack of {path} lacks objects; nothing was removed.", code="object_missing")
        for file in (idx.with_suffix(".pack"), idx):
            sync(file)
            file.rename(path / "objects" / "pack" / file.name)
        sync(path / "objects" / "pack")
        return idx.stem
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _loose(path: Path) -> Iterator[Path]:
    for folder in (path / "objects").iterdir():
        if len(folder.name) == 2 and _HEX.issuperset(folder.name):
            yield from (file for file in folder.iterdir() if len(file.name) == 38 and _HEX.issuperset(file.name))


def _objects_bytes(path: Path) -> int:
    packs = (file for file in (path / "objects" / "pack").iterdir() if file.is_file())
    return sum(file.stat().st_size for file in (*packs, *_loose(path)))


@contextmanager
def _disk_errors(tenant: str) -> Iterator[None]:
    """What the disk or libgit2 could not do, as Unavailable. Everything here can simply be tried again."""
    try:
        yield
    except (OSError, pygit2.GitError) as error:
        raise Unavailable(
            f"The repository of tenant {tenant!r} cannot be worked on: {error}.",
            code="storage_failed",
            hint="Nothing that is kept was removed. Look at the disk, then try again.",
            details={"tenant": tenant},
        ) from error
