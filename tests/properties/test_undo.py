"""P15: what undoes finished steps runs once for each of them, in reverse order of their start, whatever fails or dies."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from executor.core.entries import AnyEntry, Failed, StepFailed, StepSucceeded, Terminated, Undoing
from tests.executor.fake_executor import Story, in_process
from tests.properties.language import assert_same

QUICK = settings.default.max_examples if settings.default is not None else 50
SOURCE = """
import asyncio
from executor.workflow import *

class Job(Workflow):
    async def run(self, event, step):
        asked = []
        for number, part in enumerate(event.payload["parts"]):
            async def branch(place, calls):
                for call, kind, failures in calls:
                    name = f"{number}.{place}.{call}"
                    def undo(output, error, name=name, failures=failures):
                        assert output == name, output
                        if step.current().attempt <= failures:
                            raise ValueError(f"{name} will not be undone")
                        return name
                    def do(name=name, kind=kind):
                        if kind == "fails":
                            raise RuntimeError(name)
                        return name
                    undoing = {} if kind == "plain" else {"undo": Undo(undo, retry=Retry(limit=1, delay=2, jitter=0))}
                    mine = step.options(retry=Retry(limit=0), **undoing)
                    asked.append(f"{name}#1")
                    try:
                        await mine.do(name, do)
                    except StepFailed:
                        pass
            await asyncio.gather(*(branch(place, calls) for place, calls in enumerate(part)))
            if number % 2:
                await step.sleep(f"nap {number}", 1)
        if event.payload["waits"]:
            await step.wait_for_event("for ever", type="never")
        raise KeyError(asked)
"""
calls = st.tuples(
    st.integers(0, 99), st.sampled_from(["undoable", "undoable", "undoable", "plain", "fails"]), st.integers(0, 3)
)
branches = st.lists(calls, min_size=1, max_size=3, unique_by=lambda call: call[0])
parts = st.lists(st.lists(branches, min_size=1, max_size=3), min_size=1, max_size=3)


class Drops:
    """Drops the run at these turns, with all that was executing: a crash."""

    def __init__(self, numbers: set[int]) -> None:
        self.numbers = numbers
        self.turns = 0

    def __call__(self, story: Story) -> bool:
        self.turns += 1
        return self.turns in self.numbers


def undone(journal: list[AnyEntry]) -> list[StepSucceeded | StepFailed]:
    """Ends of undo steps, in the journal's order."""
    at = next(at for at, entry in enumerate(journal) if isinstance(entry, Undoing))
    return [entry for entry in journal[at:] if isinstance(entry, StepSucceeded | StepFailed)]


def finished(journal: list[AnyEntry]) -> set[str]:
    at = next(at for at, entry in enumerate(journal) if isinstance(entry, Undoing))
    return {entry.path for entry in journal[:at] if isinstance(entry, StepSucceeded)}


def kinds_of(payload: dict[str, Any]) -> dict[str, tuple[str, int]]:
    """What each step is, by path."""
    return {
        f"{number}.{place}.{call}#1": (kind, failures)
        for number, part in enumerate(payload["parts"])
        for place, branch in enumerate(part)
        for call, kind, failures in branch
    }


def check(story: Story, asked: list[str]) -> None:
    """`asked`: the paths of the steps in the order in which the run asked for them."""
    kinds = kinds_of(story.payload)
    journal = story.journal
    to_undo = [path for path in asked if path in finished(journal) and kinds[path][0] == "undoable"]
    ends = undone(journal)
    assert [end.path for end in ends] == [f"undo/{path}" for path in reversed(to_undo)]
    for end in ends:
        failures = kinds[end.path.removeprefix("undo/")][1]
        assert isinstance(end, StepFailed) == (failures > 1)
        assert end.attempt == min(failures, 1) + 1
    failed = [end.path.removeprefix("undo/") for end in ends if isinstance(end, StepFailed)]
    outcome = journal[-1]
    if isinstance(outcome, Failed):
        told = f" (and it could not be undone: {', '.join(failed)})" if failed else ""
        assert outcome.error.type == "KeyError"
        assert outcome.error.message.endswith("]" + told)
    else:
        assert isinstance(outcome, Terminated)


def asked_by(story: Story) -> list[str]:
    """As the run itself told by its error."""
    error = story.instance.outcome.error  # type: ignore[union-attr]
    return eval(error.message.partition("]")[0] + "]")


@settings(max_examples=QUICK)
@given(parts, st.integers(0, 1000), st.sets(st.integers(1, 40), max_size=10), st.floats(0, 0.999))
def test_each_finished_step_is_undone_once_in_reverse_order_of_its_start(parts, order, drops, place) -> None:
    """P15: over handlers that fail, runs that are dropped at any points, and a crash at any entry."""
    payload = {"parts": parts, "waits": False}

    async def main() -> None:
        async with in_process(SOURCE) as executor:
            whole = await executor.play(Story("Job", payload, order=order))
            if not any(isinstance(entry, Undoing) for entry in whole.journal):
                assert all(kind != "undoable" for kind, _ in kinds_of(payload).values())
                return
            check(whole, asked_by(whole))
            dropped = await executor.play(Story("Job", payload, order=order), evict=Drops(drops))
            check(dropped, asked_by(dropped))
            assert_same(whole, dropped)
            crashed = await executor.play(whole.prefix(whole.cuts[int(place * (len(whole.cuts) - 1))]))
            check(crashed, asked_by(crashed))
            assert_same(whole, crashed)

    asyncio.run(main())


@settings(max_examples=QUICK)
@given(parts, st.integers(0, 1000), st.sets(st.integers(1, 40), max_size=10), st.floats(0, 0.999))
def test_termination_with_undo_at_any_moment_undoes_what_had_finished(parts, order, drops, place) -> None:
    """P15: what was executing then is not undone, as it has not finished; what had finished is, once."""
    payload = {"parts": parts, "waits": True}

    async def main() -> None:
        async with in_process(SOURCE) as executor:
            ended = await executor.play(Story("Job", {**payload, "waits": False}, order=order))
            asked = asked_by(ended)
            if not any(isinstance(entry, Undoing) for entry in ended.journal):
                return
            at = next(at for at, entry in enumerate(ended.journal) if isinstance(entry, Undoing))
            cuts = [length for length in ended.cuts if length <= at]
            # The same story, but for what it waits for at its end.
            story = ended.prefix(cuts[int(place * len(cuts))])
            story.append(Undoing(story.now_ms, None, "somebody"))
            await executor.play(story, evict=Drops(drops))
            check(story, asked)
            assert isinstance(story.journal[-1], Terminated)
            assert story.journal[-1].by == "somebody"

    asyncio.run(main())
