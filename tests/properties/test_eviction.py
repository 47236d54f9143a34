"""P2: a run that is dropped and begun anew at any set of points changes nothing: results, journals and chains are equal,
traces of how it was executed left out."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from executor.core.entries import Activated, Released
from tests.executor.fake_executor import Story, in_process
from tests.executor.sandbox.programs import ENDS, rich_programs, rich_source, rich_stories
from tests.properties.language import assert_same, job

QUICK = settings.default.max_examples if settings.default is not None else 50


class Points:
    """Drops the run at its n-th idle turn for each n of `numbers`, and journals that, as the executor does."""

    def __init__(self, numbers: set[int]) -> None:
        self.numbers = numbers
        self.turns = 0
        self.hits = 0

    def __call__(self, story: Story) -> bool:
        self.turns += 1
        if self.turns not in self.numbers:
            return False
        self.hits += 1
        story.append(Released(story.now_ms, "waits"), Activated(story.now_ms, self.hits))
        return True


@settings(max_examples=QUICK)
@given(
    rich_programs,
    st.sampled_from(ENDS),
    rich_stories,
    st.sets(st.integers(1, 60), min_size=1, max_size=12),
    st.sampled_from([1, 3, 1000]),
)
def test_eviction_at_any_set_of_points_changes_nothing(program, end, story, numbers, chunk) -> None:
    """P2: with any chunking of the journal that is sent again."""

    async def main() -> None:
        async with in_process(rich_source(program, end)) as executor:
            whole = await executor.play(job(story))
            points = Points(numbers)
            evicted = await executor.play(job(story), evict=points, chunk=chunk)
            assert_same(whole, evicted)
            assert len(evicted.stored) >= len(whole.stored) if points.hits else True
            if [type(entry) for entry in evicted.journal].count(Activated) == 0:
                assert evicted.instance.chain == whole.instance.chain
            assert sorted(evicted.printed) == sorted(whole.printed)

    asyncio.run(main())


def test_points_are_hit_and_their_traces_are_not_in_the_chain() -> None:
    """P2 would hold of nothing if nothing was ever evicted."""
    program = [("do", 1), ("sleep", 2), ("map", 4), ("undo", 2)]
    story = {"order": 1, "seed": b"s" * 16, "events": [], "updates": [("note", 1)]}

    async def main() -> None:
        async with in_process(rich_source(program, "fail")) as executor:
            whole = await executor.play(job(story))
            points = Points({1, 3, 4, 7})
            evicted = await executor.play(job(story), evict=points)
            assert points.hits == 4
            assert len(evicted.stored) == len(whole.stored) + 8
            assert_same(whole, evicted)

    asyncio.run(main())
