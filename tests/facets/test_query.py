"""Reading a facet from outside: one statement, read only, bounded."""

from __future__ import annotations

import pytest

from facets import query as module
from facets.errors import FacetError
from facets.facet import Facet
from facets.limits import Limits
from facets.query import Found, query

ENDLESS = "with recursive n(i) as (select 1 union all select i + 1 from n) "


@pytest.fixture
def facet() -> Facet:
    made = Facet()
    made.begin_step()
    made.execute("create table note(name, body)")
    made.executemany("insert into note values (?, ?)", [("a", 1), ("b", None), ("c", b"\x00")])
    made.commit_step()
    return Facet.read_only(made.image(), Limits(statement_ms_max=100))


def test_columns_and_rows_come_in_their_order(facet: Facet) -> None:
    rows = [["a", 1], ["b", None], ["c", b"\x00"]]
    assert query(facet, "select * from note order by name") == Found(["name", "body"], rows, is_cut=False)
    assert query(facet, "select name, name from note where body = ?", [1]) == (["name", "name"], [["a", "a"]], False)
    assert query(facet, "select body from note where name = :name", {"name": "c"}).rows == [[b"\x00"]]


def test_no_rows_have_columns_all_the_same(facet: Facet) -> None:
    assert query(facet, "select * from note where 0") == Found(["name", "body"], [], is_cut=False)
    assert query(Facet.read_only(b""), "select 1 as one") == Found(["one"], [[1]], is_cut=False)


def test_rows_beyond_the_limit_are_cut_and_that_is_told(facet: Facet) -> None:
    sql = "select name from note order by name"
    assert query(facet, sql, limit=2) == Found(["name"], [["a"], ["b"]], is_cut=True)
    assert query(facet, sql, limit=3).is_cut is False
    assert query(facet, ENDLESS + "select i from n", limit=2).rows == [[1], [2]]


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("insert into note values ('x', 1)", "facet_read_only"),
        ("insert into note values ('x', 1) returning name", "facet_read_only"),
        ("update note set name = 'x'", "facet_read_only"),
        ("delete from note", "facet_read_only"),
        ("create table x(a)", "facet_read_only"),
        ("drop table note", "facet_read_only"),
        ("pragma user_version = 3", "facet_read_only"),
        ("create temp table x(a)", "facet_sql_forbidden"),
        ("attach 'x' as y", "facet_sql_forbidden"),
        ("vacuum", "facet_sql_forbidden"),
        ("pragma journal_mode = wal", "facet_sql_forbidden"),
        ("pragma writable_schema = 1", "facet_sql_forbidden"),
        ("select load_extension('x')", "facet_sql_forbidden"),
        ("begin", "facet_transaction"),
        ("savepoint a", "facet_transaction"),
        ("select 1; select 2", "facet_sql_error"),
        ("select 1; delete from note", "facet_sql_error"),
        ("", "facet_sql_error"),
        ("reindex", "facet_sql_error"),
        ("select readfile('/etc/passwd')", "facet_sql_error"),
        ("select zeroblob(1000000000)", "facet_value_too_large"),
        (ENDLESS + "select count(*) from n", "facet_statement_timeout"),
        (ENDLESS + "select zeroblob(500000) from n", "facet_result_too_large"),
        ("select cast(x'ff' as text)", "facet_value"),
        ("select ?", "facet_parameters"),
    ],
)
def test_what_writes_reaches_out_or_does_not_end_is_refused(facet: Facet, sql: str, code: str) -> None:
    with pytest.raises(FacetError) as refused:
        query(facet, sql)
    assert refused.value.code == code
    assert query(facet, "select count(*) from note").rows == [[3]]


def test_the_bytes_of_an_answer_are_bounded(facet: Facet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BYTES_MAX", 3 * (2 * 16 + 1))
    assert len(query(facet, "select name, 1 from note").rows) == 3
    monkeypatch.setattr(module, "BYTES_MAX", 3 * (2 * 16 + 1) - 1)
    with pytest.raises(FacetError) as refused:
        query(facet, "select name, 1 from note")
    assert refused.value.code == "facet_result_too_large"
