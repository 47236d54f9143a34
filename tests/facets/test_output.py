"""Captured output: in order, once, bounded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from facets import Limits, OutputLine, StateStore, StorageFull
from tests.facets.faulty_vfs import FaultyVFS
from tests.facets.making import record


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StateStore]:
    with StateStore.open(tmp_path, fold="manual", limits=Limits(output_bytes_max=1000)) as opened:
        opened.append([record("a", 1), record("b", 1), record("a", 1, tenant="other")])
        yield opened


def line(
    text: str, number: int = 0, *, instance: str = "a", tenant: str = "acme", position: int = 1, attempt: int = 1
) -> OutputLine:
    return OutputLine(tenant, instance, position, number, 5, "stdout", "", "audit#1", attempt, text)


def texts(store: StateStore, instance: str = "a", tenant: str = "acme") -> list[str]:
    return [found.text for _, found in store.output(tenant, instance)]


def test_lines_come_back_in_the_order_in_which_they_came(store: StateStore) -> None:
    lines = [line("two", 2), line("one", 1), line("zero", 0, position=0)]
    store.append_output(lines)
    store.append_output([line("elsewhere", instance="b"), line("three", 3)])
    assert [found for _, found in store.output("acme", "a")] == [*lines, line("three", 3)]
    assert texts(store, "b") == ["elsewhere"]
    assert texts(store, tenant="other") == []


def test_line_that_is_sent_again_is_kept_once(store: StateStore) -> None:
    store.append_output([line("x", 0), line("y", 1)])
    store.append_output([line("x", 0), line("y", 1), line("z", 2), line("x", 0, attempt=2)])
    assert texts(store) == ["x", "y", "z", "x"]


def test_pages_join_by_cursor(store: StateStore) -> None:
    store.append_output([line(str(number), number) for number in range(7)])
    seen: list[str] = []
    cursor = 0
    while page := store.output("acme", "a", after=cursor, limit=3):
        seen += [found.text for _, found in page]
        cursor = page[-1][0]
    assert seen == ["0", "1", "2", "3", "4", "5", "6"]
    store.append_output([line("7", 7)])
    assert [found.text for _, found in store.output("acme", "a", after=cursor)] == ["7"]


def test_output_over_the_limit_is_cut_once_and_says_so(store: StateStore) -> None:
    for number in range(30):
        store.append_output([line("x" * 36, number)])
    found = texts(store)
    assert found[:-1] == ["x" * 36] * 10
    assert found[-1] == "output is cut here: an instance keeps 1000 bytes of it"
    store.append_output([line("x" * 36, 0), line("tiny", 99)])
    assert texts(store) == found
    store.append_output([line("another instance has its own limit", instance="b")])
    assert texts(store, "b") == ["another instance has its own limit"]


def test_line_that_is_there_does_not_count_again(store: StateStore) -> None:
    for _ in range(40):
        store.append_output([line("x" * 300, 0)])
    assert texts(store) == ["x" * 300]


def test_lines_of_no_instance_are_dropped(store: StateStore) -> None:
    store.append_output([line("x", instance="nobody"), line("y")])
    store.append([record("nobody", 1)])
    assert texts(store, "nobody") == []
    assert texts(store) == ["y"]


def test_half_a_surrogate_pair_is_kept_readable(store: StateStore) -> None:
    store.append_output([line("bad \ud800 text")])
    assert texts(store) == ["bad ? text"]


def test_output_survives_reopening(tmp_path: Path) -> None:
    with StateStore.open(tmp_path) as store:
        store.append([record("a", 1)])
        store.append_output([line("x")])
    with StateStore.open(tmp_path) as store:
        assert texts(store) == ["x"]


def test_output_costs_no_fsync(tmp_path: Path) -> None:
    vfs = FaultyVFS()
    with StateStore.open(tmp_path, fold="manual", vfs=vfs.name) as store:
        store.append([record("a", 1)])
        vfs.syncs.clear()
        for number in range(20):
            store.append_output([line("x", number)])
        assert vfs.syncs == []


def test_full_disk_keeps_no_line_of_the_call_and_journals_go_on(tmp_path: Path) -> None:
    vfs = FaultyVFS()
    with StateStore.open(tmp_path, fold="manual", vfs=vfs.name) as store:
        store.append([record("a", 1)])
        vfs.full = "output.db"
        with pytest.raises(StorageFull):
            store.append_output([line("x" * 9000, 0), line("y" * 9000, 1)])
        assert texts(store) == []
        store.append([record("a", 2)])
        vfs.full = None
        store.append_output([line("x", 0)])
        assert texts(store) == ["x"]
