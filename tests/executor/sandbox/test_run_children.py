"""Children and matched events of one run."""

from __future__ import annotations

import asyncio

import pytest

from executor.core import values
from executor.core.commands import Complete
from executor.core.entries import Cancelled, ChildRequested, ChildStarted, WaitStarted
from executor.core.failure import ErrorFact
from tests.executor.fake_executor import COMMIT, Story, in_process, play
from tests.executor.sandbox.test_run import error, job, result


def test_call_gives_what_the_child_returns() -> None:
    story = play(job('return await step.call("report", "Report", {"n": 1})'), Story("Job", children={"Report": [7]}))
    assert story.result == [7]
    assert story.kinds()[1:-1] == ["ChildRequested report#1", "ChildStarted report#1", "ChildEnded report#1"]
    request = story.journal[1]
    assert isinstance(request, ChildRequested)
    assert (request.workflow, request.commit, request.channel, request.close, request.is_awaited) == (
        "Report", COMMIT, None, "terminate", True,
    )  # fmt: skip
    assert values.decode(request.payload) == {"n": 1}


def test_start_gives_a_handle_once_the_child_exists() -> None:
    body = 'child = await step.start("r", "Report", id="child-1", channel="live")\nreturn [child.id, child.workflow, child.commit]'
    story = play(job(body), Story("Job"))
    assert story.result == ["child-1", "Report", COMMIT]
    request = story.journal[1]
    assert (request.commit, request.channel, request.close, request.is_awaited) == (None, "live", "abandon", False)


def test_failure_of_a_child_is_child_failed() -> None:
    body = """
try:
    await step.call("r", "Report")
except ChildFailed as failed:
    return [isinstance(failed, StepFailed), failed.step, failed.child_id, failed.state, failed.error_type, str(failed)]
"""
    story = play(job(body), Story("Job", children={"Report": ErrorFact("ValueError", "no data")}))
    child = story.journal[1].child
    assert story.result == [
        True, "r#1", child, "failed", "ValueError", f'child "{child}" of step "r#1" failed: ValueError: no data'
    ]  # fmt: skip


def test_child_by_class_has_payload_and_result_of_its_types() -> None:
    source = """
from dataclasses import dataclass
from executor.workflow import *
@dataclass
class Order:
    n: int
class Report(Workflow[Order, Order]):
    async def run(self, event, step):
        return event.payload
class Job(Workflow):
    async def run(self, event, step):
        found = await step.call("r", Report, Order(event.payload))
        named = await step.call("r", "Report", Order(event.payload))
        return [type(found).__name__, found.n, type(named).__name__]
"""
    story = play(source, Story("Job", payload=1, children={"Report": {"n": 5}}))
    assert story.result == ["Order", 5, "Order"]
    assert "Expected `int`" in play(source, Story("Job", payload="x")).error.message


def test_call_that_is_given_up_is_cancelled() -> None:
    body = """
try:
    async with asyncio.timeout(5):
        await step.call("r", "Report")
except TimeoutError:
    await step.sleep("after", 1)
    return "late"
"""
    for order in range(40):
        story = play(job(body), Story("Job", order=order))
        if story.result == "late":
            assert [entry.path for entry in story.journal if isinstance(entry, Cancelled)] == ["r#1"]
            assert play(job(body), story.prefix(len(story.stored) - 1)).result == "late"
            return
    pytest.fail("no order let the timer end first")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("1", "a child's workflow is named by its class or its name, not by a int"),
        ('"R", id="no/slash"', "the id of a child, 'no/slash', is not one that an instance can have"),
        ('"R", close="kill"', 'close=\'kill\' is not "terminate" or "abandon"'),
        ('"R", {1, 2}', "payload: a set. Return sorted(the_set), a list."),
    ],
)
def test_wrong_argument_of_a_call_says_what_is_wrong(arguments: str, message: str) -> None:
    assert error(f'await step.call("r", {arguments})').message == message


def test_another_payload_for_a_recorded_child_is_a_divergence() -> None:
    story = play(job('await step.call("r", "R", 1)'), Story("Job"), entries_max=2)
    held = play(job('await step.call("r", "R", 2)'), story.prefix(2)).held
    assert "here the code asks for it with other arguments" in held.message


def test_refused_start_fails_although_nobody_awaits_the_child() -> None:
    import asyncio

    from executor.core.entries import ChildEnded

    body = """
try:
    await step.start("r", "Report")
except ChildFailed as failed:
    return [failed.error_code, str(failed)]
"""

    async def main() -> str:
        async with in_process(job(body)) as executor:
            story = Story("Job").begin()
            run = executor.activate(story)
            (request,) = await executor.until_idle(run)
            executor._append(story, request)
            refused = ErrorFact("Refused", "there is no workflow 'Report'", code="unknown_workflow")
            story.append(ChildEnded(story.now_ms, "r#1", "refused", None, refused))
            executor.deliver(run, story, 2)
            (command,) = await executor.until_idle(run)
            return values.decode(command.value), story.journal[1].child

    (code, told), child = asyncio.run(main())
    assert code == "unknown_workflow"
    assert told == f'child "{child}" of step "r#1" was refused: Refused: there is no workflow \'Report\''


# --- events that match


def test_wait_takes_the_first_event_that_matches() -> None:
    body = """
first = await step.wait_for_event("paid", type="paid", match={"order.id": 2, "ok": True})
second = await step.wait_for_event("paid", type="paid")
return [first.id, second.id]
"""
    events = [("paid", {"order": {"id": 1}, "ok": True}), ("paid", {"order": {"id": 2}, "ok": True})]
    for order in range(4):
        assert result(body, events=events, order=order) == ["event-1", "event-0"]


def test_match_is_part_of_what_is_asked() -> None:
    story = play(
        job('await step.wait_for_event("w", type="t", match={"a": 1})'), Story("Job", events=[("t", {"a": 1})])
    )
    started = next(entry for entry in story.journal if isinstance(entry, WaitStarted))
    assert values.decode(started.match) == {"a": 1}
    at = story.journal.index(started) + 1
    for other in ("", ", match={'a': 2}"):
        held = play(job(f'await step.wait_for_event("w", type="t"{other})'), story.prefix(at)).held
        assert "with other arguments" in held.message


def test_match_of_a_wrong_type_says_so() -> None:
    assert error('await step.wait_for_event("w", type="t", match=[1])').message == (
        'match= is of type list; write a dict: match={"order.id": 7}'
    )


def test_handle_comes_with_the_childs_start_and_not_before() -> None:
    async def main() -> None:
        async with in_process(job('return (await step.start("r", "Report")).id')) as executor:
            story = Story("Job").begin()
            run = executor.activate(story)
            [request] = await executor.until_idle(run)
            executor._append(story, request)
            executor.deliver(run, story, 2)
            assert await executor.until_idle(run) == []
            requested = story.journal[1]
            story.append(ChildStarted(story.now_ms, requested.path, COMMIT))
            executor.deliver(run, story, 3)
            assert await executor.until_idle(run) == [Complete(values.encode(requested.child))]

    asyncio.run(main())
