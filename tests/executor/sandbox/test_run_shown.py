"""What one run shows: status, search attributes, items of output streams."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from executor.core import attributes, values
from executor.core.commands import Emit, SetAttributes, SetStatus
from executor.core.entries import AttributesSet, Emitted, Started, StartOptions, StatusSet
from tests.executor.fake_executor import BASE_MS, COMMIT, Story, in_process, play
from tests.executor.sandbox.test_run import error, job


def of(story: Story, kind: type) -> list:
    return [entry for entry in story.journal if isinstance(entry, kind)]


def first_commands(body: str, story: Story | None = None) -> list:
    """What a run asks for in its first turns."""

    async def main() -> list:
        async with in_process(job(body)) as executor:
            return await executor.until_idle(executor.activate(story or Story("Job")))

    return asyncio.run(main())


def test_last_status_goes_out_before_what_is_asked_next() -> None:
    status, sleep = first_commands('self.status = 1\nself.status = {"at": "nap"}\nawait step.sleep("nap", 1)')
    assert status == SetStatus(2, values.encode({"at": "nap"}))
    assert type(sleep).__name__ == "Sleep"


def test_status_is_numbered_by_its_assignments_and_never_recorded_twice() -> None:
    body = 'for n in range(4):\n    self.status = n\n    self.status = -n\n    await step.sleep("nap", 1)'
    whole = play(job(body), Story("Job"))
    assert [(e.number, values.decode(e.value)) for e in of(whole, StatusSet)] == [(2, 0), (4, -1), (6, -2), (8, -3)]
    for length in whole.cuts[:-1]:
        again = play(job(body), whole.prefix(length))
        assert [e.number for e in of(again, StatusSet)] == [2, 4, 6, 8]


def test_status_set_before_the_end_of_run_is_told_with_it() -> None:
    assert play(job("self.status = 'done'"), Story("Job")).kinds() == ["Started", "StatusSet", "Completed"]


def test_status_reads_as_the_last_value_and_is_a_copy() -> None:
    body = """
before = self.status
self.status = {"n": 1}
self.status["n"] = 2
await step.sleep("nap", 1)
return [before, self.status]
"""
    assert play(job(body), Story("Job"), evict=True).result == [None, {"n": 1}]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("self.status = 'x' * 5000", "status is 5003 bytes encoded, the limit is 4096"),
        ("self.status = {1}", "status: a set"),
        ("self.set_attributes(tags=['a'])", "tags"),
        ("self.set_attributes(**{f'a{n}': n for n in range(33)})", "32"),
        ("step.emit('', 1)", "the name of an output stream, '', is not 1 to 100 printable characters"),
    ],
)
def test_what_cannot_be_shown_is_refused_where_it_is_said(code: str, message: str) -> None:
    assert message in error(code).message


@pytest.mark.parametrize("code", ["self.status = 1", "self.status", "self.set_attributes(a=1)"])
def test_a_step_shows_nothing_by_self(code: str) -> None:
    body = f"def work():\n    {code}\nawait step.options(retry=Retry(limit=0)).do('work', work)"
    failed = error(body)
    assert "works in run() only; in a step return what run() needs for it" in failed.message


def test_attributes_of_one_turn_go_together_and_are_merged_with_those_from_the_start() -> None:
    body = """
self.set_attributes(customer="acme", paid=False)
self.set_attributes(paid=True, due=datetime(2024, 2, 29, tzinfo=timezone.utc), vip=None)
await step.sleep("nap", 1)
"""
    head = "from datetime import datetime, timezone"
    story = Story("Job")
    start = StartOptions(attributes=attributes.encode({"vip": True, "region": "eu"}))
    story.append(Started(BASE_MS, "Job", COMMIT, values.encode(None), story.seed, start))
    play(job(body, head), story)
    (recorded,) = of(story, AttributesSet)
    due = datetime(2024, 2, 29, tzinfo=UTC)
    assert recorded.number == 2
    assert attributes.decode(recorded.attributes) == {"customer": "acme", "paid": True, "due": due, "region": "eu"}


def test_attributes_are_recorded_once_in_any_continuation() -> None:
    body = 'for n in range(3):\n    self.set_attributes(n=n)\n    await step.sleep("nap", 1)'
    whole = play(job(body), Story("Job"))
    for length in whole.cuts[:-1]:
        assert [e.number for e in of(play(job(body), whole.prefix(length)), AttributesSet)] == [1, 2, 3]


def test_changes_that_are_recorded_are_left_out_of_the_next() -> None:
    body = 'self.set_attributes(a=1)\nself.set_attributes(b=2)\nawait step.sleep("nap", 1)'
    story = Story("Job").begin()
    story.append(AttributesSet(BASE_MS, 1, attributes.encode({"a": 1})))
    changes, _ = first_commands(body, story)
    assert changes == SetAttributes(2, values.encode({"b": 2}))


def test_items_of_a_stream_that_follow_each_other_go_together() -> None:
    body = 'for s, i in (("a", 1), ("a", 2), ("b", 3), ("a", 4)):\n    step.emit(s, i)\nawait step.sleep("nap", 1)'
    assert first_commands(body)[:-1] == [
        Emit("a", [values.encode(1), values.encode(2)], "", 0, 2),
        Emit("b", [values.encode(3)], "", 0, 3),
        Emit("a", [values.encode(4)], "", 0, 4),
    ]


def test_streams_have_each_item_once_in_any_continuation() -> None:
    body = """
for n in range(3):
    step.emit("log", n)
    step.emit("other", -n)
    await step.sleep("nap", 1)
"""
    whole = play(job(body), Story("Job"))
    for length in range(1, len(whole.stored)):  # also between the entries of one turn
        found = [(e.stream, e.first, [values.decode(i) for i in e.items]) for e in of(
            play(job(body), whole.prefix(length)), Emitted)]  # fmt: skip
        assert found == [(s, n, [v * n]) for n in range(3) for s, v in (("log", 1), ("other", -1))]


def test_item_emitted_by_a_step_is_not_counted_as_one_of_run() -> None:
    story = Story("Job").begin()
    story.append(Emitted(BASE_MS, "log", 0, [b"\x01"], "s#1", 1, 0))
    assert first_commands('step.emit("log", 1)\nawait step.sleep("nap", 1)', story)[0].number == 1
