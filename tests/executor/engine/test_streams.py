"""Streams are read back from the journal by offset, in order, whoever emitted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from executor.adapters.state import FacetsStateStore
from executor.core import codec
from executor.core.entries import AnyEntry, Emitted, SleepEnded, Started
from executor.core.instance import Instance
from executor.engine import streams
from executor.engine.streams import Streams
from executor.ports import Append, Row, StoredRow

KEY = ("acme", "i")


class _Journal:
    def __init__(self, store: FacetsStateStore) -> None:
        self.store = store
        self.instance = Instance()
        self.row: StoredRow

    def add(self, entry: AnyEntry) -> None:
        self.instance.sequence += 1
        sequence = self.instance.sequence
        row = Row("running", None, "W", "c" * 40, 1, entry.at_ms, b"")
        self.store.append([Append(*KEY, sequence, codec.encode(entry, bytes(16)), None, row)])
        self.row = StoredRow(*KEY, 0, sequence, row)


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


def _items(found: Streams, journal: _Journal, name: str, offset: int, limit: int = 100) -> list[tuple[int, bytes]]:
    return [(item.offset, item.item) for item in found.read(journal.row, name, offset, limit)]


@pytest.mark.parametrize("offset", range(5))
def test_items_come_in_order_from_any_offset(journal: _Journal, offset: int) -> None:
    whole = [(0, b"a"), (1, b"b"), (2, b"c")]
    assert _items(Streams(journal.store), journal, "log", offset) == whole[offset:]


def test_an_item_tells_when_and_by_which_attempt_it_was_emitted(journal: _Journal) -> None:
    [item] = Streams(journal.store).read(journal.row, "other", 0, 10)
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
    assert found.counts(journal.row) == {"log": 3, "other": 1}
    assert _items(found, journal, "nothing", 0) == []


def test_a_reader_that_follows_looks_at_new_entries_only(journal: _Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Streams(journal.store)
    assert found.counts(journal.row)["log"] == 3
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
    assert found.counts(journal.row)["log"] == 3
    journal.store.delete(*KEY)
    journal.instance.sequence = 0
    journal.add(Started(9, "W", "c" * 40, b"\xc0", b"seed"))
    assert found.counts(journal.row) == {}
