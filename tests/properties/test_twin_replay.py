"""P1: replay equals live in another process, with another hash seed and another order in which things are scheduled."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from executor.core.entries import AnyEntry, Completed, Failed
from tests.executor.fake_executor import FakeExecutor, Story, subprocess_
from tests.executor.sandbox.programs import ENDS, rich_programs, rich_source, rich_stories
from tests.properties.language import assert_same, ending, job

QUICK = settings.default.max_examples if settings.default is not None else 50
TOGETHER = 8
"""Programs that share a pair of processes: beginning one takes longer than what is tried in it."""

several = st.lists(st.tuples(rich_programs, st.sampled_from(ENDS), rich_stories), min_size=TOGETHER, max_size=TOGETHER)


def files(programs: list[tuple[object, str, object]]) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """One module for each program, its class named after the place; and which class is where."""
    texts = {
        f"p{number}.py": rich_source(program, end).replace("class Job(Workflow)", f"class Job{number}(Workflow)")
        for number, (program, end, _) in enumerate(programs)
    }
    return texts, [(f"Job{number}", f"p{number}") for number in range(len(programs))]


async def ends_again(executor: FakeExecutor, story: Story) -> None:
    """Given all but its end, a run asks for nothing but that end."""
    journal = story.journal
    at = max(at for at, entry in enumerate(journal) if isinstance(entry, Completed | Failed))
    again = story.prefix(at)
    run = executor.activate(again)
    commands = await executor.until_idle(run)
    executor.drop(run)
    assert [type(command).__name__ for command in commands] == [end_of(journal, at)], commands
    for command in commands:
        executor._append(again, command)
    assert ending(again) == ending(story)
    assert again.instance.chain == story.instance.chain or isinstance(journal[at], Failed)


def end_of(journal: list[AnyEntry], at: int) -> str:
    if isinstance(journal[at], Completed):
        return "Complete"
    return "Undone" if any(type(entry).__name__ == "Undoing" for entry in journal) else "Fail"


@settings(max_examples=max(QUICK // 12, 3))
@given(several, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.floats(0, 0.999), st.integers(1, 4))
def test_replay_in_a_twin_process_sees_and_asks_the_same(programs, hash_seed, other_seed, place, chunk) -> None:
    """P1: whole journals, and prefixes that go on there; entries come in other portions, one by one or evicted."""

    async def main() -> None:
        texts, workflows = files(programs)
        async with subprocess_(texts, workflows=workflows, hash_seed=hash_seed) as executor:
            lived = [await executor.play(job(story, f"Job{number}")) for number, (_, _, story) in enumerate(programs)]
        async with subprocess_(texts, workflows=workflows, hash_seed=(other_seed ^ hash_seed) or 1) as executor:
            for number, live in enumerate(lived):
                await ends_again(executor, live)
                length = live.cuts[int(place * (len(live.cuts) - 1))]
                one_by_one = number % 2 == 0
                again = await executor.play(
                    live.prefix(length), chunk=chunk, one_by_one=one_by_one, evict=not one_by_one
                )
                assert_same(live, again)

    asyncio.run(main())
