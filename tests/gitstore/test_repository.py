"""Reads of code: revisions, files, history; nothing of the machine's git configuration counts."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pygit2
import pytest

from gitstore import (
    Corrupt,
    FileEntry,
    GitStore,
    InvalidName,
    LimitExceeded,
    Limits,
    NotFound,
    Refused,
    VersionNotFound,
)
from gitstore.libgit import open_repository
from tests.gitstore.stores import NOW_MS, open_store, push, write_commit

TENANT = "acme"
FILES = {"workflows.py": b"code", "pkg/a.py": b"a", "pkg/deep/b.txt": b"bb"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[GitStore]:
    limits = Limits(tree_depth_max=4, tree_files_max=10, object_bytes_max=1000)
    with open_store(tmp_path / "git", limits) as store:
        store.create_tenant(TENANT)
        yield store


def test_every_file_of_a_commit_is_listed_and_readable(store: GitStore) -> None:
    commit = write_commit(store, TENANT, FILES)
    repository = store.repository(TENANT)
    entries = repository.files(commit)
    assert [(entry.path, entry.kind, entry.size) for entry in entries] == [
        ("pkg/a.py", "file", 1),
        ("pkg/deep/b.txt", "file", 2),
        ("workflows.py", "file", 4),
    ]
    assert {entry.path: repository.read_file(commit, entry.path) for entry in entries} == FILES


def test_modes_and_symlinks_are_told_apart(store: GitStore) -> None:
    handle = open_repository(store._parts.ensure_repository(TENANT))
    builder = handle.TreeBuilder()
    blob = handle.create_blob(b"target")
    builder.insert("link", blob, pygit2.enums.FileMode.LINK)
    builder.insert("run.sh", blob, pygit2.enums.FileMode.BLOB_EXECUTABLE)
    who = pygit2.Signature("Kim", "kim@example.com", 0, 0)
    commit = str(handle.create_commit(None, who, who, "m", builder.write(), []))
    assert store.repository(TENANT).files(commit) == [
        FileEntry("link", "symlink", 6, str(blob)),
        FileEntry("run.sh", "executable", 6, str(blob)),
    ]
    assert store.repository(TENANT).read_file(commit, "link") == b"target", "a symlink is never followed"


@pytest.mark.parametrize(
    "path", ["", "nothing", "pkg", "pkg/", "/workflows.py", "pkg/../workflows.py", ".", "..", "\0"]
)
def test_what_is_no_file_is_not_found(store: GitStore, path: str) -> None:
    commit = write_commit(store, TENANT, FILES)
    with pytest.raises(NotFound) as caught:
        store.repository(TENANT).read_file(commit, path)
    assert caught.value.code == "file_not_found"
    assert caught.value.message == f"Commit {commit[:12]} of tenant 'acme' has no file {path!r}."


def test_reads_are_bounded(store: GitStore) -> None:
    deep = write_commit(store, TENANT, {"a/b/c/d/e": b""})
    many = write_commit(store, TENANT, {str(number): b"" for number in range(11)})
    large = write_commit(store, TENANT, {"large": b"x" * 1001})
    repository = store.repository(TENANT)
    with pytest.raises(LimitExceeded, match=r"The depth of the tree is over the limit of 4 \(tree_depth_max\)"):
        repository.files(deep)
    with pytest.raises(LimitExceeded, match=r"The number of files is over the limit of 10 \(tree_files_max\)"):
        repository.files(many)
    with pytest.raises(LimitExceeded, match=r"The size of 'large' \(1001\) is over the limit of 1000"):
        repository.read_file(large, "large")


def test_revisions_are_branches_tags_and_commits(store: GitStore) -> None:
    a = write_commit(store, TENANT, {"x": b"1"})
    b = write_commit(store, TENANT, {"x": b"2"}, parents=[a])
    push(store, TENANT, b)
    handle = open_repository(store._parts.repository_path(TENANT))
    who = pygit2.Signature("Kim", "kim@example.com", 0, 0)
    tag = str(handle.create_tag("v1", pygit2.Oid(hex=a), pygit2.enums.ObjectType.COMMIT, who, "annotated"))
    push(store, TENANT, tag, ref=b"refs/tags/v1", deploy=False)
    push(store, TENANT, a, ref=b"refs/heads/side", deploy=False)
    repository = store.repository(TENANT)
    for revision, expected in {
        "main": b,
        "HEAD": b,
        "refs/heads/main": b,
        "v1": a,
        "refs/tags/v1": a,
        "side": a,
        a: a,
        b[:7]: b,
        b[:12].upper(): b,
    }.items():
        assert repository.resolve(revision) == expected, revision


@pytest.mark.parametrize(
    "revision", ["nothing", "", "main~1", "HEAD^", ":/change", "@{-1}", "f" * 40, "f" * 7, "\ud800"]
)
def test_other_revisions_are_not_found(store: GitStore, revision: str) -> None:
    push(store, TENANT, write_commit(store, TENANT, FILES))
    with pytest.raises(VersionNotFound) as caught:
        store.repository(TENANT).resolve(revision)
    assert caught.value.message == f"Tenant 'acme' has no commit {revision!r}."


def test_a_file_is_no_revision(store: GitStore) -> None:
    commit = write_commit(store, TENANT, FILES)
    repository = store.repository(TENANT)
    with pytest.raises(VersionNotFound):
        repository.resolve(repository.files(commit)[0].oid)
    with pytest.raises(VersionNotFound):
        repository.commit_meta(repository.files(commit)[0].oid)


def test_an_ambiguous_prefix_is_refused(store: GitStore) -> None:
    handle = open_repository(store._parts.ensure_repository(TENANT))
    # The first two numbers whose blobs share seven digits, found by search.
    first, second = (str(handle.create_blob(b"%d" % number)) for number in (20738, 37901))
    assert first[:7] == second[:7]
    with pytest.raises(Refused) as caught:
        store.repository(TENANT).resolve(first[:7])
    assert caught.value.code == "version_ambiguous"


def test_before_the_first_push_nothing_is_found_and_nothing_is_made(store: GitStore) -> None:
    repository = store.repository(TENANT)
    for ask in (repository.resolve, repository.commit_meta, repository.files, repository.log):
        with pytest.raises(VersionNotFound):
            ask("a" * 40)
    assert not store._parts.repository_path(TENANT).exists()


def test_a_commit_tells_who_when_and_after_what(store: GitStore) -> None:
    a = write_commit(store, TENANT, {"x": b"1"}, message="one")
    b = write_commit(store, TENANT, {"x": b"2"}, parents=[a], message="two\n\nmore")
    meta = store.repository(TENANT).commit_meta(b)
    assert (meta.author, meta.message, meta.at_ms, meta.parents) == (
        "Kim <kim@example.com>", "two\n\nmore", NOW_MS, (a,),
    )  # fmt: skip
    with pytest.raises(InvalidName):
        store.repository(TENANT).commit_meta(b[:12])


def test_a_log_is_newest_first_and_children_before_parents_even_within_one_second(store: GitStore) -> None:
    made: list[str] = []
    for number in range(6):
        made.append(write_commit(store, TENANT, {"x": b"%d" % number}, parents=made[-1:]))
    assert [meta.commit for meta in store.repository(TENANT).log(made[-1])] == made[::-1]
    assert [meta.commit for meta in store.repository(TENANT).log(made[-1], limit=2)] == made[:3:-1]


@pytest.mark.parametrize("encoding", [b"utf-8", b"no-such-encoding", b"base64", b"\xff"])
def test_a_commit_with_nonsense_in_its_texts_is_readable(store: GitStore, encoding: bytes) -> None:
    handle = open_repository(store._parts.ensure_repository(TENANT))
    tree = str(handle.TreeBuilder().write()).encode()
    who = b"\xff\xfe <k\x80> 1700000000 +0000"
    raw = b"tree %b\nauthor %b\ncommitter %b\nencoding %b\n\n\xff\x00message" % (tree, who, who, encoding)
    commit = str(handle.odb.write(pygit2.enums.ObjectType.COMMIT, raw))
    meta = store.repository(TENANT).commit_meta(commit)
    assert "\N{REPLACEMENT CHARACTER}" in meta.author
    assert meta.message.startswith("\N{REPLACEMENT CHARACTER}")


def test_a_handle_sees_what_was_pushed_after_it_was_opened(store: GitStore) -> None:
    a = write_commit(store, TENANT, {"x": b"1"})
    repository = store.repository(TENANT)
    assert repository.read_file(a, "x") == b"1"
    b = write_commit(store, TENANT, {"x": b"2"})
    push(store, TENANT, b)
    store.collect_garbage(TENANT, keep=[a])
    c = write_commit(store, TENANT, {"x": b"3"})
    assert [repository.read_file(commit, "x") for commit in (a, b, c)] == [b"1", b"2", b"3"]


def test_damaged_objects_are_corrupt_and_not_found_wrong(store: GitStore) -> None:
    commit = write_commit(store, TENANT, {"x": b"1"})
    push(store, TENANT, commit)
    oid = store.repository(TENANT).files(commit)[0].oid
    path = store._parts.repository_path(TENANT) / "objects" / oid[:2] / oid[2:]
    path.chmod(0o600)
    path.write_bytes(b"damaged")
    store._repositories.forget(TENANT)
    with pytest.raises(Corrupt) as caught:
        store.repository(TENANT).read_file(commit, "x")
    assert caught.value.code == "object_missing"
    assert [problem.split(":")[0] for problem in store.verify(TENANT)] == [f"object {oid} cannot be read"]


def test_tenants_cannot_read_each_others_objects(store: GitStore) -> None:
    commit = write_commit(store, TENANT, FILES)
    store.create_tenant("other")
    write_commit(store, "other", {"mine": b""})
    with pytest.raises(VersionNotFound):
        store.repository("other").resolve(commit)


def test_many_threads_may_read_one_repository(store: GitStore) -> None:
    commits = [write_commit(store, TENANT, {"x": b"%d" % number}) for number in range(8)]
    failures: list[BaseException] = []

    def reader(offset: int) -> None:
        try:
            for turn in range(40):
                number = (offset + turn) % 8
                assert store.repository(TENANT).read_file(commits[number], "x") == b"%d" % number
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=reader, args=(offset,)) for offset in range(6)]
    for thread in threads:
        thread.start()
    for turn in range(10):
        store._repositories.forget(TENANT)
        del turn
    for thread in threads:
        thread.join()
    assert failures == []


def test_the_users_git_configuration_is_never_read(tmp_path: Path) -> None:
    """A broken ~/.gitconfig makes plain libgit2 fail to open; ours does not even look."""
    (tmp_path / ".gitconfig").write_text("[broken")
    code = (
        "import pygit2, sys, pathlib\n"
        "path = pathlib.Path(sys.argv[1]) / 'r.git'\n"
        "if sys.argv[2] == 'ours':\n"
        "    from gitstore.libgit import open_repository\n"
        "pygit2.init_repository(str(path), bare=True)\n"
        "print(len(list(pygit2.Repository(str(path)).config)) > 0)\n"
    )
    found = {}
    for whose in ("plain", "ours"):
        root = tmp_path / whose
        root.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", code, str(root), whose],
            env={"HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True,
            text=True,
            check=False,
        )
        found[whose] = done.returncode
    assert found == {"plain": 1, "ours": 0}
