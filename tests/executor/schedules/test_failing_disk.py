"""The schedules' file on a simulated disk (tests/simulation/disk.py has the fault model): what was answered is kept."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from executor.core.errors import Corrupt, PerdureError
from executor.schedules.database import CHECKPOINT_PAGES
from executor.schedules.store import SqliteScheduleStore
from tests.executor.schedules.world import NOON_MS, TENANT, World
from tests.facets.faulty_vfs import FaultyVFS
from tests.simulation.disk import LOSSES, Disk, Fault
from tests.simulation.vfs import DiskVFS


@pytest.fixture
def world() -> World:
    return World()


NEVER = "an earlier write failed"


def row(world: World, name: str, payload: bytes = b""):
    return world.row(name, every="1 hour", payload=payload)


def add(store: SqliteScheduleStore, world: World, name: str, payload: bytes = b"") -> None:
    store.add(row(world, name, payload), count_max=10_000)


OPERATIONS: dict[str, Callable[[SqliteScheduleStore, World], object]] = {
    "write": lambda store, world: add(store, world, "b"),
    "read": lambda store, _: store.get(TENANT, "a"),
    "due": lambda store, _: store.due(NOON_MS, limit=1),
    "delete": lambda store, _: store.delete(TENANT, "a"),
    "delete_tenant": lambda store, _: store.delete_tenant(TENANT),
    "backup": lambda store, _: store.backup(Path("nowhere")),
    "check": lambda store, _: store.check(),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_first_failed_fsync_is_the_last_write_and_nothing_is_read_any_more(
    tmp_path: Path, world: World, operation: str
) -> None:
    """Not even when the disk reports success again."""
    vfs = FaultyVFS()
    store = SqliteScheduleStore.open(tmp_path / "schedules.db", vfs=vfs.name)
    add(store, world, "a")
    vfs.failing_sync = "-wal"
    with pytest.raises(Corrupt) as failed:
        add(store, world, "b")
    assert failed.value.message.startswith("schedules.db could not be written: ")
    assert NEVER not in failed.value.message
    vfs.failing_sync = None
    with pytest.raises(Corrupt) as again:
        OPERATIONS[operation](store, world)
    assert again.value.message == f"schedules.db could not be written: {NEVER}"
    assert not Path("nowhere").exists()
    store.close()


def test_closing_after_a_failed_fsync_brings_nothing_home(tmp_path: Path, world: World) -> None:
    """It would copy pages that the kernel may have given up already, and call that a success."""
    vfs = FaultyVFS()
    path = tmp_path / "schedules.db"
    store = SqliteScheduleStore.open(path, vfs=vfs.name)
    vfs.failing_sync = "-wal"
    with pytest.raises(Corrupt):
        add(store, world, "a")
    vfs.failing_sync = None
    before, ahead = path.read_bytes(), Path(f"{path}-wal").stat().st_size
    vfs.syncs.clear()
    store.close()
    assert (path.read_bytes(), Path(f"{path}-wal").stat().st_size, vfs.syncs) == (before, ahead, [])


def test_failed_fsync_while_the_file_is_brought_home_is_told_too(tmp_path: Path, world: World) -> None:
    """SQLite's own checkpoints would keep it to themselves."""
    vfs = FaultyVFS()
    store = SqliteScheduleStore.open(tmp_path / "schedules.db", vfs=vfs.name)
    page = b"p" * 50_000
    vfs.failing_sync, vfs.spared_sync = "schedules.db", "-wal"
    count = 0
    with pytest.raises(Corrupt) as failed:
        for count in range(CHECKPOINT_PAGES):
            add(store, world, f"s{count}", page)
    assert 10 < count < CHECKPOINT_PAGES - 1
    assert failed.value.message.startswith("schedules.db could not be written: ")
    store.close()


def test_the_file_is_brought_home_at_every_thousand_pages(tmp_path: Path, world: World) -> None:
    path = tmp_path / "schedules.db"
    store = SqliteScheduleStore.open(path)
    for count in range(200):
        add(store, world, f"s{count}", b"p" * 50_000)
        assert Path(f"{path}-wal").stat().st_size < 2 * CHECKPOINT_PAGES * 4096
    assert path.stat().st_size > 100 * 50_000
    store.close()
    assert Path(f"{path}-wal").stat().st_size == 0 if Path(f"{path}-wal").exists() else True


def test_write_ahead_file_is_written_once_more_before_anything_rests_on_it(tmp_path: Path, world: World) -> None:
    path = tmp_path / "schedules.db"
    vfs = FaultyVFS()
    store = SqliteScheduleStore.open(path, vfs=vfs.name)
    add(store, world, "a")
    vfs.failing_sync = "-wal"
    with pytest.raises(Corrupt):
        add(store, world, "b")
    vfs.failing_sync = None
    store.close()
    vfs.syncs.clear()
    again = SqliteScheduleStore.open(path, vfs=vfs.name)
    assert vfs.syncs[0] == "schedules.db-wal"
    assert "a" in [row.name for row in again.of_tenant(TENANT)]
    again.close()
    vfs.failing_sync = "-wal"
    SqliteScheduleStore.open(path, vfs=vfs.name).close()  # It was brought home: there is nothing to be renewed.


def test_write_ahead_file_that_cannot_be_written_once_more_is_not_opened(tmp_path: Path, world: World) -> None:
    path = tmp_path / "schedules.db"
    vfs = FaultyVFS()
    store = SqliteScheduleStore.open(path, vfs=vfs.name)
    vfs.failing_sync = "-wal"
    with pytest.raises(Corrupt):
        add(store, world, "a")
    store.close()
    with pytest.raises(Corrupt) as failed:
        SqliteScheduleStore.open(path, vfs=vfs.name)
    assert failed.value.message == "schedules.db could not be read or written: the disk does not answer"


@pytest.mark.parametrize("seed", range(40))
def test_what_was_answered_survives_failed_fsyncs_and_losses_of_power(tmp_path: Path, world: World, seed: int) -> None:
    random = Random(seed)
    disk = Disk(tmp_path, random)
    vfs = DiskVFS(disk)
    path = tmp_path / "schedules.db"
    kept: set[str] = set()
    for life in range(6):
        with contextlib.suppress(PerdureError):
            store = SqliteScheduleStore.open(path, vfs=vfs.name)
            try:
                assert kept <= {found.name for found in store.of_tenant(TENANT)}
                assert store.check() == []
                disk.faults.append(Fault("sync", disk.operations + random.randrange(1, 60)))
                for number in range(random.randrange(1, 30)):
                    name = f"s{life}.{number}"
                    add(store, world, name, random.randbytes(random.choice((10, 5_000))))
                    kept.add(name)
            finally:
                if random.random() < 0.7:
                    disk.turn_off()
                store.close()
        disk.turn_off()
        disk.calm_down()
        # After a failed fsync the process ends, and mostly another begins; sometimes the power goes as well.
        disk.turn_on(random.choice(("kept", "kept", *LOSSES)))
    store = SqliteScheduleStore.open(path, vfs=vfs.name)
    assert kept <= {found.name for found in store.of_tenant(TENANT)}
    assert store.check() == []
    store.close()
    vfs.unregister()
