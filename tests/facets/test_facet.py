"""Facet: a step is one transaction, tenants' SQL is fenced, errors say what to do."""

import copy
import enum
import json
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import apsw
import pytest

from executor.sandbox.runtime_tree import FACETS_INSIDE
from facets import delta
from facets.errors import Conflict, ConstraintFailed, Corrupt, FacetError, Refused
from facets.facet import Facet
from facets.limits import Limits
from facets.row import Row

MAX = Limits().facet_bytes_max
ENDLESS = "with recursive n(i) as (select 1 union all select i + 1 from n) "


@pytest.fixture
def facet() -> Facet:
    facet = Facet(limits=Limits(statement_ms_max=100))
    facet.begin_step()
    facet.execute("create table note(id integer primary key, name text unique, body)")
    facet.executemany("insert into note(name, body) values (?, ?)", [("a", 1), ("b", 2.5), ("c", b"\x00")])
    facet.commit_step()
    return facet


def refused(facet: Facet, sql: str, parameters: object = ()) -> FacetError:
    """The error of one statement in a step of its own, which is rolled back."""
    facet.begin_step()
    try:
        with pytest.raises(FacetError) as caught:
            facet.execute(sql, parameters)  # type: ignore[arg-type]
    finally:
        facet.rollback_step()
    return caught.value


def names(facet: Facet) -> list[str]:
    return [row["name"] for row in Facet.read_only(facet.image()).execute("select name from note order by id")]


# --- steps


def test_a_step_that_touches_nothing_opens_nothing() -> None:
    facet = Facet()
    facet.begin_step()
    assert facet.commit_step() == b""
    assert facet._connection is None
    assert facet.image() == b""


def test_a_step_that_only_reads_gives_no_delta(facet: Facet) -> None:
    facet.begin_step()
    assert facet.execute("select count(*) from note") == [(3,)]
    facet.execute("create table if not exists note(id)")
    assert facet.commit_step() == b""


def test_the_deltas_of_steps_rebuild_the_image(facet: Facet) -> None:
    base = facet.image()
    deltas = []
    for number in range(4):
        facet.begin_step()
        facet.execute("update note set body = ? where name = 'a'", (number,))
        deltas.append(facet.commit_step())
    assert delta.apply_all(base, deltas, bytes_max=MAX) == facet.image()
    again = Facet(delta.apply_all(base, deltas[:2], bytes_max=MAX))
    again.begin_step()
    assert again.execute("select body from note where name = 'a'") == [(1,)]


def test_a_rolled_back_step_leaves_no_trace(facet: Facet) -> None:
    before = facet.image()
    facet.begin_step()
    facet.execute("insert into note(name) values ('d')")
    facet.execute("create table other(a)")
    facet.rollback_step()
    assert facet.image() == before
    facet.begin_step()
    assert facet.execute("select count(*) from note") == [(3,)]
    assert facet.commit_step() == b""


def test_statements_outside_a_step_are_refused(facet: Facet) -> None:
    with pytest.raises(Refused) as caught:
        facet.execute("select 1")
    assert caught.value.code == "facet_no_step"
    assert str(caught.value) == (
        "The facet was used outside a step. "
        "Read and write it inside a step: run() itself is replayed, and must not depend on it."
    )


def test_one_step_holds_the_facet(facet: Facet) -> None:
    facet.begin_step()
    with pytest.raises(Conflict) as caught:
        facet.begin_step()
    assert caught.value.code == "facet_step_open"
    facet.rollback_step()
    facet.begin_step()


def test_a_facet_can_be_closed_between_steps(facet: Facet) -> None:
    facet.close()
    facet.begin_step()
    facet.execute("insert into note(name) values ('d')")
    assert facet.commit_step() != b""
    assert names(facet) == ["a", "b", "c", "d"]


def test_a_deferred_foreign_key_fails_the_commit_and_rolls_back(facet: Facet) -> None:
    before = facet.image()
    facet.begin_step()
    facet.execute("create table child(note integer references note deferrable initially deferred)")
    facet.execute("insert into child values (99)")
    with pytest.raises(ConstraintFailed) as caught:
        facet.commit_step()
    assert caught.value.message == "FOREIGN KEY constraint failed. Statement: commit"
    assert facet.image() == before
    facet.begin_step()
    assert facet.commit_step() == b""


def test_a_delta_over_the_limit_fails_the_commit_and_undoes_it() -> None:
    facet = Facet(limits=Limits(delta_bytes_max=4000))
    facet.begin_step()
    facet.execute("create table t(a)")
    first = facet.commit_step()
    facet.begin_step()
    facet.execute("insert into t values (randomblob(5000))")
    with pytest.raises(Refused) as caught:
        facet.commit_step()
    assert caught.value.code == "facet_delta_too_large"
    assert caught.value.hint == "Write less in one step."
    facet.begin_step()
    assert facet.execute("select count(*) from t") == [(0,)]
    facet.execute("insert into t values (1)")
    assert delta.apply_all(b"", [first, facet.commit_step()], bytes_max=MAX) == facet.image()


# --- a transaction that SQLite gave up by itself


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("insert or rollback into note(name) values ('a')", "facet_constraint"),
        (f"insert into note(name) {ENDLESS} select i from n", "facet_statement_timeout"),
    ],
)
def test_a_spoilt_step_cannot_go_on_or_commit(facet: Facet, statement: str, code: str) -> None:
    """Otherwise the statements after the error would commit alone: half a step."""
    before = facet.image()
    facet.begin_step()
    facet.execute("insert into note(name) values ('first half')")
    with pytest.raises(FacetError) as caught:
        facet.execute(statement)
    assert caught.value.code == code
    with pytest.raises(Refused) as again:
        facet.execute("insert into note(name) values ('second half')")
    assert again.value.code == "facet_step_spoilt"
    assert str(again.value) == (
        "An earlier statement of this step failed so that SQLite rolled the whole step back. "
        "Let the step raise: its writes are rolled back, and a retry starts afresh."
    )
    with pytest.raises(Refused) as at_end:
        facet.commit_step()
    assert at_end.value.code == "facet_step_spoilt"
    assert facet.image() == before
    facet.begin_step()
    facet.execute("insert into note(name) values ('d')")
    facet.commit_step()
    assert names(facet) == ["a", "b", "c", "d"]


def test_an_error_that_undid_its_statement_only_leaves_the_step_alive(facet: Facet) -> None:
    facet.begin_step()
    facet.execute("insert into note(name) values ('d')")
    with pytest.raises(ConstraintFailed) as caught:
        facet.execute("insert into note(name) values ('e'), ('a')")
    assert caught.value.message == (
        "UNIQUE constraint failed: note.name. Statement: insert into note(name) values ('e'), ('a')"
    )
    facet.commit_step()
    assert names(facet) == ["a", "b", "c", "d"]


def test_a_full_facet_is_refused_and_still_works() -> None:
    facet = Facet(limits=Limits(facet_bytes_max=64 * 1024))
    facet.begin_step()
    facet.execute("create table t(a)")
    facet.commit_step()
    error = refused(facet, "insert into t values (zeroblob(100000))")
    assert error.code == "facet_full"
    assert error.message.startswith("The facet has reached its limit of 65536 bytes. Statement: insert")
    facet.begin_step()
    facet.execute("insert into t values (zeroblob(10000))")
    assert facet.commit_step() != b""
    assert len(facet.image()) <= 64 * 1024


# --- savepoints


def test_a_savepoint_undoes_its_part_only(facet: Facet) -> None:
    facet.begin_step()
    facet.execute("insert into note(name) values ('d')")
    with pytest.raises(ZeroDivisionError), facet.savepoint():
        facet.execute("insert into note(name) values ('e')")
        with facet.savepoint():
            facet.execute("insert into note(name) values ('f')")
        raise ZeroDivisionError
    with facet.savepoint():
        facet.execute("insert into note(name) values ('g')")
    facet.commit_step()
    assert names(facet) == ["a", "b", "c", "d", "g"]


def test_a_savepoint_in_a_spoilt_step_does_not_hide_it(facet: Facet) -> None:
    facet.begin_step()
    with pytest.raises(Refused) as caught, facet.savepoint():
        with pytest.raises(ConstraintFailed):
            facet.execute("insert or rollback into note(name) values ('a')")
    assert caught.value.code == "facet_step_spoilt"
    facet.rollback_step()


def test_savepoints_that_overlap_without_nesting_spoil_the_step(facet: Facet) -> None:
    """The inner one ended with the outer one and cannot be undone by itself any more: nothing of it may be kept."""
    facet.begin_step()
    outer, inner = facet.savepoint(), facet.savepoint()
    outer.__enter__()
    inner.__enter__()
    facet.execute("insert into note(name) values ('d')")
    outer.__exit__(None, None, None)
    assert not inner.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    with pytest.raises(Refused) as caught:
        facet.commit_step()
    assert caught.value.code == "facet_step_spoilt"
    assert names(facet) == ["a", "b", "c"]


def test_a_savepoint_left_over_from_an_earlier_step_does_nothing(facet: Facet) -> None:
    facet.begin_step()
    left_over = facet.savepoint()
    left_over.__enter__()
    facet.rollback_step()
    facet.begin_step()
    facet.execute("insert into note(name) values ('d')")
    assert not left_over.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    facet.commit_step()
    assert names(facet) == ["a", "b", "c", "d"]


def test_executemany_is_all_or_nothing(facet: Facet) -> None:
    facet.begin_step()
    with pytest.raises(ConstraintFailed):
        facet.executemany("insert into note(name) values (?)", [("x",), ("y",), ("a",)])
    assert facet.execute("select count(*) from note") == [(3,)]
    assert facet.executemany("insert into note(name) values (:n) returning id", [{"n": "x"}, {"n": "y"}]) == [
        (4,),
        (5,),
    ]
    facet.commit_step()


# --- rows and values


def test_rows_answer_to_index_and_name(facet: Facet) -> None:
    facet.begin_step()
    rows = facet.execute("select id, name as Title, body from note order by id")
    row = rows[1]
    assert isinstance(row, Row)
    assert (row[0], row["Title"], row["title"], row["TITLE"], row[-1], row[:2]) == (2, "b", "b", "b", 2.5, (2, "b"))
    assert row == (2, "b", 2.5)
    assert dict(row) == {"id": 2, "Title": "b", "body": 2.5}
    assert repr(row) == "Row(id=2, Title='b', body=2.5)"
    assert copy.deepcopy(row) == pickle.loads(pickle.dumps(row)) == row
    with pytest.raises(KeyError, match="no column 'nope'; there are: id, Title, body"):
        row["nope"]


def test_of_two_columns_of_one_name_the_first_is_meant(facet: Facet) -> None:
    facet.begin_step()
    assert facet.execute("select 1 as a, 2 as A, 3 as a")[0]["a"] == 1
    assert facet.execute("select 1 as a, 2 as A")[0]["A"] == 2


def test_statements_of_a_script_have_columns_of_their_own(facet: Facet) -> None:
    facet.begin_step()
    first, second = facet.execute("select 1 as a; select ? as b", (2,))
    assert (first.keys(), second.keys(), second["b"]) == (("a",), ("b",), 2)


class Colour(enum.StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    "value", [None, 0, -(2**63), 2**63 - 1, 1.5, float("inf"), "", "ä\0b", b"", b"\xff\0", Colour.RED]
)
def test_values_come_back_as_they_went_in(facet: Facet, value: object) -> None:
    facet.begin_step()
    facet.execute("update note set body = ? where id = 1", (value,))  # type: ignore[arg-type]
    facet.commit_step()
    got = Facet.read_only(facet.image()).execute("select body from note where id = 1")[0][0]
    assert got == value
    assert type(got) in (type(value), str)


def test_counts_of_the_last_write_are_known(facet: Facet) -> None:
    assert Facet().change_count == Facet().last_insert_rowid == 0
    facet.begin_step()
    facet.execute("insert into note(id, name) values (77, 'z')")
    assert facet.last_insert_rowid == 77
    facet.execute("update note set body = 0 where id < 3")
    assert facet.change_count == 2


@pytest.mark.parametrize(
    ("sql", "parameters", "code", "text"),
    [
        (
            "select ?",
            (object(),),
            "facet_value",
            "A facet holds None, int, float, str and bytes, not object. Convert it: ",
        ),
        ("select ?", (float("nan"),), "facet_value", "A facet cannot hold NaN: SQLite would store NULL. Convert it: "),
        ("select ?", (2**63,), "facet_value", "An integer does not fit into 64 bits. Statement: select ? Store larger"),
        (
            "select ?",
            ("\ud800",),
            "facet_value",
            "A text cannot be encoded as UTF-8. Statement: select ? Store such bytes",
        ),
        ("select ?", "abc", "facet_parameters", "Parameters are a sequence or a mapping, not str. For a single value"),
        ("select ?", 5, "facet_parameters", "Parameters are a sequence or a mapping, not int. For a single value"),
        ("select ?", (1, 2), "facet_parameters", "Incorrect number of bindings supplied."),
        ("select ?", (), "facet_parameters", "Incorrect number of bindings supplied."),
        ("select :a", {"b": 1}, "facet_parameters", "There is no value for the parameter a. Statement: select :a"),
        (
            "select ?",
            (b"x" * 2**20 + b"x",),
            "facet_value_too_large",
            "A value or row is over the limit of 1048576 bytes.",
        ),
        ("select 1\0", (), "facet_sql_error", "SQL is a text without NUL characters. Pass values as parameters."),
        (b"select 1", (), "facet_sql_error", "SQL is a text without NUL characters. Pass values as parameters."),
        (
            "select '\ud800'",
            (),
            "facet_value",
            "A text cannot be encoded as UTF-8. Statement: select '?' Store such bytes",
        ),
        ("nope", (), "facet_sql_error", 'near "nope": syntax error. Statement: nope'),
        ("select * from gone", (), "facet_sql_error", "no such table: gone. Statement: select * from gone"),
        ('select "text"', (), "facet_sql_error", 'no such column: "text" - should this be a string literal in single'),
        ("select " + "1," * 60_000 + "1", (), "facet_sql_error", "A statement of 120008 characters is over the limit"),
    ],
)
def test_mistakes_say_what_to_do(facet: Facet, sql: str, parameters: object, code: str, text: str) -> None:
    error = refused(facet, sql, parameters)
    assert isinstance(error, Refused)
    assert (error.code, str(error)[: len(text)]) == (code, text)


# --- fences


@pytest.mark.parametrize(
    ("sql", "code", "message"),
    [
        ("commit", "facet_transaction", "COMMIT is not allowed: a step is one transaction."),
        ("end", "facet_transaction", "COMMIT is not allowed: a step is one transaction."),
        ("rollback", "facet_transaction", "ROLLBACK is not allowed: a step is one transaction."),
        ("begin", "facet_transaction", "BEGIN is not allowed: a step is one transaction."),
        ("savepoint platform_1", "facet_transaction", "SAVEPOINT is not allowed: a step is one transaction."),
        ("release platform_1", "facet_transaction", "SAVEPOINT is not allowed: a step is one transaction."),
        ("rollback to platform_1", "facet_transaction", "SAVEPOINT is not allowed: a step is one transaction."),
        ("attach '/etc/passwd' as x", "facet_sql_forbidden", "ATTACH, DETACH or VACUUM is not allowed in a facet."),
        ("detach main", "facet_sql_forbidden", "ATTACH, DETACH or VACUUM is not allowed in a facet."),
        ("vacuum", "facet_sql_forbidden", "VACUUM is not allowed in a facet."),
        ("vacuum into '/tmp/x'", "facet_sql_forbidden", "VACUUM is not allowed in a facet."),
        ("select load_extension('x')", "facet_sql_forbidden", "load_extension() is not allowed in a facet."),
        ("pragma journal_mode=wal", "facet_sql_forbidden", "PRAGMA journal_mode = wal is not allowed in a facet."),
        ("pragma max_page_count=9", "facet_sql_forbidden", "PRAGMA max_page_count = 9 is not allowed in a facet."),
        ("pragma writable_schema=1", "facet_sql_forbidden", "PRAGMA writable_schema = 1 is not allowed in a facet."),
        ("pragma main.page_size=512", "facet_sql_forbidden", "PRAGMA page_size = 512 is not allowed in a facet."),
        ("select * from pragma_temp_store", "facet_sql_forbidden", "PRAGMA temp_store is not allowed in a facet."),
    ]
    + [
        (sql, "facet_sql_forbidden", "a temporary table, index, view or trigger is not allowed in a facet.")
        for sql in (
            "create temp table t(a)",
            "create table temp.note(a)",
            "create temp view v as select 1",
            "create view temp.v as select 1",
            "create temp trigger r after insert on note begin select 1; end",
            "create trigger temp.r after insert on main.note begin select 1; end",
            "create virtual table temp.words using fts5(a)",
        )
    ],
)
def test_what_belongs_to_the_platform_is_refused(facet: Facet, sql: str, code: str, message: str) -> None:
    error = refused(facet, sql)
    assert isinstance(error, Refused)
    assert (error.code, error.message) == (code, message)
    assert error.hint
    assert names(facet) == ["a", "b", "c"]


@pytest.mark.parametrize("sql", ["begin", "commit", "rollback", "savepoint platform_1"])
def test_the_platforms_own_statements_are_not_left_in_the_cache(facet: Facet, sql: str) -> None:
    """A cached statement is not shown to the authorizer again; these texts the platform has run on this connection."""
    facet.begin_step()
    with facet.savepoint():
        facet.execute("select 1")
    facet.rollback_step()
    assert refused(facet, sql).code == "facet_transaction"


@pytest.mark.parametrize(
    "sql",
    [
        "pragma user_version = 7",
        "pragma table_info(note)",
        "select * from pragma_index_list('note')",
        "pragma integrity_check",
        "pragma foreign_keys",
        "create virtual table words using fts5(body); insert into words values ('x'); select * from words where words match 'x'",
        "create virtual table box using rtree(id, a, b); insert into box values (1, 2, 3)",
        "alter table note rename to notes; alter table notes add column more; alter table notes drop column body",
        "create view v as select 1; create trigger r after insert on note begin select 1; end; drop view v; reindex; analyze",
        "select json_extract('[1,2]', '$[0]'), datetime('now'), random(), sqrt(2)",
        "insert into note(name) values ('q') on conflict(name) do update set body = excluded.name returning *",
    ],
)
def test_ordinary_sql_is_allowed(facet: Facet, sql: str) -> None:
    base = facet.image()
    facet.begin_step()
    facet.execute(sql)
    assert delta.apply(base, facet.commit_step(), bytes_max=MAX) == facet.image()


def test_foreign_keys_are_enforced(facet: Facet) -> None:
    facet.begin_step()
    facet.execute("create table child(note integer references note)")
    with pytest.raises(ConstraintFailed):
        facet.execute("insert into child values (99)")


@pytest.mark.parametrize(
    "sql",
    [
        ENDLESS + "select count(*) from n",
        "with a as (select 1 union all select 2), "
        + ", ".join(f"b{n} as (select 1 from a, a, a, a, a)" for n in range(6))
        + " select count(*) from b0, b1, b2, b3, b4, b5",
    ],
)
def test_a_runaway_is_stopped(facet: Facet, sql: str) -> None:
    error = refused(facet, sql)
    assert error.code == "facet_statement_timeout"
    assert error.message.startswith("The statement ran longer than 100 ms and was stopped. Statement: with")


def test_a_result_without_end_is_refused() -> None:
    facet = Facet(limits=Limits(result_row_count_max=1000, result_bytes_max=50_000))
    for sql in (ENDLESS + "select i from n", ENDLESS + "select zeroblob(1000) from n"):
        error = refused(facet, sql)
        assert error.code == "facet_result_too_large"
        assert error.message == "The result has more than 1000 rows or 50000 bytes."


def test_the_schemas_own_tables_cannot_be_written(facet: Facet) -> None:
    facet.begin_step()
    facet.execute("create virtual table words using fts5(body)")
    facet.commit_step()
    for sql in ("update sqlite_schema set sql = 'x'", "delete from words_data", "drop table words_data"):
        assert refused(facet, sql).code == "facet_sql_error"


def test_more_than_the_page_limit_cannot_be_read_back_in(facet: Facet) -> None:
    with pytest.raises(Refused) as caught:
        Facet(facet.image(), Limits(facet_bytes_max=1024))
    assert caught.value.code == "facet_too_large"


# --- reading from outside


def test_a_read_only_facet_needs_no_step_and_refuses_to_write(facet: Facet) -> None:
    reader = Facet.read_only(facet.image())
    assert reader.execute("select name from note where id = ?", (2,)) == [("b",)]
    for sql in ("insert into note(name) values ('x')", "create table t(a)"):
        with pytest.raises(Refused) as caught:
            reader.execute(sql)
        assert caught.value.code == "facet_read_only"
    with pytest.raises(Refused) as caught:
        reader.executemany("insert into note(name) values (?)", [("x",)])
    assert caught.value.code == "facet_read_only"
    for sql in ("vacuum", "vacuum into '/tmp/x'", "begin"):
        with pytest.raises(Refused):
            reader.execute(sql)
    assert reader.image() == facet.image()


def test_a_facet_that_does_not_exist_yet_reads_as_an_empty_database() -> None:
    assert Facet.read_only(b"").execute("select count(*) from sqlite_schema") == [(0,)]


@pytest.mark.parametrize("image", [b"garbage" * 500, b"SQLite format 3\0" + b"garbage" * 500, b"S", bytes(4096)])
def test_a_damaged_image_is_corrupt(image: bytes) -> None:
    with pytest.raises(Corrupt) as caught:
        Facet.read_only(image).execute("select * from sqlite_schema")
    assert caught.value.code == "facet_image_corrupt"
    assert caught.value.message.startswith("The facet's image is damaged: ")


def test_a_damaged_page_is_corrupt(facet: Facet) -> None:
    image = facet.image()
    with pytest.raises(Corrupt):
        Facet.read_only(image[:1024] + b"\xff" * (len(image) - 1024)).execute("select * from note")


# --- threads and processes


def test_a_step_that_is_over_cannot_write_into_the_next(facet: Facet) -> None:
    """A sync step that timed out may still run in its thread; its writes must not ride in another step's record."""
    late = facet.begin_step()
    late.execute("insert into note(name) values ('undone')")
    block = late.savepoint()
    block.__enter__()
    facet.rollback_step()
    current = facet.begin_step()
    with current.savepoint():
        current.executemany("insert into note(name) values (?)", [("d",)])
    assert (current.change_count, current.last_insert_rowid) == (1, 4)
    for write in (
        lambda: late.execute("insert into note(name) values ('late')"),
        lambda: late.executemany("insert into note(name) values (?)", [("late",)]),
        lambda: late.savepoint().__enter__(),
        lambda: late.change_count,
        lambda: late.last_insert_rowid,
    ):
        with pytest.raises(Refused) as caught:
            write()
        assert caught.value.code == "facet_no_step"
        assert str(caught.value) == (
            "The step that this facet was given to is over. A step must not leave threads or tasks behind that write."
        )
    assert not block.__exit__(ZeroDivisionError, ZeroDivisionError(), None)
    facet.commit_step()
    with pytest.raises(Refused):
        current.execute("select 1")
    assert names(facet) == ["a", "b", "c", "d"]


def test_threads_take_turns(facet: Facet) -> None:
    facet.begin_step()
    errors: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for at in range(20):
                facet.execute("insert into note(name) values (?)", (f"{number}/{at}",))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    facet.commit_step()
    assert errors == []
    assert len(names(facet)) == 83


PREPARED = """
import sys
from facets.facet import Facet, prepare_process
from facets.limits import Limits
from facets.errors import Refused
prepare_process(Limits(sqlite_heap_bytes_max=8 * 1024 * 1024))
facet = Facet()
facet.begin_step()
facet.execute("create table t(a); insert into t values (1)")
facet.commit_step()
facet.begin_step()
try:
    facet.execute("with recursive n(i) as (select 1 union all select i + 1 from n limit 40000) "
                  "select i, zeroblob(1000) as z from n order by hex(z), i desc limit 1 offset 39999")
except Refused as error:
    print(error.code)
facet.rollback_step()
facet.begin_step()
print(facet.execute("select count(*) from t")[0][0])
print(sorted({name.partition(".")[0] for name in sys.modules} & {"trio", "executor", "gitstore", "msgspec", "pygit2"}))
"""


def test_a_prepared_process_bounds_sqlites_memory_and_recovers(tmp_path: Path) -> None:
    """In a process of its own with the modules that the sandbox has: the bound is the process's, and only apsw is needed
    besides Python."""
    (tmp_path / "facets").mkdir()
    for name in FACETS_INSIDE:
        shutil.copy(Path(delta.__file__).parent / f"{name}.py", tmp_path / "facets")
    places = [str(tmp_path), str(Path(apsw.__file__).parents[1])]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path += {places}\n{PREPARED}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("facet_memory\n1\n[]\n", "")


def test_apsw_errors_never_escape(facet: Facet) -> None:
    for sql in (
        "selec",
        "select 1 from note where id = randomblob(-1) and abs(-9223372036854775808)",
        "select hex(zeroblob(2000000))",
    ):
        with pytest.raises(Exception) as caught:
            refused(facet, sql)
            raise ZeroDivisionError
        assert not isinstance(caught.value, apsw.Error)


def test_the_bench_runs_at_small_sizes() -> None:
    bench = Path(__file__).resolve().parents[2] / "tools" / "bench" / "facet.py"
    sizes = ["--steps=20", "--opens=2", "--facets=2", "--rows=10"]
    done = subprocess.run([sys.executable, bench, *sizes, "--json"], capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["delta_bytes"] > 0
    assert result["checksum"] == "52d8b82a"
