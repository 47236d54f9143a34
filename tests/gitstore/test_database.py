"""The rows: compare-and-set of a whole push in one transaction, tenants, migrations, errors of the disk."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from gitstore import schema
from gitstore.connections import Connections
from gitstore.database import Database
from gitstore.errors import (
    Corrupt,
    InvalidName,
    LimitExceeded,
    Refused,
    TenantExists,
    TenantNotFound,
    Unavailable,
    VersionNotFound,
)
from gitstore.limits import Limits
from gitstore.rows import NewDeployment, PushCommitted, RefOutcome, RefUpdate, TenantRow
from tests.gitstore.stores import MAIN, NOW_MS, new_deployment

A, B, C = "a" * 40, "b" * 40, "c" * 40
SIDE = b"refs/heads/side"
OK_MAIN = RefOutcome(MAIN, ok=True)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "rows.sqlite3", Limits(ref_count_max=3, ref_updates_max=4), lambda: NOW_MS)
    database.create_tenant("acme")
    yield database
    database.close()


def commit(
    database: Database,
    *updates: RefUpdate,
    atomic: bool = False,
    deployment: NewDeployment | None = None,
    channel: str | None = None,
    pins: tuple[str, ...] = (),
    message: str = "",
) -> PushCommitted:
    return database.commit_push(
        "acme",
        updates,
        atomic=atomic,
        deployment=deployment,
        channel=channel,
        who="kim",
        message=message,
        pins=pins,
    )


# -- tenants ---------------------------------------------------------------------------------------------------------


def test_a_tenant_is_a_row(database: Database) -> None:
    assert database.tenant("acme") == TenantRow("acme", NOW_MS)
    database.create_tenant("aaa")
    assert [row.name for row in database.tenants()] == ["aaa", "acme"]


def test_a_name_is_taken_once(database: Database) -> None:
    with pytest.raises(TenantExists, match=r"A tenant 'acme' exists already\. Choose another name\.") as caught:
        database.create_tenant("acme")
    assert caught.value.code == "tenant_exists"


@pytest.mark.parametrize("name", ["nobody", "No/Name", "", "../acme"])
def test_an_unknown_or_impossible_tenant_is_not_found(database: Database, name: str) -> None:
    for ask in (database.tenant, database.refs, database.pins, database.channels, database.deployments):
        with pytest.raises(TenantNotFound) as caught:
            ask(name)
        assert caught.value.code == "tenant_not_found"
        assert caught.value.message == f"There is no tenant {name!r}."


def test_nothing_of_a_deleted_tenant_comes_back_with_its_name(database: Database) -> None:
    commit(database, RefUpdate(MAIN, None, A), deployment=new_deployment(A), channel="live", pins=(A,))
    database.delete_tenant("acme", remove_bundle=lambda _: None)
    database.create_tenant("acme")
    assert database.refs("acme") == {}
    assert database.deployments("acme") == []
    assert database.channels("acme") == []
    assert database.channel_history("acme", "live") == []
    assert database.pins("acme") == []
    assert database.bundle_key("acme", A) is None


def test_deleting_a_tenant_removes_only_bundles_that_nobody_else_uses(database: Database) -> None:
    database.create_tenant("other")
    for tenant, oid, key in (("acme", A, "1" * 64), ("acme", B, "2" * 64), ("other", C, "2" * 64)):
        database.record_bundle(tenant, oid, key)
    removed: list[str] = []
    database.delete_tenant("acme", remove_bundle=removed.append)
    assert removed == ["1" * 64]


# -- pushes ----------------------------------------------------------------------------------------------------------


def test_one_push_makes_ref_deployment_move_and_pin(database: Database) -> None:
    done = commit(
        database,
        RefUpdate(MAIN, None, A),
        deployment=new_deployment(A),
        channel="live",
        pins=(A,),
        message="first line\nmore",
    )
    assert done.outcomes == (OK_MAIN,)
    assert database.refs("acme") == {MAIN: A.encode()}
    assert done.deployment is not None
    assert database.deployment("acme", A) == done.deployment
    assert done.deployment.workflows[0].name == "Onboarding"
    assert done.deployment.warnings == ("slow",)
    assert (done.deployment.who, done.deployment.message, done.deployment.channel) == (
        "kim",
        "first line\nmore",
        "live",
    )
    assert done.move is not None
    assert database.channel_history("acme", "live") == [done.move]
    assert (done.move.from_commit, done.move.to_commit, done.move.kind, done.move.why) == (
        None,
        A,
        "push",
        "first line",
    )
    channel = database.channel("acme", "live")
    assert channel is not None
    assert (channel.commit, channel.deployment_id, channel.who) == (A, done.deployment.id, "kim")
    assert [(pin.commit, pin.reason) for pin in database.pins("acme")] == [(A, "push")]
    assert database.bundle_key("acme", A) == A + "0" * 24


@pytest.mark.parametrize(
    ("old", "reason"),
    [
        (None, f"stale info: the ref is at {A[:12]} now; fetch first"),
        (B, f"stale info: the ref is at {A[:12]} now; fetch first"),
    ],
)
def test_a_stale_push_changes_nothing_and_says_where_the_ref_is(
    database: Database, old: str | None, reason: str
) -> None:
    commit(database, RefUpdate(MAIN, None, A))
    done = commit(database, RefUpdate(MAIN, old, C), deployment=new_deployment(C), channel="live", pins=(C,))
    assert done == PushCommitted((RefOutcome(MAIN, ok=False, reason=reason),), None, None)
    assert database.refs("acme") == {MAIN: A.encode()}
    assert database.deployments("acme") == []
    assert database.channels("acme") == []
    assert database.pins("acme") == []


def test_an_update_of_a_deleted_ref_is_stale(database: Database) -> None:
    done = commit(database, RefUpdate(MAIN, A, B))
    assert done.outcomes == (RefOutcome(MAIN, ok=False, reason="stale info: the ref is gone; fetch first"),)


def test_an_atomic_push_is_all_or_nothing(database: Database) -> None:
    commit(database, RefUpdate(MAIN, None, A))
    updates = (RefUpdate(SIDE, None, B), RefUpdate(MAIN, C, B), RefUpdate(b"refs/tags/v1", None, B))
    done = commit(database, *updates, atomic=True, deployment=new_deployment(B), channel="live")
    assert [outcome.reason for outcome in done.outcomes] == [
        "atomic push failed",
        f"stale info: the ref is at {A[:12]} now; fetch first",
        "atomic push failed",
    ]
    assert done.deployment is None
    assert database.refs("acme") == {MAIN: A.encode()}


def test_without_atomic_each_ref_stands_alone(database: Database) -> None:
    commit(database, RefUpdate(MAIN, None, A))
    done = commit(
        database, RefUpdate(SIDE, None, B), RefUpdate(MAIN, C, B), deployment=new_deployment(B), channel="live"
    )
    assert [outcome.ok for outcome in done.outcomes] == [True, False]
    assert done.deployment is None, "the branch that was to be deployed did not move"
    assert database.refs("acme") == {MAIN: A.encode(), SIDE: B.encode()}


def test_a_failing_row_takes_the_whole_push_with_it(database: Database) -> None:
    bad = NewDeployment(A, "no tree", "main", (), (), "k" * 64)
    with pytest.raises(InvalidName):
        commit(database, RefUpdate(MAIN, None, A), deployment=bad, channel="live")
    assert database.refs("acme") == {}
    assert database.deployments("acme") == []


def test_a_folder_and_a_ref_of_one_name_exclude_each_other(database: Database) -> None:
    commit(database, RefUpdate(b"refs/heads/a/b", None, A))
    done = commit(database, RefUpdate(b"refs/heads/a", None, A), RefUpdate(b"refs/heads/a/b/c", None, A))
    assert [outcome.reason for outcome in done.outcomes] == ["the ref refs/heads/a/b is in the way"] * 2
    assert commit(database, RefUpdate(b"refs/heads/a-b", None, A)).outcomes[0].ok, "a neighbour is no folder"


def test_a_ref_may_give_way_to_its_folder_in_one_push(database: Database) -> None:
    commit(database, RefUpdate(b"refs/heads/a", None, A))
    done = commit(database, RefUpdate(b"refs/heads/a/b", None, A), RefUpdate(b"refs/heads/a", A, None), atomic=True)
    assert [outcome.ok for outcome in done.outcomes] == [True, True]
    assert database.refs("acme") == {b"refs/heads/a/b": A.encode()}


def test_naming_a_ref_twice_is_refused_the_second_time(database: Database) -> None:
    done = commit(database, RefUpdate(MAIN, None, A), RefUpdate(MAIN, A, B))
    assert [outcome.reason for outcome in done.outcomes] == ["", "the push updates this ref twice"]


def test_refs_are_bounded_and_deleting_makes_room(database: Database) -> None:
    for number in range(3):
        commit(database, RefUpdate(b"refs/heads/%d" % number, None, A))
    done = commit(database, RefUpdate(SIDE, None, A))
    assert done.outcomes[0].reason == "the repository has 3 refs, the limit is 3"
    done = commit(database, RefUpdate(SIDE, None, A), RefUpdate(b"refs/heads/0", A, None))
    assert [outcome.ok for outcome in done.outcomes] == [True, True]
    assert commit(database, RefUpdate(SIDE, A, B)).outcomes[0].ok, "moving a ref needs no room"


def test_too_many_updates_are_refused_before_anything_happens(database: Database) -> None:
    updates = [RefUpdate(b"refs/heads/%d" % number, None, A) for number in range(5)]
    with pytest.raises(LimitExceeded) as caught:
        commit(database, *updates)
    assert caught.value.message == "The number of ref updates in one push (5) is over the limit of 4 (ref_updates_max)."
    assert database.refs("acme") == {}


def test_clients_cannot_write_pins_or_malformed_refs(database: Database) -> None:
    done = commit(database, RefUpdate(b"refs/pins/" + A.encode(), None, A), RefUpdate(b"refs/heads/../x", None, A))
    assert [outcome.reason for outcome in done.outcomes] == [
        "only refs/heads/* and refs/tags/* can be pushed",
        "malformed ref name",
    ]


def test_of_concurrent_pushes_to_one_ref_exactly_one_wins(database: Database) -> None:
    barrier = threading.Barrier(8)
    wins: list[str] = []

    def racer(digit: str) -> None:
        barrier.wait()
        new = digit * 40
        if commit(database, RefUpdate(MAIN, None, new), deployment=new_deployment(new), channel="live").outcomes[0].ok:
            wins.append(new)

    threads = [threading.Thread(target=racer, args=(digit,)) for digit in "12345678"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert database.refs("acme") == {MAIN: wins[0].encode()}
    assert [found.commit for found in database.deployments("acme")] == wins


def test_a_second_deployment_of_the_channels_commit_moves_nothing(database: Database) -> None:
    commit(database, RefUpdate(MAIN, None, A), deployment=new_deployment(A), channel="live")
    done = commit(database, RefUpdate(SIDE, None, A), deployment=new_deployment(A, branch="side"), channel="live")
    assert done.move is None
    assert len(database.channel_history("acme", "live")) == 1
    assert [found.branch for found in database.deployments("acme")] == ["side", "main"]


def test_a_deployment_without_a_channel_moves_none(database: Database) -> None:
    done = commit(database, RefUpdate(MAIN, None, A), deployment=new_deployment(A))
    assert done.deployment is not None
    assert done.deployment.channel == ""
    assert done.move is None
    assert database.channels("acme") == []


# -- deployments -----------------------------------------------------------------------------------------------------


def test_deployments_come_newest_first_in_pages(database: Database) -> None:
    for oid, old in ((A, None), (B, A), (C, B), (A, C)):
        commit(database, RefUpdate(MAIN, old, oid), deployment=new_deployment(oid))
    newest = database.deployments("acme", limit=3)
    assert [found.commit for found in newest] == [A, C, B]
    assert [found.commit for found in database.deployments("acme", before_id=newest[-1].id)] == [A]
    assert database.deployment("acme", A).id == newest[0].id, "the newest deployment of a commit counts"


def test_a_version_is_found_by_a_unique_prefix_of_seven_digits(database: Database) -> None:
    first, second = "1234567" + "0" * 33, "1234567" + "8" * 33
    commit(database, RefUpdate(MAIN, None, first), deployment=new_deployment(first))
    assert database.deployment("acme", "1234567").commit == first
    commit(database, RefUpdate(MAIN, first, second), deployment=new_deployment(second))
    assert database.deployment("acme", "12345678").commit == second
    with pytest.raises(Refused) as ambiguous:
        database.deployment("acme", "1234567")
    assert ambiguous.value.code == "version_ambiguous"
    assert str(ambiguous.value) == "'1234567' is the beginning of several versions of tenant 'acme'. Give more digits."
    for no_id in ("123456", "main", "1234567g", ""):
        with pytest.raises(VersionNotFound):
            database.deployment("acme", no_id)


def test_another_tenants_version_is_not_found(database: Database) -> None:
    commit(database, RefUpdate(MAIN, None, A), deployment=new_deployment(A))
    database.create_tenant("other")
    with pytest.raises(VersionNotFound) as caught:
        database.deployment("other", A)
    assert caught.value.code == "version_not_found"
    assert caught.value.message == f"Tenant 'other' has no deployed version '{A}'."


def test_texts_of_clients_are_stored_whatever_they_contain(tmp_path: Path) -> None:
    database = Database(tmp_path / "rows", Limits(message_bytes_max=8), lambda: NOW_MS)
    database.create_tenant("acme")
    done = commit(database, RefUpdate(MAIN, None, A), deployment=new_deployment(A), message="\ud800ää\0ääää")
    assert done.deployment is not None
    assert done.deployment.message == "?ää\0ä"
    assert database.deployment("acme", A).message == done.deployment.message
    database.close()


# -- the file --------------------------------------------------------------------------------------------------------


def test_every_commit_is_synced(database: Database) -> None:
    with database.connections.write() as connection:
        assert connection.pragma("synchronous") == 2
        assert connection.pragma("journal_mode") == "wal"
        assert connection.pragma("foreign_keys") == 1
        assert connection.pragma("trusted_schema") == 0
    with database.connections.write(durable=False) as connection:
        assert connection.pragma("synchronous") == 1
    with database.connections.write() as connection:
        assert connection.pragma("synchronous") == 2


def test_a_block_that_raises_leaves_no_trace(database: Database) -> None:
    with pytest.raises(KeyError), database.connections.write() as connection:
        connection.execute("DELETE FROM tenants")
        raise KeyError
    assert database.tenant("acme")


def test_a_reader_sees_one_moment(database: Database) -> None:
    with database.connections.read() as connection:
        before = connection.execute("SELECT count(*) FROM refs").fetchall()
        commit(database, RefUpdate(MAIN, None, A))
        assert connection.execute("SELECT count(*) FROM refs").fetchall() == before
    assert database.refs("acme") == {MAIN: A.encode()}


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    database = Database(tmp_path / "rows", Limits(), lambda: NOW_MS)
    database.close()
    database.close()
    for ask in (database.tenants, lambda: database.create_tenant("acme")):
        with pytest.raises(Unavailable, match=r"The git store is closed\.") as caught:
            ask()
        assert caught.value.code == "store_closed"


def test_the_stored_schema_is_the_newest(database: Database) -> None:
    with database.connections.read() as connection:
        assert connection.pragma("user_version") == len(schema.MIGRATIONS)
        assert connection.pragma("application_id") == schema.APPLICATION_ID
    assert database.check() == []


def test_a_newer_schema_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    Database(path, Limits(), lambda: NOW_MS).close()
    newer = apsw.Connection(str(path))
    newer.pragma("user_version", 99)
    newer.close()
    with pytest.raises(Refused) as caught:
        Connections(path)
    assert caught.value.code == "schema_too_new"
    assert caught.value.message == f"{path} has schema 99; this program knows schemas up to {len(schema.MIGRATIONS)}."


def test_a_foreign_file_is_refused_untouched(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    connection = apsw.Connection(str(foreign))
    connection.execute("CREATE TABLE mine (x)")
    connection.close()
    text = tmp_path / "text"
    text.write_bytes(b"just some words, long enough to be no empty database" * 40)
    for path in (foreign, text):
        before = path.read_bytes()
        with pytest.raises(Refused) as caught:
            Connections(path)
        assert caught.value.code == "foreign_file"
        assert path.read_bytes()[100:] == before[100:], "only SQLite's journal mode in the header may differ"


def test_a_migration_that_fails_leaves_the_old_schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows"
    Database(path, Limits(), lambda: NOW_MS).close()
    good = schema.MIGRATIONS
    monkeypatch.setattr(schema, "MIGRATIONS", (*good, "CREATE TABLE extra (x); CREATE TABLE extra (x)"))
    with pytest.raises(apsw.SQLError):
        Connections(path)
    monkeypatch.setattr(schema, "MIGRATIONS", good)
    reopened = Database(path, Limits(), lambda: NOW_MS)
    with reopened.connections.read() as connection:
        assert connection.pragma("user_version") == len(good)
        assert connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'extra'").fetchone() is None
    reopened.close()


def test_a_damaged_file_is_corrupt_and_not_repaired(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    database = Database(path, Limits(), lambda: NOW_MS)
    database.create_tenant("acme")
    database.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    with pytest.raises(Corrupt) as caught:
        damaged = Database(path, Limits(), lambda: NOW_MS)
        try:
            damaged.tenants()
        finally:
            damaged.close()
    assert caught.value.code == "corrupt"


def test_a_full_disk_refuses_the_push_and_keeps_the_rows(database: Database) -> None:
    commit(database, RefUpdate(MAIN, None, A))
    with database.connections.write() as connection:
        pages = connection.pragma("page_count")
        connection.pragma("max_page_count", pages)
    with pytest.raises(Unavailable, match="is full; nothing was changed") as caught:
        commit(database, RefUpdate(MAIN, A, B), deployment=new_deployment(B), channel="live", message="x" * 60_000)
    assert caught.value.code == "storage_full"
    assert database.refs("acme") == {MAIN: A.encode()}
    assert commit(database, RefUpdate(MAIN, A, B)).outcomes == (OK_MAIN,), "the store goes on once there is room"
