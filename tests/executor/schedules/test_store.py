"""Laws of the store of schedules: what it was told is there after a restart, and nothing else."""

from __future__ import annotations

from pathlib import Path

import apsw
import msgspec
import pytest

from executor.core.errors import Conflict, Corrupt, NotFound, Refused, Unavailable
from executor.ports import Advanced, Pending, Settled
from executor.schedules.rows import FIRINGS_KEPT
from executor.schedules.store import HIDDEN_MAX, SqliteScheduleStore
from executor.views import FiringView
from tests.executor.schedules.world import HOUR, NOON_MS, TENANT, World


@pytest.fixture
def world() -> World:
    return World()


def firing(at_ms: int, outcome: str = "fired", instance: str | None = "i") -> FiringView:
    return FiringView(scheduled_ms=at_ms, at_ms=at_ms, outcome=outcome, instance=instance)  # type: ignore[arg-type]


def pending(at_ms: int, name: str = "s") -> Pending:
    return Pending(tenant=TENANT, name=name, scheduled_ms=at_ms, workflow="W", channel="live", payload=b"p")


def advanced(world: World, *times: int, cursor_ms: int = NOON_MS, due_ms: int | None = None) -> Advanced:
    row = world.store.get(TENANT, "s")
    return Advanced(row=row, pending=tuple(map(pending, times)), firings=(), cursor_ms=cursor_ms, due_ms=due_ms)


def test_everything_survives_a_restart(tmp_path: Path, world: World) -> None:
    path = tmp_path / "schedules.db"
    world.store = SqliteScheduleStore.open(path)
    world.add(every="1 hour")
    world.store.advance([advanced(world, NOON_MS + 1, NOON_MS + 2, cursor_ms=NOON_MS + 2, due_ms=NOON_MS + HOUR)])
    settled = Settled(pending=pending(NOON_MS + 1), firing=firing(NOON_MS + 1), running=("a", "b"))
    world.store.settle(
        [settled], [msgspec.structs.replace(pending(NOON_MS + 2), attempts=3, retry_at_ms=7, reason="r")]
    )
    before = world.store.get(TENANT, "s")
    world.store.close()
    again = SqliteScheduleStore.open(path)
    assert again.get(TENANT, "s") == before
    assert (before.cursor_ms, before.due_ms, before.running) == (NOON_MS + 2, NOON_MS + HOUR, ("a", "b"))
    [left] = again.pending(TENANT, "s")
    assert (left.scheduled_ms, left.attempts, left.retry_at_ms, left.reason, left.payload) == (
        NOON_MS + 2,
        3,
        7,
        "r",
        b"p",
    )
    assert again.firings(TENANT, "s", limit=9) == [firing(NOON_MS + 1)]
    assert again.check() == []
    again.close()


def test_copy_is_a_store_with_the_same_content(tmp_path: Path, world: World) -> None:
    world.add(every="1 hour")
    world.store.backup(tmp_path / "copy.db")
    copy = SqliteScheduleStore.open(tmp_path / "copy.db")
    assert copy.of_tenant(TENANT) == world.store.of_tenant(TENANT) != []
    copy.close()


def test_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "schedules.db"
    SqliteScheduleStore.open(path).close()
    apsw.Connection(str(path)).pragma("user_version", 99)
    with pytest.raises(Refused) as refused:
        SqliteScheduleStore.open(path)
    assert refused.value.code == "schema_too_new"
    assert apsw.Connection(str(path)).pragma("user_version") == 99


def test_file_that_is_no_database_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "schedules.db"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(Corrupt):
        SqliteScheduleStore.open(path)


def test_same_name_and_content_is_the_same_schedule_and_another_content_a_conflict(world: World) -> None:
    first = world.store.add(world.row(every="1 hour"), count_max=1)
    world.clock.advance(HOUR)
    assert world.store.add(world.row(every="1 hour"), count_max=1) == first
    with pytest.raises(Conflict) as conflict:
        world.store.add(world.row(every="2 hours"), count_max=1)
    assert conflict.value.code == "schedule_exists"


def test_limit_counts_the_tenants_own(world: World) -> None:
    for name in ("a", "b"):
        world.store.add(world.row(name, every="1 hour"), count_max=2)
    world.store.declare(TENANT, [world.declaration("W:1", every="1 hour")])
    with pytest.raises(Refused) as refused:
        world.store.add(world.row("c", every="1 hour"), count_max=2)
    assert (refused.value.code, refused.value.message) == (
        "limit_exceeded",
        'tenant "acme" has 2 schedules, the limit is 2',
    )
    other = msgspec.structs.replace(world.row("a", every="1 hour"), tenant="umbrella")
    assert world.store.add(other, count_max=2) == other


def test_tenants_do_not_see_each_other(world: World) -> None:
    world.add(every="1 hour")
    assert world.store.of_tenant("umbrella") == []
    with pytest.raises(NotFound) as missing:
        world.store.get("umbrella", "s")
    assert missing.value.code == "schedule_not_found"
    world.store.delete_tenant("umbrella")
    assert world.store.tenants() == [TENANT]


@pytest.mark.parametrize("whole_tenant", [True, False])
def test_deletion_leaves_no_byte_in_any_file(tmp_path: Path, world: World, whole_tenant: bool) -> None:
    secret = b"the tenant's secret " * 400
    world.store = SqliteScheduleStore.open(tmp_path / "schedules.db")
    world.add(every="1 hour", payload=secret)
    one = msgspec.structs.replace(pending(NOON_MS + 1), payload=secret)
    row = world.store.get(TENANT, "s")
    world.store.advance([Advanced(row=row, pending=(one,), firings=(), cursor_ms=NOON_MS, due_ms=None)])
    world.store.record(TENANT, "s", msgspec.structs.replace(firing(1), reason="the tenant's secret reason"))
    if whole_tenant:
        world.store.delete_tenant(TENANT)
    else:
        world.store.delete(TENANT, "s")
    for path in tmp_path.iterdir():
        assert b"the tenant's secret" not in path.read_bytes(), path.name
    world.store.close()


def test_declared_schedule_is_not_deleted_by_hand(world: World) -> None:
    world.store.declare(TENANT, [world.declaration("W:1", every="1 hour")])
    with pytest.raises(Conflict) as conflict:
        world.store.delete(TENANT, "W:1")
    assert conflict.value.code == "invalid_state"
    assert [row.name for row in world.store.of_tenant(TENANT)] == ["W:1"]


def test_declaring_leaves_schedules_of_the_api_alone(world: World) -> None:
    world.add(every="1 hour")
    world.store.declare(TENANT, [])
    assert [row.name for row in world.store.of_tenant(TENANT)] == ["s"]


def test_hidden_schedules_do_not_pile_up(world: World) -> None:
    rows = [world.declaration(f"W:{number}", every="1 hour") for number in range(HIDDEN_MAX + 5)]
    world.store.declare(TENANT, rows)
    world.store.declare(TENANT, [])
    with world.store._database.read() as connection:
        assert connection.execute("SELECT count(*) FROM schedules").fetchall() == [(HIDDEN_MAX,)]


def test_decision_about_a_schedule_that_has_changed_meanwhile_is_left_out(world: World) -> None:
    world.add(every="1 hour")
    stale = advanced(world, NOON_MS + 1, cursor_ms=NOON_MS + 1, due_ms=NOON_MS + HOUR)
    world.store.pause(TENANT, "s", by="kim")
    world.store.advance([stale])
    assert world.store.pending(TENANT, "s") == []
    assert world.store.get(TENANT, "s").due_ms is None


def test_resuming_a_schedule_that_has_changed_meanwhile_is_tried_again(world: World) -> None:
    world.add(every="1 hour")
    world.store.pause(TENANT, "s", by="kim")
    revision = world.store.get(TENANT, "s").revision
    assert not world.store.resume(TENANT, "s", revision=revision - 1, cursor_ms=0, due_ms=0)
    assert world.store.get(TENANT, "s").paused_by == "kim"
    assert world.store.resume(TENANT, "s", revision=revision, cursor_ms=NOON_MS, due_ms=NOON_MS + 5)
    row = world.store.get(TENANT, "s")
    assert (row.paused_by, row.cursor_ms, row.due_ms) == (None, NOON_MS, NOON_MS + 5)


def test_first_pause_tells_who_paused(world: World) -> None:
    world.add(every="1 hour")
    world.store.pause(TENANT, "s", by="kim")
    world.store.pause(TENANT, "s", by="ada")
    assert world.store.get(TENANT, "s").paused_by == "kim"


def test_history_keeps_the_last_hundred_of_each(world: World) -> None:
    world.add("a", every="1 hour")
    world.add("b", every="1 hour")
    world.store.record(TENANT, "b", firing(1))
    for number in range(FIRINGS_KEPT + 7):
        world.store.record(TENANT, "a", firing(number, instance=f"i{number}"))
    kept = [one.scheduled_ms for one in world.store.firings(TENANT, "a", limit=1000)]
    assert kept == list(range(FIRINGS_KEPT + 6, 6, -1))
    assert len(world.store.firings(TENANT, "b", limit=1000)) == 1
    assert len(world.store.get(TENANT, "a").running) == FIRINGS_KEPT


def test_only_the_oldest_pending_time_of_a_schedule_is_startable(world: World) -> None:
    world.add("s", every="1 hour")
    world.store.advance([advanced(world, NOON_MS + 1, NOON_MS + 2, cursor_ms=NOON_MS + 2)])
    assert [one.scheduled_ms for _, one in world.store.startable(NOON_MS, limit=9)] == [NOON_MS + 1]
    world.store.settle([], [msgspec.structs.replace(pending(NOON_MS + 1), retry_at_ms=None)])
    assert world.store.startable(NOON_MS, limit=9) == []
    assert [one.scheduled_ms for one in world.store.waiting()] == [NOON_MS + 1]
    assert world.store.next_ms() is None


def test_tenants_take_turns_however_much_one_of_them_has_piled_up(world: World) -> None:
    for number in range(50):
        world.add(f"s{number}", every="1 hour")
    single = msgspec.structs.replace(world.row("single", every="1 hour"), tenant="umbrella")
    world.store.add(single, count_max=9)
    for tenant, name in [*((TENANT, f"s{number}") for number in range(50)), ("umbrella", "single")]:
        row = world.store.get(tenant, name)
        one = msgspec.structs.replace(pending(NOON_MS, name), tenant=tenant, scheduled_ms=NOON_MS + (tenant != TENANT))
        world.store.advance([Advanced(row=row, pending=(one,), firings=(), cursor_ms=NOON_MS, due_ms=None)])
    first = [one.name for _, one in world.store.startable(NOON_MS, limit=2)]
    assert sorted(first) == ["s0", "single"]


def test_next_moment_is_of_what_is_due_or_to_be_tried_again(world: World) -> None:
    assert world.store.next_ms() is None
    world.add(every="1 hour")
    assert world.store.next_ms() == NOON_MS + HOUR
    world.store.advance([advanced(world, NOON_MS + 1, due_ms=NOON_MS + HOUR)])
    world.store.settle([], [msgspec.structs.replace(pending(NOON_MS + 1), retry_at_ms=NOON_MS + 9)])
    assert world.store.next_ms() == NOON_MS + 9
    world.store.pause(TENANT, "s", by="kim")
    assert world.store.next_ms() is None


def test_write_that_fails_is_undone_whole(world: World) -> None:
    world.add(every="1 hour")
    database = world.store._database
    with pytest.raises(ZeroDivisionError), database.write() as connection:
        connection.execute("DELETE FROM schedules")
        raise ZeroDivisionError
    assert [row.name for row in world.store.of_tenant(TENANT)] == ["s"]


def test_full_disk_is_told_and_passes(world: World) -> None:
    database = world.store._database
    with pytest.raises(Unavailable) as full, database.write():
        raise apsw.FullError("database or disk is full")
    assert full.value.code == "storage_full"
    world.add(every="1 hour")


def test_after_any_other_failed_write_nothing_is_written_any_more(world: World) -> None:
    """After a failed fsync nobody knows what is on disk."""
    database = world.store._database
    with pytest.raises(Corrupt), database.write():
        raise apsw.IOError("disk I/O error")
    with pytest.raises(Corrupt) as failed:
        world.add(every="1 hour")
    assert failed.value.message == ":memory: could not be written: an earlier write failed"
