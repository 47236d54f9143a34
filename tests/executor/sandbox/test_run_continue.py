"""New executions of one run: continue_as_new, delayed starts, restarts, entries that it skips."""

from __future__ import annotations

import asyncio

import pytest

from executor.core import codec, values
from executor.core.commands import Complete, Continue
from executor.core.entries import (
    AnyEntry,
    Continued,
    EventReceived,
    Paused,
    Rescheduled,
    Restarted,
    StartDue,
    Started,
    StartOptions,
    StatusSet,
    StepSucceeded,
    WaitEnded,
    WaitStarted,
)
from executor.core.replay import asked
from executor.sandbox.protocol import Activate, Entries
from tests.executor.fake_executor import BASE_MS, COMMIT, Story, in_process, play
from tests.executor.sandbox.test_run import error, job


def commands_after(source: str, entries: list[AnyEntry | int], total: int | None = None) -> list:
    """What a run asks for that was sent these entries; a number skips so many."""
    shown = [entry if isinstance(entry, int) else codec.encode(entry, codec.CHAIN_START) for entry in entries]
    length = sum(entry if isinstance(entry, int) else 1 for entry in entries)

    async def main() -> list:
        async with in_process(source) as executor:
            story = Story("Job")
            executor._stories[1], executor._inboxes[1] = story, asyncio.Queue()
            executor.link.send([Activate(1, "i-1", "Job", COMMIT, total or length), Entries(1, 1, shown)])
            turn = await executor.turn(1)
            assert turn.seen == length
            return turn.commands

    return asyncio.run(main())


def started(payload: object = None, options: StartOptions | None = None) -> Started:
    return Started(BASE_MS, "Job", COMMIT, values.encode(payload), bytes(16), options)


def continued(payload: object) -> Continued:
    return Continued(BASE_MS + 9, "Job", COMMIT, values.encode(payload), bytes(16))


def test_continue_as_new_begins_anew_with_the_payload() -> None:
    body = """
self.status = event.payload
await step.do("work", lambda: 1)
if event.payload < 3:
    self.continue_as_new(event.payload + 1)
return event.payload
"""
    story = play(job(body), Story("Job", payload=1))
    assert story.result == 3
    assert [kind for kind in story.kinds() if kind != "StatusSet"] == [
        "Started",
        *["StepSucceeded work#1", "Continued"] * 2,
        "StepSucceeded work#1",
        "Completed",
    ]
    assert [entry.number for entry in story.journal if isinstance(entry, StatusSet)] == [1, 1, 1]


def test_broad_handler_does_not_eat_it_and_a_task_may_raise_it() -> None:
    body = """
if event.payload:
    return "anew"
async def work():
    try:
        self.continue_as_new(1)
    except Exception:
        return "eaten"
async with asyncio.TaskGroup() as group:
    group.create_task(work())
"""
    assert play(job(body), Story("Job")).result == "anew"


def test_continue_as_new_of_a_payload_that_does_not_fit_fails() -> None:
    source = "from executor.workflow import *\nclass Job(Workflow[int, int]):\n    async def run(self, event, step):\n"
    assert "payload: a set" in play(source + "        self.continue_as_new({1})", Story("Job", payload=1)).error.message


def test_continue_as_new_in_a_step_is_refused() -> None:
    body = 'await step.options(retry=Retry(limit=0)).do("s", lambda: self.continue_as_new(1))'
    assert "self.continue_as_new() works in run() only; in a step return" in error(body).message


def test_unread_event_is_carried_over_to_the_next_execution() -> None:
    body = """
if event.payload is None:
    await step.sleep("nap", 1)
    self.continue_as_new("next")
return [(await step.wait_for_event("w", type="t")).payload for _ in range(3)]
"""
    for order in range(6):
        assert play(job(body), Story("Job", events=[("t", 5), ("t", 6), ("t", 4)], order=order)).result == [5, 6, 4]


def test_run_that_sees_events_before_the_entry_that_begins_it_keeps_them() -> None:
    body = 'return [event.payload, (await step.wait_for_event("w", type="t")).id]'
    event = EventReceived(BASE_MS, "e-1", "t", values.encode(None), 4)
    digest = asked("wait", "w", "t")
    waited = WaitStarted(BASE_MS, "w#1", digest, "", "t", None)
    entries = [3, event, 2, continued("new"), waited, WaitEnded(BASE_MS, "w#1", 4)]
    assert commands_after(job(body), entries) == [Complete(values.encode(["new", "e-1"]))]


def test_skipped_entries_at_the_end_make_the_run_live() -> None:
    assert commands_after(job("return 1"), [started(), 5]) == [Complete(values.encode(1))]


def test_restarted_resolves_nothing() -> None:
    digest = asked("step", "a", (), {})
    done = StepSucceeded(BASE_MS, "a#1", digest, "", 1, 0, values.encode(7))
    entries = [started(), done, 4, Restarted(BASE_MS, 2, keeps_events=True)]
    assert commands_after(job('return await step.do("a", print)'), entries) == [Complete(values.encode(7))]


def test_delayed_start_begins_when_it_is_due_with_the_latest_payload() -> None:
    body = "return [event.payload, event.timestamp.timestamp(), event.schedule]"
    options = StartOptions(start_at_ms=BASE_MS + 5000, schedule="nightly")
    entries = [
        started("first", options),
        Paused(BASE_MS),
        Rescheduled(BASE_MS, values.encode("second"), BASE_MS + 9000),
        StartDue(BASE_MS + 9000),
    ]
    expected = ["second", BASE_MS / 1000 + 9, "nightly"]
    assert commands_after(job(body), entries) == [Complete(values.encode(expected))]


def test_journal_that_begins_with_something_else_is_a_divergence() -> None:
    (diverge,) = commands_after(job("return 1"), [Paused(BASE_MS)])
    assert diverge.message == "the journal does not begin with Started"


def test_continue_says_the_payload() -> None:
    assert commands_after(job("self.continue_as_new([1])"), [started()]) == [Continue(values.encode([1]))]


@pytest.mark.parametrize("order", range(3))
def test_eviction_between_executions_changes_nothing(order: int) -> None:
    body = """
async with asyncio.TaskGroup() as group:
    group.create_task(step.do("a", lambda: 1))
    group.create_task(step.sleep("nap", 1))
if event.payload != 2:
    self.continue_as_new(2)
return "end"
"""
    story = Story("Job", order=order)
    assert play(job(body), story, evict=True).kinds() == play(job(body), Story("Job", order=order)).kinds()
