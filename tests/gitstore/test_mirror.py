"""packed-refs mirrors the rows: stray git tools see the truth, harm nothing, and a crash before the mirror heals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pygit2
import pytest
from dulwich.repo import Repo

from gitstore import GitStore, Limits, mirror
from gitstore.database import MirrorContent
from gitstore.durable import write_durably
from gitstore.rows import RefUpdate
from tests.gitstore.stores import MAIN, git, new_deployment, open_store, push, write_commit

TENANT = "acme"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[GitStore]:
    with open_store(tmp_path / "git") as store:
        store.create_tenant(TENANT)
        yield store


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return tmp_path / "git" / "repositories" / "acme.git"


def test_the_file_is_sorted_by_bytes_and_claims_no_peeled_tags() -> None:
    content = MirrorContent(1, {b"refs/tags/v1": b"1" * 40, b"refs/heads/b": b"2" * 40}, frozenset({"3" * 40}))
    assert mirror.packed_refs(content) == (
        b"# pack-refs with: sorted \n"
        + b"2" * 40 + b" refs/heads/b\n"
        + b"3" * 40 + b" refs/pins/" + b"3" * 40 + b"\n"
        + b"1" * 40 + b" refs/tags/v1\n"
    )  # fmt: skip


def test_git_pygit2_and_dulwich_read_the_same_refs(store: GitStore, repository: Path) -> None:
    a = write_commit(store, TENANT, {"x": b"1"})
    b = write_commit(store, TENANT, {"x": b"2"}, parents=[a])
    push(store, TENANT, b)
    push(store, TENANT, a, ref=b"refs/tags/v1", deploy=False)
    push(store, TENANT, a, ref="refs/heads/grün/x".encode(), deploy=False)
    expected = {
        "refs/heads/grün/x": a,
        "refs/heads/main": b,
        f"refs/pins/{b}": b,
        "refs/tags/v1": a,
    }
    shown = dict(reversed(line.split()) for line in git(repository, "show-ref").splitlines())
    assert shown == expected
    libgit = pygit2.Repository(str(repository))
    assert {name: str(libgit.lookup_reference(name).target) for name in libgit.references} == expected
    dulwich = Repo(str(repository))
    try:
        refs = {name.decode(): oid.decode() for name, oid in dulwich.refs.as_dict().items() if name != b"HEAD"}
    finally:
        dulwich.close()
    assert refs == expected
    assert git(repository, "log", "--format=%H", "HEAD").split() == [b, a]
    assert git(repository, "fsck", "--full", "--strict") == ""


def test_a_pinned_commit_survives_git_gc_by_hand_and_goes_after_unpinning(store: GitStore, repository: Path) -> None:
    a = write_commit(store, TENANT, {"x": b"pinned"})
    b = write_commit(store, TENANT, {"x": b"main"})
    push(store, TENANT, b)
    store.pin(TENANT, a, reason="audit")
    git(repository, "gc", "--quiet", "--prune=now")
    assert store.repository(TENANT).read_file(a, "x") == b"pinned"
    assert store.verify(TENANT) == []
    store.unpin(TENANT, a, reason="audit")
    git(repository, "gc", "--quiet", "--prune=now")
    assert not store.repository(TENANT).has_commit(a)
    assert store.repository(TENANT).has_commit(b)
    assert store.verify(TENANT) == []


def test_versions_of_a_channel_survive_git_gc_by_hand(store: GitStore, repository: Path) -> None:
    a, b = (write_commit(store, TENANT, {"x": content}) for content in (b"1", b"2"))
    push(store, TENANT, a)
    push(store, TENANT, b)  # a force push: a is in no branch any more
    git(repository, "gc", "--quiet", "--prune=now")
    assert store.rollback(TENANT, who="kim").to_commit == a
    assert store.repository(TENANT).read_file(a, "x") == b"1"


def test_every_way_to_move_a_channel_protects_its_version_from_git_gc_by_hand(tmp_path: Path) -> None:
    with open_store(tmp_path / "kept", Limits(channel_history_kept=1)) as store:
        store.create_tenant(TENANT)
        repository = store._parts.repository_path(TENANT)
        versions = [write_commit(store, TENANT, {"x": b"%d" % number}) for number in range(5)]
        for commit in versions:
            push(store, TENANT, commit)

        def shown() -> set[str]:
            return {line.rpartition("/")[2] for line in git(repository, "show-ref").splitlines() if "/pins/" in line}

        assert shown() == {versions[4], versions[3]}
        store.move_channel(TENANT, "production", to=versions[0], who="kim", why="")
        assert shown() == {versions[4], versions[3], versions[0]}
        rollback = store.rollback(TENANT, to=versions[1], who="kim")
        assert shown() == {versions[4], versions[1], versions[0]}
        store.rollback(TENANT, to=versions[2], who="kim")
        assert shown() == {versions[2], versions[1], versions[0]}
        store.undo(TENANT, rollback.id + 1, who="kim")
        assert shown() == {versions[2], versions[1], versions[0]}
        assert store.verify(TENANT) == []


def test_a_crash_between_commit_and_mirror_heals_at_open(store: GitStore, repository: Path) -> None:
    a, b = (write_commit(store, TENANT, {"x": content}) for content in (b"1", b"2"))
    push(store, TENANT, a)
    before = (repository / "packed-refs").read_bytes()
    store._parts.database.commit_push(
        TENANT,
        [RefUpdate(MAIN, a, b)],
        atomic=False,
        deployment=new_deployment(b),
        channel="live",
        who="kim",
        message="",
    )
    assert (repository / "packed-refs").read_bytes() == before, "the crash came before the mirror"
    assert store.verify(TENANT) == ["packed-refs differs from the database; rewrite the mirror"]
    store.close()
    with open_store(store.root) as again:
        assert again.verify(TENANT) == []
        assert git(repository, "rev-parse", "refs/heads/main").strip() == b


def test_a_crash_after_the_mirror_but_before_its_mark_costs_one_rewrite(store: GitStore, repository: Path) -> None:
    push(store, TENANT, write_commit(store, TENANT, {"x": b"1"}))
    store._parts.database.mark_mirrored(TENANT, 0)
    assert mirror.heal(store._parts) == [TENANT]
    assert mirror.heal(store._parts) == []


def test_a_mirror_that_is_up_to_date_is_not_written_again(store: GitStore, repository: Path) -> None:
    a = write_commit(store, TENANT, {"x": b"1"})
    push(store, TENANT, a)
    store.pin(TENANT, a, reason="one")
    stamp = (repository / "packed-refs").stat().st_ino
    store.pin(TENANT, a, reason="two")  # the mirror has one ref per commit, not per reason
    store.unpin(TENANT, a, reason="two")
    mirror.refresh(store._parts, TENANT)
    assert (repository / "packed-refs").stat().st_ino == stamp


def test_loose_refs_of_stray_tools_are_seen_and_removed(store: GitStore, repository: Path) -> None:
    a, b = (write_commit(store, TENANT, {"x": content}) for content in (b"1", b"2"))
    push(store, TENANT, a)
    git(repository, "update-ref", "refs/heads/main", b)
    assert store.verify(TENANT) == [
        "refs/heads/main is a loose ref that the database does not know; rewrite the mirror"
    ]
    assert store.repository(TENANT).resolve("main") == a, "the rows are the truth"
    store.rewrite_mirror(TENANT)
    assert git(repository, "rev-parse", "refs/heads/main").strip() == a
    assert store.verify(TENANT) == []


def test_clients_of_git_itself_do_not_see_pins(store: GitStore, repository: Path) -> None:
    push(store, TENANT, write_commit(store, TENANT, {"x": b"1"}))
    assert "refs/pins" in git(repository, "show-ref")
    assert "refs/pins" not in git(repository, "ls-remote", str(repository))


def test_a_tenant_without_pushes_has_no_repository(store: GitStore, repository: Path) -> None:
    store.rewrite_mirror(TENANT)
    assert not repository.exists()
    assert store.verify(TENANT) == []


def test_a_full_disk_does_not_take_back_a_pin(
    store: GitStore, repository: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    a = write_commit(store, TENANT, {"x": b"1"})
    push(store, TENANT, a, channel=None)

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mirror, "write_durably", full)
    store.pin(TENANT, a, reason="audit")
    assert [pin.commit for pin in store.pins(TENANT)] == [a]
    assert [record.message for record in caplog.records] == ["mirror not written"]
    monkeypatch.setattr(mirror, "write_durably", write_durably)
    assert mirror.heal(store._parts) == [TENANT]
    assert f"refs/pins/{a}" in git(repository, "show-ref")
