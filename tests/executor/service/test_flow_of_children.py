"""What a workflow declares as its flow, for instances that other instances start: the real service, engine and store."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import trio

from executor.core import values
from executor.core.commands import Child, Command, Complete, Continue
from executor.core.entries import AnyEntry, ChildEnded, ChildStarted, Continued, Started
from executor.core.errors import PerdureError, Unavailable
from executor.core.ids import child_id
from executor.engine.local import LocalInstances
from executor.engine.peers import PeersOver
from executor.ports import ChildEnd, ChildStart, CodeSource, Instances, Peers, Seen, Start
from executor.service import Service
from executor.service.flow import Flows
from executor.service.flow_state import FlowState
from tests.executor.engine.world import ScriptedHost, settled, world
from tests.executor.service.test_flow import OPTIONS, Code, Flowing, busy, waits

ASKED = b"q" * 16


def asks(path: str, workflow: str, payload: Any = None, *, is_awaited: bool = True) -> Child:
    return Child(path, ASKED, "w.py:1", workflow, values.encode(payload), None, None, "terminate", is_awaited)


def boss(*children: Child, then: Sequence[Command] = ()) -> Any:
    """Asks for all of them, and rests once they are started."""

    def script(seen: list[AnyEntry]) -> tuple[list[Command], bool]:
        if all(any(isinstance(e, ChildStarted | ChildEnded) and e.path == c.path for e in seen) for c in children):
            return [*children, *then], not then
        return list(children), True

    return script


def of(path: str, parent: str = "boss") -> str:
    return child_id(parent, path, 0)


class Through:
    """The peers of an engine, made when it runs. `is_deaf`: no answer of a start comes back."""

    def __init__(self) -> None:
        self.inner: Peers | None = None
        self.is_deaf = False

    async def start_children(self, starts: Sequence[ChildStart]) -> list[Seen | PerdureError]:
        assert self.inner is not None
        answers = await self.inner.start_children(starts)
        if self.is_deaf:
            await trio.sleep_forever()
        return answers

    async def child_ended(self, tenant: str, parent: str, end: ChildEnd) -> None:
        assert self.inner is not None
        await self.inner.child_ended(tenant, parent, end)

    async def close_children(self, tenant: str, parent: str, children: Sequence[str]) -> None:
        assert self.inner is not None
        await self.inner.close_children(tenant, parent, children)


@asynccontextmanager
async def flowing(
    path: Path, scripts: Mapping[str, Any], *, is_deaf: bool = False, **declared: Mapping[str, Any]
) -> AsyncGenerator[Flowing]:
    host, peers = ScriptedHost(), Through()
    host.scripts.update(scripts)
    peers.is_deaf = is_deaf
    async with world(path, host=host, peers=peers) as w:
        code = cast("CodeSource", Code({name: declared.get(name, {}) for name in scripts}))
        instances, state = LocalInstances(w.engine, w.store), FlowState()
        peers.inner = PeersOver(instances, code, None, Flows(instances, w.clock, state))
        yield Flowing(w, Service(instances, code, w.clock, OPTIONS, flow_state=state))


THREE = ["call#1", "call#2", "call#3"]
BOSS_OF_THREE = {"Boss": boss(*(asks(path, "Busy") for path in THREE)), "Busy": busy}


# --- rates


async def test_children_above_the_rate_begin_later_in_the_order_of_asking_with_all_other_starts(tmp_path: Path) -> None:
    async with flowing(tmp_path, BOSS_OF_THREE, Busy={"rate": "1/second"}) as f:
        await f.start("Busy", id="before")
        await f.start("Boss", id="boss")
        await settled()
        await f.start("Busy", id="after")
        ids = ["before", *map(of, THREE), "after"]
        assert await f.begun(ids) == [0, 1_000, 2_000, 3_000, 4_000]
        await f.pass_ms(1_000)
        await f.until_runs(of("call#1"))
        assert [f.runs(name) for name in ids] == [True, True, False, False, False]


async def test_a_child_that_is_asked_for_again_after_a_crash_uses_nothing_more_of_the_rate(tmp_path: Path) -> None:
    async with flowing(tmp_path, BOSS_OF_THREE, is_deaf=True, Busy={"rate": "1/second"}) as f:
        await f.start("Boss", id="boss")
        await settled()
        assert [entry for entry in f.w.journal(("acme", "boss")) if isinstance(entry, ChildStarted)] == []
        assert await f.begun([*map(of, THREE)]) == [0, 1_000, 2_000]
    async with flowing(tmp_path, BOSS_OF_THREE, Busy={"rate": "1/second"}) as f:
        await settled()
        await f.pass_ms(0)
        started = [entry.path for entry in f.w.journal(("acme", "boss")) if isinstance(entry, ChildStarted)]
        assert started == THREE
        await f.start("Busy", id="after")
        assert await f.begun([*map(of, THREE), "after"]) == [0, 1_000, 2_000, 3_000]


async def test_a_parent_that_ends_while_its_child_waits_for_its_moment_takes_it_along(tmp_path: Path) -> None:
    scripts = {"Boss": boss(asks("call#1", "Busy"), then=[Complete(b"\xc0")]), "Busy": busy}
    async with flowing(tmp_path, scripts, Busy={"rate": "1/second"}) as f:
        await f.start("Busy", id="before")
        await f.start("Boss", id="boss")
        await f.until("boss", "complete")
        await f.until(of("call#1"), "terminated")


async def test_restarts_and_new_executions_begin_at_once_and_do_not_count(tmp_path: Path) -> None:
    def twice(seen: list[AnyEntry]) -> tuple[list[Command], bool]:
        return ([], True) if any(isinstance(entry, Continued) for entry in seen) else ([Continue(b"\xc0")], False)

    async with flowing(
        tmp_path, {"Busy": busy, "Twice": twice}, Busy={"rate": "1/hour"}, Twice={"rate": "1/hour"}
    ) as f:
        await f.start("Busy", id="a")
        await f.until_runs("a")
        await f.w.engine.restart(("acme", "a"), by="test")
        await f.until_runs("a")
        await f.start("Twice", id="t")
        await f.until("t", "waiting")
        for workflow in ("Busy", "Twice"):
            await f.start(workflow, id=f"{workflow}-next")
        assert await f.begun(["a", "Busy-next", "t", "Twice-next"]) == [0, 3_600_000, 0, 3_600_000]


async def test_what_the_rate_owes_is_known_after_a_restart_whatever_was_started_last(tmp_path: Path) -> None:
    async with flowing(tmp_path, BOSS_OF_THREE, Busy={"rate": "1/second"}) as f:
        await f.start("Boss", id="boss")
        await settled()
        await f.start("Busy", id="own", delay=0.5)
    async with flowing(tmp_path, BOSS_OF_THREE, Busy={"rate": "1/second"}) as f:
        await f.start("Busy", id="after")
        assert await f.begun(["after"]) == [3_000]


async def test_of_two_that_ask_for_the_same_child_at_once_one_uses_the_rate(tmp_path: Path) -> None:
    async with flowing(tmp_path, BOSS_OF_THREE, Busy={"rate": "1/second"}) as f:
        peers = cast("Through", f.w.engine.peers)
        start = ChildStart(Start(("acme", "x"), "Busy", "", b"\xc0"), "live")

        async def ask() -> None:
            [answer] = await peers.start_children([start])
            assert isinstance(answer, Seen)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
        assert await peers.start_children([start, start])
        await f.start("Busy", id="after")
        assert await f.begun(["x", "after"]) == [0, 1_000]


class Failing:
    """Instances that take nothing in, as long as told."""

    def __init__(self, inner: Instances) -> None:
        self._inner = inner
        self.is_busy = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def start_many(self, starts: Sequence[Start]) -> list[Seen | PerdureError]:
        if self.is_busy:
            return [Unavailable("full", code="busy") for _ in starts]
        return await self._inner.start_many(starts)


async def test_a_start_that_failed_keeps_its_moment_until_it_has_passed(tmp_path: Path) -> None:
    async with flowing(tmp_path, BOSS_OF_THREE, Busy={"rate": "1/second"}) as f:
        code = cast("CodeSource", Code({"Busy": {"rate": "1/second"}}))
        failing = Failing(LocalInstances(f.w.engine, f.w.store))
        service = Service(cast("Instances", failing), code, f.w.clock, OPTIONS)
        f.service = service
        for _ in range(3):
            for name in ("a", "b"):
                assert (await f.refused("Busy", id=name)).code == "busy"
        failing.is_busy = False
        await f.start("Busy", id="c")
        await f.start("Busy", id="b")
        assert await f.begun(["b", "c"]) == [1_000, 2_000]
        await f.pass_ms(500)
        await f.start("Busy", id="a")
        assert await f.begun(["a"]) == [3_000]
        assert not service._flows._state.given


# --- singletons


def outcome(f: Flowing, path: str = "call#1", parent: str = "boss") -> ChildEnded | None:
    found = [entry for entry in f.w.journal(("acme", parent)) if isinstance(entry, ChildEnded) and entry.path == path]
    return found[0] if found else None


async def test_a_child_of_a_singleton_that_has_not_ended_is_refused(tmp_path: Path) -> None:
    scripts = {"Boss": boss(asks("call#1", "Busy", "k"), asks("call#2", "Busy", "other")), "Busy": busy}
    async with flowing(tmp_path, scripts, Busy={"singleton": "skip", "per": "payload"}) as f:
        await f.start("Busy", "k", id="a")
        await f.start("Boss", id="boss")
        await settled()
        refused = outcome(f)
        assert refused is not None
        assert refused.state == "refused"
        assert refused.error is not None
        assert (refused.error.type, refused.error.code) == ("Conflict", "singleton_exists")
        assert refused.error.message == 'instance "a" of the singleton Busy has not ended'
        await f.until_runs(of("call#2"))
        against = await f.refused("Busy", "other")
        assert (against.code, against.details["instance"]) == ("singleton_exists", of("call#2"))


async def test_a_child_of_a_cancelling_singleton_ends_the_one_before(tmp_path: Path) -> None:
    scripts = {"Boss": boss(asks("call#1", "Waits"), asks("call#2", "Waits")), "Waits": waits}
    async with flowing(tmp_path, scripts, Waits={"singleton": "cancel"}) as f:
        await f.start("Waits", id="a")
        await f.until("a", "waiting")
        await f.start("Boss", id="boss")
        await settled()
        first = outcome(f)
        assert first is not None
        assert first.state == "terminated"
        states = [(await f.status(name)).state for name in ("a", of("call#1"), of("call#2"))]
        assert states == ["terminated", "terminated", "waiting"]


async def test_a_child_does_not_end_what_is_above_it(tmp_path: Path) -> None:
    def calls(workflow: str) -> Any:
        return boss(asks("call#1", workflow))

    scripts = {"Top": calls("Middle"), "Middle": calls("Top")}
    async with flowing(tmp_path, scripts, Top={"singleton": "cancel"}) as f:
        await f.start("Top", id="boss")
        await settled()
        middle = of("call#1")
        refused = outcome(f, parent=middle)
        assert refused is not None
        assert refused.error is not None
        assert (refused.state, refused.error.code) == ("refused", "singleton_exists")
        assert refused.error.message == (
            'instance "boss" of the singleton Top has not ended and is above this child, which cannot end it'
        )
        assert [(await f.status(name)).state for name in ("boss", middle)] == ["waiting", "waiting"]


# --- debounces, and what is as for others


async def test_a_child_is_not_debounced_and_neither_replaces_nor_is_replaced(tmp_path: Path) -> None:
    async with flowing(tmp_path, BOSS_OF_THREE, Busy={"debounce": "5 seconds"}) as f:
        pending = await f.start("Busy")
        await f.start("Boss", id="boss")
        for path in THREE:
            await f.until_runs(of(path))
        assert (await f.start("Busy")).id == pending.id
        assert await f.begun([pending.id]) == [5_000]


async def test_children_of_a_rate_that_wait_do_not_hide_a_debounced_start(tmp_path: Path) -> None:
    many = {"Boss": boss(*(asks(f"call#{number}", "Busy") for number in range(15))), "Busy": busy}
    async with flowing(tmp_path, many, Busy={"debounce": "1 hour", "rate": "1/hour"}) as f:
        pending = await f.start("Busy")
        await f.start("Boss", id="boss")
        await settled()
        assert await f.begun([of("call#14")]) == [14 * 3_600_000]
        assert (await f.start("Busy")).id == pending.id


async def test_a_child_has_its_parents_priority_or_else_the_declared_one(tmp_path: Path) -> None:
    scripts = {"Boss": boss(asks("call#1", "Busy")), "Busy": busy}
    async with flowing(tmp_path, scripts, Busy={"priority": 3}) as f:
        for name, priority in (("boss", 0), ("high", 7)):
            await f.start("Boss", id=name, priority=priority)
        await settled()
        found = [f.w.journal(("acme", of("call#1", name)))[0] for name in ("boss", "high")]
        priorities = [entry.options and entry.options.priority for entry in found if isinstance(entry, Started)]
        assert priorities == [3, 7]
