"""The fold: what it writes, in which order, and what it costs."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from facets import Corrupt, JournalRecord, Limits, OutputLine, StateStore, StorageFull, delta, index
from facets.bases import REBASE_COUNT
from facets.chunks import CHUNK_BYTES, TAIL_BYTES, cut_into_chunks, decode_chunk, head_of, pack, unpack
from facets.records import decode_batch, encode_batch
from tests.facets.faulty_vfs import FaultyVFS
from tests.facets.making import record


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StateStore]:
    with StateStore.open(tmp_path / "state", fold="manual") as opened:
        yield opened


def rows(store: StateStore, sql: str) -> list[tuple[object, ...]]:
    with store._readers.snapshot() as snapshot:
        return list(snapshot.connection.execute(sql))


def test_sleeping_instance_costs_less_than_one_and_a_half_kib_of_disk(tmp_path: Path) -> None:
    """Start, one step and a sleep, 120 B of random payload, one fold between each."""
    number, noise = 2000, random.Random(7)
    with StateStore.open(tmp_path, fold="manual") as store:
        for sequence in (1, 2, 3):
            store.append(
                [
                    record(
                        f"customer-{identifier:08d}",
                        sequence,
                        noise.randbytes(120) + b"entry of the usual form",
                        summary=b"sleep: cool off",
                        wake=1_700_000_000_000 + identifier if sequence == 3 else None,
                    )
                    for identifier in range(number)
                ]
            )
            store.fold()
    size = sum(path.stat().st_size for path in tmp_path.iterdir()) / number
    assert size < 1536, f"{size:.0f} B an instance"


def test_fold_empties_the_log_and_the_memory(store: StateStore) -> None:
    for sequence in range(1, 50):
        store.append([record("a", sequence, os.urandom(2000))])
    assert store._tail.size > 49 * 2000
    store.fold()
    assert store._tail.size == 0
    assert store._tail.view().holds("acme", "a", 0) == []
    assert list(store._log.read_from(50)) == []
    with pytest.raises(Corrupt, match="no position 49"):
        list(store._log.read_from(49))


def test_log_is_trimmed_only_after_the_state_database_was_fsynced(tmp_path: Path) -> None:
    vfs = FaultyVFS()
    with StateStore.open(tmp_path / "state", fold="manual", vfs=vfs.name) as store:
        store.fold()
        store.append([record("a", 1)])
        store._fold.fold()  # the first write behind a checkpoint syncs the header of the write-ahead file
        store.append([record("a", 2)])
        vfs.syncs.clear()
        store._fold.fold()
        assert vfs.syncs == []  # a fold alone costs no fsync, so it may be undone by a power cut
        store._fold.trim()
        state = [name.removesuffix("-wal") for name in vfs.syncs]
        assert state.index("state.db") < state.index("log.db")
        assert vfs.syncs[:2] == ["state.db-wal", "state.db"]


def test_trim_keeps_what_was_appended_since_the_fold(store: StateStore) -> None:
    store.append([record("a", 1)])
    store._fold.fold()
    store.append([record("a", 2)])
    assert store._fold.trim() is True
    assert [position for position, _ in store._log.read_from(2)] == [2]
    with pytest.raises(Corrupt):
        list(store._log.read_from(1))


def test_reader_in_the_way_of_the_checkpoint_postpones_the_trim(store: StateStore) -> None:
    """A checkpoint that could not move everything has not made everything durable."""
    store.fold()
    store.append([record("a", 1)])
    store._fold.fold()
    with store._readers.snapshot() as old:
        assert old.folded == 1
        store.append([record("a", 2)])
        store._fold.fold()
        assert store._fold.trim() is False
        assert [position for position, _ in store._log.read_from(1)] == [1, 2]
    assert store._fold.trim() is True
    with pytest.raises(Corrupt):
        list(store._log.read_from(2))


def test_view_that_is_older_than_two_folds_believes_the_database(store: StateStore) -> None:
    """Between a reader's view of the tail and its snapshot anything may happen: positions decide, not the order of looks."""
    store.append([record("a", 1, wake=1)])
    view, wakes = store._tail.due(10)
    store._fold.fold()
    store.append([record("a", 2, state="running")])
    store._fold.fold()
    with store._readers.snapshot() as snapshot:
        found, ahead = index.find_with_tail(snapshot, view, "acme", "a")
        assert found is not None
        assert (found.sequence, found.state, ahead) == (2, "running", [])
        assert index.due(snapshot, view, wakes, 10, 5) == []
        assert index.count(snapshot, view, "acme") == {"running": 1}


def test_state_database_is_brought_home_when_its_write_ahead_file_has_grown(tmp_path: Path) -> None:
    """Few records can dirty many pages; the log alone would not tell."""
    with StateStore.open(tmp_path / "state", fold="manual", limits=Limits(log_bytes_max=400_000)) as store:
        store.append([record(f"i{number}", 1) for number in range(2000)])
        store.fold()
        assert not store._fold.is_trim_due
        for sequence in range(2, 12):
            store.append([record(f"i{number}", sequence) for number in range(0, 2000, 50)])
            store._fold.fold()
        assert store._fold._behind_bytes < 400_000
        assert store._fold.is_trim_due
        assert store._fold.trim() is True
        assert not store._fold.is_trim_due


def test_appends_are_refused_while_the_state_database_cannot_grow_and_memory_is_at_its_limit(tmp_path: Path) -> None:
    vfs = FaultyVFS()
    limits = Limits(tail_bytes_max=100_000, fold_interval_ms=1)
    with StateStore.open(tmp_path, limits=limits, vfs=vfs.name) as store:
        vfs.full = "state.db"
        with pytest.raises(StorageFull, match=r"state\.db cannot grow"):
            for sequence in range(1, 1000):
                store.append([record("a", sequence, os.urandom(5000))])
        durable = len(store.journal("acme", "a"))
        assert 10 <= durable <= 30
        vfs.full = None
        thread = store._thread
        assert thread is not None
        with thread._wanted:
            assert thread._wanted.wait_for(lambda: thread._full is None, timeout=10)
        store.append([record("a", durable + 1)])


def test_writing_a_long_journal_costs_the_same_per_entry_at_its_end(store: StateStore) -> None:
    """Never is a whole journal rewritten: chunks that are closed keep their bytes."""
    written = 0
    for sequence in range(1, 401):
        store.append([record("a", sequence, os.urandom(100))])
        store._fold.fold()
        tail = rows(store, "SELECT length(tail) FROM instance")[0][0]
        assert isinstance(tail, int)
        assert tail < TAIL_BYTES
        written += tail
    stored = rows(store, "SELECT sum(length(content)), count(*) FROM chunk")[0]
    assert isinstance(stored[0], int)
    assert written + stored[0] < 10 * stored[0]
    assert len(store.journal("acme", "a")) == 400
    assert store.check() == []


def test_large_journal_is_cut_into_chunks_of_bounded_size(store: StateStore) -> None:
    entries = [os.urandom(5000) for _ in range(100)]
    store.append([record("a", number + 1, entry) for number, entry in enumerate(entries)])
    store.fold()
    sizes = rows(store, "SELECT length(content) FROM chunk")
    assert max(size for (size,) in sizes) < CHUNK_BYTES + 6000
    assert [found.entry for found in store.journal("acme", "a")] == entries
    assert store.journal("acme", "a", after=42, limit=1) == [JournalRecord(43, entries[42], False)]


def test_base_image_moves_on_when_deltas_have_gathered(store: StateStore) -> None:
    images = [b""]
    noise = random.Random(3)
    for sequence in range(1, 40):
        image = noise.randbytes(3000)
        store.append([record("a", sequence, delta=delta.between(images[-1], image))])
        images.append(image)
        store._fold.fold()
    ((base_at, count),) = rows(store, "SELECT sequence, delta_count FROM base")
    assert isinstance(base_at, int)
    assert base_at > 20
    assert count == 39 - base_at
    assert [store.image("acme", "a", at=sequence) for sequence in range(40)] == images
    assert store.check() == []


def test_many_small_deltas_move_the_base_image_too(store: StateStore) -> None:
    image = b""
    records = []
    for sequence in range(1, REBASE_COUNT + 2):
        changed = bytes(1023) + bytes([sequence % 256])
        records.append(record("a", sequence, delta=delta.between(image, changed)))
        image = changed
    store.append(records)
    store.fold()
    assert rows(store, "SELECT sequence, delta_count FROM base") == [(REBASE_COUNT + 1, 0)]
    assert store.image("acme", "a") == image


def test_facet_whose_deltas_do_not_fit_stops_nobody_else(store: StateStore, caplog: pytest.LogCaptureFixture) -> None:
    """A sandbox can send what it wants; the fold of all others must go on, and the reader is told."""
    foreign = delta.between(b"another image", os.urandom(20_000))
    store.append([record("bad", 1, delta=foreign), record("good", 1)])
    store.fold()
    assert "an instance's facet cannot be rebuilt" in caplog.text
    with pytest.raises(Corrupt) as caught:
        store.image("acme", "bad")
    assert caught.value.code == "facet_delta_mismatch"
    assert [entry.sequence for entry in store.journal("acme", "bad")] == [1]
    assert len(store.journal("acme", "good")) == 1
    assert [problem.split(":")[0] for problem in store.check()] == ["acme/bad"]


def test_background_fold_brings_a_quiet_store_home(tmp_path: Path) -> None:
    with StateStore.open(tmp_path, limits=Limits(fold_interval_ms=1)) as store:
        store.append([record("a", 1)])
        thread = store._thread
        assert thread is not None
        with thread._wanted:
            assert thread._wanted.wait_for(lambda: store._fold.trimmed == 1, timeout=10)
        assert list(store._log.read_from(2)) == []


def test_bug_in_the_fold_stops_the_store_loudly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = StateStore.open(tmp_path, limits=Limits(fold_interval_ms=60_000))
    store._fold._write = None  # type: ignore[method-assign, assignment]
    store.append([record("a", 1)])
    thread = store._thread
    assert thread is not None
    thread.hurry()
    thread._thread.join(10)
    with pytest.raises(Exception, match="The fold failed: TypeError") as caught:
        store.append([record("a", 2)])
    assert caught.value.code == "store_failed"
    assert "the fold failed" in caplog.text
    store.close()


def test_output_of_a_deleted_generation_is_erased_and_of_the_new_one_kept(store: StateStore) -> None:
    def line(text: str) -> OutputLine:
        return OutputLine("acme", "a", 1, 0, 1, "stdout", "", "s", 1, text)

    store.append([record("a", 1)])
    store.append_output([line("old")])
    store.delete("acme", "a")
    store.append([record("a", 1)])
    store.append_output([line("new")])
    store.fold()
    assert [found.text for _, found in store.output("acme", "a")] == ["new"]
    assert store._output._connection.execute("SELECT count(*) FROM line").get == 1


@pytest.mark.parametrize("content", [b"", b"a" * 5000, os.urandom(300), os.urandom(20_000)])
def test_packing_loses_nothing_and_adds_one_byte_at_most(content: bytes) -> None:
    assert unpack(pack(content)) == content
    assert len(pack(content)) <= len(content) + 1


@pytest.mark.parametrize("bad", [b"", b"\2x", b"\1not deflate"])
def test_packed_bytes_that_are_none_are_corrupt(bad: bytes) -> None:
    with pytest.raises(Corrupt):
        unpack(bad)


def test_chunk_that_ends_inside_an_entry_is_corrupt() -> None:
    run = [head_of(b"abc", has_delta=True), b"abc", head_of(b"", has_delta=False), b""]
    ((first, content),) = cut_into_chunks(5, run)
    assert decode_chunk(first, content) == [JournalRecord(5, b"abc", True), JournalRecord(6, b"", False)]
    raw = unpack(content)
    for end in (1, 3, 5, len(raw) - 1):
        with pytest.raises(Corrupt):
            decode_chunk(1, b"\0" + raw[:end])


def test_batch_is_read_back_and_any_changed_byte_is_found() -> None:
    items = [record("a", 1, wake=5, delta=delta.between(b"", b"x")), record("ü", 0, state="running", summary=b"s")]
    batch = encode_batch(items)
    assert decode_batch(batch) == items
    for at in range(len(batch)):
        with pytest.raises(Corrupt):
            decode_batch(batch[:at] + bytes([batch[at] ^ 1]) + batch[at + 1 :])
        with pytest.raises(Corrupt):
            decode_batch(batch[:at])


def test_long_journal_that_grows_by_one_entry_a_fold_costs_the_same_at_its_end(store: StateStore) -> None:
    """Counted in pages written, for an entry at a time behind 25,000 entries and behind none."""

    def pages_of_a_hundred_folds(first: int) -> int:
        store._fold._checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE)
        for sequence in range(first, first + 100):
            store.append([record("a", sequence, noise.randbytes(100))])
            store._fold.fold()
        return store._fold._wal_pages

    noise = random.Random(9)
    at_first = pages_of_a_hundred_folds(1)
    for first in range(101, 25_001, 100):
        store.append([record("a", sequence, noise.randbytes(100)) for sequence in range(first, first + 100)])
        if first % 1000 == 1:
            store._fold.fold()
    store._fold.fold()
    assert pages_of_a_hundred_folds(25_001) <= at_first * 1.3
    assert store.check() == []


def test_reading_a_part_of_a_long_journal_decodes_that_part(store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for first in range(1, 5001, 50):
        store.append([record("a", sequence, os.urandom(100)) for sequence in range(first, first + 50)])
        store._fold.fold()
    decoded: list[int] = []

    def counting(first: int, content: bytes) -> list[JournalRecord]:
        found = decode_chunk(first, content)
        decoded.append(len(found))
        return found

    monkeypatch.setattr("facets.moment.decode_chunk", counting)
    for after in (0, 2500, 4900, 4999):
        decoded.clear()
        assert [found.sequence for found in store.journal("acme", "a", after=after, limit=10)] == list(
            range(after + 1, min(after + 11, 5001))
        )
        assert sum(decoded) < 200


def test_files_stay_bounded_while_records_come_for_ever(tmp_path: Path) -> None:
    """The log's room is used again; what is folded and trimmed takes none."""
    limits = Limits(log_bytes_max=200_000)
    with StateStore.open(tmp_path, fold="manual", limits=limits) as store:
        sizes = []
        for round_number in range(12):
            for sequence in range(8):
                store.append([record("a", round_number * 8 + sequence + 1, os.urandom(30_000))])
                store._fold.fold()
                if store._fold.is_trim_due:
                    store._fold.trim()
            sizes.append(sum(path.stat().st_size for path in tmp_path.glob("log.db*")))
        assert max(sizes[4:]) <= max(sizes[:4]) * 1.2, sizes
        assert max(sizes) < 2_000_000
