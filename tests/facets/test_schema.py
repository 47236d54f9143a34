"""Migrations of the platform's own databases."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest

from facets import Corrupt, SchemaTooNew, StateStore, schema
from facets.database import connect
from tests.facets.making import record


@pytest.mark.parametrize(("name", "known"), [("log.db", 1), ("state.db", 3), ("output.db", 1)])
def test_file_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path, name: str, known: int) -> None:
    with StateStore.open(tmp_path, fold="manual") as store:
        store.append([record("a", 1)])
    connection = apsw.Connection(str(tmp_path / name))
    connection.pragma("user_version", 7)
    connection.close()
    before = (tmp_path / name).read_bytes()
    with pytest.raises(SchemaTooNew) as caught:
        StateStore.open(tmp_path)
    assert str(caught.value) == (
        f"{name} has schema version 7; this program knows versions up to {known}. "
        "Run the version that wrote it, or a newer one; nothing was changed."
    )
    assert caught.value.details["found"] == 7
    assert (tmp_path / name).read_bytes() == before
    # The refusal has let go of the directory.
    connection = apsw.Connection(str(tmp_path / name))
    connection.pragma("user_version", known)
    connection.close()
    with StateStore.open(tmp_path) as store:
        assert len(store.journal("acme", "a")) == 1


def test_file_in_the_place_of_another_is_refused(tmp_path: Path) -> None:
    StateStore.open(tmp_path).close()
    (tmp_path / "output.db").rename(tmp_path / "state.db")
    with pytest.raises(Corrupt) as caught:
        StateStore.open(tmp_path)
    assert caught.value.code == "wrong_database"
    assert caught.value.message == "state.db is not a state database of this platform."


def test_file_that_is_no_database_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "log.db").write_bytes(b"something else " * 1000)
    with pytest.raises(Corrupt, match=r"log\.db is damaged"):
        StateStore.open(tmp_path)


def test_migrations_run_once_each_in_order_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    one = schema.Schema("test", 42, ("CREATE TABLE a(x); INSERT INTO a VALUES(1)",))
    two = schema.Schema("test", 42, (*one.migrations, "CREATE TABLE b(y)"))
    broken = schema.Schema("test", 42, (*one.migrations, "CREATE TABLE b(y); CREATE TABLE a(x)"))
    connection = connect(path, create=True)
    for _ in range(2):
        schema.migrate(connection, path, one)
    with pytest.raises(Exception, match="table a already exists"):
        schema.migrate(connection, path, broken)
    assert connection.pragma("user_version") == 1
    assert not connection.table_exists("main", "b")
    schema.migrate(connection, path, two)
    assert connection.pragma("user_version") == 2
    assert connection.execute("SELECT count(*) FROM a").get == 1
    connection.close()
