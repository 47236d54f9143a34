"""Options of steps seen from `run()`: the whole way over frames and journal."""

from __future__ import annotations

import asyncio
from typing import Any

from executor.core import values
from executor.core.commands import Beat, Complete, Emit, StepBegun, StepDone, StepError
from executor.core.entries import AttemptFailed, Emitted, StepSucceeded
from tests.executor.fake_executor import FakeExecutor, Story, in_process, play
from tests.executor.sandbox.steps_world import until
from tests.executor.sandbox.test_run import job


async def told(executor: FakeExecutor, run: int, kind: type[Any]) -> Any:
    """The next command of that kind."""
    while True:
        for command in (await executor.turn(run)).commands:
            if isinstance(command, kind):
                return command


def commands(story: Story, kind: type[Any]) -> list[Any]:
    return [command for turn in story.turns for command in turn.commands if isinstance(command, kind)]


def test_step_given_up_by_run_is_closed_after_its_grace_time_on_the_real_clock() -> None:
    source = job(
        "async def bad():\n    raise ValueError('no')\n"
        "once = step.options(retry=Retry(limit=0), grace='10 ms')\n"
        "try:\n    async with asyncio.TaskGroup() as group:\n"
        "        group.create_task(once.do('stubborn', stubborn))\n        group.create_task(once.do('bad', bad))\n"
        "except ExceptionGroup as error:\n    return str(error.exceptions[0])",
        "async def stubborn():\n    for _ in range(20):\n        try:\n            await asyncio.sleep(1000)\n"
        "        except asyncio.CancelledError:\n            pass",
    )

    async def main() -> None:
        async with in_process(source) as executor:
            story = Story("Job")
            run = executor.activate(story)
            first = len(story.stored) + 1
            error = await told(executor, run, StepError)
            executor._append(story, error)
            executor.deliver(run, story, first)  # here run() gives the other step up
            assert (await told(executor, run, Complete)).value == values.encode(
                'step "bad#1" failed after 1 attempt: ValueError: no'
            )
            await until(lambda: "stubborn#1" not in {task.get_name() for task in asyncio.all_tasks()})

    asyncio.run(main())


def test_stream_is_handed_to_run_as_a_blob_and_read_in_a_step_after_a_replay() -> None:
    source = job(
        "blob = await step.options(stream=True).do('give', give)\n"
        "try:\n    blob.read()\nexcept NotHere as error:\n    why = str(error)\n"
        "await step.sleep('s', 5)\n"
        "return [blob.size, await step.do('use', lambda given: given.read()[-5:], blob), why]",
        "def give():\n    for n in range(1000):\n        yield b'%05d' % n * 100",
    )
    for evict in (False, True):
        story = play(source, Story("Job"), evict=evict)
        assert story.result == [
            500_000,
            b"00999",
            'a Blob was read in run(); read it inside a step and give it as an argument: await step.do("name", function, blob)',
        ]
        given = next(entry for entry in story.journal if isinstance(entry, StepSucceeded))
        assert given.form == "stream"


def test_retry_waits_what_the_delay_function_says_and_gets_the_heartbeat_before() -> None:
    source = job(
        "return await step.options(retry=Retry(limit=3, delay=delay, jitter=0)).do('work', work)",
        "step = None\n"
        "def delay(attempt, error):\n    return attempt * 10\n"
        "async def work():\n"
        "    now = Step(None).current()\n"
        "    now.heartbeat([now.attempt, now.last_heartbeat])\n"
        "    if now.attempt < 3:\n        raise ValueError\n"
        "    return now.last_heartbeat\n",
    )
    for evict in (False, True):
        story = play(source, Story("Job"), evict=evict)
        failed = [entry for entry in story.journal if isinstance(entry, AttemptFailed)]
        assert [entry.retry_at_ms - entry.at_ms for entry in failed] == [10_000, 20_000]
        assert story.result == [2, [1, None]]
        assert [command.attempt for command in commands(story, StepBegun)] == [1, 2, 3]
        assert [command.attempt for command in commands(story, Beat)] == [1, 2, 3]


def test_what_a_step_emits_is_journaled_before_its_result() -> None:
    source = job(
        "def say(word):\n    for letter in word:\n        step.emit('log', letter)\n"
        "await step.do('say', say, 'ab')\nawait step.do('say', say, 'c')"
    )
    story = play(source, Story("Job"))
    emitted = [entry for entry in story.journal if isinstance(entry, Emitted)]
    assert [(entry.stream, entry.first, len(entry.items), entry.path) for entry in emitted] == [
        ("log", 0, 2, "say#1"),
        ("log", 2, 1, "say#2"),
    ]
    said = [
        type(command) for turn in story.turns for command in turn.commands if getattr(command, "path", "") == "say#1"
    ]
    assert said == [StepBegun, Emit, StepDone]
