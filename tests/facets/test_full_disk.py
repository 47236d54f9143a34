"""A disk that is really full: a small file system in memory, where the machine lets us have one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from facets import Limits, StateStore, StorageFull
from facets.reserve import Reserve
from tests.facets.faulty_vfs import FaultyVFS
from tests.facets.making import record

MIB = 1024 * 1024
LIMITS = Limits(disk_reserve_bytes=MIB, tail_bytes_max=8 * MIB)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A directory on a disk of 12 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(path)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("this machine lets us mount no file system")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def fill(store: StateStore, *, bytes_each: int = 60_000) -> int:
    """Instances of noise until the disk has no room for another; how many it took."""
    for number in range(10_000):
        try:
            store.append([record(f"i{number}", 1, os.urandom(bytes_each))])
            if number % 20 == 19:
                store.fold()
        except StorageFull:
            return number
    raise AssertionError("the disk was never full")


def test_full_disk_refuses_records_and_still_reads_and_deletes_and_then_takes_records_again(disk: Path) -> None:
    with StateStore.open(disk / "state", fold="manual", limits=LIMITS) as store:
        number = fill(store)
        assert number > 20
        for _ in range(3):
            with pytest.raises(StorageFull):
                store.append([record("more", 1, os.urandom(60_000))])
        assert store.row("acme", "more") is None
        assert len(store.list("acme", limit=10_000)[0]) >= number
        assert store.delete_many([("acme", f"i{each}") for each in range(number)]) == number
        assert store.count("acme").get("waiting", 0) <= 1
        store.fold()
        assert store.append([record("again", 1, os.urandom(60_000))]) > 0
        assert store.check() == []
    with StateStore.open(disk / "state", limits=LIMITS) as again:
        assert len(again.journal("acme", "again")) == 1
        assert again.row("acme", "i0") is None


def test_disk_filled_by_somebody_else_refuses_records_until_there_is_room_without_reopening(disk: Path) -> None:
    with StateStore.open(disk / "state", fold="manual", limits=LIMITS) as store:
        store.append([record("a", 1)])
        with (disk / "other").open("wb") as other:
            while True:
                try:
                    os.write(other.fileno(), bytes(4096))
                except OSError:
                    break
        with pytest.raises(StorageFull):
            for sequence in range(2, 1000):
                store.append([record("a", sequence, os.urandom(5000))])
        durable = len(store.journal("acme", "a"))
        assert store.delete("acme", "a") is True
        with pytest.raises(StorageFull, match="the little room that is left is for deletions"):
            store.append([record("b", 1)])
        (disk / "other").unlink()
        store.append([record("b", 1)])
        store.fold()
        assert (store.row("acme", "a"), durable > 0) == (None, True)
        assert store.check() == []


def test_reserve_is_given_back_once_and_taken_again_when_there_is_room(disk: Path) -> None:
    reserve = Reserve(disk / "reserve", 8 * MIB)
    assert reserve.is_whole
    assert reserve.release() is True
    assert reserve.release() is False
    (disk / "other").write_bytes(bytes(6 * MIB))
    assert reserve.fill() is False
    assert (disk / "reserve").stat().st_blocks == 0
    (disk / "other").unlink()
    assert reserve.fill() is True
    assert (disk / "reserve").stat().st_blocks * 512 == 8 * MIB


@pytest.mark.parametrize("has_deletion", [True, False])
def test_fold_may_use_the_reserve_for_a_deletion_and_for_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_deletion: bool
) -> None:
    vfs = FaultyVFS()
    with StateStore.open(tmp_path / "state", fold="manual", vfs=vfs.name) as store:
        store.append([record("a", 1, os.urandom(9000)), record("b", 1)])
        store.fold()
        vfs.full = "state.db"
        released: list[bool] = []

        def release() -> bool:
            released.append(True)
            vfs.full = None
            return True

        monkeypatch.setattr(store._reserve, "release", release)
        if has_deletion:
            store.delete("acme", "a")
            store._fold.fold()
            assert store.row("acme", "a") is None
        else:
            store.append([record("a", 2)])
            with pytest.raises(StorageFull):
                store._fold.fold()
        vfs.full = None
        assert released == [True] * has_deletion
        assert store.check() == []
