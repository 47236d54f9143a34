"""self.facet inside the sandbox."""

from __future__ import annotations

import asyncio
import sqlite3

from executor.core.entries import AttemptFailed
from tests.executor.fake_executor import Story, in_process, play, subprocess_
from tests.executor.sandbox.test_run import job

TABLE = "create table if not exists log (id integer primary key, text)"


def rows(story: Story) -> list:
    """What the durable facet holds, read by another SQLite."""
    connection = sqlite3.connect(":memory:")
    connection.deserialize(story.image)
    found = connection.execute("select text from log order by id").fetchall()
    connection.close()
    return [text for (text,) in found]


BODY = f"""
def write(text):
    self.facet.execute("{TABLE}")
    self.facet.execute("insert into log (text) values (?)", [text])
    return self.facet.execute("select count(*) as n from log")[0]["n"]
async def write_async(text):
    return write(text)
counts = [await step.do("w", write, "one"), await step.do("w", write_async, "two")]
await step.sleep("s", 5)
counts.append(await step.do("w", write_async, "three"))
return counts
"""


def test_writes_of_steps_are_durable_with_their_results() -> None:
    for evict in (False, True):
        story = play(job(BODY), Story("Job"), evict=evict)
        assert story.result == [1, 2, 3]
        assert rows(story) == ["one", "two", "three"]


def test_facet_of_an_async_step_is_fetched_over_a_real_socket() -> None:
    async def main() -> Story:
        async with subprocess_(job(BODY)) as executor:
            stories = await asyncio.gather(*(executor.play(Story("Job", order=n), evict=n % 2 == 0) for n in range(4)))
            assert {tuple(story.result) for story in stories} == {(1, 2, 3)}
            return stories[0]

    assert rows(asyncio.run(main())) == ["one", "two", "three"]


def test_failed_attempt_is_rolled_back() -> None:
    body = f"""
def write():
    self.facet.execute("{TABLE}")
    self.facet.execute("insert into log (text) values (?)", [step.current().attempt])
    if step.current().attempt < 3:
        raise ValueError("again")
await step.do("w", write)
"""
    story = play(job(body), Story("Job"))
    assert story.kinds()[1:4] == ["AttemptFailed w#1", "AttemptFailed w#1", "StepSucceeded w#1"]
    assert rows(story) == [3]


def test_result_that_is_refused_rolls_back_too() -> None:
    body = f"""
def write():
    self.facet.execute("{TABLE}")
    return {{1}}
try:
    await step.do("bad", write)
except StepFailed:
    pass
return await step.do("look", lambda: self.facet.execute("select count(*) from sqlite_master")[0][0])
"""
    assert play(job(body), Story("Job")).result == 0


def test_rows_are_values() -> None:
    body = f"""
def read():
    self.facet.execute("{TABLE}")
    self.facet.executemany("insert into log (text) values (?)", [["a"], ["b"]])
    return self.facet.execute("select * from log")
return await step.do("r", read)
"""
    assert play(job(body), Story("Job")).result == [[1, "a"], [2, "b"]]


def test_facet_in_run_or_outside_says_where_it_works() -> None:
    failed = play(job('self.facet.execute("select 1")'), Story("Job")).error
    assert failed.message == (
        'self.facet.execute() was called in run(); call it inside a step: await step.do("name", function)'
    )
    source = job(
        "return 1", "try:\n    Workflow().facet.execute('select 1')\nexcept NotHere as error:\n    said = str(error)"
    )
    assert play(source.replace("return 1", "return said"), Story("Job")).result == (
        "self.facet.execute() was called outside of a step; only a step of a running instance has a facet"
    )


def test_sync_steps_wait_for_each_other() -> None:
    body = f"""
import time
def write(n):
    self.facet.execute("{TABLE}")
    self.facet.execute("insert into log (text) values (?)", [n])
    return self.facet.execute("select count(*) from log")[0][0]
return sorted(await asyncio.gather(*(step.do("w", write, n) for n in range(6))))
"""
    story = play(job(body), Story("Job"))
    assert story.result == [1, 2, 3, 4, 5, 6]
    assert sorted(rows(story)) == [0, 1, 2, 3, 4, 5]


def test_async_step_that_finds_the_facet_taken_fails_retryably_and_exclusive_waits() -> None:
    body = f"""
taken, tried = asyncio.Event(), asyncio.Event()
async def first():
    self.facet.execute("{TABLE}")
    taken.set()
    await tried.wait()
async def second():
    await taken.wait()
    try:
        self.facet.execute("select 1")
    except FacetBusy as busy:
        tried.set()
        async with self.facet.exclusive():
            self.facet.execute("insert into log (text) values ('second')")
        return str(busy)
return (await asyncio.gather(step.do("1", first), step.do("2", second)))[1]
"""
    # The events belong to the ordinary loop: they are made before the run and shared by its steps.
    above = "taken = tried = None\n"
    body = body.replace("taken, tried = asyncio.Event(), asyncio.Event()\n", "")
    body = body.replace("async def first():", "async def first():\n    await set_up()")
    body = body.replace("async def second():", "async def second():\n    await set_up()")
    above += "async def set_up():\n    global taken, tried\n    taken = taken or asyncio.Event()\n    tried = tried or asyncio.Event()\n"
    story = play(job(body, above), Story("Job"))
    assert story.result == (
        "another step of this instance holds the facet until it ends; "
        "wait for it with `async with self.facet.exclusive():`, or run the steps one after the other"
    )
    assert rows(story) == ["second"]


def test_async_step_that_found_the_facet_taken_is_retried() -> None:
    body = f"""
async def first():
    self.facet.execute("{TABLE}")
    await set_up()
    taken.set()
    await tried.wait()
async def second():
    await set_up()
    if step.current().attempt == 1:
        await taken.wait()
    tried.set()
    self.facet.execute("insert into log (text) values (?)", [step.current().attempt])
await asyncio.gather(step.do("1", first), step.do("2", second))
"""
    above = "taken = tried = None\nasync def set_up():\n    global taken, tried\n    taken = taken or asyncio.Event()\n    tried = tried or asyncio.Event()\n"
    story = play(job(body, above), Story("Job"))
    [failed] = [entry for entry in story.journal if isinstance(entry, AttemptFailed)]
    assert (failed.path, failed.error.type, failed.error.retryable) == ("2#1", "executor.workflow.FacetBusy", True)
    assert rows(story) == [2]


def test_attempt_that_timed_out_cannot_write_any_more() -> None:
    source = job(
        f"""
def slow():
    self.facet.execute("{TABLE}")
    self.facet.execute("insert into log (text) values ('lost')")
    gate.wait()
    try:
        self.facet.execute("insert into log (text) values ('late')")
    except NotHere as error:
        said.append(str(error))
    done.set()
try:
    await step.options(timeout="50 ms", retry=Retry(limit=0)).do("slow", slow)
except StepTimeout:
    pass
def after():
    gate.set()
    done.wait()
    self.facet.execute("{TABLE}")
    self.facet.execute("insert into log (text) values ('kept')")
    return said
return await step.do("after", after)
""",
        "import threading\ngate, done, said = threading.Event(), threading.Event(), []",
    )
    story = play(source, Story("Job"))
    assert story.result == ["this attempt of the step is over (timed out, cancelled or finished); its facet is closed"]
    assert rows(story) == ["kept"]


def test_facets_of_two_instances_are_two() -> None:
    async def main() -> list[Story]:
        async with in_process(job(BODY)) as executor:
            return await asyncio.gather(*(executor.play(Story("Job")) for _ in range(3)))

    for story in asyncio.run(main()):
        assert story.result == [1, 2, 3]


# --- large facets: their pages come as statements touch them

LARGE = f"""
def fill(first):
    self.facet.execute("{TABLE}")
    self.facet.executemany("insert into log values (?, ?)", [(first + n, str(first + n) * 50) for n in range(1000)])
def write(text):
    self.facet.execute("insert into log (text) values (?)", [text])
    return len(self.facet.execute("select text from log where id = 777")[0]["text"])
async def write_async(text):
    return write(text)
async def count():
    return self.facet.execute("select count(*) from log")[0][0]
for first in (0, 1000, 2000):
    await step.do("fill", fill, first)
found = [await step.do("w", write, "one"), await step.do("w", write_async, "two")]
await step.sleep("s", 5)
found.append(await step.do("w", write_async, "three"))
both = await asyncio.gather(step.do("l", write, "four"), step.do("r", write, "five"))
return found + both + [await step.do("c", count)]
"""


def test_a_large_facet_gives_the_same_as_a_small_one() -> None:
    async def main(paged_bytes_min: int, *, apart: bool, evict: bool) -> tuple[Story, int]:
        opened = subprocess_ if apart else in_process
        async with opened(job(LARGE, "import asyncio")) as executor:
            executor.paged_bytes_min = paged_bytes_min
            story = await executor.play(Story("Job"), evict=evict)
            return story, len(executor.asked_pages)

    whole, asked = asyncio.run(main(10**9, apart=False, evict=True))
    assert asked == 0
    assert len(whole.image) > 500_000
    for apart in (False, True):
        for evict in (False, True):
            paged, asked = asyncio.run(main(100_000, apart=apart, evict=evict))
            assert asked >= 10 if evict else not asked, "a run that made the facet itself has it"
            assert paged.result == whole.result == [150, 150, 150, 150, 150, 3005]
            assert sorted(rows(paged)) == sorted(rows(whole))


def test_pages_that_cannot_be_had_fail_the_attempt_and_the_next_one_gets_them() -> None:
    async def main() -> Story:
        async with subprocess_(job(LARGE, "import asyncio")) as executor:
            executor.paged_bytes_min = 100_000
            executor.failing_pages = 3
            return await executor.play(Story("Job"), evict=True)

    story = asyncio.run(main())
    assert story.result[-1] == 3005
    failed = [entry.error.message for entry in story.journal if isinstance(entry, AttemptFailed)]
    assert len(failed) == 3
    assert all("its pages are damaged" in message for message in failed)
