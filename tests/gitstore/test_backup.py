"""A copy of a running store is a store: every row's objects are in it, and later pushes harm nothing."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gitstore import GitStore, Refused, Unavailable, backup
from gitstore.parts import Parts
from tests.gitstore.stores import git, open_store, push, write_commit

TENANT = "acme"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[GitStore]:
    with open_store(tmp_path / "git") as store:
        store.create_tenant(TENANT)
        store.create_tenant("silent")
        yield store


def test_a_copy_has_everything_and_opens(store: GitStore, tmp_path: Path) -> None:
    a = write_commit(store, TENANT, {"x": b"a"})
    push(store, TENANT, a)
    store.collect_garbage(TENANT, keep=[])  # one in a pack, one loose
    b = write_commit(store, TENANT, {"x": b"b"}, parents=[a])
    push(store, TENANT, b)
    store.rollback(TENANT, who="kim")
    store.pin(TENANT, b, reason="audit")
    token = store.create_token(TENANT)
    store.backup(tmp_path / "new" / "copy")
    with open_store(tmp_path / "new" / "copy") as copy:
        assert copy.tenants() == store.tenants()
        assert copy.deployments(TENANT) == store.deployments(TENANT)
        assert copy.channel_history(TENANT) == store.channel_history(TENANT)
        assert copy.pins(TENANT) == store.pins(TENANT)
        assert copy.verify_token(token.secret) == store.verify_token(token.secret)
        assert [copy.repository(TENANT).read_file(commit, "x") for commit in (a, b)] == [b"a", b"b"]
        assert copy.verify(TENANT) == []
        assert copy.verify("silent") == []
        assert git(copy._parts.repository_path(TENANT), "fsck", "--full", "--strict") == ""


def test_a_copy_made_while_others_push_and_collect_is_sound(store: GitStore, tmp_path: Path) -> None:
    is_over = threading.Event()
    commits: list[str] = []

    def work() -> None:
        while not is_over.is_set():
            commits.append(write_commit(store, TENANT, {"x": b"%d" % len(commits)}))
            push(store, TENANT, commits[-1])
            if len(commits) % 3 == 0:
                store.collect_garbage(TENANT, keep=[])

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for number in range(4):
            store.backup(tmp_path / str(number))
    finally:
        is_over.set()
        thread.join()
    for number in range(4):
        with open_store(tmp_path / str(number)) as copy:
            assert copy.verify(TENANT) == []
            copy.collect_garbage(TENANT, keep=[])


def test_a_push_between_rows_and_objects_is_left_out_whole(
    store: GitStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = write_commit(store, TENANT, {"x": b"a"})
    push(store, TENANT, a)
    real = backup._copy_rows

    def then_push(parts: Parts, target: Path) -> list[str]:
        found = real(parts, target)
        push(store, TENANT, write_commit(store, TENANT, {"x": b"later"}))
        return found

    monkeypatch.setattr(backup, "_copy_rows", then_push)
    store.backup(tmp_path / "copy")
    with open_store(tmp_path / "copy") as copy:
        assert copy.refs(TENANT) == {b"refs/heads/main": a.encode()}
        assert copy.verify(TENANT) == []


def test_a_copy_goes_only_into_a_new_folder(store: GitStore, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(Refused) as caught:
        store.backup(tmp_path / "full")
    assert caught.value.code == "target_not_empty"
    assert os.listdir(tmp_path / "full") == ["mine"]
    with pytest.raises(Unavailable):
        store.backup(tmp_path / "full" / "mine" / "below")
