"""Memory for long journals: a tenant has its share, waits in the order of its turns, and gets on whatever it weighs."""

from __future__ import annotations

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from executor.core import summary
from executor.core.commands import Complete, StepDone, Wait
from executor.core.entries import StepSucceeded, WaitEnded
from executor.engine import ballast, engine
from executor.engine.ballast import Ballast
from executor.engine.engine import EngineLimits
from tests.executor.engine.world import COMMIT, ScriptedHost, world

ASKED = b"q" * 16
VALUE_BYTES = 5_000
STEPS = 12
SHARE = 100_000


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    for module in (summary, ballast):
        monkeypatch.setattr(module, "LARGE", 1_000)
    monkeypatch.setattr(engine, "Ballast", Watched)


async def test_one_that_is_too_much_waits_until_others_have_left_in_the_order_of_their_coming():
    held = Ballast(20_000)
    order = []

    async def enters(name, size):
        await held.enter(("acme", name), size)
        order.append(name)

    async with trio.open_nursery() as nursery:
        for name, size in (("a", 6_000), ("b", 6_000), ("c", 1_000)):
            nursery.start_soon(enters, name, size)
            await wait_all_tasks_blocked()
        assert order == ["a"], "c would fit, but comes after b"
        nursery.start_soon(enters, "d", 1_000)
        await wait_all_tasks_blocked()
        held.leave(("acme", "a"))
        await wait_all_tasks_blocked()
        assert sorted(order) == ["a", "b", "c", "d"]
    assert held.total == 8_000


async def test_a_single_one_may_run_whatever_it_weighs_and_other_tenants_are_not_held_up():
    held = Ballast(20_000)
    with trio.fail_after(1):
        await held.enter(("acme", "a"), 90_000)
        await held.enter(("other", "a"), 5_000)
    assert not held.is_over(("acme", "a"))
    held.leave(("acme", "a"))
    held.leave(("other", "a"))
    assert held.total == 0


async def test_who_stops_waiting_holds_nothing_and_nobody_up():
    held = Ballast(20_000)
    await held.enter(("acme", "a"), 10_000)
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(held.enter, ("acme", "c"), 9_000)
            await wait_all_tasks_blocked()
            scope.cancel()
            await held.enter(("acme", "b"), 10_000)
        assert scope.cancelled_caught
        held.leave(("acme", "a"))
        await wait_all_tasks_blocked()
    assert held.total == 9_000


async def test_what_has_grown_beyond_the_share_has_to_leave_unless_it_is_alone():
    held = Ballast(20_000)
    held.note(("acme", "a"), 8_000)
    assert not held.is_over(("acme", "a"))
    held.note(("acme", "b"), 3_000)
    assert held.is_over(("acme", "a"))
    assert held.is_over(("acme", "b"))
    held.leave(("acme", "b"))
    held.note(("acme", "a"), 50_000)
    assert not held.is_over(("acme", "a"))
    assert not held.is_over(("acme", "nobody"))


def grows(seen):
    """Steps with much to say, then a wait, then the end."""
    if any(isinstance(entry, WaitEnded) for entry in seen):
        return [Complete(b"\xc0")], False
    number = sum(isinstance(entry, StepSucceeded) for entry in seen)
    if number < STEPS:
        value = b"\xc5" + VALUE_BYTES.to_bytes(2, "big") + bytes(VALUE_BYTES)
        return [StepDone(f"a#{number + 1}", ASKED, "w.py:1", 1, 0, value)], False
    return [Wait("w#1", ASKED, "w.py:2", "go", None)], True


def at_once(seen):
    return [Complete(b"\xc0")], False


class Watched(Ballast):
    most = 0

    def _set(self, key, size):
        super()._set(key, size)
        self.most = max(self.most, self._by_tenant.get("acme", 0))


async def test_long_journals_of_a_tenant_take_turns_in_memory_and_all_come_to_their_end(tmp_path):
    host = ScriptedHost()
    host.scripts.update(Grows=grows, Quick=at_once)
    limits = EngineLimits(resident_bytes_max=2 * SHARE, stop_grace_s=1.0)
    keys = [("acme", f"i{number}") for number in range(8)]
    async with world(tmp_path, host=host, limits=limits) as w:
        watched = w.engine.ballast
        with trio.fail_after(20):
            for key in keys:
                await w.engine.start(key, workflow="Grows", commit=COMMIT, payload=b"\xc0")
            await w.engine.start(("other", "i"), workflow="Quick", commit=COMMIT, payload=b"\xc0")
            assert await w.until_final(("other", "i")) == "complete"
            for key in keys:
                await w.until(key, "waiting")
            # All of them at once would be four times as much; each grows by one value before it leaves.
            assert SHARE < watched.most <= SHARE + len(keys) * (VALUE_BYTES + 500)
            for key in keys:
                await w.engine.send_event(key, id="e", type="go", payload=b"\xc0")
            for key in keys:
                assert await w.until_final(key) == "complete"
        await w.until_gone(keys[0])
        assert watched.total == 0


async def test_they_take_turns_after_a_restart_of_the_executor_too(tmp_path):
    host = ScriptedHost()
    host.scripts["Grows"] = grows
    keys = [("acme", f"i{number}") for number in range(6)]
    async with world(tmp_path, host=host) as w:
        for key in keys:
            await w.engine.start(key, workflow="Grows", commit=COMMIT, payload=b"\xc0")
        for key in keys:
            await w.until(key, "waiting")
            await w.engine.pause(key)
            await w.engine.send_event(key, id="e", type="go", payload=b"\xc0")
    async with world(tmp_path, host=host, limits=EngineLimits(resident_bytes_max=2 * SHARE)) as w:
        watched = w.engine.ballast
        with trio.fail_after(20):
            for key in keys:
                await w.engine.resume(key)
            for key in keys:
                assert await w.until_final(key) == "complete"
        assert 0 < watched.most <= SHARE + VALUE_BYTES
