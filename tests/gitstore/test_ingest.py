"""Quarantine: what arrives is invisible until it is published, whole or not at all, and a crash leaves nothing for long."""

from __future__ import annotations

import errno
import fcntl
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pygit2
import pytest

from gitstore import GitStore, incoming, ingest
from gitstore.errors import LimitExceeded, Refused, Unavailable
from gitstore.limits import Limits
from gitstore.parts import Parts
from gitstore.quarantine import NewTip, Quarantine, start
from tests.gitstore import hostile
from tests.gitstore.hostile import (
    BLOB,
    COMMIT,
    OFS_DELTA,
    REF_DELTA,
    TREE,
    commit,
    copy_delta,
    entry,
    oid,
    pack,
    pack_of,
    tree,
)
from tests.gitstore.stores import open_store

MAIN = b"refs/heads/main"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitStore]:
    """One store for the module (its helper process starts once); each test has a tenant of its own."""
    with open_store(Path(tmp_path_factory.mktemp("store"))) as store:
        yield store


@pytest.fixture
def parts(store: GitStore) -> Parts:
    return store._parts


@pytest.fixture
def tenant(store: GitStore, request: pytest.FixtureRequest) -> str:
    name = f"t{abs(hash(request.node.name)):x}"
    store.create_tenant(name)
    return name


@pytest.fixture
def git(tmp_path: Path) -> hostile.Repository:
    return hostile.Repository(tmp_path / "work")


def push(parts: Parts, tenant: str, body: bytes, head: str) -> None:
    with start(parts, tenant) as quarantine:
        quarantine.add_pack(io.BytesIO(body))
        quarantine.check([NewTip(MAIN, head)])
        quarantine.publish()


def exists(parts: Parts, tenant: str, oid: str) -> bool:
    return oid in pygit2.Odb(str(parts.repository_path(tenant) / "objects"))


def object_files(parts: Parts, tenant: str) -> list[str]:
    objects = parts.repository_path(tenant) / "objects"
    return sorted(str(path.relative_to(objects)) for path in objects.rglob("*") if path.is_file())


def test_objects_are_invisible_until_they_are_published(parts: Parts, tenant: str, git: hostile.Repository) -> None:
    head = git.commit({"workflows.py": "x = 1\n", "lib/a.py": "y = 2\n"})
    with start(parts, tenant) as quarantine:
        quarantine.add_pack(io.BytesIO(git.pack(head)))
        assert quarantine.object_count == 5
        assert not exists(parts, tenant, head)
        quarantine.check([NewTip(MAIN, head)])
        assert not exists(parts, tenant, head)
        assert head in pygit2.Odb(str(quarantine.objects_path))
        quarantine.publish()
        assert exists(parts, tenant, head)
    files = object_files(parts, tenant)
    assert [Path(name).suffix for name in files] == [".idx", ".pack"]
    assert len({Path(name).stem for name in files}) == 1


def test_published_repository_satisfies_git(parts: Parts, tenant: str, git: hostile.Repository) -> None:
    text = "".join(f"line {number}\n" for number in range(300))
    first = git.commit({"a.py": text})
    push(parts, tenant, git.pack(first), first)
    second = git.commit({"a.py": text + "last\n", "b.py": "new\n"})
    thin = git.pack(second, without=[first])
    push(parts, tenant, thin, second)
    repository = parts.repository_path(tenant)
    (repository / "refs" / "heads").mkdir(exist_ok=True)
    (repository / "refs" / "heads" / "main").write_text(second + "\n")
    fsck = subprocess.run(["git", "-C", str(repository), "fsck", "--full", "--strict"], capture_output=True, check=True)
    assert fsck.stdout == b""
    shown = subprocess.run(["git", "-C", str(repository), "show", f"{second}:a.py"], capture_output=True, check=True)
    assert shown.stdout.decode() == text + "last\n"


def test_thin_pack_is_completed_from_this_repository(parts: Parts, tenant: str) -> None:
    base = bytes(range(1, 200))
    root = tree((b"100644", b"a", oid(BLOB, base)))
    head = commit(oid(TREE, root))
    push(parts, tenant, pack_of((BLOB, base), (TREE, root), (COMMIT, head)), oid(COMMIT, head).hex())
    result = base * 2
    root2 = tree((b"100644", b"a", oid(BLOB, result)))
    head2 = commit(oid(TREE, root2), oid(COMMIT, head))
    body = pack(
        entry(REF_DELTA, copy_delta(len(base), 2), base=oid(BLOB, base)), entry(TREE, root2), entry(COMMIT, head2)
    )
    push(parts, tenant, body, oid(COMMIT, head2).hex())
    # Each pack must stand alone: the base is in the second one as well.
    (newest,) = [
        path
        for path in (parts.repository_path(tenant) / "objects" / "pack").glob("*.pack")
        if path.read_bytes()[8:12] == (4).to_bytes(4, "big")
    ]
    assert newest.exists()
    assert pygit2.Odb(str(parts.repository_path(tenant) / "objects")).read(oid(BLOB, result).hex())[1] == result


def test_base_that_is_outside_and_in_the_pack_is_indexed_once(parts: Parts, tenant: str) -> None:
    # Deltas are resolved in the order of their bases' ids: small's first, from the repository. Only then comes small
    # itself, as a delta on other.
    other = bytes(range(1, 102))
    small = other * 2
    assert oid(BLOB, small) < oid(BLOB, other)
    root = tree((b"100644", b"a", oid(BLOB, small)), (b"100644", b"b", oid(BLOB, other)))
    head = commit(oid(TREE, root))
    body = pack_of((BLOB, small), (BLOB, other), (TREE, root), (COMMIT, head))
    push(parts, tenant, body, oid(COMMIT, head).hex())
    longer = hostile.varint(202) + hostile.varint(203) + b"\x90\xca\x01!"  # copy 202 bytes, add one
    body = pack(
        entry(REF_DELTA, longer, base=oid(BLOB, small)),
        entry(REF_DELTA, copy_delta(len(other), 2), base=oid(BLOB, other)),
    )
    with start(parts, tenant) as quarantine:
        quarantine.add_pack(io.BytesIO(body))
        quarantine.check([])
        (index,) = (quarantine.objects_path / "pack").glob("*.idx")
        ids = list(ingest._indexed(index))
    assert len(ids) == len(set(ids)) == 3


def test_base_that_another_tenant_has_does_not_help(store: GitStore, parts: Parts, tenant: str) -> None:
    base = bytes(range(1, 100))
    root = tree((b"100644", b"a", oid(BLOB, base)))
    head = commit(oid(TREE, root))
    push(parts, tenant, pack_of((BLOB, base), (TREE, root), (COMMIT, head)), oid(COMMIT, head).hex())
    stranger = tenant[:-1] + "x"
    store.create_tenant(stranger)
    # Naming the commit is not enough ...
    with start(parts, stranger) as quarantine:
        quarantine.add_pack(io.BytesIO(pack()))
        with pytest.raises(Refused, match="is in neither the push nor this repository"):
            quarantine.check([NewTip(MAIN, oid(COMMIT, head).hex())])
    # ... nor is a new commit on its tree, nor a delta on its file.
    thief = commit(oid(TREE, root), message=b"mine\n")
    with start(parts, stranger) as quarantine:
        quarantine.add_pack(io.BytesIO(pack_of((COMMIT, thief))))
        with pytest.raises(Refused, match=r"the tree \w+ is in neither the push nor this repository"):
            quarantine.check([NewTip(MAIN, oid(COMMIT, thief).hex())])
    with start(parts, stranger) as quarantine:
        quarantine.add_pack(io.BytesIO(pack(entry(REF_DELTA, copy_delta(99, 1), base=oid(BLOB, base)))))
        with pytest.raises(Refused) as caught:
            quarantine.check([])
    assert caught.value.code == "pack_malformed"
    assert caught.value.message.startswith("The pack is damaged: UnresolvedDeltas: ")
    assert object_files(parts, stranger) == []


def test_refused_push_leaves_nothing(parts: Parts, tenant: str) -> None:
    root = tree((b"100644", b"..", oid(BLOB, b"x")))
    head = commit(oid(TREE, root))
    with pytest.raises(Refused) as caught:
        push(parts, tenant, pack_of((BLOB, b"x"), (TREE, root), (COMMIT, head)), oid(COMMIT, head).hex())
    name = oid(COMMIT, head).hex()[:10]
    assert caught.value.message == f"..: a tree entry may not be named '..' (commit {name})."
    assert object_files(parts, tenant) == []
    assert list((parts.repository_path(tenant) / "objects").iterdir()) == [
        parts.repository_path(tenant) / "objects" / "pack"
    ]


def test_push_without_new_objects_is_checked_and_publishes_nothing(
    parts: Parts, tenant: str, git: hostile.Repository
) -> None:
    head = git.commit({"a": "1"})
    push(parts, tenant, git.pack(head), head)
    before = object_files(parts, tenant)
    push(parts, tenant, pack(), head)
    with start(parts, tenant) as quarantine:
        quarantine.check([NewTip(b"refs/heads/other", head)])
        quarantine.publish()
    assert object_files(parts, tenant) == before


def test_same_pack_twice_is_kept_once(parts: Parts, tenant: str, git: hostile.Repository) -> None:
    head = git.commit({"a": "1"})
    push(parts, tenant, git.pack(head), head)
    before = object_files(parts, tenant)
    push(parts, tenant, git.pack(head), head)
    assert object_files(parts, tenant) == before


def test_check_may_be_repeated_before_publishing(parts: Parts, tenant: str, git: hostile.Repository) -> None:
    head = git.commit({"a": "1"})
    with start(parts, tenant) as quarantine:
        quarantine.add_pack(io.BytesIO(git.pack(head)))
        quarantine.check([NewTip(MAIN, head)])
        quarantine.check([NewTip(MAIN, head)])
        quarantine.publish()
    assert exists(parts, tenant, head)


def test_unchecked_objects_cannot_be_published(parts: Parts, tenant: str, git: hostile.Repository) -> None:
    head = git.commit({"a": "1"})
    with start(parts, tenant) as quarantine:
        quarantine.add_pack(io.BytesIO(git.pack(head)))
        with pytest.raises(AssertionError, match="only checked objects are published"):
            quarantine.publish()


class Endless(io.RawIOBase):
    """A connection over which no end of file follows the pack: reading on would wait forever."""

    def __init__(self, body: bytes) -> None:
        self._rest = body

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        assert self._rest, "read on after the trailer"
        view = memoryview(buffer)  # type: ignore[arg-type]
        count = min(len(view), len(self._rest), 100)
        view[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def test_reading_stops_at_the_trailer(parts: Parts, tenant: str, git: hostile.Repository) -> None:
    head = git.commit({"a": "1" * 5000})
    with start(parts, tenant) as quarantine:
        quarantine.add_pack(io.BufferedReader(Endless(git.pack(head))))
        quarantine.check([NewTip(MAIN, head)])


def test_bytes_after_the_pack_are_refused(parts: Parts, tenant: str) -> None:
    with start(parts, tenant) as quarantine, pytest.raises(Refused) as caught:
        quarantine.add_pack(io.BytesIO(pack() + b"x"))
    assert caught.value.message == "The pack is damaged: more bytes follow its checksum."


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            pack(entry(BLOB, b"x"), entry(BLOB, b"x")),
            "The pack is damaged: ValueError: an object is in it twice.",
        ),
        (
            # The scanner believes the size that a delta claims; whoever applies it finds out.
            pack(
                entry(BLOB, b"abc"), entry(OFS_DELTA, b"\x03\x09\x90\x03", base=hostile.back(len(entry(BLOB, b"abc"))))
            ),
            "The pack is damaged: ApplyDeltaError: ",
        ),
    ],
)
def test_what_only_the_indexer_can_see_is_refused(parts: Parts, tenant: str, body: bytes, message: str) -> None:
    with start(parts, tenant) as quarantine:
        quarantine.add_pack(io.BytesIO(body))
        with pytest.raises(Refused) as caught:
            quarantine.check([])
    assert caught.value.code == "pack_malformed"
    assert caught.value.message.startswith(message)


def test_tree_bomb_is_refused_through_the_whole_pipeline(parts: Parts, tenant: str) -> None:
    body, head = hostile.tree_bomb(width=10, depth=8)
    with pytest.raises(LimitExceeded) as caught:
        push(parts, tenant, body, head)
    assert caught.value.message == (
        "The number of files and folders in refs/heads/main (111111110) is over the limit of 20000 (tree_files_max)."
    )
    assert caught.value.details == {"limit": "tree_files_max", "bound": 20000, "found": 111111110}


def test_repository_quota_counts_what_is_there_and_what_comes(tmp_path: Path, git: hostile.Repository) -> None:
    first = git.commit({"a": os.urandom(3000)})
    second = git.commit({"b": os.urandom(3000)})
    with open_store(tmp_path / "store", limits=Limits(repository_bytes_max=5000)) as store:
        store.create_tenant("acme")
        push(store._parts, "acme", git.pack(first), first)
        with pytest.raises(LimitExceeded) as caught, start(store._parts, "acme") as quarantine:
            quarantine.add_pack(io.BytesIO(git.pack(second, without=[first])))
    assert caught.value.details["limit"] == "repository_bytes_max"


def test_sweep_removes_what_a_dead_process_left_and_nothing_else(parts: Parts, tenant: str) -> None:
    repository = parts.ensure_repository(tenant)
    script = (
        "import os, sys; from pathlib import Path; from gitstore import incoming\n"
        "folder, lock = incoming.locked_folder(Path(sys.argv[1]))\n"
        "(folder / 'incoming.pack').write_bytes(b'half')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(repository / "objects")], check=False, cwd=Path.cwd())
    (left,) = (repository / "objects").glob("incoming-*")
    with start(parts, tenant) as running:
        assert incoming.sweep(parts) == 1
        assert not left.exists()
        assert running.objects_path.is_dir()
    assert incoming.sweep(parts) == 0


def test_quarantine_that_was_swept_away_under_a_push_refuses_it(parts: Parts, tenant: str) -> None:
    with start(parts, tenant) as quarantine:
        shutil.rmtree(quarantine.objects_path)
        with pytest.raises(Unavailable, match="cannot be written") as caught:
            quarantine.add_pack(io.BytesIO(pack()))
    assert caught.value.code == "storage_failed"


DISK_ERRORS = [
    (errno.ENOSPC, "storage_full"),
    (errno.EDQUOT, "storage_full"),
    (errno.EIO, "storage_failed"),
]


@pytest.mark.parametrize(("number", "code"), DISK_ERRORS)
@pytest.mark.parametrize(
    ("owner", "name", "passed"),
    [(Path, "mkdir", 0), (os, "open", 0), (fcntl, "flock", 0), (Path, "mkdir", 1), (Path, "write_bytes", 0)],
)
def test_quarantine_that_the_disk_refuses_leaves_neither_folder_nor_lock(
    parts: Parts,
    tenant: str,
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    name: str,
    passed: int,
    number: int,
    code: str,
) -> None:
    repository = parts.ensure_repository(tenant)
    before = len(os.listdir("/proc/self/fd"))
    original = getattr(owner, name)
    calls = 0

    def failing(*args: object, **named: object) -> object:
        nonlocal calls
        calls += 1
        if calls > passed:
            raise OSError(number, os.strerror(number))
        return original(*args, **named)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, failing)
        with pytest.raises(Unavailable) as caught:
            Quarantine(parts, repository)
    assert caught.value.code == code
    assert list((repository / "objects").glob("incoming-*")) == []
    assert len(os.listdir("/proc/self/fd")) == before


class FullFile(io.RawIOBase):
    """A file on a disk that is full: what a buffer holds can never leave it."""

    def __init__(self, number: int) -> None:
        self._number = number

    def writable(self) -> bool:
        return True

    def write(self, _data: object) -> int:
        raise OSError(self._number, os.strerror(self._number))


@pytest.mark.parametrize(("number", "code"), DISK_ERRORS)
@pytest.mark.parametrize("size", [10, 200_000], ids=["at the flush", "at a write"])
def test_pack_that_the_disk_has_no_room_for_is_unavailable_and_leaves_nothing(
    parts: Parts,
    tenant: str,
    git: hostile.Repository,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    number: int,
    code: str,
) -> None:
    head = git.commit({"a": os.urandom(size).hex()})
    body = io.BytesIO(git.pack(head))
    before = object_files(parts, tenant)
    with start(parts, tenant) as quarantine, monkeypatch.context() as patched:
        patched.setattr(Path, "open", lambda *_: io.BufferedWriter(FullFile(number)))
        with pytest.raises(Unavailable) as caught:
            quarantine.add_pack(body)
    assert caught.value.code == code
    assert object_files(parts, tenant) == before


def test_error_of_the_connection_is_not_taken_for_the_disks(parts: Parts, tenant: str) -> None:
    class Broken(io.RawIOBase):
        def read(self, _size: int = -1) -> bytes:
            raise ConnectionResetError

    with start(parts, tenant) as quarantine, pytest.raises(ConnectionResetError):
        quarantine.add_pack(Broken())  # type: ignore[arg-type]  # all that is used of it
