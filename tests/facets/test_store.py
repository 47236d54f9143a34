"""StateStore as its owner sees it: appending, reading, refusing, failing."""

from __future__ import annotations

import os
import random
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from facets import (
    Corrupt,
    DataInUse,
    Fenced,
    InstanceRow,
    JournalRecord,
    Limits,
    NotFound,
    Record,
    Refused,
    SequenceConflict,
    StateStore,
    StorageFull,
    StoreFailed,
    delta,
)
from facets.log import CommitLog
from tests.facets.faulty_vfs import FaultyVFS
from tests.facets.making import COMMIT, names, record


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StateStore]:
    with StateStore.open(tmp_path / "state", fold="manual") as opened:
        yield opened


# --- appending and reading back


def test_what_was_appended_is_read_back_before_and_after_the_fold(store: StateStore) -> None:
    store.append([record("a", 1, b"started"), record("a", 2, b"slept", wake=50, at=7, summary=b"s")])
    for _ in range(2):
        assert store.row("acme", "a") == InstanceRow(
            "acme", "a", 1, 2, "waiting", 50, "Onboarding", COMMIT, 1000, 7, b"s", 0
        )
        assert store.journal("acme", "a") == [JournalRecord(1, b"started", False), JournalRecord(2, b"slept", False)]
        assert store.image("acme", "a") == b""
        store.fold()


def test_unknown_instance_is_none_and_empty(store: StateStore) -> None:
    store.append([record("a", 1)])
    assert store.row("acme", "b") is None
    assert store.row("other", "a") is None
    assert store.journal("other", "a") == []
    assert store.image("other", "a") == b""
    assert store.output("other", "a") == []


def test_journal_pages_are_the_same_wherever_the_fold_stands(store: StateStore) -> None:
    expected = []
    for sequence in range(1, 41):
        entry = os.urandom(400)
        expected.append(JournalRecord(sequence, entry, False))
        store.append([record("a", sequence, entry)])
        if sequence in {7, 8, 30}:
            store.fold()
    assert store.journal("acme", "a") == expected
    for after in range(0, 42, 3):
        for limit in (0, 1, 5, 100):
            assert store.journal("acme", "a", after=after, limit=limit) == expected[after : after + limit]


def test_row_only_record_changes_the_row_and_not_the_journal(store: StateStore) -> None:
    store.append([record("a", 1)])
    store.fold()
    store.append([record("a", 0, state="paused", wake=9)])
    for _ in range(2):
        found = store.row("acme", "a")
        assert found is not None
        assert (found.state, found.wake_at_ms, found.sequence) == ("paused", 9, 1)
        assert len(store.journal("acme", "a")) == 1
        store.fold()
    assert store.check() == []


def test_an_append_is_one_fsync(tmp_path: Path) -> None:
    vfs = FaultyVFS()
    with StateStore.open(tmp_path / "state", fold="manual", vfs=vfs.name) as store:
        vfs.syncs.clear()
        store.append([record(f"i{number}", 1, os.urandom(300)) for number in range(256)])
        store.append([record(f"i{number}", 2, os.urandom(300)) for number in range(256)])
        assert vfs.syncs == ["log.db-wal"] * 2


def test_batch_over_its_limit_is_refused(tmp_path: Path) -> None:
    with StateStore.open(tmp_path, limits=Limits(batch_bytes_max=1000), fold="manual") as store:
        with pytest.raises(Refused) as caught:
            store.append([record("a", 1, b"x" * 600), record("b", 1, b"x" * 600)])
        assert caught.value.code == "batch_too_large"
        store.append([record("a", 1, b"x" * 600)])


def test_empty_append_writes_nothing(store: StateStore) -> None:
    assert store.append([record("a", 1)]) == 1
    assert store.append([]) == 1


# --- conflicts and refusals


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize(("sequence", "expected"), [(1, 3), (2, 3), (4, 3)])
def test_record_that_is_not_the_next_one_is_refused_with_its_whole_batch(
    store: StateStore, sequence: int, expected: int, folded: bool
) -> None:
    store.append([record("a", 1), record("a", 2)])
    if folded:
        store.fold()
    with pytest.raises(SequenceConflict) as caught:
        store.append([record("b", 1), record("a", sequence)])
    assert caught.value.details == {"tenant": "acme", "instance": "a", "expected": expected, "found": sequence}
    assert caught.value.message == (
        f"Record {sequence} of instance a (tenant acme) is not the next one: its journal has 2 entries."
    )
    assert store.row("acme", "b") is None
    assert store.append([record("b", 1), record("a", 3)]) == 2


def test_a_batch_may_carry_an_instance_several_times_but_only_in_order(store: StateStore) -> None:
    store.append([record("a", 1), record("b", 1), record("a", 2), record("a", 0, state="running"), record("a", 3)])
    assert [entry.sequence for entry in store.journal("acme", "a")] == [1, 2, 3]
    with pytest.raises(SequenceConflict):
        store.append([record("a", 5), record("a", 4)])


def test_row_only_record_of_an_unknown_instance_is_a_conflict(store: StateStore) -> None:
    """A late row update must not bring a deleted instance back."""
    store.append([record("a", 1)])
    store.delete("acme", "a")
    with pytest.raises(SequenceConflict):
        store.append([record("a", 0, state="running")])


@pytest.mark.parametrize(
    ("bad", "code", "text"),
    [
        (record("a", 1, b"x" * 101), "journal_entry_too_large", "its entry has 101 bytes, the limit is 100"),
        (record("a", 1, summary=b"x" * 51), "summary_too_large", "its summary has 51 bytes, the limit is 50"),
        (record("a", 1, delta=b"\xd1" * 61), "delta_too_large", "its facet delta has 61 bytes, the limit is 60"),
        (record("", 1), "record_invalid", "its names must not be empty or hold NUL characters"),
        (record("a", 1, tenant="a\0b"), "record_invalid", "its names must not be empty or hold NUL characters"),
        (record("a", -1, b"x"), "record_invalid", "its sequence must be 0 … 16777215, not -1"),
        (record("a", 0, b"x"), "record_invalid", "a record of sequence 0 changes the row only: no entry, no delta"),
    ],
)
def test_bad_record_is_refused_with_its_reason_and_instance(tmp_path: Path, bad: Record, code: str, text: str) -> None:
    limits = Limits(journal_entry_bytes_max=100, summary_bytes_max=50, delta_bytes_max=60)
    with StateStore.open(tmp_path, limits=limits, fold="manual") as store:
        with pytest.raises(Refused) as caught:
            store.append([record("good", 1), bad])
        assert (caught.value.code, caught.value.details) == (code, {"tenant": bad.tenant, "instance": bad.instance})
        assert text in caught.value.message
        assert store.row("acme", "good") is None


@pytest.mark.parametrize(
    "bad", [record("a\ud800", 1, b"x"), record("a", 1, wake=1 << 63), record("a" * 70_000, 1, b"x")]
)
def test_values_that_the_format_cannot_hold_are_refused(store: StateStore, bad: Record) -> None:
    with pytest.raises(Refused) as caught:
        store.append([bad])
    assert caught.value.code == "record_invalid"


def test_bytes_that_are_no_delta_are_refused_before_anything_is_written(store: StateStore) -> None:
    with pytest.raises(Refused) as caught:
        store.append([record("a", 1, delta=b"nonsense")])
    assert caught.value.code == "facet_delta_corrupt"
    assert caught.value.details["instance"] == "a"


def test_facet_over_its_limit_is_refused(tmp_path: Path) -> None:
    with StateStore.open(tmp_path, limits=Limits(facet_bytes_max=4096), fold="manual") as store:
        store.append([record("a", 1, delta=delta.between(b"", bytes(4096)))])
        with pytest.raises(Refused) as caught:
            store.append([record("a", 2, delta=delta.between(bytes(4096), bytes(5000)))])
        assert caught.value.code == "facet_too_large"


# --- facets


@pytest.mark.parametrize("folds", [set(), {1, 2, 3, 4, 5, 6}, {2}, {3, 5}])
def test_image_of_every_record_can_be_had_wherever_the_fold_stands(store: StateStore, folds: set[int]) -> None:
    images = [b""]
    for sequence in range(1, 7):
        image = images[-1] if sequence == 4 else os.urandom(sequence * 700)
        store.append([record("a", sequence, delta=delta.between(images[-1], image) if sequence != 4 else None)])
        images.append(image)
        if sequence in folds:
            store.fold()
    assert [store.image("acme", "a", at=sequence) for sequence in range(7)] == images
    assert store.image("acme", "a") == images[-1]
    found = store.row("acme", "a")
    assert found is not None
    assert found.facet_bytes == len(images[-1])
    assert [entry.has_delta for entry in store.journal("acme", "a")] == [True, True, True, False, True, True]


@pytest.mark.parametrize("at", [-1, 3])
def test_image_of_a_record_that_does_not_exist_is_not_found(store: StateStore, at: int) -> None:
    store.append([record("a", 1), record("a", 2)])
    with pytest.raises(NotFound) as caught:
        store.image("acme", "a", at=at)
    assert caught.value.code == "record_not_found"


def test_closing_folds_what_is_left_so_that_the_next_start_has_nothing_to_read(tmp_path: Path) -> None:
    with StateStore.open(tmp_path, fold="manual") as store:
        store.append([record("a", 1)])
    with StateStore.open(tmp_path, fold="manual") as again:
        assert again._tail.size == 0
        assert len(again.journal("acme", "a")) == 1


# --- one owner


def test_second_opener_is_refused_and_told_the_owner(store: StateStore) -> None:
    with pytest.raises(DataInUse) as caught:
        StateStore.open(store.path)
    assert caught.value.code == "data_in_use"
    assert caught.value.details["pid"] == os.getpid()
    assert str(caught.value) == (
        f"{store.path} is in use by process {os.getpid()}. Stop it first, or choose another data directory."
    )


def test_each_opening_has_the_next_epoch(tmp_path: Path) -> None:
    epochs = []
    for _ in range(3):
        with StateStore.open(tmp_path) as store:
            epochs.append(store.epoch)
    assert epochs == [1, 2, 3]


def test_owner_that_was_claimed_over_can_neither_append_nor_fold(store: StateStore) -> None:
    store.append([record("a", 1)])
    usurper = CommitLog(store.path / "log.db")
    usurper.claim()
    with pytest.raises(Fenced):
        store.append([record("a", 2)])
    assert len(store.journal("acme", "a")) == 1
    store._writer.execute("UPDATE progress SET epoch = epoch + 1")
    with pytest.raises(Fenced):
        store.fold()
    usurper.close()


def test_closed_store_refuses_and_closing_twice_is_nothing(tmp_path: Path) -> None:
    store = StateStore.open(tmp_path)
    store.close()
    store.close()
    for use in (lambda: store.append([record("a", 1)]), lambda: store.row("acme", "a"), store.fold):
        with pytest.raises(Refused) as caught:
            use()
        assert caught.value.code == "store_closed"


# --- crash, failure, full disk


def crashed(store: StateStore, target: Path) -> Path:
    """The files as they are at this moment, as after the death of the process."""
    return Path(shutil.copytree(store.path, target))


def test_everything_acknowledged_is_there_after_a_crash_before_and_after_a_fold(
    store: StateStore, tmp_path: Path
) -> None:
    store.append([record("a", 1), record("b", 1, wake=5)])
    store.fold()
    store.append([record("a", 2), record("c", 1), record("b", 0, state="running")])
    with StateStore.open(crashed(store, tmp_path / "copy"), fold="manual") as again:
        assert [entry.sequence for entry in again.journal("acme", "a")] == [1, 2]
        assert again.row("acme", "b") == store.row("acme", "b")
        assert again.row("acme", "c") == store.row("acme", "c")
        assert again.list("acme") == store.list("acme")
        assert again.check() == []
        assert again.append([record("a", 3), record("d", 1)]) == 3
        again.fold()
        assert again.check() == []
        generation = again.row("acme", "d")
        assert generation is not None
        assert generation.generation == 4


def test_fold_that_was_cut_off_before_the_log_was_trimmed_is_not_folded_twice(
    store: StateStore, tmp_path: Path
) -> None:
    store.append([record("a", 1), record("a", 2)])
    store._fold.fold()  # committed to state.db, and the log still holds it
    with StateStore.open(crashed(store, tmp_path / "copy"), fold="manual") as again:
        assert [entry.sequence for entry in again.journal("acme", "a")] == [1, 2]
        assert again.check() == []


def test_power_cut_that_undoes_folds_loses_nothing(store: StateStore, tmp_path: Path) -> None:
    """Folds are not fsynced; until a checkpoint has done that, the log must hold everything that they took from it."""
    store.append([record("a", 1), record("b", 1)])
    store.fold()
    for sequence in range(2, 6):
        store.append([record("a", sequence), record(f"new{sequence}", 1)])
        store._fold.fold()
    store.delete("acme", "b")
    store._fold.fold()
    copy = crashed(store, tmp_path / "copy")
    (copy / "state.db-wal").unlink()
    with StateStore.open(copy, fold="manual") as again:
        assert again.list("acme") == store.list("acme")
        assert again.journal("acme", "a") == store.journal("acme", "a")
        assert again.check() == []


def test_torn_end_of_the_log_loses_only_what_was_not_acknowledged(store: StateStore, tmp_path: Path) -> None:
    """The write-ahead file cut off, zeroed or garbled anywhere behind the last acknowledged byte."""
    noise = random.Random(5)
    for sequence in range(1, 4):
        store.append([record("a", sequence, noise.randbytes(3000))])
    acknowledged = (store.path / "log.db-wal").stat().st_size
    store.append([record("a", 4, noise.randbytes(9000))])
    whole = (store.path / "log.db-wal").read_bytes()
    assert len(whole) > acknowledged + 9000
    for number in range(24):
        cut = noise.randrange(acknowledged, len(whole))
        rest = len(whole) - cut
        torn = [b"", bytes(rest), noise.randbytes(rest)][number % 3]
        copy = crashed(store, tmp_path / f"copy{number}")
        (copy / "log.db-wal").write_bytes(whole[:cut] + torn)
        (copy / "log.db-shm").unlink()
        with StateStore.open(copy, fold="manual") as again:
            assert again.journal("acme", "a") == store.journal("acme", "a", limit=3)
            again.append([record("a", 4)])
            assert again.check() == []


def test_failed_fsync_is_store_failed_for_ever_and_reads_go_on(tmp_path: Path) -> None:
    vfs = FaultyVFS()
    store = StateStore.open(tmp_path / "state", fold="manual", vfs=vfs.name)
    store.append([record("a", 1)])
    vfs.failing_sync = "log.db-wal"
    with pytest.raises(StoreFailed):
        store.append([record("a", 2)])
    vfs.failing_sync = None
    for _ in range(2):
        with pytest.raises(StoreFailed, match=r"Writing log\.db failed"):
            store.append([record("a", 2)])
    assert [entry.sequence for entry in store.journal("acme", "a")] == [1]
    store.close()


def test_failed_fsync_of_the_state_database_never_trims_the_log(tmp_path: Path) -> None:
    vfs = FaultyVFS()
    store = StateStore.open(tmp_path / "state", fold="manual", vfs=vfs.name)
    store.append([record("a", 1)])
    vfs.failing_sync = "state.db"
    with pytest.raises(StoreFailed, match=r"Writing state\.db failed"):
        store.fold()
    vfs.failing_sync = None
    with pytest.raises(StoreFailed, match=r"Writing state\.db failed"):
        store.append([record("a", 2)])
    assert [position for position, _ in store._log.read_from(1)] == [1]
    store.close()
    with StateStore.open(tmp_path / "state") as again:
        assert [entry.sequence for entry in again.journal("acme", "a")] == [1]


def test_full_disk_is_storage_full_nothing_is_half_written_and_it_works_again(tmp_path: Path) -> None:
    vfs = FaultyVFS()
    store = StateStore.open(tmp_path / "state", fold="manual", vfs=vfs.name)
    store.append([record("a", 1)])
    store.fold()
    vfs.full = ".db"
    batch = [record("a", 2, os.urandom(9000)), record("b", 1, os.urandom(9000))]
    with pytest.raises(StorageFull):
        store.append(batch)
    assert [entry.sequence for entry in store.journal("acme", "a")] == [1]
    assert store.row("acme", "b") is None
    vfs.full = None
    store.append(batch)
    vfs.full = "state.db"
    with pytest.raises(StorageFull):
        store.fold()
    assert names(store.list("acme")[0]) == ["b", "a"]
    store.append([record("a", 3)])
    vfs.full = None
    store.fold()
    assert [entry.sequence for entry in store.journal("acme", "a")] == [1, 2, 3]
    assert store.check() == []
    store.close()
    with StateStore.open(tmp_path / "state") as again:
        assert names(again.list("acme")[0]) == ["b", "a"]


class BrokenClose:
    """A part whose close() does its work and then fails, as a file system that has gone away does."""

    def __init__(self, part: object, text: str) -> None:
        self._part = part
        self._text = text

    def __getattr__(self, name: str) -> object:
        return getattr(self._part, name)

    def close(self) -> None:
        self._part.close()  # type: ignore[attr-defined]  # each part has one
        raise OSError(self._text)


@pytest.mark.parametrize("broken", [("_readers",), ("_writer", "_log"), ("_readers", "_output", "_writer", "_log")])
def test_closing_lets_go_of_everything_whatever_fails_and_tells_the_first(
    tmp_path: Path, broken: tuple[str, ...]
) -> None:
    store = StateStore.open(tmp_path / "state", fold="manual")
    store.append([record("a", 1)])
    for name in broken:
        setattr(store, name, BrokenClose(getattr(store, name), f"{name} is gone"))
    with pytest.raises(StoreFailed) as caught:
        store.close()
    assert str(caught.value) == (
        f"Closing the store in {tmp_path / 'state'} failed: {broken[0]} is gone. "
        "Nothing is lost: what was acknowledged is read at the next start."
    )
    assert isinstance(caught.value.__cause__, OSError)
    store.close()
    with StateStore.open(tmp_path / "state") as again:
        assert [entry.sequence for entry in again.journal("acme", "a")] == [1]


def test_failed_opening_tells_its_own_error_though_closing_fails_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def recover(store: StateStore) -> None:
        store._log = BrokenClose(store._log, "the log is gone")  # type: ignore[assignment]
        store._readers = BrokenClose(store._readers, "the readers are gone")  # type: ignore[assignment]
        raise Corrupt("the real error")

    with monkeypatch.context() as patched:
        patched.setattr(StateStore, "_recover", recover)
        with pytest.raises(Corrupt, match="the real error") as caught:
            StateStore.open(tmp_path / "state")
    assert caught.value.__notes__ == ["Closing the store failed too: the readers are gone"]
    StateStore.open(tmp_path / "state").close()


def test_files_of_different_moments_are_refused_not_guessed(store: StateStore, tmp_path: Path) -> None:
    store.append([record("a", 1)])
    store.append([record("a", 2)])
    old = crashed(store, tmp_path / "old")
    store.fold()
    new = crashed(store, tmp_path / "new")
    newer = shutil.copytree(new, tmp_path / "lost state")
    for path in newer.glob("state.db*"):
        path.unlink()
    with pytest.raises(Corrupt) as caught:
        StateStore.open(newer)
    assert caught.value.code == "log_gap"
    for path in old.glob("log.db*"):
        path.unlink()
    for path in new.glob("state.db*"):
        shutil.copy(path, old)
    with pytest.raises(Corrupt) as caught:
        StateStore.open(old)
    assert caught.value.code == "log_behind_state"


# --- deleting


@pytest.mark.parametrize("fold_before", [False, True])
@pytest.mark.parametrize("fold_after", [False, True])
def test_deleted_instance_is_gone_and_its_id_starts_again_at_1(
    store: StateStore, tmp_path: Path, fold_before: bool, fold_after: bool
) -> None:
    image = os.urandom(2000)
    store.append([record("a", 1, wake=5), record("a", 2, delta=delta.between(b"", image)), record("b", 1)])
    old = store.row("acme", "a")
    assert old is not None
    if fold_before:
        store.fold()
    assert store.delete("acme", "a") is True
    assert store.delete("acme", "a") is False
    if fold_after:
        store.fold()
    assert store.row("acme", "a") is None
    assert store.journal("acme", "a") == []
    assert store.next_wake_ms() is None
    assert names(store.list("acme")[0]) == ["b"]
    assert store.count("acme") == {"waiting": 1}
    store.append([record("a", 1, b"again")])
    new = store.row("acme", "a")
    assert new is not None
    assert (new.sequence, new.facet_bytes) == (1, 0)
    assert new.generation > old.generation
    with StateStore.open(crashed(store, tmp_path / "copy"), fold="manual") as again:
        for _ in range(2):
            assert again.journal("acme", "a") == [JournalRecord(1, b"again", False)]
            assert again.image("acme", "a") == b""
            assert again.row("acme", "a") == new
            again.fold()
        assert again.check() == []


@pytest.mark.parametrize("folded", [False, True])
def test_deleted_tenant_is_gone_and_others_stay(store: StateStore, folded: bool) -> None:
    store.append([record("a", 1), record("b", 1), record("a", 1, tenant="other")])
    if folded:
        store.fold()
    store.append([record("b", 2), record("c", 1, wake=3)])
    assert store.delete_tenant("acme") is True
    assert store.delete_tenant("acme") is False
    store.append([record("b", 1, b"new")])
    for _ in range(2):
        assert names(store.list("acme")[0]) == ["b"]
        assert store.journal("acme", "b") == [JournalRecord(1, b"new", False)]
        assert store.count("acme") == {"waiting": 1}
        assert store.commits("acme") == {COMMIT}
        assert store.next_wake_ms() is None
        assert names(store.list("other")[0]) == ["a"]
        store.fold()
    assert store.check() == []


def test_no_byte_of_a_deleted_instance_is_left_after_the_fold(tmp_path: Path) -> None:
    secrets = [b"secret-entry-%d" % number for number in range(3)] + [b"secret-summary", b"secret-name", b"secret-out"]
    with StateStore.open(tmp_path, fold="manual") as store:
        store.append([record("keep", 1)])
        image = b"".join(os.urandom(500) + b"secret-image" for _ in range(20))
        store.append([record("secret-name", 1, secrets[0] + os.urandom(3000), delta=delta.between(b"", image))])
        store.fold()
        store.append([record("secret-name", 2, secrets[1], summary=secrets[3])])
        from facets import OutputLine

        store.append_output([OutputLine("acme", "secret-name", 1, 0, 1, "stdout", "", "s", 1, "secret-out")])
        store.append([record("secret-name", 3, secrets[2])])
        store.delete("acme", "secret-name")
        store.fold()
        for path in tmp_path.iterdir():
            content = path.read_bytes()
            for secret in [*secrets, b"secret-image"]:
                assert secret not in content, (path.name, secret)
        assert names(store.list("acme")[0]) == ["keep"]


# --- threads


def test_reader_beside_appends_and_folds_always_sees_a_whole_journal_that_only_grows(tmp_path: Path) -> None:
    """A prototype mixed a row from before a fold with a tail from after it."""
    limits = Limits(fold_interval_ms=1, log_bytes_max=20_000)
    stop = threading.Event()
    problems: list[str] = []

    with StateStore.open(tmp_path, limits=limits) as store:
        store.append([record("a", 1, wake=1), record("b", 1)])

        def read() -> None:
            last = 0
            while not stop.is_set():
                row = store.row("acme", "a")
                journal = store.journal("acme", "a")
                rows, _ = store.list("acme")
                if row is None or row.sequence < last or len(journal) < row.sequence:
                    problems.append(f"{row} after {last}, journal {len(journal)}")
                if names(rows) != ["b", "a"]:
                    problems.append(f"listed {rows}")
                if (counts := store.count("acme")) != {"waiting": 2}:
                    problems.append(f"counted {counts}")
                if (wake := store.next_wake_ms()) is None or wake < last:
                    problems.append(f"next wake {wake} after {last}")
                if names(due := store.due(1000, limit=5)) != ["a"]:
                    problems.append(f"due {due}")
                last = row.sequence if row is not None else last

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        for sequence in range(2, 600):
            store.append([record("a", sequence, wake=sequence)])
        stop.set()
        for reader in readers:
            reader.join()
        assert problems == []
        assert [entry.sequence for entry in store.journal("acme", "a")] == list(range(1, 600))
        assert store.check() == []


def test_appends_wait_for_the_fold_when_the_tail_is_at_its_limit(tmp_path: Path) -> None:
    limits = Limits(tail_bytes_max=200_000, fold_interval_ms=60_000)
    with StateStore.open(tmp_path, limits=limits) as store:
        for sequence in range(1, 200):
            store.append([record("a", sequence, os.urandom(5000))])
            assert store._tail.size <= 200_000 + 6000
        assert len(store.journal("acme", "a")) == 199
