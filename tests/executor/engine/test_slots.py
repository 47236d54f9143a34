"""Limits over several processes: engines with a store each, over one ledger as the front has it, with late answers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
import trio.testing

from executor.core.commands import Command, Complete, Sleep, StepDone
from executor.core.entries import AnyEntry, FlowLimit, SleepEnded, StartOptions, StepSucceeded
from executor.core.errors import PerdureError, Unavailable
from executor.engine import activating
from executor.engine.engine import EngineLimits
from executor.engine.places import Places
from executor.engine.scheduler import FairQueue, Queued, Waiting
from executor.ports import Start
from executor.shards.slots import SlotLedger
from tests.executor.engine.world import COMMIT, ScriptedHost, World, world

ASKED = b"q" * 16
NIL = b"\xc0"
ONE = (FlowLimit("one at a time", "k1", 1),)
TWO = (FlowLimit("two at a time", "k2", 2),)
BOTH = (*TWO, *ONE)


class LateSlots:
    """The Slots port over a ledger, whose answers take as long as they like. `held`: nothing is asked before it is
    set."""

    def __init__(self, ledger: SlotLedger, random: Random | None = None) -> None:
        self.ledger = ledger
        self.on_granted: Callable[[str, tuple[FlowLimit, ...]], None] = lambda _tenant, _limits: None
        self.errors: list[PerdureError] = []
        self.answers: list[bool] = []
        self._random = random

    async def take(self, tenant: str, limits: tuple[FlowLimit, ...]) -> bool:
        await self._pause()
        if self.errors:
            raise self.errors.pop()
        found = self.ledger.take(self, tenant, limits)
        self.answers.append(found)
        await self._pause()
        return found

    async def _pause(self) -> None:
        for _ in range(1 if self._random is None else self._random.randrange(6)):
            await trio.lowlevel.checkpoint()

    def give(self, tenant: str, limits: tuple[FlowLimit, ...]) -> None:
        self.ledger.give(self, tenant, limits)

    def tell(self, name: str, *arguments: Any) -> None:
        assert name == "slot_granted"
        self.on_granted(*arguments)


def start_of(name: str, limits: tuple[FlowLimit, ...], *, priority: int = 0, tenant: str = "acme") -> Start:
    return Start((tenant, name), "W", COMMIT, NIL, options=StartOptions(limits=limits, priority=priority))


def runs(world: World, limit: FlowLimit) -> int:
    return sum(resident.run is not None and limit in resident.limits for resident in world.engine.residents.of("acme"))


def sleeps_between_steps(seen: list[AnyEntry]) -> tuple[list[Command], bool]:
    done = sum(isinstance(entry, StepSucceeded) for entry in seen)
    if done == 0:
        return [StepDone("a#1", ASKED, "w.py:1", 1, 0, NIL)], False
    if not any(isinstance(entry, SleepEnded) for entry in seen):
        return [Sleep("nap#1", ASKED, "w.py:2", 10, None)], True
    if done == 1:
        return [StepDone("b#1", ASKED, "w.py:3", 1, 0, NIL)], False
    return [Complete(NIL)], False


def waits_for_ever(_seen: list[AnyEntry]) -> tuple[list[Command], bool]:
    return [], False


@pytest.fixture
def host() -> ScriptedHost:
    return ScriptedHost()


async def begun(world: World, name: str) -> None:
    while (resident := world.engine.residents.get(("acme", name))) is None or resident.run is None:
        await trio.testing.wait_all_tasks_blocked(0.001)


async def settled() -> None:
    await trio.testing.wait_all_tasks_blocked(0.02)


@pytest.mark.parametrize("seed", range(4))
async def test_two_engines_together_never_exceed_a_limit_and_all_get_their_turn(tmp_path: Path, seed: int) -> None:
    random, ledger = Random(seed), SlotLedger()
    worlds: list[World] = []
    most = {ONE[0]: 0, TWO[0]: 0}

    def script(seen: list[AnyEntry]) -> tuple[list[Command], bool]:
        for limit, before in most.items():
            count = sum(runs(each, limit) for each in worlds)
            assert count <= limit.count
            most[limit] = max(before, count)
        return sleeps_between_steps(seen)

    host = ScriptedHost()
    host.scripts["W"] = script
    few = EngineLimits(active_runs_max=random.choice((1, 3, 50)), stop_grace_s=0.1)
    with trio.fail_after(30):
        async with AsyncExitStack() as stack:
            for number in range(2):
                slots = LateSlots(ledger, random)
                path = tmp_path / str(number)
                worlds.append(await stack.enter_async_context(world(path, host=host, limits=few, slots=slots)))
            names = []
            for number in range(24):
                limits = random.choice((ONE, TWO, BOTH, ()))
                names.append((random.randrange(2), f"i{number}"))
                one = start_of(names[-1][1], limits, priority=random.randrange(2))
                await worlds[names[-1][0]].engine.start_many([one])
            for number, name in names:
                while worlds[number].engine.residents.get(("acme", name)) is not None or (
                    (row := worlds[number].store.row("acme", name)) is not None and row.row.state != "complete"
                ):
                    await trio.testing.wait_all_tasks_blocked(0.001)
                    for each in worlds:
                        each.clock.advance(10)
            await settled()
            assert len(ledger) == 0
            assert [len(each.engine.queue) for each in worlds] == [0, 0]
    assert all(count > 0 for count in most.values())


async def test_what_a_lost_process_had_goes_to_who_waits_and_it_begins_anew(tmp_path: Path, host: ScriptedHost) -> None:
    host.scripts["W"] = waits_for_ever
    ledger = SlotLedger()
    mine, others = LateSlots(ledger), LateSlots(ledger)
    quick = EngineLimits(stop_grace_s=0.01)
    with trio.fail_after(30):
        async with world(tmp_path / "b", host=host, limits=quick, slots=others) as b:
            async with world(tmp_path / "a", host=host, limits=quick, slots=mine) as a:
                await a.engine.start_many([start_of("a1", ONE)])
                await begun(a, "a1")
                await b.engine.start_many([start_of("b1", ONE)])
                await settled()
                assert runs(b, ONE[0]) == 0
                assert b.engine.queue.waiting(("acme", "b1")) == Waiting("one at a time", 1)
            ledger.lost(mine)
            await begun(b, "b1")
            async with world(tmp_path / "a", host=host, limits=quick, slots=LateSlots(ledger)) as a:
                await settled()
                assert runs(a, ONE[0]) == 0
                await b.engine.terminate(("acme", "b1"))
                await begun(a, "a1")


async def test_who_is_refused_keeps_its_place_in_line_and_gives_its_place_to_others(
    tmp_path: Path, host: ScriptedHost
) -> None:
    host.scripts["W"] = waits_for_ever
    ledger = SlotLedger()
    front, slots = LateSlots(ledger), LateSlots(ledger)
    assert ledger.take(front, "acme", ONE)
    with trio.fail_after(30):
        limits = EngineLimits(active_runs_max=1, stop_grace_s=0.01)
        async with world(tmp_path, host=host, limits=limits, slots=slots) as w:
            await w.engine.start_many([start_of("first", ONE), start_of("second", ONE)])
            await settled()
            assert (slots.answers, w.engine.places.total) == ([False], 0)
            await w.engine.start_many([start_of("free", ())])
            await begun(w, "free")
            # Its slot comes while there is no place: it is kept until there is one.
            ledger.give(front, "acme", ONE)
            await settled()
            assert (runs(w, ONE[0]), len(ledger)) == (0, 1)
            positions = [w.engine.queue.waiting(("acme", name)) for name in ("first", "second")]
            assert positions == [Waiting("tenant", 1), Waiting("tenant", 2)]
            await w.engine.terminate(("acme", "free"))
            await begun(w, "first")
            assert w.engine.queue.waiting(("acme", "second")) == Waiting("one at a time", 1)
            assert slots.answers == [False]


async def test_instance_that_ends_while_it_waits_gives_its_slot_to_the_next(tmp_path: Path, host: ScriptedHost) -> None:
    host.scripts["W"] = waits_for_ever
    ledger = SlotLedger()
    front, slots = LateSlots(ledger), LateSlots(ledger)
    assert ledger.take(front, "acme", ONE)
    with trio.fail_after(30):
        async with world(tmp_path, host=host, limits=EngineLimits(stop_grace_s=0.01), slots=slots) as w:
            await w.engine.start_many([start_of("ends", ONE)])
            await settled()
            await w.engine.terminate(("acme", "ends"))
            assert not ledger.take(front, "acme", ONE)
            ledger.give(front, "acme", ONE)
            await settled()
            assert (len(w.engine.queue), w.engine.places.total, len(ledger)) == (0, 0, 1)


async def test_front_that_does_not_answer_is_asked_again(
    tmp_path: Path, host: ScriptedHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activating, "UNAVAILABLE_PAUSE_S", 0.01)
    host.scripts["W"] = waits_for_ever
    slots = LateSlots(SlotLedger())
    slots.errors.append(Unavailable("too much is under way", code="busy"))
    with trio.fail_after(30):
        async with world(tmp_path, host=host, limits=EngineLimits(stop_grace_s=0.01), slots=slots) as w:
            await w.engine.start_many([start_of("a", ONE)])
            await begun(w, "a")
            assert slots.answers == [True]


def test_a_slot_that_comes_before_its_refusal_is_heard_is_not_lost() -> None:
    places = Places(9, 9)
    queue = FairQueue(places)
    slots = LateSlots(SlotLedger())
    places.slots = slots
    queue.put(("t", "a"), limits=ONE)
    assert queue.take() == Queued(("t", "a"), 0, ONE)
    assert not places.reserve(("t", "a"), ONE)
    queue.put(("t", "b"), limits=ONE)
    assert queue.take() is None
    slots.on_granted("t", ONE)
    queue.put(("t", "a"), limits=ONE, is_first=True)
    places.release(("t", "a"))
    assert queue.take() == Queued(("t", "a"), 0, ONE)
    assert places.reserve(("t", "a"), ONE)
    assert queue.take() is None


def test_who_is_queued_again_while_the_server_is_asked_waits_for_the_answer() -> None:
    places = Places(9, 9)
    queue = FairQueue(places)
    places.slots = LateSlots(SlotLedger())
    queue.put(("t", "a"), limits=TWO)
    assert queue.take() is not None
    assert not places.reserve(("t", "a"), TWO)
    queue.put(("t", "a"), limits=TWO)
    assert queue.take() is None
    places.admit(("t", "a"), TWO)
    assert queue.take() == Queued(("t", "a"), 0, TWO)
    assert places.reserve(("t", "a"), TWO)


def test_one_that_is_put_back_is_the_first_of_its_priority() -> None:
    queue = FairQueue(Places(9, 9))
    for name, priority in (("a", 0), ("b", 0), ("high", 1)):
        queue.put(("t", name), limits=ONE, priority=priority)
    queue.put(("t", "other"))
    queue.put(("t", "back"), limits=ONE, is_first=True)
    assert [queue.waiting(("t", name)) for name in ("high", "back", "a")] == [
        Waiting("platform", 1),
        Waiting("platform", 2),
        Waiting("platform", 3),
    ]
    assert [queued.key[1] for queued in iter(queue.take, None)] == ["high", "back", "a", "b", "other"]
