"""The commit log on a disk that counts, fails and fills up."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from facets import CommitLog, Head, StorageFull, StoreFailed
from tests.facets.faulty_vfs import FaultyVFS


@pytest.fixture
def vfs() -> FaultyVFS:
    return FaultyVFS()


def open_log(tmp_path: Path, vfs: FaultyVFS) -> tuple[CommitLog, int]:
    log = CommitLog(tmp_path / "log.db", vfs=vfs.name)
    return log, log.claim().epoch


def test_an_append_is_exactly_one_fsync(tmp_path: Path, vfs: FaultyVFS) -> None:
    log, epoch = open_log(tmp_path, vfs)
    log.append(0, epoch, b"first")
    vfs.syncs.clear()
    for head in range(1, 21):
        log.append(head, epoch, b"x" * 50_000)
    assert vfs.syncs == ["log.db-wal"] * 20
    log.close()


def test_write_ahead_file_is_started_over_after_a_trim(tmp_path: Path, vfs: FaultyVFS) -> None:
    """Otherwise it would grow for ever under steady load."""
    log, epoch = open_log(tmp_path, vfs)
    head = 0
    sizes = []
    for _ in range(4):
        for _ in range(50):
            head = log.append(head, epoch, b"x" * 20_000)
        log.trim(head + 1)
        sizes.append((tmp_path / "log.db-wal").stat().st_size)
    assert max(sizes[1:]) <= sizes[0] * 1.2
    assert (tmp_path / "log.db").stat().st_size < 3_000_000
    log.close()


def test_failed_fsync_makes_the_log_unusable_for_ever(tmp_path: Path, vfs: FaultyVFS) -> None:
    log, epoch = open_log(tmp_path, vfs)
    log.append(0, epoch, b"one")
    vfs.failing_sync = "log.db-wal"
    with pytest.raises(StoreFailed, match=r"Writing log\.db failed"):
        log.append(1, epoch, b"two")
    vfs.failing_sync = None
    for write in (lambda: log.append(1, epoch, b"two"), log.claim, lambda: log.trim(1)):
        with pytest.raises(StoreFailed, match=r"Writing log\.db failed"):
            write()
    log.close()


def test_failed_fsync_of_a_checkpoint_makes_the_log_unusable_too(tmp_path: Path, vfs: FaultyVFS) -> None:
    log, epoch = open_log(tmp_path, vfs)
    log.append(0, epoch, b"one")
    vfs.failing_sync = "log.db"
    with pytest.raises(StoreFailed):
        log.trim(2)
    vfs.failing_sync = None
    with pytest.raises(StoreFailed):
        log.append(1, epoch, b"two")
    log.close()


def test_full_disk_writes_nothing_and_appends_work_again_when_there_is_room(tmp_path: Path, vfs: FaultyVFS) -> None:
    log, epoch = open_log(tmp_path, vfs)
    log.append(0, epoch, b"one")
    vfs.full = "log.db"
    for _ in range(3):
        with pytest.raises(StorageFull) as caught:
            log.append(1, epoch, b"x" * 200_000)
    assert "Free disk space; nothing was written" in str(caught.value)
    assert log.head() == Head(1, epoch)
    other = CommitLog(tmp_path / "log.db")
    assert list(other.read_from(1)) == [(1, b"one")]
    other.close()
    vfs.full = None
    assert log.append(1, epoch, b"two") == 2
    assert list(log.read_from(1)) == [(1, b"one"), (2, b"two")]
    log.close()


def test_erased_bytes_are_in_no_file(tmp_path: Path, vfs: FaultyVFS) -> None:
    log, epoch = open_log(tmp_path, vfs)
    secret = b"the tenant's own bytes" * 400
    log.append(0, epoch, secret)
    log.append(1, epoch, b"kept")
    assert secret[:22] in (tmp_path / "log.db-wal").read_bytes()
    assert log.trim(2, erase=True) is True
    assert list(log.read_from(2)) == [(2, b"kept")]
    log.close()
    for path in tmp_path.iterdir():
        assert secret[:22] not in path.read_bytes(), path.name


def test_log_locked_by_a_stranger_is_busy_not_failed(tmp_path: Path, vfs: FaultyVFS) -> None:
    log, epoch = open_log(tmp_path, vfs)
    log._appender.set_busy_timeout(1)
    stranger = apsw.Connection(str(tmp_path / "log.db"))
    stranger.execute("BEGIN IMMEDIATE")
    with pytest.raises(Exception, match=r"log\.db is locked by another program") as caught:
        log.append(0, epoch, b"one")
    assert caught.value.code == "storage_busy"
    stranger.execute("ROLLBACK")
    stranger.close()
    assert log.append(0, epoch, b"one") == 1
    log.close()
