"""Streams are read back from the journal by offset, in order, whoever emitted."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from executor.adapters.state import FacetsStateStore
from executor.core import codec
from executor.core.entries import AnyEntry, Emitted, SleepEnded, Started
from executor.core.instance import Instance
from executor.engine import streams
from executor.engine.streams import Known, StreamReader, Streams
from executor.engine.turns import LEAST_S, NOTHING_S
from executor.ports import Append, Row, StoredRow

KEY = ("acme", "i")


class _Journal:
    def __init__(self, store: FacetsStateStore) -> None:
        self.store = store
        self.instance = Instance()
        self.row: StoredRow

    def add(self, *entries: AnyEntry) -> None:
        records = []
        for entry in entries:
            self.instance.sequence += 1
            row = Row("running", None, "W", "c" * 40, 1, entry.at_ms, b"")
            records.append(Append(*KEY, self.instance.sequence, codec.encode(entry, bytes(16)), None, row))
            self.row = StoredRow(*KEY, 0, self.instance.sequence, row)
        self.store.append(records)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[_Journal]:
    store = FacetsStateStore.open(tmp_path)
    try:
        journal = _Journal(store)
        journal.add(Started(1, "W", "c" * 40, b"\xc0", b"seed"))
        journal.add(Emitted(2, "log", 0, [b"a", b"b"], "", 0, 2))
        journal.add(Emitted(3, "other", 0, [b"x"], "s#1", 2, 0))
        journal.add(SleepEnded(4, "nap#1"))
        journal.add(Emitted(5, "log", 2, [b"c"], "s#1", 1, 0))
        yield journal
    finally:
        store.close()


def _known(found: Streams, journal: _Journal) -> Known:
    known = found.known(journal.row)
    while found.portion(journal.row, known):
        pass
    return known


def _counts(found: Streams, journal: _Journal) -> dict[str, int]:
    return _known(found, journal).counts


def _items(found: Streams, journal: _Journal, name: str, offset: int, limit: int = 100) -> list[tuple[int, bytes]]:
    items = found.items(journal.row, _known(found, journal), name, offset, limit)
    return [(item.offset, item.item) for item in items]


@pytest.mark.parametrize("offset", range(5))
def test_items_come_in_order_from_any_offset(journal: _Journal, offset: int) -> None:
    whole = [(0, b"a"), (1, b"b"), (2, b"c")]
    assert _items(Streams(journal.store), journal, "log", offset) == whole[offset:]


def test_items_that_were_forgotten_are_passed_over_and_the_others_keep_their_offsets(journal: _Journal) -> None:
    """By a reader that knew where they were, and by one that begins."""
    knows = Streams(journal.store)
    journal.store._store.fold()
    for number in range(3, 23):
        journal.add(Emitted(6, "log", number, [random.randbytes(3000)], "", 0, number))
        journal.store._store.fold()
    whole = _items(knows, journal, "log", 0)
    assert [offset for offset, _ in whole] == list(range(23))
    journal.store.forget(*KEY, before=journal.row.sequence - 4, but=[12], keep_bytes=0)
    journal.store._store.fold()
    there = [sequence for sequence, _ in journal.store.journal(*KEY)]
    assert there == [1, 2, 3, 4, 5, 12, *range(21, 26)]
    kept = whole[:3] + whole[9:10] + whole[18:]
    for found in (knows, Streams(journal.store)):
        for offset in range(24):
            assert _items(found, journal, "log", offset) == [item for item in kept if item[0] >= offset]
        assert _items(found, journal, "log", 4, 2) == kept[3:5]
        assert _counts(found, journal) == {"log": 23, "other": 1}


def test_an_item_tells_when_and_by_which_attempt_it_was_emitted(journal: _Journal) -> None:
    found = Streams(journal.store)
    [item] = found.items(journal.row, _known(found, journal), "other", 0, 10)
    assert (item.at_ms, item.step, item.attempt) == (3, "s#1", 2)


def test_a_page_has_as_many_as_are_wanted_and_one_large_one_at_least(
    journal: _Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Streams(journal.store)
    assert _items(found, journal, "log", 0, limit=2) == [(0, b"a"), (1, b"b")]
    monkeypatch.setattr(streams, "BYTES_MAX", 0)
    assert _items(found, journal, "log", 1) == [(1, b"b")]


def test_counts_are_of_all_streams_and_unknown_ones_are_empty(journal: _Journal) -> None:
    found = Streams(journal.store)
    assert _counts(found, journal) == {"log": 3, "other": 1}
    assert _items(found, journal, "nothing", 0) == []


def test_a_reader_that_follows_looks_at_new_entries_only(journal: _Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Streams(journal.store)
    assert _counts(found, journal)["log"] == 3
    journal.add(Emitted(6, "log", 3, [b"d"], "", 0, 3))
    read: list[int] = []
    inner = journal.store.journal

    def counted(tenant: str, instance: str, *, after: int = 0, limit: int | None = None) -> list[tuple[int, bytes]]:
        read.append(after)
        return inner(tenant, instance, after=after, limit=limit)

    monkeypatch.setattr(journal.store, "journal", counted)
    assert _items(found, journal, "log", 3) == [(3, b"d")]
    assert read == [5, 5]


def test_an_instance_that_took_the_id_of_another_has_streams_of_its_own(journal: _Journal) -> None:
    found = Streams(journal.store)
    assert _counts(found, journal)["log"] == 3
    journal.store.delete(*KEY)
    journal.instance.sequence = 0
    journal.add(Started(9, "W", "c" * 40, b"\xc0", b"seed"))
    assert _counts(found, journal) == {}


def test_a_deleted_instance_is_forgotten_also_if_the_next_of_its_id_began_in_the_same_moment(journal: _Journal) -> None:
    found = Streams(journal.store)
    assert _counts(found, journal)["log"] == 3
    journal.store.delete(*KEY)
    found.forget(KEY)
    journal.instance.sequence = 0
    journal.add(Started(1, "W", "c" * 40, b"\xc0", b"seed"), *(SleepEnded(1, f"nap#{n}") for n in range(9)))
    assert _counts(found, journal) == {}


def _another(journal: _Journal, tenant: str, name: str) -> StoredRow:
    """An instance that has emitted one item."""
    row = Row("running", None, "W", "c" * 40, 1, 1, b"")
    entries = [Started(1, "W", "c" * 40, b"\xc0", b"seed"), Emitted(2, "log", 0, [b"x"], "", 0, 1)]
    journal.store.append(
        [
            Append(tenant, name, number, codec.encode(entry, bytes(16)), None, row)
            for number, entry in enumerate(entries, start=1)
        ]
    )
    return StoredRow(tenant, name, 0, 2, row)


def test_tenant_with_many_streams_makes_no_other_tenants_forgotten(
    journal: _Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "KNOWN_MAX", 4)
    found = Streams(journal.store)
    mine = _known(found, journal)
    for number in range(20):
        found.known(_another(journal, "umbrella", f"i{number}"))
    assert found.known(journal.row) is mine
    assert [name for _, name in found._known] == ["i17", "i18", "i19", "i"]
    for key in list(found._known):
        found.forget(key)
    assert found._of_tenant == {}


def test_portions_are_of_about_so_many_bytes_and_come_to_the_same(
    journal: _Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.add(*(Emitted(6, "log", 3 + number, [b"x" * 1_000], "", 0, 4 + number) for number in range(200)))
    whole = _items(Streams(journal.store), journal, "log", 0, 1_000)
    monkeypatch.setattr(streams, "PORTION_BYTES", 10_000)
    found = Streams(journal.store)
    known = found.known(journal.row)
    scanned = []
    while found.portion(journal.row, known):
        scanned.append(known.scanned)
    widths = [after - before for before, after in itertools.pairwise([0, *scanned])]
    assert widths[0] == streams.FIRST_PORTION
    assert set(widths[2:-1]) == {9}  # of a kilobyte and its frame each
    assert [(item.offset, item.item) for item in found.items(journal.row, known, "log", 0, 1_000)] == whole


async def test_who_reads_one_item_waits_for_one_portion_of_those_that_read_long_journals(
    journal: _Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.add(*(Emitted(6, "log", 3 + number, [b"x"], "", 0, 4 + number) for number in range(2_000)))
    mine = _another(journal, "polite", "mine")
    monkeypatch.setattr(streams, "PORTION_ENTRIES_MAX", streams.FIRST_PORTION)
    reader = StreamReader(journal.store)
    order: list[str] = []
    portion = Streams.portion

    def noted(self: Streams, row: StoredRow, known: Known) -> bool:
        order.append(row.tenant)
        return portion(self, row, known)

    monkeypatch.setattr(Streams, "portion", noted)

    async def read_long() -> None:
        reader.forget(KEY)
        assert (await reader.counts(journal.row))["log"] == 2_003

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(read_long)
        while len(order) < 2 * NOTHING_S / LEAST_S:  # what is less counts as nothing, and then who came first is first
            await trio.sleep(0)
        before = len(order)
        [item] = await reader.read(mine, "log", 0, 10)
        assert item.item == b"x"
        assert order[before:].index("polite") <= 2
    assert order.count("acme") > 30
