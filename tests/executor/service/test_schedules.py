"""Laws of schedules at the service: who may, what is refused when, and what the platform does on its own behalf."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import apsw
import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from executor.core.errors import Conflict, Corrupt, NotFound, Refused, Unavailable
from executor.ports import CodeSource, Instances, Row, Seen, Start, StoredRow
from executor.schedules import scheduler
from executor.schedules.store import SqliteScheduleStore
from executor.service import ADMINISTRATOR, Caller, Service, ServiceOptions
from executor.service.scheduled import HELD_RECHECK_MS
from executor.views import DeploymentView, TenantView, WorkflowView
from tests.executor.engine.world import StandingClock

COMMIT = "c" * 40
HOUR = 3_600_000
NOON_MS = 1_809_172_800_000


class Code:
    """One tenant, one version; `declared` is what its workflow W says."""

    def __init__(self) -> None:
        self.declared: list[Any] = []
        self.is_deployed = True

    def startable(self, _tenant: str, *, channel: str, commit: str | None) -> tuple[str, Collection[str]]:
        if not self.is_deployed:
            raise Refused('tenant "acme" has no deployment yet', code="not_deployed")
        return COMMIT, {"W": ""}  # type: ignore[return-value]

    def keep_for_instances(self, _tenant: str, _commit: str) -> None: ...

    def tenant(self, name: str) -> None:
        if name != "acme":
            raise NotFound(f'there is no tenant "{name}"', code="tenant_not_found")

    def tenants(self) -> list[TenantView]:
        return [TenantView(name="acme", created_at_ms=0, git_path="/git/acme.git")]

    def version(self, tenant: str, commit: str) -> DeploymentView:
        assert (tenant, commit) == ("acme", "live")
        return DeploymentView(
            id=1,
            tenant=tenant,
            commit=COMMIT,
            tree=COMMIT,
            branch="main",
            channel="live",
            workflows=[WorkflowView(name="W", path="workflows.py", line=1, schedule=self.declared)],
            warnings=[],
            checks=[],
            who="",
            message="",
            created_at_ms=0,
            live_on=["live"],
        )

    def rollback(self, *_: Any, **__: Any) -> None: ...

    def delete_tenant(self, _name: str) -> None: ...


class Made:
    """Instances in a dict: what started them, and their states."""

    def __init__(self) -> None:
        self.starts: dict[str, Start] = {}
        self.states: dict[str, str] = {}
        self.changed = trio.Event()

    async def start(self, start: Start) -> Seen:
        name = start.key[1]
        there = self.starts.setdefault(name, start)
        if (there.workflow, there.payload) != (start.workflow, start.payload):
            raise Conflict("another payload", code="instance_exists")
        self.states.setdefault(name, "running")
        return await self.status("acme", name)

    async def status(self, tenant: str, instance: str) -> Seen:
        if instance not in self.starts:
            raise NotFound("none", code="instance_not_found")
        row = Row(self.states[instance], None, "W", COMMIT, 0, 0, b"")
        return Seen(StoredRow(tenant, instance, 1, 1, row))

    async def outcome(self, tenant: str, instance: str, *, wait_s: float | None) -> Seen:
        while self.states.get(instance) == "running":
            await self.changed.wait()
        return await self.status(tenant, instance)

    def become(self, instance: str, state: str) -> None:
        self.states[instance] = state
        self.changed.set()
        self.changed = trio.Event()

    async def terminate(self, tenant: str, instance: str, **_: Any) -> Seen:
        if self.states[instance] in ("complete", "failed"):
            raise Conflict("it has ended", code="instance_finished")
        self.become(instance, "terminated")
        return await self.status(tenant, instance)

    async def delete_tenant(self, _tenant: str) -> None: ...
    async def set_share(self, _tenant: str, _share: object) -> None: ...


class World:
    def __init__(self) -> None:
        self.code, self.made, self.clock = Code(), Made(), StandingClock()
        self.clock.advance(NOON_MS - self.clock.now_ms())
        self.store = SqliteScheduleStore.open(Path(":memory:"))
        options = ServiceOptions(admin_token="pda_admin", version="1", isolation_level=2)
        self.service = Service(
            cast("Instances", self.made), cast("CodeSource", self.code), self.clock, options, schedules=self.store
        )

    @asynccontextmanager
    async def firing(self) -> AsyncGenerator[None]:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.service.run_schedules)
            yield
            nursery.cancel_scope.cancel()

    async def after(self, ms: int) -> None:
        self.clock.advance(ms)
        await wait_all_tasks_blocked()

    async def create(self, **arguments: Any) -> Any:
        return await self.service.create_schedule(ADMINISTRATOR, "acme", "W", **arguments)


async def _inline(function: Callable[..., Any], *args: Any) -> Any:
    await trio.lowlevel.checkpoint()
    return function(*args)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """Threads are taken out: then "all tasks are blocked" means that nothing more will happen."""
    monkeypatch.setattr(scheduler, "_in_thread", _inline)
    monkeypatch.setattr(trio.to_thread, "run_sync", _inline)
    return World()


# --- by the API


async def test_firing_tells_the_run_its_schedule_and_time(world: World) -> None:
    await world.create(name="s", payload={"a": 1}, cron="0 * * * *")
    async with world.firing():
        await world.after(HOUR)
    [start] = world.made.starts.values()
    assert start.options is not None
    assert (start.options.schedule, start.options.scheduled_ms) == ("s", NOON_MS + HOUR)
    assert (start.workflow, start.commit, start.is_new) == ("W", COMMIT, False)


async def test_view_tells_what_was_asked_and_what_comes(world: World) -> None:
    view = await world.create(
        name="s",
        payload={"at": b"\x00"},
        cron="0 6 * * *",
        timezone="Europe/Berlin",
        overlap="queue",
        jitter="1 minute",
    )
    assert (view.name, view.workflow, view.channel, view.origin, view.payload) == (
        "s",
        "W",
        "live",
        "api",
        {"at": b"\x00"},
    )
    assert (view.cron, view.timezone, view.overlap, view.catch_up, view.jitter_ms) == (
        *("0 6 * * *", "Europe/Berlin", "queue"),
        *("last", 60_000),
    )
    assert view.next_ms[:2] == [NOON_MS + 16 * HOUR, NOON_MS + 40 * HOUR]
    assert len(view.next_ms) == 10
    [listed] = await world.service.schedules(ADMINISTRATOR, "acme")
    assert listed == msgspec.structs.replace(view, next_ms=view.next_ms[:1])


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"cron": "0 0 31 2 *"}, "bad_request"),
        ({"cron": "0 0 * * *", "end": "2027-05-01T13:00Z"}, "bad_request"),
        ({"every": "1 hour", "name": "Report:1"}, "invalid_name"),
        ({"every": "1 hour", "name": ""}, "invalid_name"),
        ({"every": "1 hour", "payload": object()}, "bad_payload"),
        ({"every": "1 hour", "payload": "x" * 65_534}, "payload_too_large"),
    ],
)
async def test_schedule_that_cannot_work_is_refused_when_it_is_made(
    world: World, arguments: dict[str, Any], code: str
) -> None:
    with pytest.raises(Refused) as refused:
        await world.create(**arguments)
    assert refused.value.code == code
    assert await world.service.schedules(ADMINISTRATOR, "acme") == []


async def test_workflow_that_the_channel_does_not_have_is_refused_when_the_schedule_is_made(world: World) -> None:
    with pytest.raises(Refused) as refused:
        await world.service.create_schedule(ADMINISTRATOR, "acme", "Missing", every="1 hour")
    assert refused.value.code == "unknown_workflow"


async def test_workflow_that_is_gone_when_it_fires_is_recorded(world: World) -> None:
    await world.create(name="s", every="1 hour")
    world.code.is_deployed = False
    world.service._startables.forget("acme")
    async with world.firing():
        await world.after(HOUR)
    [firing] = (await world.service.schedule(ADMINISTRATOR, "acme", "s")).firings
    assert (firing.outcome, firing.reason) == ("failed", 'tenant "acme" has no deployment yet [not_deployed]')


async def test_trigger_starts_now_once_for_each_id_even_while_paused(world: World) -> None:
    await world.create(name="s", payload=7, every="1 hour")
    await world.service.pause_schedule(ADMINISTRATOR, "acme", "s")
    for _ in range(2):
        status = await world.service.trigger_schedule(ADMINISTRATOR, "acme", "s", id="by-hand")
        assert status.id == "by-hand"
    assert list(world.made.starts) == ["by-hand"]
    view = await world.service.schedule(ADMINISTRATOR, "acme", "s")
    assert (view.paused, view.paused_by, view.next_ms) == (True, "admin", [])
    [firing] = view.firings
    assert (firing.outcome, firing.reason, firing.instance) == ("triggered", "by admin", "by-hand")
    assert view.running == ["by-hand"]


async def test_trigger_that_was_cut_off_is_recorded_when_it_is_asked_for_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.create(name="s", every="1 hour")

    def lost(*_: Any) -> None:
        raise Unavailable("the disk is full", code="storage_full")

    with monkeypatch.context() as patched, pytest.raises(Unavailable):
        patched.setattr(world.store, "record", lost)
        await world.service.trigger_schedule(ADMINISTRATOR, "acme", "s", id="by-hand")
    for _ in range(2):
        await world.service.trigger_schedule(ADMINISTRATOR, "acme", "s", id="by-hand")
    view = await world.service.schedule(ADMINISTRATOR, "acme", "s")
    assert list(world.made.starts) == ["by-hand"] == [firing.instance for firing in view.firings]


@pytest.mark.parametrize("operation", ["create_schedule", "pause_schedule", "trigger_schedule", "delete_schedule"])
async def test_store_that_failed_a_write_stops_the_executor(world: World, operation: str) -> None:
    """Whoever met the failure, and though nothing is due."""
    await world.create(name="s", every="1 hour")
    with pytest.raises(BaseExceptionGroup) as stopped:
        async with world.firing():
            with pytest.raises(Corrupt), world.store._database.write():
                raise apsw.IOError("disk I/O error")
            with pytest.raises(Corrupt):
                if operation == "create_schedule":
                    await world.create(name="t", every="1 hour")
                else:
                    await getattr(world.service, operation)(ADMINISTRATOR, "acme", "s")
            await trio.sleep_forever()
    assert stopped.group_contains(Corrupt, match="an earlier write failed")


async def test_resuming_goes_on_with_the_next_time(world: World) -> None:
    await world.create(name="s", every="1 hour", catch_up="all")
    await world.service.pause_schedule(ADMINISTRATOR, "acme", "s")
    async with world.firing():
        await world.after(5 * HOUR)
        view = await world.service.resume_schedule(ADMINISTRATOR, "acme", "s")
        assert view.next_ms[0] == NOON_MS + 6 * HOUR
        await world.after(HOUR)
    assert [firing.scheduled_ms for firing in (await world.service.schedule(ADMINISTRATOR, "acme", "s")).firings] == [
        NOON_MS + 6 * HOUR
    ]


async def test_unknown_names_are_not_found_whatever_they_are(world: World) -> None:
    for name in ("nobody", "", "a/b", "\ud800", "x" * 500, "W:1", "W:99999"):
        for call in (
            world.service.schedule,
            world.service.delete_schedule,
            world.service.pause_schedule,
            world.service.resume_schedule,
            world.service.trigger_schedule,
        ):
            with pytest.raises(NotFound) as missing:
                await call(ADMINISTRATOR, "acme", name)
            assert missing.value.code == "schedule_not_found", name


async def test_reader_changes_nothing_and_a_stranger_sees_nothing(world: World) -> None:
    await world.create(name="s", every="1 hour")
    reader, stranger = Caller("r", "acme", "read"), Caller("x", "umbrella", "write")
    assert len(await world.service.schedules(reader, "acme")) == 1
    service = world.service
    for call in (service.delete_schedule, service.pause_schedule, service.resume_schedule, service.trigger_schedule):
        with pytest.raises(Refused) as refused:
            await call(reader, "acme", "s")
        assert refused.value.code == "forbidden"
        with pytest.raises(NotFound) as missing:
            await call(stranger, "acme", "s")
        assert missing.value.code == "tenant_not_found"
    for read in (service.schedules(stranger, "acme"), service.schedule(stranger, "acme", "s")):
        with pytest.raises(NotFound):
            await read


# --- on the platform's own behalf


async def test_held_instance_has_not_ended_and_the_queue_goes_on_once_it_has(world: World) -> None:
    await world.create(name="s", every="1 hour", overlap="queue")
    async with world.firing():
        await world.after(HOUR)
        [first] = world.made.starts
        world.made.become(first, "held")
        await world.after(HOUR)
        assert list(world.made.starts) == [first]
        world.made.become(first, "failed")
        await world.after(HELD_RECHECK_MS)
        assert len(world.made.starts) == 2


async def test_deleted_instance_is_in_nobodys_way(world: World) -> None:
    await world.create(name="s", every="1 hour", overlap="cancel")
    async with world.firing():
        await world.after(HOUR)
        world.made.starts.clear()
        await world.after(HOUR)
        assert len(world.made.starts) == 1


async def test_instance_that_ends_while_it_is_cancelled_is_no_failure(world: World) -> None:
    await world.create(name="s", every="1 hour", overlap="cancel")

    async def finishes(_tenant: str, instance: str, **_: Any) -> Seen:
        world.made.become(instance, "complete")
        raise Conflict("it has ended", code="instance_finished")

    world.made.terminate = finishes  # type: ignore[method-assign]
    async with world.firing():
        await world.after(HOUR)
        await world.after(HOUR)
    outcomes = [firing.outcome for firing in (await world.service.schedule(ADMINISTRATOR, "acme", "s")).firings]
    assert outcomes == ["fired", "fired"]


async def test_moved_channel_brings_its_schedules_before_anybody_asks(world: World) -> None:
    async with world.firing():
        world.code.declared = ["0 6 * * *", {"every": "1 hour", "payload": [1]}]
        await world.service.rollback(ADMINISTRATOR, "acme")
        found = await world.service.schedules(ADMINISTRATOR, "acme")
    assert [(view.name, view.origin, view.payload) for view in found] == [("W:1", "code", None), ("W:2", "code", [1])]


async def test_declaration_that_this_machine_cannot_read_leaves_the_others(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.code.declared = [{"cron": "0 6 * * *", "timezone": "Atlantis/Poseidonis"}, "0 7 * * *"]
    async with world.firing():
        found = await world.service.schedules(ADMINISTRATOR, "acme")
    assert [view.name for view in found] == ["W:2"]
    assert "a declared schedule cannot be read" in caplog.text


async def test_schedules_go_with_their_tenant(world: World) -> None:
    await world.create(name="s", every="1 hour")
    async with world.firing():
        await world.service.delete_tenant(ADMINISTRATOR, "acme")
        await world.after(2 * HOUR)
    assert (world.made.starts, world.store.tenants()) == ({}, [])


async def test_tenant_is_deleted_on_a_full_disk_and_its_schedules_with_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleting is how room is made: what cannot be written first is written last."""
    await world.create(name="s", every="1 hour")
    errors = [Unavailable("the disk is full", code="storage_full")]
    real = world.store.delete_tenant

    def delete(tenant: str) -> None:
        if errors:
            raise errors.pop()
        real(tenant)

    monkeypatch.setattr(world.store, "delete_tenant", delete)
    async with world.firing():
        await world.service.delete_tenant(ADMINISTRATOR, "acme")
    assert (errors, world.store.tenants()) == ([], [])
