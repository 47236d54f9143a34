"""Starts with options and under a declared flow: the real service, engine and store, a standing clock, scripted runs."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from executor.core.commands import Command, Complete, Wait
from executor.core.entries import AnyEntry, Rescheduled, StartDue, Started, WaitEnded
from executor.core.errors import Conflict, PerdureError, Refused
from executor.engine.engine import EngineLimits
from executor.engine.local import LocalInstances
from executor.ports import CodeSource
from executor.service import ADMINISTRATOR, Service, ServiceOptions
from executor.views import StartRequest, Status
from tests.executor.engine.world import BASE_MS, COMMIT, ScriptedHost, World, settled, world

OPTIONS = ServiceOptions(admin_token="pda_admin", version="1", isolation_level=2)
LIVE = {"queued", "running", "waiting"}


class Code:
    """One version; `declared` is what its workflows say."""

    def __init__(self, declared: Mapping[str, Mapping[str, Any]]) -> None:
        self.declared = {name: json.dumps({"flow": flow}) if flow else "" for name, flow in declared.items()}

    def startable(self, _tenant: str, *, channel: str, commit: str | None) -> tuple[str, dict[str, str]]:
        return COMMIT, self.declared

    def keep_for_instances(self, _tenant: str, _commit: str) -> None: ...
    def tenant(self, name: str) -> None: ...


def busy(_seen: list[AnyEntry]) -> tuple[list[Command], bool]:
    """Has its place until it is terminated."""
    return [], False


def waits(seen: list[AnyEntry]) -> tuple[list[Command], bool]:
    """Rests until an event comes."""
    if not any(isinstance(entry, WaitEnded) for entry in seen):
        return [Wait("w#1", b"q" * 16, "w.py:2", "go", None)], True
    return [Complete(b"\xc0")], False


class Flowing:
    def __init__(self, w: World, service: Service) -> None:
        self.w, self.service = w, service

    async def start(self, workflow: str, payload: Any = None, **more: Any) -> Status:
        return await self.service.start(ADMINISTRATOR, "acme", workflow, payload, **more)

    async def refused(self, workflow: str, payload: Any = None, **more: Any) -> PerdureError:
        with pytest.raises(PerdureError) as caught:
            await self.start(workflow, payload, **more)
        return caught.value

    async def status(self, id: str) -> Status:
        return await self.service.status(ADMINISTRATOR, "acme", id)

    async def until(self, id: str, *states: str) -> None:
        with trio.fail_after(30):
            await self.w.until(("acme", id), *states)

    def runs(self, id: str) -> bool:
        """Whether its code is in a sandbox now: its row says so only once it has journaled something."""
        resident = self.w.engine.residents.get(("acme", id))
        return resident is not None and resident.run is not None

    async def until_runs(self, id: str) -> None:
        with trio.fail_after(30):
            while not self.runs(id):
                await settled()
        await settled()  # The sandbox has taken it.

    async def pass_ms(self, ms: int) -> None:
        self.w.clock.advance(ms)
        await settled()

    async def begun(self, ids: list[str]) -> list[int]:
        """For each: how many milliseconds after the beginning its time comes or came."""
        found: list[int] = []
        for name in ids:
            status = await self.status(name)
            wait = status.waiting_for
            is_delayed = wait is not None and wait.kind == "start"
            found.append((wait.until_ms or 0) - BASE_MS if wait is not None and is_delayed else 0)
        return found


@asynccontextmanager
async def flowing(
    path: Path, limits: EngineLimits | None = None, **declared: Mapping[str, Any]
) -> AsyncGenerator[Flowing]:
    host = ScriptedHost()
    host.scripts.update({name: waits if name.startswith("Waits") else busy for name in declared})
    async with world(path, limits=limits, host=host) as w:
        instances = LocalInstances(w.engine, w.store)
        yield Flowing(w, Service(instances, cast("CodeSource", Code(declared)), w.clock, OPTIONS))


# --- options


async def test_a_delayed_start_waits_and_begins_when_its_time_has_come(tmp_path: Path) -> None:
    async with flowing(tmp_path, Busy={}) as f:
        status = await f.start("Busy", id="a", delay="1 minute")
        assert (status.state, str(status.waiting_for)) == ("waiting", "its start at 1970-01-01T00:17:40.000Z")
        await f.pass_ms(59_999)
        assert (await f.status("a")).state == "waiting"
        assert f.w.engine.runner.run_count == 0
        await f.pass_ms(1)
        await f.until_runs("a")
        assert isinstance(f.w.journal(("acme", "a"))[1], StartDue)


async def test_at_names_the_moment_and_a_past_one_begins_at_once(tmp_path: Path) -> None:
    async with flowing(tmp_path, Busy={}) as f:
        moment = datetime.fromtimestamp((BASE_MS + 5_000) / 1000, tz=UTC)
        assert (await f.start("Busy", id="a", at=moment)).state == "waiting"
        assert (await f.start("Busy", id="b", at=datetime(1969, 1, 1, tzinfo=UTC))).state == "queued"
        assert await f.begun(["a"]) == [5_000]


async def test_options_are_kept_and_do_not_count_when_the_id_comes_again(tmp_path: Path) -> None:
    async with flowing(tmp_path, Busy={}) as f:
        options: dict[str, Any] = {
            "attributes": {"customer": "acme", "n": 3},
            "priority": 7,
            "retention": {"complete": "1 day", "failed": 60},
            "unload": "every-wait",
            "delay": 10,
        }
        first = await f.start("Busy", {"x": 1}, id="a", **options)
        assert first.attributes == {"customer": "acme", "n": 3}
        started = f.w.journal(("acme", "a"))[0]
        assert isinstance(started, Started)
        kept = started.options
        assert kept is not None
        assert (kept.priority, kept.unload, kept.start_at_ms) == (7, "every-wait", BASE_MS + 10_000)
        assert (kept.retain_complete_ms, kept.retain_failed_ms) == (86_400_000, 60_000)
        assert (await f.start("Busy", {"x": 1}, id="a")).created_at_ms == first.created_at_ms
        assert (await f.refused("Busy", {"x": 2}, id="a", **options)).code == "instance_exists"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delay": "soon"}, "delay is 'soon', which is not a duration"),
        ({"delay": -1}, "delay is -1; it must be finite and not negative"),
        ({"at": datetime(2030, 1, 1)}, "at has no time zone"),
        ({"at": datetime(2030, 1, 1, tzinfo=UTC), "delay": 1}, "delay and at are both given"),
        ({"priority": 101}, "priority is 101, not between -100 and 100"),
        ({"retention": {"all": 1}}, 'retention has "all"'),
        ({"retention": {"failed": "x"}}, "retention failed is 'x', which is not a duration"),
        ({"attributes": {"$flow": "x"}}, '"$flow" is not the name of a search attribute'),
    ],
)
async def test_a_wrong_option_is_refused_by_name(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    async with flowing(tmp_path, Busy={}) as f:
        refused = await f.refused("Busy", **options)
        assert isinstance(refused, Refused)
        assert refused.code == "bad_request"
        assert refused.message.startswith(message)


async def test_each_item_of_start_many_has_its_own_options(tmp_path: Path) -> None:
    async with flowing(tmp_path, Busy={}) as f:
        requests = [
            StartRequest(workflow="Busy", id="a", delay=1),
            StartRequest(workflow="Busy", id="b", priority=500),
            StartRequest(workflow="Busy", id="c"),
        ]
        first, second, third = await f.service.start_many(ADMINISTRATOR, "acme", requests)
        assert first.status is not None
        assert first.status.state == "waiting"
        assert second.error is not None
        assert second.error["code"] == "bad_request"
        assert third.status is not None
        assert third.status.state == "queued"


# --- concurrency


async def test_no_more_than_the_declared_number_per_key_run_and_the_others_say_behind_what(tmp_path: Path) -> None:
    flow = {"concurrency": 1, "per": "payload.customer"}
    async with flowing(tmp_path, Busy=flow) as f:
        for name, customer in (("a1", "a"), ("a2", "a"), ("a3", "a"), ("b1", "b")):
            await f.start("Busy", {"customer": customer}, id=name)
        await f.until_runs("a1")
        await f.until_runs("b1")
        status = await f.status("a3")
        assert status.queued is not None
        assert (status.queued.limit, status.queued.position) == ("Busy per payload.customer", 2)
        assert str(status.waiting_for) == "its turn, number 2 behind Busy per payload.customer"
        await f.service.terminate(ADMINISTRATOR, "acme", "a1")
        await f.until_runs("a2")
        assert [f.runs(name) for name in ("a1", "a2", "a3", "b1")] == [False, True, False, True]


async def test_one_that_rests_leaves_its_place_to_the_next_and_queues_again_when_it_wakes(tmp_path: Path) -> None:
    async with flowing(tmp_path, Waits={"concurrency": 1}) as f:
        await f.start("Waits", id="a")
        await f.until("a", "waiting")
        f.w.host.scripts["Waits"] = busy
        await f.start("Waits", id="b")
        await f.until_runs("b")
        f.w.host.scripts["Waits"] = waits
        await f.service.send_event(ADMINISTRATOR, "acme", "a", "go")
        await settled()
        status = await f.status("a")
        assert (status.state, str(status.waiting_for)) == ("running", "its turn, number 1 behind Waits")
        await f.service.terminate(ADMINISTRATOR, "acme", "b")
        await f.until("a", "complete")


async def test_limits_and_priorities_are_known_again_after_a_restart(tmp_path: Path) -> None:
    limits = EngineLimits(active_runs_max=4)
    async with flowing(tmp_path, limits, Busy={"concurrency": 1}) as f:
        for name, priority in (("first", 0), ("low", -1), ("high", 1)):
            await f.start("Busy", id=name, priority=priority)
        await f.until_runs("first")
    async with flowing(tmp_path, limits, Busy={"concurrency": 1}) as f:
        await settled()
        order = []
        for _ in range(3):
            [running] = [name for name in ("first", "low", "high") if f.runs(name)]
            order.append(running)
            await f.service.terminate(ADMINISTRATOR, "acme", running)
            await settled()
        assert order in (["high", "first", "low"], ["first", "high", "low"])  # whichever the recovery met first


# --- rates


async def test_starts_above_the_rate_begin_later_evenly_spaced(tmp_path: Path) -> None:
    async with flowing(tmp_path, Busy={"rate": "2/second", "burst": 2, "per": "payload"}) as f:
        for name in ("a", "b", "c", "d"):
            await f.start("Busy", "x", id=name)
        await f.start("Busy", "y", id="other")
        assert await f.begun(["a", "b", "c", "d", "other"]) == [0, 0, 500, 1_000, 0]
        await f.start("Busy", "x", id="own", delay=0.1)
        assert await f.begun(["own"]) == [100]  # it names its time, and does not count


async def test_an_id_that_exists_uses_nothing_of_the_rate(tmp_path: Path) -> None:
    async with flowing(tmp_path, Busy={"rate": "1/second"}) as f:
        for _ in range(3):
            await f.start("Busy", id="a")
        await f.start("Busy", id="b")
        assert await f.begun(["a", "b"]) == [0, 1_000]


async def test_a_rate_goes_on_after_a_restart(tmp_path: Path) -> None:
    async with flowing(tmp_path, Busy={"rate": "1/second"}) as f:
        for name in ("a", "b", "c"):
            await f.start("Busy", id=name)
        assert await f.begun(["c"]) == [2_000]
    async with flowing(tmp_path, Busy={"rate": "1/second"}) as f:
        await f.start("Busy", id="d")
        assert await f.begun(["d"]) == [3_000]


async def test_start_many_spaces_its_items(tmp_path: Path) -> None:
    async with flowing(tmp_path, Busy={"rate": "1/second"}) as f:
        requests = [StartRequest(workflow="Busy", id=name) for name in ("a", "b", "c")]
        await f.service.start_many(ADMINISTRATOR, "acme", requests)
        assert await f.begun(["a", "b", "c"]) == [0, 1_000, 2_000]


# --- debounce


async def test_a_debounced_start_is_replaced_while_it_waits(tmp_path: Path) -> None:
    flow = {"debounce": "5 seconds", "per": "payload.k"}
    async with flowing(tmp_path, Busy=flow) as f:
        first = await f.start("Busy", {"k": 1, "v": "old"})
        await f.pass_ms(4_000)
        again = await f.start("Busy", {"k": 1, "v": "new"}, id="another")
        other = await f.start("Busy", {"k": 2})
        assert (again.id, again.state, other.id != first.id) == (first.id, "waiting", True)
        assert await f.begun([first.id]) == [9_000]
        await f.pass_ms(4_999)
        assert (await f.status(first.id)).state == "waiting"
        await f.pass_ms(1)
        await f.until_runs(first.id)
        rescheduled = f.w.journal(("acme", first.id))[1]
        assert isinstance(rescheduled, Rescheduled)
        third = await f.start("Busy", {"k": 1})
        assert third.id != first.id  # the first has begun: a new wait begins


async def test_debounced_starts_at_the_same_moment_are_one_instance(tmp_path: Path) -> None:
    async with flowing(tmp_path, Busy={"debounce": 5}) as f:
        ids: set[str] = set()

        async def one() -> None:
            ids.add((await f.start("Busy")).id)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(one)
        assert len(ids) == 1
        requests = [StartRequest(workflow="Busy") for _ in range(3)]
        outcomes = await f.service.start_many(ADMINISTRATOR, "acme", requests)
        assert {outcome.status.id for outcome in outcomes if outcome.status} == ids


# --- singletons


async def test_a_singleton_that_has_not_ended_refuses_the_next_naming_itself(tmp_path: Path) -> None:
    async with flowing(tmp_path, Busy={"singleton": "skip", "per": "payload"}) as f:
        await f.start("Busy", "k", id="a")
        refused = await f.refused("Busy", "k")
        assert isinstance(refused, Conflict)
        assert (refused.code, refused.details["instance"]) == ("singleton_exists", "a")
        assert refused.message == 'instance "a" of the singleton Busy has not ended'
        assert (await f.start("Busy", "k", id="a")).id == "a"  # the same id is the same instance
        assert (await f.start("Busy", "other", id="b")).id == "b"
        await f.service.terminate(ADMINISTRATOR, "acme", "a")
        assert (await f.start("Busy", "k", id="c")).state in LIVE


async def test_a_cancelling_singleton_ends_the_one_before(tmp_path: Path) -> None:
    async with flowing(tmp_path, Waits={"singleton": "cancel"}) as f:
        await f.start("Waits", id="a")
        await f.until("a", "waiting")
        await f.start("Waits", id="b")
        assert (await f.status("a")).state == "terminated"
        requests = [StartRequest(workflow="Waits", id=name) for name in ("c", "d")]
        await f.service.start_many(ADMINISTRATOR, "acme", requests)
        assert [(await f.status(name)).state in LIVE for name in ("b", "c", "d")] == [False, False, True]


async def test_what_declares_nothing_carries_nothing(tmp_path: Path) -> None:
    """An instance without options costs no byte more than before there were any."""
    async with flowing(tmp_path, Busy={}) as f:
        await f.start("Busy", id="a")
        started = f.w.journal(("acme", "a"))[0]
        assert isinstance(started, Started)
        assert started.options is None
        assert not f.service._flows._state.debts


async def test_starts_of_a_key_read_no_more_rows_than_they_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with flowing(tmp_path, WaitsAlone={"singleton": "skip"}, WaitsLate={"debounce": "10 seconds"}) as f:
        first = await f.start("WaitsAlone")
        late = await f.start("WaitsLate")
        limits: list[int] = []
        page = LocalInstances.page

        async def counted(*arguments: Any, limit: int, after: str | None) -> Any:
            limits.append(limit)
            return await page(*arguments, limit=limit, after=after)

        monkeypatch.setattr(LocalInstances, "page", counted)
        assert isinstance(await f.refused("WaitsAlone"), Conflict)
        assert (await f.start("WaitsLate")).id == late.id
        assert first.id != late.id
        assert limits == [1, 10]
