"""What `run()` gives up is given up durably: live, and at the same place of every replay."""

from __future__ import annotations

import pytest

from tests.executor.fake_executor import Story, play
from tests.executor.sandbox.test_run import job

TIMEOUT = """
try:
    async with asyncio.timeout(30):
        await step.wait_for_event("left", type="never")
except TimeoutError:
    seen = "timeout"
await step.do("after", lambda: 1)
return seen
"""
TASK_GROUP = """
async def waits():
    await step.wait_for_event("left", type="never")
def boom():
    raise NonRetryableError("boom")
seen = ""
try:
    async with asyncio.TaskGroup() as group:
        group.create_task(waits())
        group.create_task(step.do("boom", boom))
except* StepFailed as failed:
    seen = failed.exceptions[0].error_message
await step.sleep("after", 1)
return seen
"""
CANCEL = """
async def naps():
    await step.sleep("left", "1 day")
task = asyncio.create_task(naps())
await step.do("first", lambda: 1)
task.cancel()
await step.do("after", lambda: 1)
return str(task.cancelled())
"""
WAIT = """
tasks = [asyncio.create_task(step.sleep("left", 900)), asyncio.create_task(step.sleep("won", 5))]
done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
for task in others:
    task.cancel()
await step.do("after", lambda: 1)
return str([tasks.index(task) for task in done])
"""


@pytest.mark.parametrize(
    ("body", "result"),
    [(TIMEOUT, "timeout"), (TASK_GROUP, "boom"), (CANCEL, "True"), (WAIT, "[1]")],
    ids=["asyncio.timeout", "task group", "task.cancel()", "asyncio.wait"],
)
def test_what_run_gives_up_is_given_up_at_the_same_place_in_every_replay(body: str, result: str) -> None:
    for order in range(3):
        whole = play(job(body), Story("Job", order=order))
        assert whole.result == result
        kinds = whole.kinds()
        assert kinds.count("Cancelled left#1") == 1
        assert kinds.index("Cancelled left#1") < kinds.index("Completed")
        for length in whole.cuts[:-1]:
            again = play(job(body), whole.prefix(length))
            assert (again.result, again.kinds()) == (result, kinds)
        assert play(job(body), Story("Job", order=order), evict=True).kinds() == kinds
