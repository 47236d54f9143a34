"""What tenant code prints: by instance and step, once, in order, capped."""

from __future__ import annotations

import asyncio

from executor.sandbox.child_limits import ChildLimits
from tests.executor.fake_executor import Story, in_process, play
from tests.executor.sandbox.test_run import job


def test_print_and_logging_are_captured_with_their_place() -> None:
    body = """
import logging, sys
print("one\\ntwo")
print("err", file=sys.stderr)
logging.getLogger("mine").warning("careful %s", 1)
def work():
    print("in step", end="")
await step.do("s", work)
print("after")
"""
    story = play(job(body), Story("Job"))
    assert [(o.position, o.number, o.stream, o.level, o.step, o.attempt, o.text) for o in story.lines.values()] == [
        (1, 0, "stdout", "", "", 0, "one"),
        (1, 1, "stdout", "", "", 0, "two"),
        (1, 2, "stderr", "", "", 0, "err"),
        (1, 3, "log", "WARNING", "", 0, "mine: careful 1"),
        (1, 0, "stdout", "", "s#1", 1, "in step"),
        (2, 0, "stdout", "", "", 0, "after"),
    ]


def test_lines_of_a_replay_are_not_sent_again() -> None:
    body = """
for n in range(5):
    print("before", n)
    await step.do("s", lambda: 1)
print("end")
await step.wait_for_event("w", type="never")
"""

    async def main() -> None:
        async with in_process(job(body)) as executor:
            story = await executor.play(Story("Job"), entries_max=7)
            assert story.printed == [*(f"before {n}" for n in range(5)), "end"]
            again = story.prefix(7)
            run = executor.activate(again)
            await executor.until_idle(run)
            executor.drop(run)
            assert again.printed == []  # the wait is journaled: all lines before it were sent by whoever asked for it
            again = story.prefix(6)
            run = executor.activate(again)
            await executor.until_idle(run)
            executor.drop(run)
            assert again.printed == ["end"]  # perhaps not sent yet: sent again, to be recognised by its number
            assert (again.lines.keys()) < (story.lines.keys())

    asyncio.run(main())


def test_line_printed_before_entries_that_resolve_nothing_is_not_lost() -> None:
    """An instance that was paused while its sleep ended prints what follows the sleep, though Resumed comes after."""
    from executor.core.entries import Paused, Resumed, SleepEnded

    async def main() -> None:
        async with in_process(
            job('await step.sleep("s", 5)\nprint("awake")\nawait step.wait_for_event("w", type="t")')
        ) as executor:
            story = await executor.play(Story("Job"), entries_max=2)
            at = story.now_ms
            story.append(Paused(at))
            story.append(SleepEnded(at + 5000, "s#1"))
            story.append(Resumed(at + 9000))
            run = executor.activate(story)
            await executor.until_idle(run)
            executor.drop(run)
            assert story.printed == ["awake"]

    asyncio.run(main())


def test_long_line_is_cut_and_says_so() -> None:
    story = play(job('print("é" * 10_000)'), Story("Job"))
    (line,) = story.printed
    assert line == "é" * 4096 + " [line cut: 20000 bytes]"


def test_output_of_a_run_is_capped_with_a_notice() -> None:
    async def main() -> Story:
        limits = ChildLimits(step_threads=1, output_lines_max=3)
        async with in_process(job('for n in range(10): print("line", n)'), limits=limits) as executor:
            return await executor.play(Story("Job"))

    story = asyncio.run(main())
    assert story.printed == [
        "line 0",
        "line 1",
        "line 2",
        "[output cut: this run printed more than 1048576 bytes or 3 lines]",
    ]


def test_two_instances_do_not_mix_their_lines() -> None:
    body = """
async def talk():
    for n in range(3):
        print(event.payload, n)
        await asyncio.sleep(0)
for _ in range(3):
    await step.do("talk", talk)
    print("run", event.payload)
"""

    async def main() -> tuple[Story, Story]:
        async with in_process(job(body)) as executor:
            return await asyncio.gather(
                executor.play(Story("Job", payload="a")), executor.play(Story("Job", payload="b"))
            )

    for story in asyncio.run(main()):
        assert story.printed == [*(f"{story.payload} {n}" for n in range(3)), f"run {story.payload}"] * 3


def test_lines_come_before_the_turn_that_follows_them() -> None:
    order: list[str] = []

    async def main() -> None:
        async with in_process(job('print("x")\nawait step.do("s", lambda: 1)')) as executor:
            take = executor.take
            executor.take = lambda frames: (order.extend(type(f).__name__ for f in frames), take(frames))[1]
            await executor.play(Story("Job"))

    asyncio.run(main())
    assert order[0] == "Output"
