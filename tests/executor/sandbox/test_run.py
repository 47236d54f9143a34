"""One run inside the sandbox, driven by the fake executor."""

from __future__ import annotations

import pytest

from tests.executor.fake_executor import BASE_MS, Story, play

HEAD = """
import asyncio
from executor.workflow import *

class Job(Workflow):
    async def run(self, event, step):
"""


def job(body: str, above: str = "") -> str:
    """Source of a workflow `Job` with this body of `run`."""
    indented = "\n".join("        " + line for line in body.strip("\n").split("\n"))
    return HEAD.replace("class Job", above + "\nclass Job") + indented


def result(body: str, above: str = "", **story) -> object:
    return play(job(body, above), Story("Job", **story)).result


def error(body: str, above: str = "", **story):
    return play(job(body, above), Story("Job", **story)).error


def test_step_result_is_journaled_and_returned() -> None:
    story = play(job('return await step.do("double", lambda x: 2 * x, event.payload)'), Story("Job", payload=21))
    assert story.result == 42
    assert story.kinds() == ["Started", "StepSucceeded double#1", "Completed"]
    assert story.journal[1].where == "workflows.py:8"


def test_run_sees_the_decoded_value_not_the_one_that_was_returned() -> None:
    assert result('value = await step.do("t", lambda: ((1, 2), {"k": ()}))\nreturn [repr(value)]') == [
        "[[1, 2], {'k': []}]"
    ]


def test_same_name_twice_is_two_steps() -> None:
    story = play(job('return [await step.do("n", lambda i=i: i) for i in range(3)]'), Story("Job"))
    assert story.result == [0, 1, 2]
    assert story.kinds()[1:4] == ["StepSucceeded n#1", "StepSucceeded n#2", "StepSucceeded n#3"]


def test_event_has_identity_and_time() -> None:
    body = "return [event.instance_id, event.workflow, event.commit, event.timestamp.timestamp(), event.schedule]"
    assert result(body, id="i-1") == ["i-1", "Job", "c" * 40, BASE_MS / 1000, None]


def test_decorator_form_carries_options() -> None:
    body = """
attempts = []
@step.do("flaky", retry=Retry(limit=2, delay="1 second", jitter=0))
async def flaky(factor):
    if step.current().attempt < 3:
        raise ValueError("not yet")
    return factor * step.current().attempt
return await flaky(10)
"""
    story = play(job(body), Story("Job"))
    assert story.result == 30
    assert story.kinds() == [
        "Started",
        "AttemptFailed flaky#1",
        "AttemptFailed flaky#1",
        "StepSucceeded flaky#1",
        "Completed",
    ]
    first = story.journal[1]
    assert (first.error.type, first.error.message, first.limit) == ("ValueError", "not yet", 2)
    assert "workflows.py" in first.error.traceback
    assert "executor" not in first.error.traceback


def test_options_form_is_the_same_as_the_decorator() -> None:
    body = """
def fail():
    raise ValueError("no")
try:
    await step.options(retry=Retry(limit=1)).do("s", fail)
except StepFailed as failed:
    return [failed.step, failed.attempts, failed.error_type, failed.error_message, str(failed)]
"""
    assert result(body) == ["s#1", 2, "ValueError", "no", 'step "s#1" failed after 2 attempts: ValueError: no']


def test_non_retryable_error_fails_the_step_at_once() -> None:
    failed = error('await step.do("pay", pay)', 'def pay():\n    raise NonRetryableError("card is blocked")')
    assert failed.type == "executor.workflow.StepFailed"
    assert failed.message == (
        'step "pay#1" failed after 1 attempt: executor.workflow.NonRetryableError: card is blocked'
    )
    assert failed.code == "step_failed"


@pytest.mark.parametrize(
    "kind",
    [
        "async def slow():\n    await asyncio.Event().wait()",
        "import threading\ngate = threading.Event()\ndef slow():\n    gate.wait(0.2)",
    ],
)
def test_attempt_over_its_timeout_is_a_step_timeout(kind: str) -> None:
    body = """
try:
    await step.options(timeout="20 ms", retry=Retry(limit=0)).do("slow", slow)
except StepTimeout as timeout:
    return [timeout.step, timeout.error_message]
"""
    assert result(body, kind) == ["slow#1", "the attempt did not end within 0.02 s"]


def test_heartbeat_too_long_away_is_a_step_timeout_too() -> None:
    body = """
async def silent():
    await asyncio.Event().wait()
try:
    await step.options(heartbeat="20 ms", retry=Retry(limit=0)).do("silent", silent)
except StepTimeout as timeout:
    return [type(timeout).__name__, timeout.step, timeout.error_message]
"""
    assert result(body) == ["HeartbeatTimeout", "silent#1", "the attempt sent no heartbeat for 0.02 s"]


def test_sleep_waits_for_the_clock() -> None:
    body = 'import time\nbefore = time.time()\nawait step.sleep("nap", "1 day")\nreturn time.time() - before'
    assert result(body) == 86_400


def test_sleep_until_takes_an_instant() -> None:
    body = """
import time
from datetime import datetime, timedelta, timezone
await step.sleep_until("dawn", datetime.now(timezone.utc) + timedelta(hours=6))
await step.sleep_until("past", datetime.now(timezone.utc) - timedelta(hours=6))
return time.time()
"""
    assert result(body) == BASE_MS / 1000 + 6 * 3600


def test_event_answers_a_wait() -> None:
    body = 'got = await step.wait_for_event("approval", type="ok")\nreturn [got.payload, got.type, got.id]'
    assert result(body, events=[("ok", {"by": "kim"})]) == [{"by": "kim"}, "ok", "event-0"]


def test_wait_over_its_timeout_raises_event_timeout() -> None:
    body = """
try:
    await step.wait_for_event("approval", type="ok", timeout="1 hour")
except EventTimeout as timeout:
    return str(timeout)
"""
    assert result(body) == "wait \"approval#1\" ended without an event of type 'ok'"


def test_gather_runs_steps_at_once_and_keeps_their_order() -> None:
    body = 'return await asyncio.gather(*(step.do(f"s{i}", lambda i=i: i) for i in range(5)))'
    for order in range(5):
        assert result(body, order=order) == [0, 1, 2, 3, 4]


def test_asyncio_timeout_cancels_what_it_holds_durably() -> None:
    body = """
try:
    async with asyncio.timeout(30):
        await step.wait_for_event("never", type="never")
except TimeoutError:
    return "timed out"
"""
    story = play(job(body), Story("Job"))
    assert story.result == "timed out"
    assert story.kinds() == [
        "Started",
        "SleepStarted asyncio timer#1",
        "WaitStarted never#1",
        "SleepEnded asyncio timer#1",
        "Completed",
    ]


def test_timer_that_is_not_needed_any_more_is_cancelled() -> None:
    body = """
async with asyncio.timeout(30):
    await step.do("quick", lambda: 1)
await step.sleep("later", 100)
return "done"
"""
    for order in range(6):
        story = play(job(body), Story("Job", order=order))
        if story.kinds()[2] == "StepSucceeded quick#1":
            assert "Cancelled asyncio timer#1" in story.kinds()
            assert story.result == "done"
            return
    pytest.fail("no order let the step end before the timer")


def test_taskgroup_failure_cancels_the_siblings() -> None:
    body = """
async def forever():
    await step.wait_for_event("never", type="never")
def boom():
    raise NonRetryableError("boom")
try:
    async with asyncio.TaskGroup() as group:
        group.create_task(forever())
        group.create_task(step.do("boom", boom))
except* StepFailed as failed:
    return [e.error_message for e in failed.exceptions]
"""
    assert result(body.replace("    return [e.error", "    seen = [e.error") + "\nreturn seen") == ["boom"]


def test_queue_lock_event_and_semaphore_work_between_tasks() -> None:
    body = """
queue, lock, seen, gate, begin = asyncio.Queue(), asyncio.Lock(), [], asyncio.Semaphore(2), asyncio.Event()
async def worker(n):
    await begin.wait()
    while (item := await queue.get()) is not None:
        async with gate, lock:
            seen.append([n, await step.do("work", lambda: item * 2)])
workers = [asyncio.create_task(worker(n)) for n in range(3)]
for item in [1, 2, 3, 4, None, None, None]:
    queue.put_nowait(item)
await step.do("first", lambda: 1)
assert not seen
begin.set()
await asyncio.gather(*workers)
return sorted(item for _, item in seen)
"""
    assert result(body) == [2, 4, 6, 8]


def test_step_that_is_never_awaited_fails_the_run() -> None:
    failed = error('step.do("email", lambda: 1)\nreturn 1')
    assert failed.type == "NeverAwaited"
    assert failed.message == (
        "'email' at workflows.py:8 was called but never awaited, so it did not happen; write `await step.…`"
    )


def test_task_left_behind_is_cancelled_at_the_end_of_run() -> None:
    body = """
async def forever():
    try:
        await step.wait_for_event("never", type="never")
    finally:
        print("cancelled")
task = asyncio.create_task(forever())
await step.do("a", lambda: 1)
return "done"
"""
    story = play(job(body), Story("Job"))
    assert story.result == "done"
    assert story.printed == ["cancelled"]


def test_exception_of_a_background_task_is_told_in_the_log() -> None:
    body = """
async def fail():
    raise ValueError("lost")
task = asyncio.create_task(fail(), name="background")
await step.do("a", lambda: 1)
return "done"
"""
    story = play(job(body), Story("Job"))
    assert story.printed == ["the exception of task 'background' was never looked at: ValueError: lost"]


@pytest.mark.parametrize("stop", ["raise SystemExit(3)", "raise KeyboardInterrupt", "import sys; sys.exit('bye')"])
def test_leaving_the_interpreter_in_run_only_fails_the_instance(stop: str) -> None:
    assert error(stop).type in {"SystemExit", "KeyboardInterrupt"}


@pytest.mark.parametrize("form", ["def stop(): raise SystemExit(3)", "async def stop(): raise SystemExit(3)"])
def test_leaving_the_interpreter_in_a_step_only_fails_the_attempt(form: str) -> None:
    failed = error('await step.options(retry=Retry(limit=0)).do("stop", stop)', form)
    assert failed.message == 'step "stop#1" failed after 1 attempt: SystemExit: 3'


def test_run_that_spins_fails_instead_of_hanging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("executor.sandbox.detloop.CALLBACKS_MAX", 1000)
    failed = error("while True:\n    await asyncio.sleep(0)")
    assert failed.message == (
        "run() made 1000 turns without waiting for anything durable; "
        "wait with step.sleep() or step.wait_for_event() instead of spinning"
    )


def test_value_that_cannot_be_journaled_fails_the_step_with_its_place() -> None:
    failed = error('await step.do("s", lambda: {"items": [1, {2}]})')
    assert failed.message == (
        'step "s#1" failed after 1 attempt: Refused: result["items"][1]: a set. Return sorted(the_set), a list.'
    )


def test_unknown_workflow_fails_and_names_what_there_is() -> None:
    story = play(job("return 1"), Story("Jobb"))
    assert story.error.message == "this version has no workflow 'Jobb'; it has Job"


def test_wrong_payload_type_fails_with_its_place() -> None:
    source = """
from dataclasses import dataclass
from executor.workflow import *
@dataclass
class Signup:
    email: str
    age: int = 0
@dataclass
class Report:
    to: Signup
class Job(Workflow[Signup, Report]):
    async def run(self, event, step):
        return await step.do("report", report, event.payload)
def report(signup: Signup) -> Report:
    return Report(signup)
"""
    assert play(source, Story("Job", payload={"email": "a@b.c"})).result == {"to": {"email": "a@b.c", "age": 0}}
    failed = play(source, Story("Job", payload={"email": 3})).error
    assert "Expected `str`, got `int` - at `$.email`" in failed.message
    assert failed.code == "value_refused"


def test_step_inside_a_step_is_refused() -> None:
    body = """
async def outer():
    await step.do("inner", lambda: 1)
await step.options(retry=Retry(limit=0)).do("outer", outer)
"""
    assert error(body).message.endswith(
        "step 'inner' was asked for outside of run() (steps do not nest): "
        "call it from run(), or call the function itself"
    )


def test_option_of_a_later_release_is_refused_not_ignored() -> None:
    failed = error('@step.do("a", isolation=1)\ndef a(): pass')
    assert failed.message == "step option isolation= is not supported by this release; leave it out"


def test_option_in_the_direct_form_is_pointed_to_the_right_place() -> None:
    failed = error('await step.do("a", lambda: 1, retry=Retry())')
    assert failed.message.startswith("retry= would go to the step's function, which does not take it.")


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("await asyncio.to_thread(print)", "run_in_executor()"),
        ("import threading; threading.Thread(target=print).start()", "starting a thread"),
        ("import subprocess; subprocess.run(['true'])", "starting a process"),
        ("import socket; socket.socket()", "opening a socket"),
        ("await asyncio.open_connection('127.0.0.1', 1)", "create_connection()"),
    ],
)
def test_outside_world_in_run_is_refused_and_names_the_step(code: str, what: str) -> None:
    failed = error(code)
    assert failed.type == "executor.workflow.NotHere"
    assert failed.message == (
        f"{what} is not available in run(), which must do the same on every replay; "
        'put the work into a step: await step.do("name", function)'
    )


def test_time_sleep_in_run_is_refused() -> None:
    assert error("import time; time.sleep(1)").message == (
        'time.sleep() is not available in run(); write: await step.sleep("name", seconds)'
    )


def test_eviction_at_every_turn_changes_nothing() -> None:
    body = """
import random, uuid
seen = [random.random(), str(uuid.uuid4())]
seen += await asyncio.gather(*(step.do("p", lambda i=i: i) for i in range(3)))
await step.sleep("s", 10)
seen.append(random.random())
try:
    async with asyncio.timeout(1000):
        seen.append((await step.wait_for_event("w", type="e")).payload)
except TimeoutError:
    seen.append("too late")
seen.append(await step.do("last", lambda: "z"))
return seen
"""
    for order in range(4):
        unbroken = play(job(body), Story("Job", events=[("e", 1)], order=order))
        evicted = play(job(body), Story("Job", events=[("e", 1)], order=order), evict=True)
        assert evicted.result == unbroken.result
        assert evicted.kinds() == unbroken.kinds()


def test_changed_code_is_a_divergence_that_names_both_sides() -> None:
    before = job('a = await step.do("charge", lambda: 1)\nawait step.sleep("s", 1)')
    story = play(before, Story("Job"), entries_max=3)
    after = job('a = await step.do("charge card", lambda: 1)\nawait step.sleep("s", 1)')
    held = play(after, story.prefix(3)).held
    assert held is not None
    assert held.message.startswith(
        'the journal records step "charge#1" (workflows.py:8) (entry 2), '
        'but here the code asks for step "charge card#1" (workflows.py:8). Commit and journal are the same as then'
    )
    assert held.recorded.path == "charge#1"
    assert held.requested.path == "charge card#1"


def test_divergence_of_code_with_memory_in_a_global() -> None:
    source = job('count.append(1)\nreturn await step.do(f"s{len(count)}", lambda: 1)', "count = []")

    import asyncio

    from tests.executor.fake_executor import in_process

    async def main():
        async with in_process(source) as executor:
            story = await executor.play(Story("Job"))
            return await executor.play(story.prefix(2))

    assert 'here the code asks for step "s2#1"' in asyncio.run(main()).held.message
