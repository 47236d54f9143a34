"""What a run costs inside: counted in operations and bytes, not in seconds."""

from __future__ import annotations

import asyncio
import cProfile
import gc
import tracemalloc

import pytest

from executor.core import codec, values
from executor.core.commands import Complete
from executor.core.entries import Started, StepSucceeded
from executor.core.replay import Request, asked
from executor.sandbox.child_limits import ChildLimits
from executor.sandbox.detloop import DetFuture, DetLoop, DetTask
from executor.sandbox.protocol import Activate, Drop, Entries
from executor.sandbox.run import Run
from executor.sandbox.run_state import Pending
from executor.sandbox.step_attempt import Attempt
from executor.sandbox.step_calls import StepCall
from tests.executor.fake_executor import BASE_MS, COMMIT, FakeExecutor, Story, in_process
from tests.executor.sandbox.test_run import job

WAITING_RUN_BYTES_MAX = 7 * 1024
"""Inside; the host's part of a run takes less than the KiB that is left of 8."""


def long_journal(steps: int) -> list[bytes]:
    """Of a workflow that asks for `step.do("step", one, number)`, number by number."""
    entries = [Started(BASE_MS, "Job", COMMIT, values.encode(steps), bytes(16))]
    for number in range(steps):
        digest = asked("step", "step", (number,), {})
        entries.append(
            StepSucceeded(BASE_MS, f"step#{number + 1}", digest, "workflows.py:9", 1, 0, values.encode(number))
        )
    return [codec.encode(entry, codec.CHAIN_START) for entry in entries]


LONG = job(
    'total = 0\nfor number in range(event.payload):\n    total += await step.do("step", one, number)\nreturn total',
    "async def one(number): return number",
)


def test_replay_takes_as_many_operations_per_step_whatever_the_length_of_the_journal() -> None:
    """Function calls, of Python and of C, for each step of 1,000 and of 50,000."""

    async def calls_per_step(executor, steps: int) -> float:
        profile = cProfile.Profile()
        story = Story("Job")
        story.stored = long_journal(steps)
        profile.enable()
        run = executor.activate(story, chunk=4_000)
        profile.disable()
        (command,) = (await executor.turn(run)).commands
        assert command == Complete(values.encode(steps * (steps - 1) // 2))
        executor.drop(run)
        return sum(entry.callcount for entry in profile.getstats()) / steps

    async def main() -> tuple[float, float]:
        async with in_process(LONG) as executor:
            return await calls_per_step(executor, 1_000), await calls_per_step(executor, 50_000)

    short, long = asyncio.run(main())
    assert long < short * 1.05
    assert long < 80


ROUNDS = {
    "steps": 'await step.do("s", one, number)',
    "gathered": 'await asyncio.gather(*(step.do("s", one, number) for _ in range(5)))',
    "tried again": 'await step.options(retry=Retry(limit=2, delay=1)).do("s", moody, step)',
    "some in time": (
        'try:\n    async with asyncio.timeout(50):\n        await step.wait_for_event("e", type="go")\n'
        "except TimeoutError:\n    pass"
    ),
    "too late": (
        'try:\n    async with asyncio.timeout(1):\n        await step.sleep("long", 1000)\nexcept TimeoutError:\n    pass'
    ),
    "sleeps": 'await step.sleep("short", 1)',
    "events": 'await step.wait_for_event("e", type="go")',
    "too few events": 'try:\n    await step.wait_for_event("e", type="none", timeout=1)\nexcept EventTimeout:\n    pass',
    "failing steps": ('try:\n    await step.options(retry=Retry(limit=0)).do("s", fail)\nexcept StepFailed:\n    pass'),
    "groups": 'async with step.group("g"):\n    await step.do("s", one, number)',
    "children": 'await step.call("c", "Child", number)',
}
ABOVE = """
async def one(number):
    return number

async def moody(step):
    if step.current().attempt == 1:
        raise OSError("once")

async def fail():
    raise OSError("always")
"""


@pytest.mark.parametrize("kind", ROUNDS)
def test_replay_holds_nothing_of_what_the_journal_has_answered(kind: str) -> None:
    """Or its memory would grow with the journal, and a long one would cost more by the step than a short one."""
    body = ROUNDS[kind].replace("\n", "\n    ")
    source = job(f"for number in range(event.payload):\n    {body}\nreturn event.payload", ABOVE)
    kinds = (Pending, Request, DetFuture, StepCall)

    async def held(executor: FakeExecutor, rounds: int) -> int:
        story = Story("Job", payload=rounds, events=[("go", n) for n in range(rounds)], children={"Child": 1})
        await executor.play(story, entries_max=50 * rounds)
        assert story.result == rounds
        gc.collect()
        before = {id(each) for each in gc.get_objects() if isinstance(each, kinds)}
        shown = story.shown(1, len(story.stored))
        executor.link.send([Activate(7, "again", "Job", COMMIT, len(shown)), Entries(7, 1, shown[:-1])])
        await asyncio.sleep(0)
        left = [each for each in gc.get_objects() if isinstance(each, kinds) and id(each) not in before]
        executor.link.send([Drop(7)])
        return len(left)

    async def main() -> tuple[int, int]:
        async with in_process(source) as executor:
            return await held(executor, 5), await held(executor, 20)

    short, long = asyncio.run(main())
    assert long == short
    assert long < 20


WAITING = job(
    'await step.do("wait", wait, event.payload)',
    "async def wait(number): await asyncio.sleep(3600)",
)


def _untimed_attempts() -> list[Attempt]:
    return [each for each in gc.get_objects() if isinstance(each, Attempt) and each._timer is None]


def test_run_that_waits_inside_a_step_takes_less_than_the_design_allows() -> None:
    count = 1_000
    gc.collect()
    others = {id(attempt) for attempt in _untimed_attempts()}  # of tests before this one

    async def main() -> float:
        async with in_process(WAITING, limits=ChildLimits(step_threads=0)) as executor:
            stories = [Story("Job", payload=number).begin() for number in range(count + 50)]
            frames = [
                (Activate(number, f"instance-{number}", "Job", COMMIT, 1), Entries(number, 1, story.stored))
                for number, story in enumerate(stories)
            ]
            for pair in frames[:50]:  # what the first ones make for all
                executor.link.send(list(pair))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            gc.collect()
            tracemalloc.start()
            try:
                for activate, begin in frames[50:]:
                    executor.link.send([activate, begin])
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                gc.collect()
                held, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert len([attempt for attempt in _untimed_attempts() if id(attempt) not in others]) == count + 50
            executor.link.send([Drop(number) for number in range(count + 50)])
            return held / count

    assert asyncio.run(main()) < WAITING_RUN_BYTES_MAX


def test_run_that_is_dropped_frees_itself_without_the_collector() -> None:
    source = job(
        'import random\nrandom.random()\nawait asyncio.gather(*(step.do("s", one, n) for n in range(3)))\n'
        'print("three")\nasync with asyncio.timeout(50):\n    await step.sleep("short", 1)\n'
        'if event.payload:\n    await step.sleep("long", 100)',
        "async def one(number): return number",
    )
    kinds = (Run, DetLoop, DetTask, DetFuture, Attempt)

    async def main(executor) -> None:
        for waits in (False, True):
            gc.collect()
            before = {id(each) for each in gc.get_objects() if isinstance(each, kinds)}
            gc.disable()
            try:
                await executor.play(Story("Job", payload=waits), entries_max=9)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                left = [each for each in gc.get_objects() if isinstance(each, kinds) and id(each) not in before]
            finally:
                gc.enable()
            assert left == []

    async def outer() -> None:
        async with in_process(source) as executor:
            await main(executor)

    asyncio.run(outer())
