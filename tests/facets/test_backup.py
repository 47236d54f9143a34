"""Backup, restore, check and export."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from facets import Corrupt, NotFound, OutputLine, Refused, StateStore, Unavailable, delta, restore
from tests.facets.making import names, record


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StateStore]:
    with StateStore.open(tmp_path / "state", fold="manual") as opened:
        opened.append([record("a", 1, wake=9), record("b", 1)])
        opened.append([record("a", 2, wake=9, delta=delta.between(b"", b"image" * 1000))])
        opened.append_output([OutputLine("acme", "a", 1, 0, 1, "stdout", "", "s", 1, "hello")])
        yield opened


def image_of_a_database(tmp_path: Path) -> bytes:
    path = tmp_path / "tenant.db"
    connection = apsw.Connection(str(path))
    connection.execute("CREATE TABLE found(name, size); INSERT INTO found VALUES('setup.py', 12)")
    connection.close()
    return path.read_bytes()


def test_backup_opens_as_a_store_with_everything_in_it(store: StateStore, tmp_path: Path) -> None:
    store.fold()
    store.append([record("b", 2), record("c", 1)])
    store.backup(tmp_path / "backup")
    store.append([record("late", 1)])
    restore(tmp_path / "backup", tmp_path / "restored")
    for place in ("restored", "backup"):
        with StateStore.open(tmp_path / place, fold="manual") as copy:
            assert names(copy.list("acme")[0]) == ["c", "b", "a"]
            for name in "abc":
                assert copy.row("acme", name) == store.row("acme", name)
                assert copy.journal("acme", name) == store.journal("acme", name)
            assert copy.image("acme", "a") == b"image" * 1000
            assert copy.image("acme", "a", at=1) == b""
            assert [line.text for _, line in copy.output("acme", "a")] == ["hello"]
            assert copy.next_wake_ms() == 9
            assert copy.check() == []
            copy.append([record("c", 2)])


def test_backup_beside_appends_and_folds_is_whole(tmp_path: Path) -> None:
    """Everything acknowledged before the backup began is in it, and it is consistent whatever went on meanwhile."""
    done = threading.Event()
    written = 0

    with StateStore.open(tmp_path / "state") as store:

        def write() -> None:
            nonlocal written
            while not done.is_set():
                store.append([record("a", written + 1), record(f"i{written}", 1)])
                written += 1

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for number in range(3):
                before = written
                store.backup(tmp_path / f"backup{number}")
                with StateStore.open(tmp_path / f"backup{number}", fold="manual") as copy:
                    assert copy.check() == []
                    journal = copy.journal("acme", "a")
                    assert len(journal) >= before
                    assert copy.count("acme") == ({"waiting": len(journal) + 1} if journal else {})
        finally:
            done.set()
            writer.join()


def test_backup_never_overwrites(store: StateStore, tmp_path: Path) -> None:
    (tmp_path / "backup").mkdir()
    with pytest.raises(Refused) as caught:
        store.backup(tmp_path / "backup")
    assert caught.value.code == "target_exists"
    with pytest.raises(Refused):
        store.backup(store.path)


def test_backup_that_cannot_be_written_leaves_nothing(store: StateStore, tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as caught:
        store.backup(tmp_path / "no such directory" / "backup")
    assert "No such file or directory" in caught.value.message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state"]


def test_restore_says_what_is_missing(store: StateStore, tmp_path: Path) -> None:
    with pytest.raises(NotFound) as absent:
        restore(tmp_path / "nothing", tmp_path / "restored")
    assert absent.value.code == "backup_not_found"
    store.backup(tmp_path / "backup")
    with pytest.raises(Refused):
        restore(tmp_path / "backup", tmp_path / "state")
    (tmp_path / "backup" / "log.db").unlink()
    with pytest.raises(Corrupt, match=r"is not a whole backup: log\.db is missing"):
        restore(tmp_path / "backup", tmp_path / "restored")
    (tmp_path / "backup" / "backup.json").write_text('{"format": 9}')
    with pytest.raises(Corrupt, match="is not a backup of format 1"):
        restore(tmp_path / "backup", tmp_path / "restored")
    assert not (tmp_path / "restored").exists()


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ("DELETE FROM chunk", "acme/long: the journal's tail continues at entry 2, not at 1"),
        ("UPDATE instance SET tail = x'' WHERE key = 1", "acme/a: the journal has 0 entries, its row says 2"),
        ("UPDATE instance SET sequence = 7 WHERE key = 1", "acme/a: the journal has 2 entries, its row says 7"),
        (
            "UPDATE instance SET tail_first = 2 WHERE key = 2",
            "acme/b: the journal's tail continues at entry 2, not at 1",
        ),
        ("UPDATE chunk SET id = id + 1", "acme/long: the journal continues at entry 2, not at 1"),
        ("DELETE FROM delta", "acme/a: facet deltas are stored for 0 records, the journal says 1"),
        ("UPDATE instance SET facet_bytes = 3 WHERE key = 1", "acme/a: the facet has 5000 bytes, its row says 3"),
        ("UPDATE instance SET tail = x'01ff' WHERE key = 2", "acme/b: A chunk of a journal ends inside a record"),
        ("UPDATE chunk SET content = x'01ff'", "acme/long: Stored bytes cannot be inflated"),
        ("DELETE FROM instance", "state.db: 1 rows of table chunk belong to no instance"),
        ("UPDATE tally SET number = number + 1", "state.db: the tally does not have the numbers of the instances"),
    ],
)
def test_check_finds_what_does_not_agree(store: StateStore, damage: str, expected: str) -> None:
    store.append([record("long", 1, bytes(3000))])
    store.fold()
    assert store.check() == []
    store._writer.execute(damage)
    problems = store.check()
    assert any(problem.startswith(expected) for problem in problems), problems


def test_check_finds_a_damaged_page(store: StateStore, tmp_path: Path) -> None:
    store.append([record(f"i{number}", 1, os.urandom(500)) for number in range(200)])
    store.fold()
    copy = Path(shutil.copytree(store.path, tmp_path / "copy"))
    with (copy / "state.db").open("r+b") as file:
        root = store._writer.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'instance_state'").get
        file.seek((root - 1) * 4096 + 100)
        file.write(os.urandom(3000))
    with StateStore.open(copy, fold="manual") as damaged:
        assert any(problem.startswith("state.db: ") for problem in damaged.check())


def test_exported_facet_is_an_ordinary_database_file(store: StateStore, tmp_path: Path) -> None:
    image = image_of_a_database(tmp_path)
    store.append([record("with facet", 1, delta=delta.between(b"", image))])
    target = tmp_path / "facet.db"
    target.write_bytes(b"what was there before")
    store.export_facet("acme", "with facet", target)
    assert target.read_bytes() == image
    script = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('select * from found').fetchall())"
    seen = subprocess.run([sys.executable, "-c", script, str(target)], capture_output=True, text=True, check=True)
    assert seen.stdout == "[('setup.py', 12)]\n"
    assert not list(tmp_path.glob(".*partial*"))


def test_export_of_no_instance_is_not_found_and_of_no_facet_is_empty(store: StateStore, tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        store.export_facet("acme", "nobody", tmp_path / "x")
    assert caught.value.code == "instance_not_found"
    store.export_facet("acme", "b", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b""


def test_export_that_cannot_be_written_is_unavailable(store: StateStore, tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as caught:
        store.export_facet("acme", "a", tmp_path / "missing" / "x")
    assert caught.value.code == "target_unavailable"
