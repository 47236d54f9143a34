"""Laws over random clocks and crashes at any point: exactly the expected instances, each once."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from executor.core.schedule import LATE_MS, instance_id
from executor.schedules import scheduler
from tests.executor.schedules.world import HOUR, MINUTE, NOON_MS, TENANT, Crash, World, inline

EVERY = HOUR
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [EVERY, EVERY, EVERY // 2, 3 * EVERY + 10 * MINUTE, 20 * MINUTE, -EVERY, -5 * EVERY, 7 * EVERY]
        ),
        st.none() | st.integers(0, 9),
        st.booleans(),
    ),
    min_size=1,
    max_size=12,
)
"""How far the clock goes, after how many writes and starts the process ends (None: it does not), whether the oldest
running instance ends first."""


async def _through(world: World, steps: list[tuple[int, int | None, bool]]) -> None:
    for ms, crash_after, ends in steps:
        world.crash_after = None
        if ends and world.running:
            world.finish(next(iter(world.running)))
        world.clock.advance(ms)
        world.crash_after = crash_after
        while True:
            try:
                async with world.working():
                    pass
                break
            except BaseExceptionGroup as group:
                crashes, others = group.split(Crash)
                assert crashes is not None, group
                assert others is None, others
    world.crash_after = None
    async with world.working():
        while world.running:
            world.finish(next(iter(world.running)))
            await world.settle()


def _run(steps: list[Any], **spec: Any) -> World:
    world = World()
    world.add(every=EVERY / 1000, **spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler, "_in_thread", inline)
        trio.run(_through, world, steps)
    return world


@given(STEPS, st.sampled_from(["none", "last", "all"]))
def test_instances_are_exactly_those_of_the_policy(steps: list[Any], policy: str) -> None:
    world = _run(steps, overlap="allow", catch_up=policy, catch_up_window="365 days")
    expected: list[int] = []
    now = cursor = NOON_MS
    for ms, _, _ in steps:
        now += ms
        due = [at for at in range(NOON_MS, now + 1, EVERY) if at > cursor]
        late = [at for at in due if at <= now - LATE_MS]
        punctual = [at for at in due if at > now - LATE_MS]
        caught = {"none": [], "last": [] if punctual else late[-1:], "all": late}[policy]
        expected += caught + punctual
        cursor = max([cursor, *due])
    assert world.times == expected
    assert list(world.started) == [instance_id("s", at) for at in expected]
    assert [at for outcome, at in world.outcomes() if outcome == "fired"] == expected
    assert world.store.pending(TENANT, "s") == []


@given(STEPS, st.sampled_from(["skip", "queue", "cancel"]))
def test_overlap_policy_holds_through_crashes(steps: list[Any], overlap: str) -> None:
    """Never two at once; every time is fired or left out, once; the queue fires all of them, in order."""
    world = _run(steps, overlap=overlap, catch_up="all", catch_up_window="365 days")
    latest = max(NOON_MS + sum(ms for ms, _, _ in steps[: n + 1]) for n in range(len(steps)))
    times = list(range(NOON_MS + EVERY, latest + 1, EVERY))
    outcomes = world.outcomes()
    assert [at for _, at in outcomes] == times
    assert [at for outcome, at in outcomes if outcome == "fired"] == world.times
    assert world.most_at_once <= 1
    if overlap != "skip":
        assert world.times == times
