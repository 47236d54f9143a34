"""The disk keeps to its fault model: rule by rule, without SQLite; and what a failed fsync leaves, with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

import apsw
import pytest

from facets import StateStore, StoreFailed
from tests.facets.making import record
from tests.simulation.disk import LOSSES, Disk, Fault, Loss
from tests.simulation.vfs import DiskVFS

SECTOR = 512
OLD, NEW = b"o" * (4 * SECTOR), b"n" * (4 * SECTOR)


class OneFile:
    """A file on the disk, as its VFS would write it."""

    def __init__(self, root: Path, seed: int) -> None:
        self.disk = Disk(root, Random(seed))
        self.path = root / "file"
        self.path.touch()
        self.disk.opened(str(self.path))
        self.write(0, OLD)
        self.disk.sync(str(self.path))

    def write(self, offset: int, content: bytes) -> None:
        def base(part: bytes) -> None:
            found = bytearray(self.path.read_bytes())
            found[offset : offset + len(part)] = part
            self.path.write_bytes(found)

        self.disk.write(str(self.path), offset, content, base)

    def after(self, loss: Loss) -> bytes:
        self.disk.turn_off()
        self.disk.turn_on(loss)
        return self.path.read_bytes()


def outcomes(root: Path, loss: Loss) -> set[bytes]:
    """What 60 power losses leave of a rewritten file that was not synced."""
    found: set[bytes] = set()
    for seed in range(60):
        file = OneFile(root, seed)
        file.write(0, NEW)
        found.add(file.after(loss))
    return found


def test_unsynced_write_is_lost_or_kept_or_torn_at_sectors(tmp_path: Path) -> None:
    assert outcomes(tmp_path, "lost") == {OLD}
    assert outcomes(tmp_path, "kept") == {NEW}
    torn = outcomes(tmp_path, "drawn")
    assert len(torn) > 8
    for content in torn:
        assert all(content[at : at + SECTOR] in (OLD[:SECTOR], NEW[:SECTOR]) for at in range(0, len(OLD), SECTOR))


@pytest.mark.parametrize("loss", LOSSES)
def test_synced_write_survives_every_loss(tmp_path: Path, loss: Loss) -> None:
    file = OneFile(tmp_path, 1)
    file.write(SECTOR, NEW[:100])
    file.disk.sync(str(file.path))
    assert file.after(loss) == OLD[:SECTOR] + NEW[:100] + OLD[SECTOR + 100 :]


def test_later_write_may_survive_where_an_earlier_one_is_lost(tmp_path: Path) -> None:
    found: set[bytes] = set()
    for seed in range(40):
        file = OneFile(tmp_path, seed)
        file.write(0, NEW[:SECTOR])
        file.write(SECTOR, NEW[:SECTOR])
        found.add(file.after("late"))
    assert OLD[:SECTOR] + NEW[:SECTOR] + OLD[2 * SECTOR :] in found


def test_truncation_happens_whole_or_not_at_all(tmp_path: Path) -> None:
    found: set[bytes] = set()
    for seed in range(60):
        file = OneFile(tmp_path, seed)
        file.disk.truncate(str(file.path), 0, lambda: file.path.write_bytes(b""))
        file.write(0, NEW[:SECTOR])
        found.add(file.after("drawn"))
    # The old file; the empty one; the new beginning, or room for it.
    assert found == {OLD, b"", NEW[:SECTOR], bytes(SECTOR)}


def test_what_a_failed_fsync_lost_is_not_written_by_the_next_one(tmp_path: Path) -> None:
    found: set[bytes] = set()
    for seed in range(60):
        file = OneFile(tmp_path, seed)
        file.write(0, NEW)
        file.disk.faults.append(Fault("sync", 0))
        with pytest.raises(apsw.IOError, match="failed an fsync"):
            file.disk.sync(str(file.path))
        file.disk.sync(str(file.path))
        found.add(file.after("lost"))
    assert len(found) > 8
    assert any(content != NEW for content in found)


def test_full_disk_takes_a_part_at_most(tmp_path: Path) -> None:
    file = OneFile(tmp_path, 1)
    file.disk.capacity = len(OLD)
    with pytest.raises(apsw.FullError):
        file.write(3 * SECTOR, NEW)
    assert file.path.stat().st_size == len(OLD)


@pytest.fixture
def vfs(tmp_path: Path) -> Iterator[DiskVFS]:
    made = DiskVFS(Disk(tmp_path.resolve(), Random(7)))
    yield made
    made.unregister()


def test_records_behind_a_failed_fsync_of_an_earlier_process_survive_power_loss(tmp_path: Path, vfs: DiskVFS) -> None:
    """The failed one's pages are in memory still, and clean: the next process must not build on them as they are."""
    disk, path = vfs.disk, tmp_path.resolve() / "state"
    for _ in range(12):
        store = StateStore.open(path, fold="manual", vfs=vfs.name)
        head = row.sequence if (row := store.row("acme", "a")) is not None else 0
        store.append([record("a", head + 1)])
        disk.faults.append(Fault("sync", 0, "log.db-wal"))
        with pytest.raises(StoreFailed):
            store.append([record("a", head + 2)])
        store.close()
        disk.turn_off()
        disk.turn_on("kept")

        store = StateStore.open(path, fold="manual", vfs=vfs.name)
        found = store.row("acme", "a")
        assert found is not None
        store.append([record("a", found.sequence + 1)])
        disk.turn_off()
        with suppress(StoreFailed):
            store.close()
        disk.turn_on("lost")

        with StateStore.open(path, fold="manual", vfs=vfs.name) as store:
            kept = store.row("acme", "a")
            assert kept is not None
            assert kept.sequence == found.sequence + 1, "an acknowledged record is lost"
            assert store.check() == []
