"""P16: an end from outside reaches each place where a run can be, within the grace time, and leaves nothing: no task in
the sandbox, no run, place, hold or reservation in the engine, no sandbox that keeps its code checked out."""

from __future__ import annotations

import asyncio
from typing import Any

import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from executor.core import decide
from executor.core.entries import Failed, Terminated, Undoing
from executor.core.errors import PerdureError
from executor.core.lifecycle import FINAL
from tests.executor.fake_executor import FakeExecutor, Story, in_process
from tests.simulation.programs import payload_of
from tests.simulation.stories import draw_operation
from tests.simulation.world import Life, World

QUICK = settings.default.max_examples if settings.default is not None else 50
GRACE_S = 0.02
MARGIN_S = 2.0
"""Of real time, for a machine that does other work."""
SOURCE = f"""
import asyncio
from executor.workflow import *

async def stuck(kind):
    try:
        await asyncio.gather(asyncio.sleep(3600), asyncio.sleep(3600))
    finally:
        if kind == "cleans up":
            await asyncio.sleep(0.001)
        elif kind == "overstays":
            await asyncio.sleep(3600)
        elif kind == "swallows":
            while True:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    pass

async def items(kind):
    try:
        while True:
            yield await stuck(kind)
    finally:
        await asyncio.sleep(0)

async def generating(kind):
    async for _ in items(kind):
        pass

async def with_tasks(kind):
    left = asyncio.create_task(stuck(kind))
    await stuck(kind)

class Job(Workflow):
    @Workflow.update
    async def note(self, payload, step):
        await self.quick.do("note", stuck, payload)

    async def run(self, event, step):
        self.quick = quick = step.options(retry=Retry(limit=0), grace={GRACE_S})
        async def at(number, place, kind):
            name = f"{{place}} {{number}}"
            if place == "step":
                await quick.do(name, stuck, kind)
            elif place == "generator":
                await quick.do(name, generating, kind)
            elif place == "tasks":
                await quick.do(name, with_tasks, kind)
            elif place == "group":
                with step.group(name):
                    await quick.do(name, stuck, kind)
            elif place == "map":
                await quick.map(name, stuck, [kind, kind])
            elif place == "timeout":
                async with asyncio.timeout(10**6):
                    await quick.do(name, stuck, kind)
            elif place == "sleep":
                await step.sleep(name, 10**6)
            elif place == "wait":
                await step.wait_for_event(name, type="never")
            elif place == "child":
                await step.call(name, "Good", 1)
            elif place == "shielded":
                try:
                    await quick.do(name, stuck, kind)
                finally:
                    await step.sleep(name + " after", 10**6)
        await step.options(undo=print).do("first", lambda: 1)
        async with asyncio.TaskGroup() as group:
            for number, (place, kind) in enumerate(event.payload):
                group.create_task(at(number, place, kind))
            await step.wait_for_event("fail", type="fail")
            raise ValueError("a branch")
"""
EXECUTING = {"step": 1, "generator": 1, "tasks": 1, "group": 1, "map": 2, "timeout": 1, "shielded": 1}
"""Steps that execute there; elsewhere the run only waits."""
PLACES = [*EXECUTING, "sleep", "wait", "child"]
KINDS = ["", "cleans up", "overstays", "swallows"]


@settings(max_examples=QUICK)
@given(
    st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(KINDS)), min_size=1, max_size=4),
    st.lists(st.sampled_from(KINDS), max_size=2),
    st.sampled_from(["drop", "undo", "fails"]),
)
@example([("generator", "swallows")], [], "drop")
def test_end_reaches_each_place_within_the_grace_and_leaves_no_task(places, updates, how) -> None:
    """P16, in the sandbox: the instance is terminated (its run is dropped), terminated with undo, or a branch fails."""

    async def main() -> None:
        async with in_process(SOURCE) as executor:
            before = asyncio.all_tasks()
            story = Story("Job", [list(place) for place in places], updates=[("note", kind) for kind in updates])
            run = await until_stuck(executor, story, sum(EXECUTING.get(place, 0) for place, _ in places) + len(updates))
            inside: Any = executor.link.child  # type: ignore[attr-defined]
            if how == "drop":
                executor.drop(run)
            else:
                await end_by(executor, run, story, how)
                executor.drop(run)
            assert inside._runs == {}
            await until_no_task_is_left(before)

    asyncio.run(main())


async def until_no_task_is_left(before: set[asyncio.Task[Any]]) -> None:
    until = asyncio.get_running_loop().time() + GRACE_S + MARGIN_S
    while left := asyncio.all_tasks() - before:
        if asyncio.get_running_loop().time() > until:
            told = [repr(task.get_coro()) for task in left]
            for task in left:  # else this test would wait for them for ever
                close(task)
            raise AssertionError(told)
        await asyncio.wait(left, timeout=0.005)


def close(task: asyncio.Task[Any]) -> None:
    """End it, whatever its code does."""
    coroutine: Any = task.get_coro()
    for _ in range(10):
        try:
            coroutine.close()
        except RuntimeError:
            continue
        break
    task.cancel()


async def until_stuck(executor: FakeExecutor, story: Story, count: int) -> int:
    """Go on until so many steps execute and nothing else can go on; the number of the run."""
    run = executor.activate(story)
    inside: Any = executor.link.child  # type: ignore[attr-defined]
    state = inside._runs[run]
    known = len(story.stored)
    for _ in range(2_000):
        while not executor._inboxes[run].empty():
            for command in (await executor.turn(run)).commands:
                executor._append(story, command)
        if len(story.stored) > known:
            executor.deliver(run, story, known + 1)
            known = len(story.stored)
        elif "fail#1" in story.instance.waits:
            if story.updates:
                executor._send_update(run, story)
            elif state._executing == count and executor._inboxes[run].empty():
                return run
        await asyncio.sleep(0.0005)
    raise AssertionError((state._executing, count, story.kinds()))


async def end_by(executor: FakeExecutor, run: int, story: Story, how: str) -> None:
    """The instance comes to its end while its run is there: what is undone, is."""
    known = len(story.stored)
    if how == "undo":
        story.append(Undoing(story.now_ms, None))
    else:
        story.append(
            *decide.on_event(story.instance, id="e", type="fail", payload=b"\xc0", now_ms=story.now_ms).entries
        )
    executor.deliver(run, story, known + 1)
    async with asyncio.timeout(GRACE_S + MARGIN_S):
        while story.instance.outcome is None:
            known = len(story.stored)
            turn = await executor.turn(run)
            for command in turn.commands:
                executor._append(story, command)
            if story.instance.sleeps:  # of a clean-up that sleeps, or about to be given up
                story.now_ms = max(story.instance.sleeps.values())
                story.append(*decide.on_clock(story.instance, story.now_ms).entries)
            if len(story.stored) > known and story.instance.outcome is None:
                executor.deliver(run, story, known + 1)
    assert isinstance(story.instance.outcome, Terminated if how == "undo" else Failed)
    assert "StepSucceeded undo/first#1" in story.kinds()


# --- the engine


@settings(max_examples=max(QUICK // 2, 10))
@given(
    st.integers(0, 2**32),
    st.integers(1, 4),
    st.lists(
        st.tuples(
            st.sampled_from([0, 1, 7, 60, 900]),
            st.sampled_from(["terminate", "terminate", "undo", "pause", "restart", "kill", "ask", "tenant"]),
        ),
        min_size=1,
        max_size=6,
    ),
)
@example(seed=0, count=1, script=[(60, "terminate")])  # its child begins after it, and is abandoned
def test_when_all_has_ended_the_engine_holds_nothing(seed, count, script) -> None:
    """P16, in the engine: whatever was done to the instances, at any moment; at last all are terminated."""
    world = World(seed)
    random = world.random
    keys = [("acme" if number % 2 else "birch", f"i{number}") for number in range(count)]

    async def attempt(life: Life, what: str, key: tuple[str, str]) -> None:
        try:
            match what:
                case "terminate":
                    await life.engine.terminate(key)
                case "undo":
                    await life.engine.terminate(key, undo=True)
                case "pause":
                    await life.engine.pause(key)
                case "restart":
                    await life.engine.restart(key)
                case "ask":
                    with trio.move_on_after(0.05):  # its caller goes away, too
                        await life.engine.asking.update(key, id="u", name="note", payload=b"", wait_s=30)
                case "tenant":
                    await life.engine.delete_tenant(key[0])
                case _:
                    for sandbox in life.host.living:
                        sandbox.kill("crashed")
        except PerdureError:
            pass

    async def live(life: Life) -> None:
        await trio.sleep(1)
        idle = trio.lowlevel.current_statistics().tasks_living
        for key in keys:
            operations = [draw_operation(random) for _ in range(random.randint(1, 5))]
            await life.start(key, payload_of(operations, 1))
        async with trio.open_nursery() as nursery:
            for ms, what in script:
                await trio.sleep(ms / 1000)
                nursery.start_soon(attempt, life, what, random.choice(keys))
        quiet = 0
        for _ in range(50):  # a child may be about to be started, and be abandoned by a parent that has ended
            rows = [row for row in world.witness.rows(life.real_store) if row.row.state not in FINAL]
            quiet = 0 if rows else quiet + 1
            if quiet > 6:
                break
            for row in rows:
                await attempt(life, "terminate", (row.tenant, row.instance))
            await trio.sleep(0.5)
        await trio.sleep(3)
        check_engine(life)
        await trio.sleep(120)
        assert life.engine.active_counts() == (0, 0)
        assert life.host.living == []
        assert trio.lowlevel.current_statistics().tasks_living == idle

    try:
        ended = world.live(live, deep=True)
        assert ended is None, ended
    finally:
        world.close()


def check_engine(life: Life) -> None:
    """No run, place, resident, hold or reservation."""
    engine = life.engine
    assert [row.row.state for row in life.witness.rows(life.real_store) if row.row.state not in FINAL] == []
    assert engine.active_counts()[0] == 0
    assert engine.places.total == 0
    assert len(engine.queue) == 0
    assert len(engine.residents) == 0
    assert engine.obligations._under_way == {}
    assert [sandbox.runs for sandbox in life.host.living if sandbox.runs] == []
    assert [warm.load for warm in engine.runner.sandboxes.all() if warm.load] == []
