"""SQL on a facet from outside, as the sandbox does it: small facets whole, large ones page by page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from executor.adapters.state import FacetsStateStore
from executor.core import codec
from executor.core.entries import SleepEnded, Started
from executor.ports import Append, Pages, Row
from executor.sandbox.child_limits import ChildLimits
from executor.sandbox.protocol import FacetFailed, FacetPages, NeedFacet, NeedPages, Query, QueryAnswer
from executor.sandbox.query import QueriedFacet
from facets.facet import Facet
from facets.pages import PageCache

KEY = ("acme", "i")
ROWS = 6_000


class _Process:
    """Answers a facet's questions from a store, when it waits."""

    def __init__(self, store: FacetsStateStore) -> None:
        self.store = store
        self.page_cache = PageCache(1 << 20)
        self.asked: list[NeedFacet | NeedPages] = []
        self.facet: QueriedFacet
        self.before_pages: Callable[[], None] = lambda: None

    def need(self, question: NeedFacet | NeedPages) -> None:
        self.asked.append(question)

    def wait_for(self, is_so: Callable[[], bool]) -> None:
        question = self.asked[-1]
        if isinstance(question, NeedPages):
            self.before_pages()
            pages = self.store.pages(*KEY, question.first, question.count)
            self.facet.take_pages(FacetPages(1, question.number, *pages))
        else:
            found = self.store.facet(*KEY)
            if isinstance(found, Pages):
                self.facet.take_pages(FacetPages(1, 0, *found))
            else:
                self.facet.take_image(0, len(found), found)
        assert is_so()

    def call_on_loop(self, callback: Callable[[], object]) -> None:
        callback()

    def ask(self, sql: str, *parameters: Any, limit: int = 1000) -> QueryAnswer:
        self.facet = QueriedFacet(1, self, ChildLimits())
        return self.facet.answer(Query(1, sql, msgspec.msgpack.encode(parameters), limit))


class _Written:
    def __init__(self, store: FacetsStateStore) -> None:
        self.store = store
        self.facet = Facet()
        self.sequence = 0

    def step(self, sql: str, parameters: list[Any] | None = None) -> None:
        self.facet.begin_step()
        if parameters is None:
            self.facet.execute(sql)
        else:
            self.facet.executemany(sql, parameters)
        delta = self.facet.commit_step()
        self.sequence += 1
        entry = Started(1, "W", "c" * 40, b"\xc0", b"s") if self.sequence == 1 else SleepEnded(2, "nap#1")
        row = Row("running", None, "W", "c" * 40, 1, 1, b"")
        self.store.append([Append(*KEY, self.sequence, codec.encode(entry, bytes(16)), delta, row)])


@pytest.fixture
def written(tmp_path: Path) -> Iterator[_Written]:
    store = FacetsStateStore.open(tmp_path)
    try:
        written = _Written(store)
        written.step("create table note(id integer primary key, body blob)")
        yield written
    finally:
        store.close()


def _grow(written: _Written) -> None:
    body = b"\x55" * 1000
    written.step("insert into note values (?, ?)", [(number, body) for number in range(ROWS)])


def test_a_small_facet_comes_whole(written: _Written) -> None:
    written.step("insert into note values (?, ?)", [(1, None), (2, 9.5)])
    process = _Process(written.store)
    answer = process.ask("select * from note where id >= ? order by id", 1)
    assert answer == QueryAnswer(1, ["id", "body"], [[1, None], [2, 9.5]], False, "", "", "")
    assert process.asked == [NeedFacet(1)]


def test_a_large_facet_is_fetched_page_by_page(written: _Written) -> None:
    _grow(written)
    process = _Process(written.store)
    assert process.ask("select id from note where id = ?", ROWS // 2).rows == [[ROWS // 2]]
    assert 1 < len(process.asked) < 10
    assert process.ask("select count(*), sum(length(body)) from note").rows == [[ROWS, ROWS * 1000]]
    assert process.ask("delete from note").code == "facet_read_only"


def test_a_large_facet_that_changes_meanwhile_is_told_so(written: _Written) -> None:
    """The host asks again then; the answer is never made of two images."""
    _grow(written)
    process = _Process(written.store)

    def change() -> None:
        process.before_pages = lambda: None
        written.step("delete from note where id < 3000")

    process.before_pages = change
    answer = process.ask("select count(*) from note")
    assert (answer.rows, answer.code) == ([], "facet_delta_mismatch")
    assert process.ask("select count(*) from note").rows == [[3000]]


def test_a_facet_that_cannot_be_had_is_told_so(written: _Written, monkeypatch: pytest.MonkeyPatch) -> None:
    process = _Process(written.store)
    failed = FacetFailed(1, 0, "the store is damaged")
    monkeypatch.setattr(process, "wait_for", lambda _is_so: process.facet.take_pages(failed))
    answer = process.ask("select 1")
    assert (answer.code, answer.message) == ("facet_unavailable", "the store is damaged")


def test_infinities_are_told_as_text(written: _Written) -> None:
    assert _Process(written.store).ask("select 9e999, -9e999, 1e308").rows == [["inf", "-inf", 1e308]]
