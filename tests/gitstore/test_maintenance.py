"""Garbage collection keeps what it must, removes the rest, and is safe at every instant; deletion of tenants; sweeping."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pygit2
import pytest

from gitstore import Corrupt, GitStore, InvalidName, Limits, TenantNotFound, Unavailable, VersionNotFound, maintenance
from gitstore.libgit import open_repository
from gitstore.names import bundle_path
from tests.gitstore.stores import git, open_store, push, write_commit

TENANT = "acme"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[GitStore]:
    with open_store(tmp_path / "git", Limits(channel_history_kept=2, pack_count_max=3)) as store:
        store.create_tenant(TENANT)
        yield store


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "git" / "repositories" / "acme.git"


def has(store: GitStore, commit: str) -> bool:
    return store.repository(TENANT).has_commit(commit)


def one(store: GitStore, text: str, *parents: str) -> str:
    return write_commit(store, TENANT, {"x": text.encode(), "folder/y": text.encode()}, parents=parents)


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# -- what is kept ----------------------------------------------------------------------------------------------------


def test_branches_tags_history_pins_and_keep_are_kept_and_the_rest_goes(store: GitStore, repository: Path) -> None:
    root = one(store, "root")
    branch = one(store, "branch", root)
    tagged, pinned, kept = (one(store, text) for text in ("tagged", "pinned", "kept"))
    gone = write_commit(store, TENANT, {"x": os.urandom(20_000)})
    history = [one(store, f"version {number}") for number in range(5)]
    for commit in history:
        push(store, TENANT, commit)
    push(store, TENANT, branch, ref=b"refs/heads/side", deploy=False)
    handle = open_repository(repository)
    who = pygit2.Signature("Kim", "kim@example.com", 0, 0)
    tag = str(handle.create_tag("v1", pygit2.Oid(hex=tagged), pygit2.enums.ObjectType.COMMIT, who, "annotated"))
    push(store, TENANT, tag, ref=b"refs/tags/v1", deploy=False)
    store.pin(TENANT, pinned, reason="audit")

    report = store.collect_garbage(TENANT, keep=[kept])

    # Two moves of history: to 4 from 3, to 3 from 2.
    kept_commits = [root, branch, tagged, pinned, kept, *history[2:]]
    assert [has(store, commit) for commit in kept_commits] == [True] * 8
    assert [has(store, commit) for commit in (gone, *history[:2])] == [False] * 3
    for commit in kept_commits:
        for entry in store.repository(TENANT).files(commit):
            store.repository(TENANT).read_file(commit, entry.path)
    assert report.commits_kept == 8
    assert report.objects_kept == 8 * 4 + 1, "commit, two trees and one blob each, and the tag"
    assert report.objects_removed == 3 + 2 * 4
    assert report.bytes_before - report.bytes_after > 15_000
    assert store.verify(TENANT) == []
    assert git(repository, "fsck", "--full", "--strict", "--no-dangling") == "", "`kept` has no ref, and nothing else"
    assert len(files_below(repository / "objects")) == 2, "one pack and its index, nothing loose"


def test_a_second_collection_changes_nothing(store: GitStore, repository: Path) -> None:
    push(store, TENANT, one(store, "a"))
    one(store, "gone")
    store.collect_garbage(TENANT, keep=[])
    before = files_below(repository)
    report = store.collect_garbage(TENANT, keep=[])
    assert (report.objects_removed, report.packs_removed) == (0, 0)
    assert files_below(repository) == before


def test_force_pushes_and_deleted_branches_never_reach_pinned_or_kept_commits(store: GitStore) -> None:
    a = one(store, "a")
    b = one(store, "b", a)
    push(store, TENANT, b, ref=b"refs/heads/side", deploy=False)
    store.pin(TENANT, a, reason="instance")
    push(store, TENANT, one(store, "c"), ref=b"refs/heads/side", deploy=False)
    push(store, TENANT, None, ref=b"refs/heads/side", deploy=False)
    store.collect_garbage(TENANT, keep=[b])
    assert (has(store, a), has(store, b)) == (True, True)
    store.collect_garbage(TENANT, keep=[])
    assert (has(store, a), has(store, b)) == (True, False)
    store.unpin(TENANT, a, reason="instance")
    store.collect_garbage(TENANT, keep=[])
    assert has(store, a) is False


def test_many_packs_become_one(store: GitStore, repository: Path) -> None:
    commits = []
    for number in range(5):
        commits.append(one(store, str(number), *commits[-1:]))
        push(store, TENANT, commits[-1], deploy=False)
        git(repository, "repack", "-q", "-d", "-l")  # packs what is loose, so that each push has its own pack
        assert len(list((repository / "objects/pack").glob("*.pack"))) == number + 1
    assert store.collect_garbage(TENANT, keep=[]).packs_removed == 5
    assert len(list((repository / "objects/pack").glob("*.pack"))) == 1
    assert [has(store, commit) for commit in commits] == [True] * 5


def test_packs_marked_to_keep_stay(store: GitStore, repository: Path) -> None:
    one(store, "gone")
    git(repository, "repack", "-q", "-a", "-d")
    handle = open_repository(repository)
    handle.pack(str(repository / "objects/pack"))
    (pack,) = (repository / "objects/pack").glob("*.pack")
    pack.with_suffix(".keep").touch()
    push(store, TENANT, one(store, "a"))
    store.collect_garbage(TENANT, keep=[])
    assert pack.exists()


def test_indexes_of_stray_tools_do_not_outlive_their_objects(store: GitStore, repository: Path) -> None:
    gone = one(store, "gone")
    push(store, TENANT, gone, deploy=False)
    git(repository, "gc", "--quiet")
    git(repository, "commit-graph", "write", "--reachable")
    git(repository, "multi-pack-index", "write")
    push(store, TENANT, one(store, "a"), deploy=False)
    store.collect_garbage(TENANT, keep=[])
    assert not has(store, gone)
    assert git(repository, "fsck", "--full", "--strict") == ""
    assert sorted({Path(name).suffix for name in files_below(repository / "objects")}) == [".idx", ".pack"]


# -- when something is wrong -------------------------------------------------------------------------------------------


def test_nothing_is_removed_while_something_that_is_kept_is_missing(store: GitStore, repository: Path) -> None:
    a = one(store, "a")
    push(store, TENANT, a)
    gone = one(store, "gone")
    oid = store.repository(TENANT).files(a)[0].oid
    store._repositories.forget(TENANT)
    (repository / "objects" / oid[:2] / oid[2:]).rename(repository / "aside")
    before = files_below(repository)
    with pytest.raises(Corrupt) as caught:
        store.collect_garbage(TENANT, keep=[])
    assert caught.value.code == "object_missing"
    assert caught.value.details == {"oid": oid, "named_by": "a tree"}
    assert files_below(repository) == before
    assert has(store, gone)
    assert store.verify(TENANT) == [f"Object {oid}, named by a tree, is missing or unreadable."]


def test_an_unknown_commit_to_keep_stops_the_collection(store: GitStore) -> None:
    push(store, TENANT, one(store, "a"))
    gone = one(store, "gone")
    with pytest.raises(Corrupt, match="named by a root, is missing"):
        store.collect_garbage(TENANT, keep=["f" * 40])
    with pytest.raises(InvalidName):
        store.collect_garbage(TENANT, keep=["main"])
    with pytest.raises(TenantNotFound):
        store.collect_garbage("nobody", keep=[])
    assert has(store, gone)


def test_a_tenant_without_a_repository_has_no_garbage(store: GitStore) -> None:
    report = store.collect_garbage(TENANT, keep=[])
    assert (report.objects_kept, report.objects_removed, report.bytes_before) == (0, 0, 0)
    with pytest.raises(Corrupt, match="The repository of tenant 'acme' is missing"):
        store.collect_garbage(TENANT, keep=["a" * 40])


class _Broken(Exception):
    """Stands for the end of the process at a chosen call."""


@pytest.mark.parametrize("dies_at", range(40))
def test_a_crash_at_any_step_of_a_collection_loses_nothing(
    store: GitStore, repository: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    """Every call that changes the disk is a crash point, numbered; the collection after it finishes the work."""
    kept = [one(store, "a")]
    kept.append(one(store, "b", kept[0]))
    push(store, TENANT, kept[-1], deploy=False)
    git(repository, "repack", "-q", "-a", "-d")
    gone = one(store, "gone")
    calls = 0

    def counted(real):
        def call(*args, **options):
            nonlocal calls
            calls += 1
            if calls > dies_at:
                raise _Broken
            return real(*args, **options)

        return call

    with monkeypatch.context() as patch:
        for owner, name in ((Path, "unlink"), (Path, "rename"), (Path, "rmdir"), (os, "fsync"), (shutil, "rmtree")):
            patch.setattr(owner, name, counted(getattr(owner, name)))
        try:
            store.collect_garbage(TENANT, keep=[])
            is_finished = True
        except _Broken:
            is_finished = False
    store.close()
    with open_store(store.root) as again:
        assert [again.repository(TENANT).has_commit(commit) for commit in kept] == [True, True]
        assert again.verify(TENANT) == []
        assert git(repository, "fsck", "--full", "--strict", "--no-dangling") == ""
        for name in files_below(repository / "objects"):
            os.utime(repository / "objects" / name, (0, 0))  # half-removed packs have an age of grace
        again.collect_garbage(TENANT, keep=[])
        assert not again.repository(TENANT).has_commit(gone)
        assert again.verify(TENANT) == []
        assert len(files_below(repository / "objects")) == 2
    if dies_at == 0:
        assert not is_finished, "the crash points are really passed"
    if dies_at == 39:
        assert is_finished, "and all of them were tried"


def test_a_failing_disk_is_unavailable_and_changes_nothing(
    store: GitStore, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(store, TENANT, one(store, "a"))
    one(store, "gone")
    before = files_below(repository)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(Unavailable, match=r"cannot be worked on: .*No space left") as caught:
            store.collect_garbage(TENANT, keep=[])
    assert caught.value.code == "storage_failed"
    assert files_below(repository) == before


# -- beside others -----------------------------------------------------------------------------------------------------


def test_a_collection_gives_back_the_space_of_packs_that_were_open(store: GitStore) -> None:
    a = one(store, "a")
    push(store, TENANT, a)
    one(store, "gone")
    store.collect_garbage(TENANT, keep=[])
    held = store.repository(TENANT)
    assert held.read_file(a, "x") == b"a", "from a pack, which is open now"
    one(store, "gone too")
    store.collect_garbage(TENANT, keep=[])
    descriptors = [
        os.readlink(f"/proc/self/fd/{fd}")
        for fd in os.listdir("/proc/self/fd")
        if os.path.lexists(f"/proc/self/fd/{fd}")
    ]
    own = str(store._parts.repository_path(TENANT))
    assert not [name for name in descriptors if name.startswith(own) and name.endswith("(deleted)")]
    assert held.read_file(a, "x") == b"a"


def test_readers_never_notice_a_collection(store: GitStore) -> None:
    commits = [one(store, str(number)) for number in range(6)]
    for number, commit in enumerate(commits):
        push(store, TENANT, commit, ref=b"refs/heads/%d" % number, deploy=False)
    is_over = threading.Event()
    failures: list[BaseException] = []
    reads = 0

    def reader() -> None:
        nonlocal reads
        held = open_repository(store._parts.repository_path(TENANT))
        while not is_over.is_set():
            for number, commit in enumerate(commits):
                try:
                    assert store.repository(TENANT).read_file(commit, "x") == b"%d" % number
                    assert held[commit].peel(pygit2.Tree)["x"].id
                    fresh = open_repository(store._parts.repository_path(TENANT))
                    assert fresh[commit].id
                    fresh.free()
                    reads += 1
                except BaseException as error:
                    failures.append(error)
                    return

    threads = [threading.Thread(target=reader) for _ in range(2)]
    for thread in threads:
        thread.start()
    for turn in range(15):
        one(store, f"garbage {turn}")
        assert store.collect_garbage(TENANT, keep=[]).objects_removed == 4
    is_over.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert reads > 0


def test_a_collection_waits_for_the_tenants_lock_and_is_counted(store: GitStore) -> None:
    push(store, TENANT, one(store, "a"))
    published = one(store, "published, and not yet named by a row")
    finished = threading.Event()

    def collect() -> None:
        store.collect_garbage(TENANT, keep=[])
        finished.set()

    with store._parts.lock(TENANT) as lock:
        before = lock.collections
        thread = threading.Thread(target=collect)
        thread.start()
        assert not finished.wait(0.3), "it must not end before the lock is free, however long that takes"
        push(store, TENANT, published, ref=b"refs/heads/new", deploy=False)
    thread.join()
    assert has(store, published)
    with store._parts.lock(TENANT) as lock:
        assert lock.collections == before + 1


# -- leftovers, bundles, tenants ---------------------------------------------------------------------------------------


def test_old_leftovers_go_and_young_ones_stay(store: GitStore, repository: Path) -> None:
    push(store, TENANT, one(store, "a"))
    store.collect_garbage(TENANT, keep=[])
    pack = repository / "objects" / "pack"
    old_s = time.time() - 3_700
    for age_s, name in ((old_s, "old"), (None, "young")):
        for path in (pack / f"tmp_pack_{name}", pack / f"pack-{name}.pack", repository / f".packed-refs.{name}.tmp"):
            path.touch()
            if age_s is not None:
                os.utime(path, (age_s, age_s))
    (repository / "objects" / "incoming-dead").mkdir()
    assert store.collect_garbage(TENANT, keep=[]).leftovers_removed == 4
    left = [name for name in files_below(repository) if "young" in name or "old" in name]
    assert left == [".packed-refs.young.tmp", "objects/pack/pack-young.pack", "objects/pack/tmp_pack_young"]
    assert not (repository / "objects" / "incoming-dead").exists()


def make_bundle(store: GitStore, key: str) -> Path:
    path = bundle_path(store.root, key)
    path.write_bytes(b"bundle")
    return path


def test_bundles_of_versions_that_are_not_kept_by_name_go(store: GitStore) -> None:
    commits = [one(store, str(number)) for number in range(5)]
    paths = []
    for commit in commits:
        push(store, TENANT, commit)
        paths.append(make_bundle(store, commit + "0" * 24))
    assert store.collect_garbage(TENANT, keep=[commits[0]]).bundles_removed == 1
    assert [path.exists() for path in paths] == [True, False, True, True, True]
    assert store._parts.database.bundle_key(TENANT, commits[1]) is None
    assert store.deployment(TENANT, commits[1]).commit == commits[1], "the version stays in the list"


def test_a_bundle_that_another_tenant_uses_stays(store: GitStore) -> None:
    store.create_tenant("other")
    shared, own = make_bundle(store, "5" * 64), make_bundle(store, "6" * 64)
    store._parts.database.record_bundle("other", "a" * 40, "5" * 64)
    store._parts.database.record_bundle(TENANT, "a" * 40, "5" * 64)
    store._parts.database.record_bundle(TENANT, "b" * 40, "6" * 64)
    store.delete_tenant(TENANT)
    assert (shared.exists(), own.exists()) == (True, False)
    store.delete_tenant("other")
    assert not shared.exists()


def test_deleting_a_tenant_leaves_nothing_of_it(store: GitStore, repository: Path) -> None:
    a = one(store, "secret content")
    push(store, TENANT, a)
    assert store.repository(TENANT).read_file(a, "x") == b"secret content", "from now on a handle is open"
    store.create_token(TENANT)
    store.delete_tenant(TENANT)
    assert not repository.exists()
    assert list((store.root / "trash").iterdir()) == []
    with pytest.raises(TenantNotFound):
        store.repository(TENANT)
    with pytest.raises(TenantNotFound):
        store.delete_tenant(TENANT)
    store.create_tenant(TENANT)
    assert store.refs(TENANT) == {}
    one(store, "of the next tenant of that name")
    with pytest.raises(VersionNotFound):
        store.repository(TENANT).read_file(a, "x")


def test_a_crash_while_deleting_leaves_no_code_for_the_next_tenant_of_that_name(
    store: GitStore, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = one(store, "secret content")
    push(store, TENANT, a)

    def crash(*_: object) -> None:
        raise _Broken

    with monkeypatch.context() as patch:
        patch.setattr(maintenance, "discard_repository", crash)
        with pytest.raises(_Broken):
            store.delete_tenant(TENANT)
    assert repository.exists()
    store.create_tenant(TENANT)
    assert not repository.exists()
    assert not has(store, a)


def test_opening_sweeps_what_a_crash_left(store: GitStore, repository: Path) -> None:
    push(store, TENANT, one(store, "a"))
    used = make_bundle(store, store.deployments(TENANT)[0].bundle_key)
    unused, half = make_bundle(store, "9" * 64), store.root / "bundles" / ".half"
    half.touch()
    (store.root / "trash" / "old.git").mkdir()
    (store.root / "repositories" / "ghost.git").mkdir()
    (repository / "objects" / "incoming-dead").mkdir()
    store.close()
    with open_store(store.root) as again:
        assert [path.exists() for path in (used, unused, half)] == [True, False, False]
        assert list((store.root / "trash").iterdir()) == []
        assert [path.name for path in (store.root / "repositories").iterdir()] == ["acme.git"]
        assert not (repository / "objects" / "incoming-dead").exists()
        assert again.verify(TENANT) == []
