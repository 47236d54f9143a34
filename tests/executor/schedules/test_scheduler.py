"""Laws of firing: once for each time, as the overlap policy says, whatever fails."""

from __future__ import annotations

import msgspec
import pytest
import trio

from executor.core.errors import Conflict, Corrupt, Refused, Unavailable
from executor.core.schedule import instance_id
from executor.schedules.scheduler import BATCH, PENDING_MAX, RETRY_FOR_MS
from executor.views import FiringView
from tests.executor.schedules.world import DAY, HOUR, MINUTE, NOON_MS, TENANT, World


@pytest.fixture
def world() -> World:
    return World()


def busy(text: str = "too much waits") -> Unavailable:
    return Unavailable(text, code="busy")


# --- firing


async def test_time_that_is_due_starts_an_instance_named_by_schedule_and_time(world: World) -> None:
    world.add(cron="0 * * * *", payload=b"\xc0")
    async with world.working():
        await world.after(HOUR - 1)
        assert world.started == {}
        await world.after(1)
    [(name, (at_ms, pending))] = world.started.items()
    assert name == instance_id("s", NOON_MS + HOUR)
    assert (at_ms, pending.workflow, pending.channel, pending.payload) == (NOON_MS + HOUR, "W", "live", b"\xc0")
    [firing] = world.history()
    assert (firing.outcome, firing.instance, firing.scheduled_ms) == ("fired", name, NOON_MS + HOUR)
    row = world.store.get(TENANT, "s")
    assert (row.cursor_ms, row.due_ms, row.running) == (NOON_MS + HOUR, NOON_MS + 2 * HOUR, (name,))
    assert world.store.pending(TENANT, "s") == []


async def test_many_schedules_due_at_once_all_fire(world: World) -> None:
    names = [f"s{number}" for number in range(BATCH * 2 + 5)]
    for name in names:
        world.add(name, every="1 hour")
    async with world.working():
        await world.after(HOUR)
    assert sorted(pending.name for _, pending in world.started.values()) == sorted(names)


async def test_schedule_made_while_the_scheduler_sleeps_is_not_overslept(world: World) -> None:
    world.add("slow", every="1 day")
    async with world.working():
        world.add("quick", every="1 minute")
        world.scheduler.poke()
        await world.settle()
        world.clock.advance(MINUTE)
        await world.settle()
    assert [pending.name for _, pending in world.started.values()] == ["quick"]


async def test_schedule_ends(world: World) -> None:
    world.add(every="1 hour", end="2027-05-01T14:00Z")
    async with world.working():
        await world.after(HOUR)
        await world.after(DAY)
    assert world.times == [NOON_MS + HOUR]
    assert world.store.get(TENANT, "s").due_ms is None


# --- overlap


async def test_skip_leaves_out_what_comes_while_an_earlier_one_runs_and_says_so(world: World) -> None:
    world.add(every="1 hour", overlap="skip")
    async with world.working():
        await world.after(HOUR)
        await world.after(HOUR)
        [first] = world.running
        world.finish(first)
        await world.after(HOUR)
    assert world.outcomes() == [
        ("fired", NOON_MS + HOUR),
        ("skipped", NOON_MS + 2 * HOUR),
        ("fired", NOON_MS + 3 * HOUR),
    ]
    assert world.history()[1].reason == f'"{first}" has not ended'


async def test_queue_starts_the_next_when_the_earlier_one_ends(world: World) -> None:
    world.add(every="1 hour", overlap="queue")
    async with world.working():
        for _ in range(3):
            await world.after(HOUR)
        assert world.times == [NOON_MS + HOUR]
        assert [one.scheduled_ms for one in world.store.pending(TENANT, "s")] == [
            NOON_MS + 2 * HOUR,
            NOON_MS + 3 * HOUR,
        ]
        for _ in range(3):
            [running] = world.running
            world.finish(running)
            await world.settle()
    assert world.times == [NOON_MS + n * HOUR for n in (1, 2, 3)]
    assert world.most_at_once == 1


async def test_queue_goes_on_after_a_restart(world: World) -> None:
    world.add(every="1 hour", overlap="queue")
    async with world.working():
        await world.after(HOUR)
        await world.after(HOUR)
    [running] = world.running
    world.finish(running)
    async with world.working():
        pass
    assert world.times == [NOON_MS + HOUR, NOON_MS + 2 * HOUR]


async def test_cancel_ends_the_earlier_one_first(world: World) -> None:
    world.add(every="1 hour", overlap="cancel")
    async with world.working():
        await world.after(HOUR)
        await world.after(HOUR)
    assert world.ended_by_us == [instance_id("s", NOON_MS + HOUR)]
    assert list(world.running) == [instance_id("s", NOON_MS + 2 * HOUR)]
    assert world.most_at_once == 1


async def test_allow_starts_whatever_runs(world: World) -> None:
    world.add(every="1 hour", overlap="allow")
    async with world.working():
        await world.after(HOUR)
        await world.after(HOUR)
    assert world.most_at_once == 2
    assert world.store.get(TENANT, "s").running == ()


async def test_triggered_instance_is_in_the_way_like_any_other(world: World) -> None:
    world.add(every="1 hour", overlap="skip")
    async with world.working():
        world.running["by-hand"] = trio.Event()
        firing = FiringView(scheduled_ms=NOON_MS, at_ms=NOON_MS, outcome="triggered", instance="by-hand")
        world.store.record(TENANT, "s", firing)
        await world.after(HOUR)
    assert world.outcomes() == [("triggered", NOON_MS), ("skipped", NOON_MS + HOUR)]


# --- what fails


async def test_busy_platform_is_tried_again_with_growing_pauses(world: World) -> None:
    world.add(every="1 hour")
    world.start_errors = [busy(), busy(), busy()]
    async with world.working():
        await world.after(HOUR)
        for pause_ms in (1_000, 2_000, 4_000):
            [pending] = world.store.pending(TENANT, "s")
            assert (pending.retry_at_ms, pending.reason) == (world.clock.now_ms() + pause_ms, "too much waits")
            await world.after(pause_ms)
    assert world.outcomes() == [("fired", NOON_MS + HOUR)]


async def test_time_that_cannot_be_fired_for_a_day_is_given_up(world: World) -> None:
    world.add(cron="0 13 * * *")
    async with world.working():
        world.start_errors = [busy()] * 10_000
        await world.after(HOUR)
        await world.after(RETRY_FOR_MS - 1)
        assert world.outcomes() == []
        await world.after(MINUTE)
    assert world.outcomes()[0] == ("failed", NOON_MS + HOUR)
    assert world.history()[0].reason == "too much waits"


async def test_refused_firing_is_recorded_and_the_next_one_fires(world: World) -> None:
    world.add(every="1 hour")
    world.start_errors = [Refused('version 12345678 has no workflow "W"', code="unknown_workflow")]
    async with world.working():
        await world.after(HOUR)
        await world.after(HOUR)
    assert world.outcomes() == [("failed", NOON_MS + HOUR), ("fired", NOON_MS + 2 * HOUR)]
    assert world.history()[0].reason == 'version 12345678 has no workflow "W" [unknown_workflow]'


async def test_firing_that_the_workflows_own_flow_control_refuses_is_skipped(world: World) -> None:
    world.add(every="1 hour")
    world.start_errors = [Conflict('instance "x" of the singleton W has not ended', code="singleton_exists")]
    async with world.working():
        await world.after(HOUR)
    assert world.outcomes() == [("skipped", NOON_MS + HOUR)]


async def test_fault_of_ours_in_one_schedule_leaves_the_others_alone(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.add("a", every="1 hour")
    world.add("b", every="1 hour")
    world.start_errors = [ZeroDivisionError("a bug")]  # type: ignore[list-item]
    async with world.working():
        await world.after(HOUR)
    assert sorted([*world.outcomes("a"), *world.outcomes("b")]) == [
        ("failed", NOON_MS + HOUR),
        ("fired", NOON_MS + HOUR),
    ]
    assert "a schedule could not be fired" in caplog.text


async def test_full_disk_delays_and_loses_nothing(world: World) -> None:
    world.add(every="1 hour")
    async with world.working():
        world.write_errors = [Unavailable("the disk is full", code="storage_full")]
        await world.after(HOUR)
        assert world.started == {}
        await world.after(1_000)
    assert world.outcomes() == [("fired", NOON_MS + HOUR)]


async def test_damaged_store_ends_the_scheduler(world: World) -> None:
    world.add(every="1 hour")
    with pytest.RaisesGroup(Corrupt, flatten_subgroups=True):
        async with world.working():
            world.write_errors = [Corrupt("schedules.db could not be written")]
            await world.after(HOUR)
    assert world.started == {}


async def test_schedule_whose_zone_is_gone_says_so_and_the_others_fire(world: World) -> None:
    world.add("good", every="1 hour")
    lost = world.row("lost", every="1 hour")
    spec = lost.spec.replace(b'"every_ms":3600000', b'"cron":"0 * * * *","timezone":"Atlantis/Poseidonis"')
    world.store.add(msgspec.structs.replace(lost, spec=spec), count_max=9)
    async with world.working():
        await world.after(HOUR)
    assert world.outcomes("good") == [("fired", NOON_MS + HOUR)]
    [failed] = world.history("lost")
    assert (failed.outcome, failed.reason) == (
        "failed",
        'the schedule has timezone "Atlantis/Poseidonis", which is not known',
    )


async def test_more_times_than_may_wait_stay_undecided(world: World) -> None:
    """They are not lost: once there is room, the catch-up policy says what becomes of them."""
    world.add(every="1 minute", overlap="queue", catch_up="last")
    async with world.working():
        for _ in range(PENDING_MAX + 20):
            await world.after(MINUTE)
        assert len(world.store.pending(TENANT, "s")) == PENDING_MAX
        assert world.store.get(TENANT, "s").cursor_ms == NOON_MS + (PENDING_MAX + 1) * MINUTE
        for _ in range(5):
            [running] = world.running
            world.finish(running)
            await world.after(1_000)
    pending = [one.scheduled_ms for one in world.store.pending(TENANT, "s")]
    assert pending[-1] == NOON_MS + (PENDING_MAX + 20) * MINUTE
    assert ("missed", NOON_MS + (PENDING_MAX + 2) * MINUTE) in world.outcomes()


# --- the clock


async def test_clock_set_back_fires_nothing_twice(world: World) -> None:
    world.add(every="1 hour", overlap="allow")
    async with world.working():
        await world.after(2 * HOUR)
        before = list(world.times)
        await world.after(-DAY)
        await world.after(DAY - MINUTE)
        assert world.times == before
        await world.after(HOUR + MINUTE)
    assert len(set(world.times)) == len(world.times) == len(world.history()) - 1  # one record tells what was missed
    assert world.times[-1] == NOON_MS + 3 * HOUR


@pytest.mark.parametrize(("policy", "hours"), [("none", []), ("last", [5]), ("all", [1, 2, 3, 4, 5])])
async def test_downtime_is_made_up_for_as_the_policy_says(world: World, policy: str, hours: list[int]) -> None:
    world.add(every="1 hour", overlap="allow", catch_up=policy)
    world.clock.advance(5 * HOUR + 30 * MINUTE)
    async with world.working():
        pass
    assert world.times == [NOON_MS + hour * HOUR for hour in hours]
    missed = [firing for firing in world.history() if firing.outcome == "missed"]
    assert [(one.scheduled_ms, one.until_ms) for one in missed] == {
        "none": [(NOON_MS + HOUR, NOON_MS + 5 * HOUR)],
        "last": [(NOON_MS + HOUR, NOON_MS + 4 * HOUR)],
        "all": [],
    }[policy]


# --- pause


async def test_paused_schedule_fires_nothing_and_makes_up_for_nothing(world: World) -> None:
    world.add(every="1 hour", overlap="allow", catch_up="all")
    async with world.working():
        world.store.pause(TENANT, "s", by="kim")
        await world.after(3 * HOUR)
        assert world.started == {}
        row = world.store.get(TENANT, "s")
        now_ms = world.clock.now_ms()
        assert row.paused_by == "kim"
        assert world.store.resume(TENANT, "s", revision=row.revision, cursor_ms=now_ms, due_ms=now_ms + HOUR)
        await world.after(HOUR)
    assert world.times == [NOON_MS + 4 * HOUR]


async def test_what_waits_for_its_turn_waits_through_a_pause(world: World) -> None:
    world.add(every="1 hour", overlap="queue")
    async with world.working():
        await world.after(HOUR)
        await world.after(HOUR)
        world.store.pause(TENANT, "s", by="kim")
        [running] = world.running
        world.finish(running)
        await world.after(MINUTE)
        assert world.times == [NOON_MS + HOUR]
        row = world.store.get(TENANT, "s")
        world.store.resume(TENANT, "s", revision=row.revision, cursor_ms=world.clock.now_ms(), due_ms=None)
        await world.after(MINUTE)
    assert world.times == [NOON_MS + HOUR, NOON_MS + 2 * HOUR]


# --- declared in code


async def test_version_brings_its_schedules_and_takes_them_with_it(world: World) -> None:
    one, two = world.declaration("W:1", every="1 hour"), world.declaration("W:2", every="2 hours")
    world.versions[TENANT] = [one]
    async with world.working():
        assert [row.name for row in world.store.of_tenant(TENANT)] == ["W:1"]
        world.versions[TENANT] = [one, two]
        world.scheduler.changed(TENANT)
        await world.settle()
        assert [row.name for row in world.store.of_tenant(TENANT)] == ["W:1", "W:2"]
        world.versions[TENANT] = []
        world.scheduler.changed(TENANT)
        await world.after(DAY)
    assert (world.store.of_tenant(TENANT), world.started) == ([], {})


async def test_schedule_that_the_next_version_declares_too_goes_on_as_it_was(world: World) -> None:
    world.versions[TENANT] = [world.declaration("W:1", every="1 hour", overlap="allow")]
    async with world.working():
        await world.after(HOUR + 30 * MINUTE)
        before = world.store.get(TENANT, "W:1")
        world.scheduler.changed(TENANT)
        await world.settle()
        assert world.store.get(TENANT, "W:1") == before
        await world.after(30 * MINUTE)
    assert world.times == [NOON_MS + HOUR, NOON_MS + 2 * HOUR]


async def test_rollback_keeps_pause_and_history(world: World) -> None:
    row = world.declaration("W:1", every="1 hour")
    world.versions[TENANT] = [row]
    async with world.working():
        await world.after(HOUR)
        world.store.pause(TENANT, "W:1", by="kim")
        for rows in ([], [row]):
            world.versions[TENANT] = rows
            world.scheduler.changed(TENANT)
            await world.settle()
        await world.after(DAY)
    assert world.store.get(TENANT, "W:1").paused_by == "kim"
    assert world.outcomes("W:1") == [("fired", NOON_MS + HOUR)]


async def test_changed_schedule_fires_from_now_on_and_never_a_time_again(world: World) -> None:
    first = world.declaration("W:1", every="1 hour", overlap="allow", catch_up="all")
    other = world.declaration("W:1", every="30 minutes", overlap="allow", catch_up="all")
    world.versions[TENANT] = [first]
    async with world.working():
        await world.after(HOUR)
        world.clock.advance(-20 * MINUTE)
        world.versions[TENANT] = [other]
        world.scheduler.changed(TENANT)
        await world.settle()
        await world.after(50 * MINUTE)
    assert world.times == [NOON_MS + HOUR, NOON_MS + HOUR + 30 * MINUTE]


async def test_version_that_cannot_be_read_now_is_taken_over_later(world: World) -> None:
    async with world.working():
        world.versions[TENANT] = [world.declaration("W:1", every="1 hour")]
        world.write_errors = [busy()]
        world.scheduler.changed(TENANT)
        await world.settle()
        assert world.store.of_tenant(TENANT) == []
        await world.after(1_000)
        assert [row.name for row in world.store.of_tenant(TENANT)] == ["W:1"]


# --- deletion


async def test_deleted_tenant_leaves_nothing(world: World) -> None:
    world.add(every="1 hour")
    async with world.working():
        await world.scheduler.forget(TENANT)
        await world.after(DAY)
    assert (world.started, world.store.tenants()) == ({}, [])


async def test_schedules_of_a_tenant_that_is_gone_are_gone_after_a_restart(world: World) -> None:
    world.add(every="1 hour")
    world.versions = {}
    async with world.working():
        assert world.store.tenants() == []


async def test_schedule_deleted_while_it_fires_leaves_nothing(world: World) -> None:
    world.add(every="1 hour")
    world.start_errors = [busy()]
    async with world.working():
        await world.after(HOUR)
        world.store.delete(TENANT, "s")
        await world.after(DAY)
    assert (world.started, world.store.next_ms()) == ({}, None)
