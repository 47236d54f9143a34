"""Undo: what one run does when it has failed, or is terminated with undo."""

from __future__ import annotations

import asyncio

import pytest

from executor.core import values
from executor.core.commands import StepDone, Undone
from executor.core.entries import Failed, StatusSet, StepSucceeded, Terminated, Undoing
from executor.core.failure import ErrorFact
from tests.executor.fake_executor import Story, in_process, play
from tests.executor.sandbox.test_run import job

ABOVE = """
undone = []
def undo(output, error):
    undone.append([output, str(error)])
    return len(undone)
"""
BODY = """
undone.clear()
make = step.options(undo=undo)
await make.do("a", lambda: "A")
await step.do("plain", lambda: 1)
await asyncio.gather(make.do("b", lambda: "B"), make.do("b", lambda: "BB"))
raise ValueError("broken")
"""


def undoing(story: Story) -> list[str]:
    at = next(at for at, found in enumerate(story.journal) if isinstance(found, Undoing))
    return story.kinds()[at:]


def test_finished_steps_are_undone_in_reverse_order_of_asking_and_the_instance_fails() -> None:
    for order in range(4):
        story = play(job(BODY, ABOVE), Story("Job", order=order))
        assert undoing(story) == [
            "Undoing",
            "StepSucceeded undo/b#2",
            "StepSucceeded undo/b#1",
            "StepSucceeded undo/a#1",
            "Failed",
        ]
        assert story.error.message == "broken"


def test_undo_function_is_given_output_and_error() -> None:
    body = """
def undo(output, error):
    return [output, type(error).__name__, error.error_type, error.error_message, str(error)]
await step.options(undo=undo).do("a", lambda: {"id": 1})
raise ValueError("broken")
"""
    story = play(job(body), Story("Job"))
    undone = story.journal[-2]
    assert values.decode(undone.value) == [{"id": 1}, "InstanceFailed", "ValueError", "broken", "ValueError: broken"]


def test_undo_in_decorator_form_sees_the_declared_type_of_the_output() -> None:
    above = """
from dataclasses import dataclass
@dataclass
class Charge:
    id: int
def charge() -> Charge:
    return Charge(4)
"""
    body = """
await step.do("charge", undo=lambda charge, error: [type(charge).__name__, charge.id])(charge)()
raise ValueError
"""
    assert values.decode(play(job(body, above), Story("Job")).journal[-2].value) == ["Charge", 4]


def test_run_that_catches_its_failure_undoes_nothing() -> None:
    body = """
await step.options(undo=print).do("a", lambda: 1)
try:
    await step.options(undo=print, retry=Retry(limit=0)).do("b", lambda: 1 / 0)
except StepFailed:
    return 1
"""
    assert play(job(body), Story("Job")).kinds() == ["Started", "StepSucceeded a#1", "StepFailed b#1", "Completed"]


def test_run_without_anything_to_undo_fails_at_once() -> None:
    body = """
try:
    await step.options(undo=print, retry=Retry(limit=0)).do("a", lambda: 1 / 0)
except StepFailed:
    raise ValueError("broken")
"""
    assert play(job(body), Story("Job")).kinds() == ["Started", "StepFailed a#1", "Failed"]


def test_continue_as_new_undoes_nothing() -> None:
    body = """
await step.options(undo=print).do("a", lambda: 1)
if event.payload is None:
    self.continue_as_new(1)
return 1
"""
    assert "Undoing" not in play(job(body), Story("Job")).kinds()


def test_undo_is_retried_by_its_own_policy_and_a_failed_one_does_not_stop_the_others() -> None:
    body = """
def flaky(output, error):
    if step.current().attempt < 3:
        raise ValueError("not yet")
def never(output, error):
    raise ValueError("never")
retry = Retry(limit=2, delay="1 minute", jitter=0)
await step.options(undo=Undo(flaky, retry=retry)).do("a", lambda: 1)
await step.options(undo=Undo(never, retry=Retry(limit=0))).do("b", lambda: 1)
raise ValueError("broken")
"""
    story = play(job(body), Story("Job"))
    assert undoing(story)[1:] == [
        "StepFailed undo/b#1",
        "AttemptFailed undo/a#1",
        "AttemptFailed undo/a#1",
        "StepSucceeded undo/a#1",
        "Failed",
    ]
    assert story.error.message == "broken (and it could not be undone: b#1)"


def test_undo_has_a_timeout_of_its_own() -> None:
    body = """
async def for_ever(output, error):
    await asyncio.Event().wait()
undo = Undo(for_ever, retry=Retry(limit=0), timeout="20 ms")
await step.options(undo=undo, timeout="1 hour").do("a", lambda: 1)
raise ValueError("broken")
"""
    story = play(job(body), Story("Job"))
    assert undoing(story) == ["Undoing", "StepFailed undo/a#1", "Failed"]
    assert story.journal[-2].error.type == "executor.workflow.StepTimeout"


def test_undo_has_the_facet_and_a_key_of_its_own() -> None:
    body = """
keys = []
def make():
    self.facet.execute("create table made (id)")
    keys.append(step.current().idempotency_key)
def undo(output, error):
    self.facet.execute("drop table made")
    return keys[0] != step.current().idempotency_key
await step.options(undo=undo).do("a", make)
raise ValueError("broken")
"""
    assert values.decode(play(job(body), Story("Job")).journal[-2].value) is True


def test_undoing_goes_on_from_every_prefix() -> None:
    for order in range(3):
        whole = play(job(BODY, ABOVE), Story("Job", order=order))
        for length in whole.cuts[:-1]:
            again = play(job(BODY, ABOVE), whole.prefix(length))
            assert again.kinds() == whole.kinds()
            assert again.error == whole.error
        assert play(job(BODY, ABOVE), Story("Job", order=order), evict=True).kinds() == whole.kinds()


def test_step_that_is_reported_when_run_fails_is_undone_too() -> None:
    """Its StepDone has been sent, its entry comes after the one at which run() failed."""
    body = """
async with asyncio.TaskGroup() as group:
    group.create_task(step.options(undo=lambda o, e: o).do("kept", lambda: "K"))
    async def fail():
        await step.do("trigger", lambda: 1)
        raise ValueError("broken")
    group.create_task(fail())
"""

    async def main() -> Story:
        async with in_process(job(body)) as executor:
            story = Story("Job").begin()
            run = executor.activate(story)
            done = {command.path: command for command in await executor.until_idle(run)}
            executor._append(story, done["trigger#1"])  # the other is under way
            executor.deliver(run, story, 2)
            (end,) = await executor.until_idle(run)
            assert type(end).__name__ == "Undo"
            executor._append(story, done["kept#1"])
            executor._append(story, end)
            executor.deliver(run, story, 3)
            (undone,) = await executor.until_idle(run)
            assert isinstance(undone, StepDone)
            assert undone.path == "undo/kept#1"
            executor.drop(run)
            return story

    story = asyncio.run(main())
    assert [type(entry) for entry in story.journal[-3:]] == [StepSucceeded, StepSucceeded, Undoing]
    assert isinstance(play(job(body), story).instance.outcome, Failed)


TERMINATED = """
undone.clear()
await step.options(undo=undo).do("a", lambda: "A")
async def beside():
    await step.sleep("long", 1000)
tasks = [asyncio.create_task(beside()) for _ in range(2)]
try:
    await step.wait_for_event("never", type="never")
finally:
    print("cancelled")
    try:
        await step.do("too late", print)
    except NotHere as error:
        print(error)
"""


@pytest.mark.parametrize("evict", [False, True])
def test_termination_with_undo_cancels_run_first(evict: bool) -> None:
    async def main() -> Story:
        async with in_process(job(TERMINATED, ABOVE)) as executor:
            story = await executor.play(Story("Job"), entries_max=4)
            story.append(Undoing(story.now_ms, None, "kim"))
            return await executor.play(story, evict=evict)

    story = asyncio.run(main())
    assert undoing(story) == ["Undoing", "StepSucceeded undo/a#1", "Terminated"]
    assert isinstance(story.instance.outcome, Terminated)
    assert story.printed == ["cancelled", "'too late' was asked for after run() had ended"]


def test_run_sees_what_was_recorded_before_the_termination_and_what_it_shows_then_counts() -> None:
    body = """
await step.options(undo=lambda o, e: o).do("a", lambda: "A")
self.status = "behind a"
await step.do("b", lambda: "B")
"""

    async def main() -> Story:
        async with in_process(job(body)) as executor:
            story = Story("Job").begin()
            run = executor.activate(story)
            (done,) = await executor.until_idle(run)
            executor._append(story, done)  # a pause keeps it from the run
            executor.drop(run)
            story.append(Undoing(story.now_ms, None))
            return await executor.play(story)

    story = asyncio.run(main())
    assert [values.decode(entry.value) for entry in story.journal if isinstance(entry, StatusSet)] == ["behind a"]
    assert undoing(story)[-2:] == ["StepSucceeded undo/a#1", "Terminated"]
    assert "b#1" not in [getattr(entry, "path", "") for entry in story.journal]


def test_termination_of_a_run_that_will_not_end_undoes_all_the_same() -> None:
    body = """
await step.options(undo=lambda o, e: [o, e]).do("a", lambda: "A")
while True:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        pass
"""

    async def main() -> Story:
        async with in_process(job(body)) as executor:
            story = await executor.play(Story("Job"), entries_max=2)
            story.append(Undoing(story.now_ms, None))
            return await executor.play(story)

    story = asyncio.run(main())
    assert isinstance(story.instance.outcome, Terminated)
    assert values.decode(story.journal[-2].value) == ["A", None]


def test_termination_with_nothing_to_undo_is_undone_at_once() -> None:
    async def main() -> list:
        async with in_process(job('await step.sleep("long", 100)')) as executor:
            story = await executor.play(Story("Job"), entries_max=2)
            story.append(Undoing(story.now_ms, ErrorFact("E", "m")))
            return await executor.until_idle(executor.activate(story))

    assert asyncio.run(main()) == [Undone([])]


def test_step_given_up_whose_success_is_recorded_is_undone() -> None:
    body = """
try:
    async with asyncio.timeout(5):
        await step.options(undo=lambda o, e: o).do("slow", lambda: "S")
except TimeoutError:
    await step.sleep("after", 1)
raise ValueError("broken")
"""

    async def main() -> Story:
        async with in_process(job(body)) as executor:
            story = Story("Job").begin()
            run = executor.activate(story)
            timer, done = await executor.until_idle(run)
            executor._append(story, timer)
            from executor.core import decide

            story.now_ms += 5000
            story.append(*decide.on_clock(story.instance, story.now_ms).entries)
            executor._append(story, done)  # crossed on the way
            executor.drop(run)
            return await executor.play(story)

    assert "StepSucceeded undo/slow#1" in asyncio.run(main()).kinds()


def test_undoing_after_continue_as_new_is_of_this_execution_only() -> None:
    body = """
await step.options(undo=lambda output, error: output).do(f"a {event.payload}", lambda: 1)
if event.payload is None:
    self.continue_as_new(1)
raise ValueError("broken")
"""
    assert undoing(play(job(body), Story("Job"))) == ["Undoing", "StepSucceeded undo/a 1#1", "Failed"]
