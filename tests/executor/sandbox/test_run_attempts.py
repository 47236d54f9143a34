"""What one run is told of attempts, and tells of them: beginnings, details of heartbeats."""

from __future__ import annotations

import asyncio

from executor.core import values
from executor.core.commands import StepBegun, StepDone
from executor.core.entries import AttemptFailed, StepHeartbeat
from executor.core.failure import ErrorFact
from executor.core.replay import asked
from executor.sandbox.protocol import Attempt
from tests.executor.fake_executor import BASE_MS, Story, in_process
from tests.executor.sandbox.test_run import job


def turns(body: str, above: str = "", story: Story | None = None, attempt: int = 0) -> list:
    """The commands of the turns up to the first that is idle."""

    async def main() -> list:
        async with in_process(job(body, above)) as executor:
            run = executor.activate(story or Story("Job"))
            if attempt:
                assert (await executor.turn(run)).idle
                executor.link.send([Attempt(run, "s#1", attempt)])
            found = []
            while not found or not found[-1].idle:
                found.append(await executor.turn(run))
            return [turn.commands for turn in found]

    return asyncio.run(main())


def test_beginning_of_a_step_is_told_before_its_end() -> None:
    begun, done = (command for commands in turns('await step.do("s", lambda: 1)') for command in commands)
    assert isinstance(begun, StepBegun)
    assert isinstance(done, StepDone)
    assert (begun.path, begun.where, begun.attempt) == ("s#1", "workflows.py:8", 1)
    assert begun.started_at_ms == done.started_at_ms


def test_step_that_lasts_is_told_to_have_begun_by_itself() -> None:
    found = turns('await step.do("s", slow)', "async def slow():\n    await asyncio.sleep(0.6)")
    kinds = [[type(command).__name__ for command in commands] for commands in found]
    assert kinds[-1] == ["StepDone"]
    assert ["StepBegun"] in kinds


def with_details(*entries: object) -> Story:
    story = Story("Job").begin()
    story.append(*entries)
    return story


DIGEST = asked("step", "s", (), {})
FAILED = AttemptFailed(BASE_MS, "s#1", DIGEST, "", 1, BASE_MS, ErrorFact("E", "m"), BASE_MS, 5, values.encode("part 1"))
BODY = 'return await step.do("s", lambda: step.current().last_heartbeat)'


def test_details_of_the_failed_attempt_are_given_to_the_next() -> None:
    *_, last = turns(BODY, story=with_details(FAILED), attempt=2)
    assert values.decode(last[-1].value) == "part 1"


def test_details_of_a_heartbeat_are_given_to_the_attempt_that_is_made_again() -> None:
    beat = StepHeartbeat(BASE_MS, "s#1", 2, values.encode("part 2"))
    *_, last = turns(BODY, story=with_details(FAILED, beat), attempt=2)
    assert values.decode(last[-1].value) == "part 2"
    *_, last = turns(BODY, story=with_details(StepHeartbeat(BASE_MS, "s#1", 1, values.encode("part 0"))))
    assert values.decode(last[-1].value) == "part 0"


def test_heartbeat_of_a_step_that_is_not_asked_for_changes_nothing() -> None:
    *_, last = turns(BODY, story=with_details(StepHeartbeat(BASE_MS, "other#1", 1, values.encode(1))))
    assert values.decode(last[-1].value) is None
