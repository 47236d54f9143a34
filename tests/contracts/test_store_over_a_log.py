"""What a store promises over any commit log: one suite with the real one and the fake."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from facets import CommitLog, Corrupt, Fenced, Limits, Log, OutputLine, StateStore, delta
from tests.contracts.fake_log import Disk, FakeLog
from tests.facets.making import names, record

Opener = Callable[[], StateStore]


@pytest.fixture(params=["real", "fake"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Log]:
    """Opens the same log again and again."""
    memory = Disk()

    def open_log() -> Log:
        return FakeLog(memory) if request.param == "fake" else CommitLog(tmp_path / "elsewhere.db")

    return open_log


@pytest.fixture
def opener(disk: Callable[[], Log], tmp_path: Path) -> Iterator[Opener]:
    opened: list[StateStore] = []

    def open_store() -> StateStore:
        for store in opened:
            store.close()
        opened.append(StateStore.open(tmp_path / "state", fold="manual", log=disk()))
        return opened[-1]

    yield open_store
    for store in opened:
        store.close()


def die(store: StateStore) -> None:
    """Let go of the directory as a process that is killed does: nothing is folded."""
    store._closed = True
    store._release()


def test_log_is_where_the_caller_has_put_it(opener: Opener) -> None:
    store = opener()
    store.append([record("a", 1)])
    assert not (store.path / "log.db").exists()
    assert [position for position, _ in store._log.read_from(1)] == [1]


def test_what_was_appended_is_there_after_death_before_and_after_a_fold(opener: Opener) -> None:
    store = opener()
    store.append([record("a", 1), record("b", 1, wake=7)])
    store.fold()
    store.append([record("a", 2, delta=delta.between(b"", b"image"))])
    store.delete("acme", "b")
    store.append([record("b", 1, b"again")])
    die(store)
    again = opener()
    assert again.epoch == 2
    assert [entry.sequence for entry in again.journal("acme", "a")] == [1, 2]
    assert again.image("acme", "a") == b"image"
    assert [entry.entry for entry in again.journal("acme", "b")] == [b"again"]
    assert again.next_wake_ms() is None
    assert again.check() == []
    again.fold()
    assert again.check() == []
    assert names(again.list("acme")[0]) == ["b", "a"]


def test_a_record_and_a_deletion_that_were_half_folded_are_read_once(opener: Opener) -> None:
    store = opener()
    store.append([record("a", 1, os.urandom(5000))])
    store.append_output([OutputLine("acme", "a", 1, 0, 1, "stdout", "", "s", 1, "text")])
    store._fold.fold()
    store.append([record("a", 2)])
    store.delete("acme", "a")
    store._fold.fold()  # folded, neither erased nor trimmed
    die(store)
    again = opener()
    assert again.row("acme", "a") is None
    assert again.output("acme", "a") == []
    again.append([record("a", 1)])
    again.fold()
    assert len(again.journal("acme", "a")) == 1
    assert again.check() == []


def test_log_is_trimmed_behind_the_fold_only(opener: Opener) -> None:
    store = opener()
    store.append([record("a", 1)])
    store._fold.fold()
    store.append([record("a", 2)])
    store._fold.trim()
    assert [position for position, _ in store._log.read_from(2)] == [2]
    with pytest.raises(Corrupt):
        list(store._log.read_from(1))


def test_stale_owner_is_fenced(opener: Opener, disk: Callable[[], Log]) -> None:
    store = opener()
    store.append([record("a", 1)])
    usurper = disk()
    usurper.claim()
    with pytest.raises(Fenced):
        store.append([record("a", 2)])
    usurper.close()


def test_backup_holds_everything_and_opens_with_a_log_file(opener: Opener, tmp_path: Path) -> None:
    store = opener()
    store.append([record("a", 1)])
    store.fold()
    store.append([record("a", 2), record("b", 1)])
    store.backup(tmp_path / "backup")
    store.append([record("a", 3)])
    with StateStore.open(tmp_path / "backup", fold="manual") as copy:
        assert [entry.sequence for entry in copy.journal("acme", "a")] == [1, 2]
        assert names(copy.list("acme")[0]) == ["b", "a"]
        assert copy.epoch == store.epoch + 1
        assert copy.check() == []
        copy.append([record("a", 3)])


def test_long_backlog_is_read_at_the_start_in_portions(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opener()
    for sequence in range(1, 61):
        store.append([record("a", sequence, os.urandom(10_000)), record(f"i{sequence}", 1)])
    die(store)
    monkeypatch.setattr("facets.store.RECOVERY_BYTES", 100_000)
    again = opener()
    assert again._fold.folded > 40
    assert again._tail.size <= 120_000
    assert len(again.journal("acme", "a")) == 60
    assert len(again.list("acme", limit=100)[0]) == 61
    assert again.check() == []


def test_records_of_another_type_of_the_same_shape_are_read_back_as_records(opener: Opener) -> None:
    """The engine's own structs are appended without a copy."""
    from executor.ports import Append, Row

    store = opener()
    row = Row("waiting", 5, "W", "c" * 40, 1, 2, b"s")
    store.append([Append("acme", "a", 1, b"entry", None, row), Append("acme", "a", 0, b"", None, row)])
    before = store.row("acme", "a")
    die(store)
    again = opener()
    assert again.row("acme", "a") == before
    assert [entry.entry for entry in again.journal("acme", "a")] == [b"entry"]


def test_many_small_folds_keep_the_log_short(opener: Opener) -> None:
    store = opener()
    assert store.limits == Limits()
    for sequence in range(1, 40):
        store.append([record("a", sequence)])
        store.fold()
    assert list(store._log.read_from(40)) == []
