"""Updates and queries: requests from outside to one run."""

from __future__ import annotations

import asyncio

import pytest

from executor.core import values
from executor.core.commands import AcceptUpdate, Complete, EndUpdate
from executor.core.entries import StepSucceeded, UpdateAccepted, UpdateEnded
from executor.sandbox.protocol import Answer, Ask, Update
from tests.executor.fake_executor import Story, in_process, play
from tests.executor.sandbox.test_run import job

CART = """
import asyncio
from executor.workflow import *

class Job(Workflow):
    def __init__(self):
        self.items = []
        self.closed = asyncio.Event()

    async def run(self, event, step):
        await step.do("open", lambda: 1)
        while len(self.items) < event.payload:
            await step.sleep("look", 1000)
        return self.items

    @Workflow.update
    async def add(self, item: str, step) -> int:
        price = await step.do("price", len, item)
        await step.do("price", len, item)
        self.items.append([item, price])
        return len(self.items)

    @add.validator
    def check(self, item):
        if item == "bad":
            raise ValueError("no such item")

    @Workflow.update
    def clear(self):
        self.items.clear()

    @Workflow.update
    async def fail(self, payload):
        raise ValueError("it failed")

    @Workflow.query
    def total(self, payload):
        return sum(price for _, price in self.items) + (payload or 0)

    @Workflow.query
    def ask_for_a_step(self, payload):
        payload["step"].do
"""


def ended(story: Story) -> list:
    return [entry for entry in story.journal if isinstance(entry, UpdateEnded)]


def test_accepted_update_runs_its_handler_whose_steps_have_their_own_scope() -> None:
    story = play(CART, Story("Job", payload=1, updates=[("add", "pear")]))
    assert story.result == [["pear", 4]]
    accepted = next(entry for entry in story.journal if isinstance(entry, UpdateAccepted))
    assert (accepted.id, accepted.name, values.decode(accepted.payload)) == ("update-1", "add", "pear")
    kinds = story.kinds()
    assert [kind for kind in kinds if "update/" in kind] == [
        "StepSucceeded update/add/update-1/price#1",
        "StepSucceeded update/add/update-1/price#2",
    ]
    (end,) = ended(story)
    assert (end.id, values.decode(end.value), end.error) == ("update-1", 1, None)


def test_updates_replay_from_every_prefix() -> None:
    updates = [("add", "pear"), ("clear", None), ("add", "fig"), ("fail", 1), ("add", "kiwi")]
    for order in range(4):
        whole = play(CART, Story("Job", payload=1, updates=updates, order=order))
        for length in whole.cuts[:-1]:
            again = play(CART, whole.prefix(length))
            assert again.result == whole.result
            assert again.kinds() == whole.kinds()
            assert [entry.value for entry in ended(again)] == [entry.value for entry in ended(whole)]
        assert play(CART, Story("Job", payload=1, updates=updates, order=order), evict=True).kinds() == whole.kinds()


def test_failure_of_a_handler_is_its_answer_and_the_run_goes_on() -> None:
    story = play(CART, Story("Job", payload=1, updates=[("fail", 1), ("add", "fig")]))
    failed = next(entry for entry in ended(story) if entry.error is not None)
    assert (failed.error.type, failed.error.message, failed.error.code) == ("ValueError", "it failed", "update_failed")
    assert "workflows.py" in failed.error.traceback
    assert story.result == [["fig", 3]]


@pytest.mark.parametrize(
    ("name", "payload", "message"),
    [
        ("add", "bad", "no such item"),
        ("remove", 1, "workflow 'Job' has no update 'remove'; it has add, clear, fail"),
    ],
)
def test_refused_update_is_answered_and_leaves_nothing(name: str, payload: object, message: str) -> None:
    story = play(CART, Story("Job", payload=1, updates=[(name, payload), ("add", "fig")]))
    (answer,) = story.answers
    assert (answer.value, answer.error.message, answer.error.code) == (None, message, "update_refused")
    assert len([entry for entry in story.journal if isinstance(entry, UpdateAccepted)]) == 1


async def talk(executor, story: Story, run: int, *frames) -> list:
    """Send frames to a run and give what it answers, and what it asks for."""
    executor.link.send(list(frames))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    found: list = []
    inbox = executor._inboxes[run]
    while not inbox.empty():
        found += inbox.get_nowait().commands
    found += story.answers
    story.answers.clear()
    return found


def in_cart(main, payload: object = 9):
    async def outer():
        async with in_process(CART) as executor:
            story = await executor.play(Story("Job", payload=payload), entries_max=3)
            run = executor.activate(story)
            await executor.until_idle(run)
            return await main(executor, story, run)

    return asyncio.run(outer())


def test_query_looks_without_leaving_anything() -> None:
    async def main(executor, story, run) -> None:
        asked = await talk(executor, story, run, Ask(run, 7, "total", values.encode(5)))
        assert asked == [Answer(run, 7, values.encode(5), None)]
        assert len(story.stored) == 3

    in_cart(main)


@pytest.mark.parametrize(
    "body", ['await step.sleep("nap", 5)', "self.status = 1\nself.set_attributes(n=1)", "return 1"]
)
def test_run_of_a_paused_instance_answers_and_goes_no_further(body: str) -> None:
    """What it would do next belongs to the time after the pause."""
    query = "    @Workflow.query\n    def total(self, payload):\n        return payload\n"

    async def main() -> None:
        async with in_process(
            job(body).replace("class Job(Workflow):\n", "class Job(Workflow):\n" + query)
        ) as executor:
            story = Story("Job")
            run = executor.activate(story, paused=True)
            assert await executor.until_idle(run) == []
            assert await talk(executor, story, run, Ask(run, 7, "total", values.encode(5))) == [
                Answer(run, 7, values.encode(5), None)
            ]
            executor.drop(run)

    asyncio.run(main())


def test_unknown_query_names_those_that_there_are() -> None:
    async def main(executor, story, run) -> None:
        (answer,) = await talk(executor, story, run, Ask(run, 1, "sum", values.encode(None)))
        assert answer.error.message == "workflow 'Job' has no query 'sum'; it has ask_for_a_step, total"

    in_cart(main)


def test_request_that_comes_before_the_journal_is_answered_when_it_is_there() -> None:
    async def main() -> None:
        async with in_process(CART) as executor:
            story = Story("Job", payload=9).begin()
            run = executor.activate(story.prefix(0), chunk=1)  # of another journal: it is dropped at once
            executor.drop(run)
            from executor.sandbox.protocol import Activate, Entries

            executor._stories[5], executor._inboxes[5] = story, asyncio.Queue()
            executor.link.send([Activate(5, "i", "Job", "c" * 40, 1)])
            assert await talk(executor, story, 5, Ask(5, 1, "total", values.encode(1))) == []
            found = await talk(executor, story, 5, Entries(5, 1, story.stored))
            assert [f for f in found if isinstance(f, Answer)] == [Answer(5, 1, values.encode(1), None)]

    asyncio.run(main())


def test_update_is_accepted_once_however_often_it_comes() -> None:
    async def main(executor, story, run) -> None:
        frame = Update(run, 1, "u", "add", values.encode("fig"))
        assert await talk(executor, story, run, frame, frame) == [AcceptUpdate("u", "add", values.encode("fig"))]
        story.append(UpdateAccepted(story.now_ms, "u", "add", values.encode("fig")))
        executor.deliver(run, story, len(story.stored))
        assert await talk(executor, story, run, frame) == []

    in_cart(main)


def job_with(body: str, more: str) -> str:
    indented = "\n".join("    " + line for line in more.strip("\n").split("\n"))
    return job(body) + "\n\n" + indented


def test_validator_and_query_draw_nothing_from_the_chance_of_run() -> None:
    more = """
@Workflow.update
def poke(self, payload): pass
@poke.validator
def check(self, payload): look()
@Workflow.query
def look(self, payload): look()
"""
    above = "import random, uuid\ndef look():\n    print(random.random(), uuid.uuid4())"
    source = job_with('await step.sleep("nap", 1)\nreturn [random.random(), str(uuid.uuid4())]', more)
    source = source.replace("import asyncio", "import asyncio\n" + above, 1)

    async def main(asks: bool) -> object:
        async with in_process(source) as executor:
            story = Story("Job", updates=[("poke", 1)] if asks else [])
            await executor.play(story, entries_max=2)
            run = executor.activate(story)
            await executor.until_idle(run)
            if asks:
                await talk(executor, story, run, Ask(run, 1, "look", values.encode(None)))
            return (await executor.play(story)).result

    assert asyncio.run(main(True)) == asyncio.run(main(False))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("self.step.do('s', print)", "'s' was asked for outside of run() (steps do not nest)"),
        ("self.step.group('s')", "'s' was asked for outside of run() (steps do not nest)"),
        ("self.step.emit('s', 1)", "step.emit() works in run() only; a query or a validator changes nothing"),
        ("self.status = 1", "self.status works in run() only; a query or a validator changes nothing"),
        ("self.continue_as_new(1)", "self.continue_as_new() works in run() only"),
        ("asyncio.get_running_loop()", "no running event loop"),
    ],
)
def test_query_asks_for_nothing(code: str, message: str) -> None:
    source = job_with(
        'self.step = step\nawait step.sleep("nap", 1)', f"@Workflow.query\ndef look(self, payload):\n    {code}"
    )

    async def main() -> Answer:
        async with in_process(source) as executor:
            story = Story("Job")
            run = executor.activate(story)
            await executor.until_idle(run)
            (answer,) = await talk(executor, story, run, Ask(run, 1, "look", values.encode(None)))
            return answer

    answer = asyncio.run(main())
    assert message in answer.error.message
    assert answer.error.code == "query_failed"


def test_query_reads_the_status() -> None:
    source = job_with(
        'self.status = {"n": 1}\nawait step.sleep("nap", 1)', "@Workflow.query\ndef look(self): return self.status"
    )

    async def main() -> Answer:
        async with in_process(source) as executor:
            story = Story("Job")
            run = executor.activate(story)
            await executor.until_idle(run)
            (answer,) = await talk(executor, story, run, Ask(run, 1, "look", values.encode(None)))
            return answer

    assert values.decode(asyncio.run(main()).value) == {"n": 1}


SLOW = """
@Workflow.update
async def slow(self, payload, step):
    try:
        await step.sleep("slow", payload)
        with step.group("late"):
            return await asyncio.gather(step.do("a", lambda: 1), step.sleep("b", 1))
    finally:
        print("handled")
"""


def test_run_that_returns_waits_for_accepted_handlers() -> None:
    source = job_with('await step.sleep("nap", 10)\nreturn "done"', SLOW)
    for order in range(6):
        story = play(source, Story("Job", updates=[("slow", 500)], order=order))
        if not ended(story):
            continue  # run() had ended before it came
        assert story.result == "done"
        assert values.decode(ended(story)[0].value) == [1, None]
        assert story.kinds()[-2:] == ["UpdateEnded", "Completed"]
        for length in story.cuts[:-1]:
            assert play(source, story.prefix(length)).kinds() == story.kinds()
        return
    pytest.fail("no order let the update come in time")


def test_run_that_continues_as_new_waits_for_accepted_handlers_too() -> None:
    body = 'if event.payload:\n    return "done"\nawait step.sleep("nap", 10)\nself.continue_as_new(1)'
    source = job_with(body, SLOW)
    for order in range(6):
        story = play(source, Story("Job", updates=[("slow", 500)], order=order))
        if not ended(story):
            continue
        assert story.result == "done"
        assert values.decode(ended(story)[0].value) == [1, None]
        assert story.kinds()[-3:] == ["UpdateEnded", "Continued", "Completed"]
        for length in story.cuts[:-1]:
            assert play(source, story.prefix(length)).kinds() == story.kinds()
        return
    pytest.fail("no order let the update come in time")


def test_run_that_fails_cancels_handlers_and_answers_them() -> None:
    source = job_with('await step.sleep("nap", 10)\nraise ValueError("broken")', SLOW)
    for order in range(6):
        story = play(source, Story("Job", updates=[("slow", 500)], order=order))
        if not ended(story):
            continue
        (end,) = ended(story)
        assert (end.error.type, end.error.message) == ("ValueError", "broken")
        assert story.kinds()[-2:] == ["UpdateEnded", "Failed"]
        assert story.printed == ["handled"]
        for length in story.cuts[:-1]:
            assert play(source, story.prefix(length)).kinds() == story.kinds()
        return
    pytest.fail("no order let the update come in time")


def test_end_of_run_waits_for_an_update_that_is_about_to_be_recorded() -> None:
    async def main(executor, story, run) -> None:
        accept = await talk(executor, story, run, Update(run, 1, "u", "clear", values.encode(None)))
        wake = story.instance.next_wake_ms()
        from executor.core import decide

        first = len(story.stored) + 1
        story.append(*decide.on_clock(story.instance, wake).entries)
        executor.deliver(run, story, first)
        assert await executor.until_idle(run) == []  # run() has returned, the handler has not begun
        executor._append(story, accept[0])
        executor.deliver(run, story, first + 1)
        assert await executor.until_idle(run) == [
            EndUpdate("u", values.encode(None), None),
            Complete(values.encode([])),
        ]

    async def outer() -> None:
        async with in_process(CART.replace("while len(self.items) < event.payload", "for _ in range(1)")) as executor:
            story = await executor.play(Story("Job", payload=0), entries_max=3)
            run = executor.activate(story)
            await executor.until_idle(run)
            await main(executor, story, run)

    asyncio.run(outer())


def test_update_of_a_run_that_has_ended_is_refused() -> None:
    async def main() -> None:
        async with in_process(CART) as executor:
            story = Story("Job", payload=0)
            await executor.play(story, entries_max=2)
            run = executor.activate(story)
            assert [type(command) for command in await executor.until_idle(run)] == [Complete]
            (answer,) = await talk(executor, story, run, Update(run, 3, "u", "add", values.encode("fig")))
            assert (answer.number, answer.error.message) == (3, "run() has ended; there is nothing to update")

    asyncio.run(main())


def test_end_that_is_recorded_before_it_happens_here_is_a_divergence() -> None:
    whole = play(CART, Story("Job", payload=1, updates=[("add", "fig")]))
    journal = [entry for entry in whole.journal if not (isinstance(entry, StepSucceeded) and "update/" in entry.path)]
    story = Story("Job", payload=1)
    for entry in journal[:-1]:
        story.append(entry)
    held = play(CART, story).held
    assert held.message.startswith('the journal records that update "update-1" ended (entry ')


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("    @Workflow.query\n    async def look(self): pass", "query look() is async; a query only looks"),
        (
            "    @Workflow.update\n    def a(self, x): pass\n    @a.validator\n    async def look(self, x): pass",
            "the validator of update a() is async; write it with `def`",
        ),
        (
            "    @Workflow.query\n    def q(self): pass\n    @q.validator\n    def look(self): pass",
            "query q() has no validator: it changes nothing that would have to be refused",
        ),
        ("    @Workflow.update\n    def a(self, x, y, z): pass", "update Job.a has to take (self, payload, step)"),
        ("    @Workflow.query\n    def q(self, x, y): pass", "query Job.q has to take (self, payload)"),
    ],
)
def test_handler_that_cannot_be_one_stops_the_import(code: str, message: str) -> None:
    async def main() -> None:
        async with in_process(job("return 1") + "\n\n" + code):
            pass

    with pytest.raises((TypeError, ImportError)) as refused:
        asyncio.run(main())
    assert message in str(refused.value)


def test_handlers_of_a_base_class_count_and_a_handler_is_still_a_method() -> None:
    source = """
from executor.workflow import *
class Base(Workflow):
    @Workflow.update
    def twice(self, n): return 2 * n
class Job(Base):
    async def run(self, event, step):
        await step.sleep("nap", 1000)
        return self.twice(4)
"""

    async def main() -> None:
        async with in_process(source, workflows=[("Job", "workflows")]) as executor:
            stories = [await executor.play(Story("Job", updates=[("twice", 3)], order=order)) for order in range(6)]
        assert [story.result for story in stories] == [8] * 6
        assert 6 in [values.decode(entry.value) for story in stories for entry in ended(story)]

    asyncio.run(main())


def test_continue_as_new_in_a_handler_is_refused() -> None:
    source = job_with('await step.sleep("nap", 1000)', "@Workflow.update\ndef anew(self): self.continue_as_new(1)")
    for order in range(6):
        found = ended(play(source, Story("Job", updates=[("anew", None)], order=order)))
        if found:
            assert found[0].error.message == "self.continue_as_new() works in run() only"
            return
    pytest.fail("no order let the update come in time")


TYPED = """
from dataclasses import dataclass
@dataclass
class Item:
    n: int
"""


def test_handler_is_given_the_type_that_it_declares_and_gives_it_back() -> None:
    more = """
@Workflow.update
def add(self, item: Item) -> Item: return item if item.n else "nothing"
@Workflow.query
def look(self, item: Item): return [type(item).__name__, item.n]
"""
    source = job_with('await step.sleep("nap", 1000)', more).replace("import asyncio", "import asyncio\n" + TYPED, 1)
    misfit = (
        "{} does not fit its declared type Item: Expected `object`, got `{}`. Return what the annotation declares, "
    )

    async def main() -> None:
        async with in_process(source) as executor:
            story = Story("Job")
            run = executor.activate(story)
            await executor.until_idle(run)
            for payload, answer in (({"n": 1}, ["Item", 1]), ("x", None)):
                [told] = await talk(executor, story, run, Ask(run, 1, "look", values.encode(payload)))
                if answer is None:
                    assert told.error.message.startswith(misfit.format("payload", "str"))
                else:
                    assert values.decode(told.value) == answer

    asyncio.run(main())
    story = play(source, Story("Job", updates=[("add", 5), ("add", {"n": 1}), ("add", {"n": 0})]))
    [refused] = story.answers
    assert refused.error.code == "update_refused"
    assert refused.error.message.startswith(misfit.format("payload", "int"))
    good, bad = ended(story)
    assert values.decode(good.value) == {"n": 1}
    assert bad.error.message.startswith(misfit.format("result", "str"))
