"""Forgetting: what may go of a long journal goes, whole chunks and the oldest first; what must stay stays."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from facets import (
    Corrupt,
    JournalRecord,
    Limits,
    NotFound,
    OutputLine,
    Refused,
    StateStore,
    StorageFull,
    delta,
    forgetting,
    shards,
)
from facets.chunks import decode_chunk, row_ids, sequence_of
from facets.forgetting import add_gap, is_gone, kept
from facets.shard import shard_of
from tests.facets.making import record

KIB = 1024
ENTRY_BYTES = 2000
"""Over a tail's bound: each entry that is folded alone makes a chunk."""
CHUNK = ENTRY_BYTES + 5
"""Bytes of such a chunk."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StateStore]:
    with StateStore.open(tmp_path / "state", fold="manual") as opened:
        yield opened


def grow(
    store: StateStore, count: int, *, first: int = 1, name: str = "a", deltas: frozenset[int] = frozenset()
) -> list[bytes]:
    """So many entries, each in a chunk of its own."""
    entries = []
    for sequence in range(first, first + count):
        entries.append(os.urandom(ENTRY_BYTES))
        change = delta.between(b"", b"x") if sequence in deltas else None
        store.append([record(name, sequence, entries[-1], delta=change)])
        store._fold.fold()
    return entries


def sequences(store: StateStore, name: str = "a", **options: Any) -> list[int]:
    return [found.sequence for found in store.journal("acme", name, **options)]


def forget(store: StateStore, before: int, *but: int, keep: int = 0, name: str = "a") -> None:
    store.forget("acme", name, before=before, but=but, keep_bytes=keep)
    store._fold.fold()
    store._fold.forget()


def back(store: StateStore, image: bytes, after: int) -> bytes:
    change = store.revert("acme", "a", after=after)
    assert change is not None
    return delta.apply(image, change, bytes_max=1 << 30)


def of_table(store: StateStore, key: int = 1) -> list[tuple[int, int]]:
    """(first, last) of each chunk of an instance, as decoded."""
    with store._readers.snapshot() as snapshot:
        found = snapshot.connection.execute("SELECT id, content FROM chunk WHERE id BETWEEN ? AND ?", row_ids(key))
        return [
            (sequence_of(number), decode_chunk(sequence_of(number), content)[-1].sequence) for number, content in found
        ]


# --- what goes, and what stays


def test_all_before_goes_but_the_first_entry_and_what_is_needed(store: StateStore) -> None:
    entries = grow(store, 20)
    forget(store, 16, 4, 9)
    assert store.journal("acme", "a") == [
        JournalRecord(number, entries[number - 1], False) for number in (1, 4, 9, *range(16, 21))
    ]
    assert store.check() == []


def test_chunks_go_whole_and_one_that_reaches_behind_stays(store: StateStore) -> None:
    for first in range(1, 41, 4):
        store.append([record("a", number, os.urandom(600)) for number in range(first, first + 4)])
        store._fold.fold()
    assert of_table(store) == [(first, first + 3) for first in range(1, 41, 4)]
    forget(store, 31, 11)
    assert of_table(store) == [(1, 4), (9, 12), (29, 32), (33, 36), (37, 40)]
    assert sequences(store) == [*range(1, 5), *range(9, 13), *range(29, 41)]
    forget(store, 33)
    assert sequences(store) == [*range(1, 5), *range(33, 41)]
    assert store.check() == []


def test_the_newest_that_is_to_be_kept_is_kept(store: StateStore) -> None:
    grow(store, 20)
    forget(store, 16, keep=16 * CHUNK)
    assert sequences(store) == list(range(1, 21))
    forget(store, 16, keep=5 * CHUNK)
    assert sequences(store) == [1, *range(11, 21)]
    forget(store, 16, keep=5 * CHUNK - 1)
    assert sequences(store) == [1, *range(11, 21)], "less than asked would be left"
    forget(store, 16, keep=4 * CHUNK)
    assert sequences(store) == [1, *range(12, 21)]
    grow(store, 10, first=21)
    forget(store, 30, keep=4 * CHUNK)
    assert sequences(store) == [1, *range(26, 31)]
    assert store.check() == []


@pytest.mark.parametrize("portion", [65, 2 * CHUNK, 1 << 18])
def test_what_was_needed_once_goes_when_it_is_needed_no_more(
    store: StateStore, monkeypatch: pytest.MonkeyPatch, portion: int
) -> None:
    monkeypatch.setattr(forgetting, "PORTION_BYTES", portion)
    grow(store, 20)
    forget(store, 12, 3, 4, 8)
    assert sequences(store) == [1, 3, 4, 8, *range(12, 21)]
    forget(store, 16, 4, 13)
    assert sequences(store) == [1, 4, 13, *range(16, 21)]
    forget(store, 20)
    assert sequences(store) == [1, 20]
    assert store.check() == []
    with store._readers.snapshot() as snapshot:
        assert forgetting.gaps_of(snapshot.connection, 1) == [(2, 19)]


def test_it_waits_until_the_entry_that_made_the_others_needless_is_folded(store: StateStore) -> None:
    grow(store, 10)
    store.append([record("a", 11)])
    store.forget("acme", "a", before=11, keep_bytes=0)
    store._fold.forget()
    assert sequences(store) == list(range(1, 12))
    store._fold.fold()
    store._fold.forget()
    assert sequences(store) == [1, 11]


def test_the_last_of_several_hints_counts(store: StateStore) -> None:
    grow(store, 10)
    store.forget("acme", "a", before=4, but=[2], keep_bytes=0)
    store.forget("acme", "a", before=10, keep_bytes=0)
    store.forget("acme", "a", before=8, but=[6], keep_bytes=0)
    store.fold()
    assert sequences(store) == [1, 6, 8, 9, 10]


def test_one_that_never_rests_is_trimmed_too(store: StateStore) -> None:
    """Its newest hint always waits for the fold."""
    grow(store, 10)
    store.forget("acme", "a", before=8, keep_bytes=0)
    store._fold.fold()
    for number in (11, 12):
        store.append([record("a", number)])
        store.forget("acme", "a", before=number, keep_bytes=0)
    store._fold.forget()
    assert sequences(store) == [1, 8, 9, 10, 11, 12]
    store._fold.fold()
    store._fold.forget()
    assert sequences(store) == [1, 11, 12]


def test_instances_take_turns(store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "PORTION_BYTES", 4 * CHUNK)
    for name in "ab":
        grow(store, 41, name=name)
        store.forget("acme", name, before=41, keep_bytes=0)
    for _ in range(4):
        store._fold.forget(bytes_max=1)
    left = [len(sequences(store, name)) for name in "ab"]
    assert abs(left[0] - left[1]) <= 4
    assert sum(left) < 82 - 4 * 3
    store._fold.forget()
    assert [sequences(store, name) for name in "ab"] == [[1, 41]] * 2


def test_what_a_failed_portion_looked_at_is_looked_at_again(store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    grow(store, 12)
    forget(store, 10, 3, 5)
    store.forget("acme", "a", before=10, but=[5], keep_bytes=0)
    erase = forgetting._erase

    def full(*_: Any) -> None:
        monkeypatch.setattr(forgetting, "_erase", erase)
        raise StorageFull("no room")

    monkeypatch.setattr(forgetting, "_erase", full)
    store._fold.forget()
    assert sequences(store) == [1, 5, 10, 11, 12]


def test_a_hint_that_comes_while_another_is_carried_out_is_carried_out_next(
    store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow(store, 10)
    carry_out = forgetting._carry_out

    def meanwhile(*args: Any) -> tuple[int, bool]:
        monkeypatch.setattr(forgetting, "_carry_out", carry_out)
        store.forget("acme", "a", before=8, keep_bytes=0)
        return carry_out(*args)

    monkeypatch.setattr(forgetting, "_carry_out", meanwhile)
    store.forget("acme", "a", before=5, but=[3], keep_bytes=0)
    store._fold.forget()
    assert sequences(store) == [1, 8, 9, 10]


@pytest.mark.parametrize("before", [-1, 0, 1, 12, 1 << 40])
def test_a_hint_about_nothing_does_nothing(store: StateStore, before: int) -> None:
    grow(store, 11)
    forget(store, before)
    store.forget("acme", "nobody", before=3, keep_bytes=0)
    store.fold()
    assert sequences(store) == list(range(1, 12))


def test_a_hint_that_says_less_than_an_earlier_one_does_nothing(store: StateStore) -> None:
    grow(store, 12)
    forget(store, 10, 5, keep=4 * CHUNK)
    assert sequences(store) == [1, 5, *range(6, 13)]
    forget(store, 8)
    assert sequences(store) == [1, 5, *range(6, 13)]


def test_a_hint_for_one_that_was_deleted_meanwhile_is_none_for_the_next_of_its_name(store: StateStore) -> None:
    grow(store, 5)
    store.append([record("a", 6)])
    store.forget("acme", "a", before=6, keep_bytes=0)
    store.delete("acme", "a")
    for sequence in range(1, 9):
        store.append([record("a", sequence, os.urandom(ENTRY_BYTES))])
    store.fold()
    store.fold()
    assert sequences(store) == list(range(1, 9))
    assert store.check() == []


def test_a_closed_store_takes_no_hint(tmp_path: Path) -> None:
    store = StateStore.open(tmp_path, fold="manual")
    grow(store, 3)
    store.close()
    store.forget("acme", "a", before=3, keep_bytes=0)


def test_the_thread_forgets_by_itself(tmp_path: Path) -> None:
    with StateStore.open(tmp_path, limits=Limits(fold_interval_ms=2)) as store:
        gone = threading.Event()
        portion = store._fold._forgetting.portion

        def told(folded: int) -> int:
            size = portion(folded)
            if size:
                gone.set()
            return size

        store._fold._forgetting.portion = told  # type: ignore[method-assign]
        grow(store, 10)
        store.forget("acme", "a", before=10, keep_bytes=0)
        assert gone.wait(30)
        assert sequences(store) == [1, 10]


# --- reading around it


def test_pages_go_over_what_is_gone(store: StateStore) -> None:
    grow(store, 30)
    forget(store, 25, 4, 9, 10)
    present = [1, 4, 9, 10, *range(25, 31)]
    for after in range(32):
        for limit in (0, 1, 2, 3, 7, 100, None):
            behind = [number for number in present if number > after]
            assert sequences(store, after=after, limit=limit) == behind[:limit], (after, limit)


def test_pages_join_to_the_whole_over_chunks_and_the_tail(store: StateStore) -> None:
    grow(store, 12)
    store.append([record("a", number) for number in range(13, 16)])
    forget(store, 14, 6)
    store.append([record("a", 16)])
    after, found = 0, list[int]()
    while page := sequences(store, after=after, limit=2):
        found += page
        after = page[-1]
    assert found == sequences(store) == [1, 6, 13, 14, 15, 16]


def test_single_entries_are_read_and_what_is_gone_is_left_out(store: StateStore) -> None:
    entries = grow(store, 20)
    forget(store, 16, 4, 9)
    with store.at_once() as moment:
        found = moment.entries("acme", "a", [1, 2, 4, 8, 9, 15, 16])
        assert [(each.sequence, each.entry) for each in found] == [
            (number, entries[number - 1]) for number in (1, 4, 9, 16)
        ]
        with pytest.raises(Corrupt, match=r"has a gap behind entry 20"):
            moment.entries("acme", "a", [21])


@pytest.mark.parametrize("lost", [1, 4, 9, 17])
def test_what_is_missing_without_having_been_forgotten_is_a_gap(store: StateStore, lost: int) -> None:
    grow(store, 20)
    forget(store, 16, 4, 9)
    store._writer.execute("DELETE FROM chunk WHERE id = ?", (row_ids(1)[0] + lost,))
    with pytest.raises(Corrupt) as caught:
        sequences(store)
    assert caught.value.code == "journal_corrupt"
    with store.at_once() as moment, pytest.raises(Corrupt):
        moment.entries("acme", "a", [lost])
    assert any("the journal continues at entry" in problem for problem in store.check())


def test_a_record_of_what_is_gone_that_cannot_be_read_is_corrupt_and_stops_nothing(store: StateStore) -> None:
    grow(store, 9)
    grow(store, 9, name="b")
    forget(store, 6)
    store._writer.execute("UPDATE forgotten SET gaps = x'c1'")
    with pytest.raises(Corrupt, match="What was forgotten of a journal cannot be read"):
        sequences(store)
    assert sequences(store, after=5) == [6, 7, 8, 9]
    assert any("What was forgotten of a journal cannot be read" in problem for problem in store.check())
    store.forget("acme", "a", before=9, keep_bytes=0)
    forget(store, 9, name="b")
    assert sequences(store, after=5) == [6, 7, 8, 9]
    assert sequences(store, "b") == [1, 9]


def test_what_is_wrong_in_the_table_is_found(store: StateStore) -> None:
    grow(store, 9)
    forget(store, 8, keep=3 * CHUNK)
    assert store.check() == []
    store._writer.execute("UPDATE forgotten SET bytes = bytes + 1")
    assert store.check() == [f"acme/a: {3 * CHUNK + 1} bytes of the journal could be forgotten, there are {3 * CHUNK}"]
    store._writer.execute("UPDATE forgotten SET bytes = bytes - 1, gaps = x'92920204921e1f'")
    assert store.check() == [
        "acme/a: the journal has 1 gaps, 2 were made on purpose",
        "acme/a: the journal was looked at up to entry 5, but its gaps go on",
    ]
    store._writer.execute("UPDATE forgotten SET gaps = x'92920204920607'")
    assert "acme/a: the journal continues at entry 6, not at 8" in store.check()
    store._writer.execute("UPDATE forgotten SET key = 77")
    assert "state.db: 1 rows of table forgotten belong to no instance" in store.check()


# --- the facet


def test_facet_and_its_history_stay(store: StateStore) -> None:
    images = [b""]
    for sequence in range(1, 13):
        images.append(os.urandom(3000))
        store.append([record("a", sequence, os.urandom(ENTRY_BYTES), delta=delta.between(images[-2], images[-1]))])
        store._fold.fold()
    forget(store, 10)
    assert sequences(store) == [1, 10, 11, 12]
    assert [store.image("acme", "a", at=number) for number in range(13)] == images
    assert back(store, images[12], 5) == images[5]
    assert store.check() == []


@pytest.mark.parametrize("changed", [False, True])
def test_whether_there_was_a_facet_before_is_known_though_the_entries_are_gone(tmp_path: Path, changed: bool) -> None:
    """Without its history the facet can go back to before it began, and to nowhere else."""
    limits = Limits(facet_history_bytes_max=10 * KIB)
    with StateStore.open(tmp_path, fold="manual", limits=limits) as store:
        image, changes = b"", {3, 4, *range(8, 40)} if changed else {*range(8, 40)}
        for sequence in range(1, 40):
            after = os.urandom(6000) if sequence in changes else image
            change = delta.between(image, after) if sequence in changes else None
            store.append([record("a", sequence, os.urandom(ENTRY_BYTES), delta=change)])
            store._fold.fold()
            image = after
        forget(store, 5)
        forget(store, 7)
        assert sequences(store)[:2] == [1, 7]
        if changed:
            with pytest.raises(Refused) as caught:
                store.revert("acme", "a", after=7)
            assert caught.value.code == "facet_not_kept"
        else:
            assert back(store, image, 7) == b""
        assert back(store, image, 0) == b""
        with pytest.raises(NotFound):
            store.image("acme", "a", at=7)
        assert store.check() == []


# --- what it costs


def test_bytes_are_in_no_file_any_more_after_a_trim(store: StateStore) -> None:
    entries = grow(store, 30)
    store.append_output([OutputLine("acme", "a", 1, 0, 1, "stdout", "", "s", 1, "line")])
    forget(store, 25, 9)
    store._fold.trim()
    content = (store.path / "state.db").read_bytes()
    assert [entry[100:150] in content for entry in entries] == [
        number in {1, 9, *range(25, 31)} for number in range(1, 31)
    ]
    store._fold.trim(compact=True)
    content = b"".join(path.read_bytes() for path in store.path.iterdir())
    assert [entry[100:150] in content for entry in entries] == [
        number in {1, 9, *range(25, 31)} for number in range(1, 31)
    ]


def test_an_instance_that_goes_on_for_ever_takes_no_more_room(store: StateStore) -> None:
    sizes = []
    for first in range(1, 121, 10):
        grow(store, 10, first=first)
        forget(store, first + 9, first + 3, keep=5 * CHUNK)
        store._fold.trim()
        sizes.append((store.path / "state.db").stat().st_size)
    assert sizes[-1] <= sizes[4] + 20 * KIB
    assert len(sequences(store)) <= 10
    assert store.check() == []


def test_much_goes_in_portions_and_appends_and_folds_go_on_between_them(
    store: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A portion is small; while one is being written others append, and between two the fold can be had."""
    monkeypatch.setattr(forgetting, "PORTION_BYTES", 10 * CHUNK)
    grow(store, 200)
    store.append([record("b", 1)])
    carry_out = forgetting._carry_out
    portion = store._fold._forgetting.portion
    open_portions: list[int] = []
    folded: list[int] = []

    def appended(connection: Any, wish: Any, bytes_max: int) -> tuple[int, bool]:
        found = carry_out(connection, wish, bytes_max)
        done = threading.Thread(target=store.append, args=([record("b", len(open_portions) + 1)],))
        done.start()
        done.join(20)
        assert not done.is_alive(), "an append waited for a portion"
        return found

    def counted(position: int) -> int:
        open_portions.append(len(sequences(store)))
        folded.append(store._fold.folded)
        size = portion(position)
        assert open_portions[-1] - len(sequences(store)) <= 10
        return size

    monkeypatch.setattr(forgetting, "_carry_out", appended)
    monkeypatch.setattr(store._fold._forgetting, "portion", counted)
    store.forget("acme", "a", before=200, but=[77], keep_bytes=0)
    store._fold.fold()
    before = store._fold.folded
    while len(sequences(store)) > 3:
        store._fold.forget(bytes_max=1)
        store._fold.fold()
    assert len(open_portions) >= 20
    assert folded == sorted(set(folded))
    assert store._fold.folded > before
    assert sequences(store) == [1, 77, 200]
    assert store.check() == []


def test_a_crash_between_portions_leaves_what_is_left_for_the_next_hint(
    store: StateStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forgetting, "PORTION_BYTES", 5 * CHUNK)
    grow(store, 60)
    store.forget("acme", "a", before=60, but=[20], keep_bytes=0)
    store._fold.fold()
    for number in range(1, 6):
        store._fold.forget(bytes_max=1)
        copy = Path(shutil.copytree(store.path, tmp_path / f"copy{number}"))
        with StateStore.open(copy, fold="manual") as again:
            there = sequences(again)
            again.fold()
            assert sequences(again) == there, "a hint does not outlive the process"
            assert there == [1, *([20] if number >= 5 else []), *range(there[1] if number < 5 else there[2], 61)]
            assert again.check() == []
            again.append([record("a", 61)])
            forget(again, 61, 20)
            assert sequences(again) == [1, 20, 61]
            assert again.check() == []


@pytest.mark.parametrize("has_reserve", [True, False])
def test_on_a_full_disk_the_reserve_makes_room_for_forgetting(
    store: StateStore, monkeypatch: pytest.MonkeyPatch, has_reserve: bool
) -> None:
    grow(store, 6)
    if not has_reserve:
        assert store._reserve.release()
    portion = store._fold._forgetting.portion

    def needs_room(folded: int) -> int:
        if not has_reserve or (store.path / "reserve").stat().st_size:
            raise StorageFull("no room")
        return portion(folded)

    monkeypatch.setattr(store._fold._forgetting, "portion", needs_room)
    store.forget("acme", "a", before=6, keep_bytes=0)
    if has_reserve:
        store._fold.forget()
        assert sequences(store) == [1, 6]
    else:
        with pytest.raises(StorageFull):
            store._fold.forget()
        assert sequences(store) == [1, 2, 3, 4, 5, 6]


def test_a_hint_costs_what_came_since_the_last_one(store: StateStore) -> None:
    """However long the journal that is kept."""
    costs = []
    for length in (100, 600):
        name = f"long{length}"
        for first in range(1, length, 50):
            store.append([record(name, sequence, os.urandom(ENTRY_BYTES)) for sequence in range(first, first + 50)])
            store._fold.fold()
        forget(store, length, keep=1 << 40, name=name)
        store.append([record(name, length + 1, os.urandom(ENTRY_BYTES))])
        store._fold.fold()
        steps = [0]

        def tick(steps: list[int] = steps) -> bool:
            steps[0] += 1
            return False

        store._writer.set_progress_handler(tick, 1)
        forget(store, length + 1, length // 2, keep=1 << 40, name=name)
        store._writer.set_progress_handler(None)
        costs.append(steps[0])
    assert costs[1] <= 1.2 * costs[0], costs


def test_hints_are_bounded(store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "WISHES_MAX", 2)
    for name in "abc":
        grow(store, 6, name=name)
        store.forget("acme", name, before=4, keep_bytes=0)
        store.forget("acme", name, before=5, keep_bytes=0)
    store.fold()
    assert [sequences(store, name) for name in "abc"] == [[1, 5, 6], [1, 5, 6], [1, 2, 3, 4, 5, 6]]


# --- what knows of the table


def test_a_backup_has_what_is_there_and_the_gaps(store: StateStore, tmp_path: Path) -> None:
    grow(store, 20)
    forget(store, 16, 4)
    store.backup(tmp_path / "backup")
    with StateStore.open(tmp_path / "backup", fold="manual") as copy:
        assert sequences(copy) == sequences(store) == [1, 4, *range(16, 21)]
        assert copy.check() == []


def test_it_moves_to_other_stores_with_its_instance(tmp_path: Path) -> None:
    with StateStore.open(tmp_path / "state", fold="manual") as store:
        grow(store, 3, name="z")
        grow(store, 20)
        forget(store, 16, 4, keep=5 * CHUNK)
    for count in (2, 1):
        layout = shards.arrange(tmp_path, count)
        place = tmp_path / layout.places[layout.owners[shard_of("acme", "a")]]
        with StateStore.open(place, fold="manual") as store:
            assert sequences(store) == [1, 4, *range(11, 21)]
            assert store.check() == []
    with StateStore.open(place, fold="manual") as store:
        forget(store, 18, keep=3 * CHUNK)
        assert sequences(store) == [1, *range(15, 21)]
        assert store.check() == []


@pytest.mark.parametrize("of_tenant", [False, True])
def test_nothing_is_left_of_one_that_is_deleted(store: StateStore, of_tenant: bool) -> None:
    grow(store, 20)
    forget(store, 16, 4)
    assert store.delete_tenant("acme") if of_tenant else store.delete("acme", "a")
    store._fold.fold()
    assert store.check() == []
    store.fold()
    with store._readers.snapshot() as snapshot:
        assert snapshot.connection.execute("SELECT count(*) FROM forgotten").get == 0
    grow(store, 3)
    assert sequences(store) == [1, 2, 3]
    assert store.check() == []


# --- gaps by themselves


def test_gaps_are_joined_and_looked_up() -> None:
    gaps: list[tuple[int, int]] = []
    for first, last in [(10, 12), (2, 3), (20, 20), (13, 19), (5, 8), (9, 9), (4, 4)]:
        before = {number for number in range(30) if is_gone(gaps, number)}
        add_gap(gaps, first, last)
        gone = {number for number in range(30) if is_gone(gaps, number)}
        assert gone == before | set(range(first, last + 1))
        assert gaps == sorted(gaps)
        for after in range(30):
            for upto in range(after, 30):
                found = [number for part in kept(gaps, after, upto) for number in part]
                assert found == [number for number in range(after + 1, upto + 1) if number not in gone]
    assert gaps == [(2, 20)]
