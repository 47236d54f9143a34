"""Replay equals live (P1, P2, P4, P9, P20): generated programs, printed as source, played by the fake executor."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from executor.core.entries import AnyEntry, Completed, Failed
from executor.core.failure import ErrorFact
from tests.executor.fake_executor import Story, in_process, subprocess_, without_unwanted
from tests.executor.sandbox.programs import (
    ENDS,
    programs,
    rich_programs,
    rich_source,
    rich_stories,
    source,
    stories,
)

QUICK = settings.default.max_examples if settings.default is not None else 50


def same(one: Story, other: Story) -> None:
    """Same result (so the same values seen), same journal but for results that nobody waited for any more."""
    assert one.result == other.result
    assert without_unwanted(one.journal, other.journal) == without_unwanted(other.journal, one.journal)


async def replays(executor, story: Story) -> Story:
    """The whole journal but its end, in one run: it must complete again without asking for anything."""
    again = story.prefix(len(story.stored) - 1)
    run = executor.activate(again)
    commands = await executor.until_idle(run)
    executor.drop(run)
    last = commands[-1]
    assert [type(command).__name__ for command in commands] == ["Complete"], commands
    assert last.value == story.instance.outcome.value
    return again


@settings(max_examples=max(QUICK // 2, 10))
@given(programs, stories)
def test_replay_from_every_prefix_continued_equals_the_unbroken_run(program, story) -> None:
    async def main() -> None:
        async with in_process(source(program)) as executor:
            whole = await executor.play(Story("Job", **story))
            assert isinstance(whole.instance.outcome, Completed)
            await replays(executor, whole)
            for length in whole.cuts[:-1]:
                same(whole, await executor.play(whole.prefix(length)))

    asyncio.run(main())


CHILDREN = {"Good": {"it": "is"}, "Bad": ErrorFact("ValueError", "it is not")}


def ended_alike(one: Story, other: Story) -> None:
    """As `same`, also for instances that failed."""
    ends = [story.instance.outcome for story in (one, other)]
    assert isinstance(ends[0], Completed | Failed), one.held
    if isinstance(ends[0], Failed):
        assert (one.error.type, one.error.message) == (other.error.type, other.error.message)
        assert without_unwanted(one.journal, other.journal) == without_unwanted(other.journal, one.journal)
    else:
        same(one, other)


@settings(max_examples=max(QUICK // 4, 10))
@given(rich_programs, st.sampled_from(ENDS), rich_stories)
def test_programs_of_the_whole_language_replay_from_any_prefix_and_evicted(program, end, story) -> None:
    """Groups, maps, polls, children, status, attributes, streams, matched events, updates, undo, continue_as_new."""

    async def main() -> None:
        async with in_process(rich_source(program, end)) as executor:
            whole = await executor.play(Story("Job", **story, children=CHILDREN))
            stride = len(whole.cuts) // 6 + 1  # of long ones some, so that many programs have their turn
            for length in whole.cuts[story["order"] % stride : -1 : stride]:
                ended_alike(whole, await executor.play(whole.prefix(length)))
            ended_alike(whole, await executor.play(Story("Job", **story, children=CHILDREN), evict=True, chunk=2))

    asyncio.run(main())


@settings(max_examples=max(QUICK // 2, 10))
@given(programs, stories)
def test_eviction_at_every_turn_and_any_chunking_change_nothing(program, story) -> None:
    async def main() -> None:
        async with in_process(source(program)) as executor:
            whole = await executor.play(Story("Job", **story))
            evicted = await executor.play(Story("Job", **story), evict=True, chunk=2)
            same(whole, evicted)
            assert sorted(evicted.printed) == sorted(whole.printed)
            same(whole, await executor.play(Story("Job", **story), one_by_one=True))

    asyncio.run(main())


@settings(max_examples=max(QUICK // 5, 5))
@given(programs, st.lists(stories, min_size=2, max_size=4))
def test_interleaved_instances_equal_separate_ones(program, several) -> None:
    async def main() -> None:
        async with in_process(source(program)) as executor:
            alone = [await executor.play(Story("Job", **story)) for story in several]
            together = await asyncio.gather(*(executor.play(Story("Job", **story)) for story in several))
        for one, other in zip(alone, together, strict=True):
            same(one, other)

    asyncio.run(main())


@settings(max_examples=max(QUICK // 16, 3))
@given(programs, stories, st.integers(0, 1000))
def test_replay_in_a_fresh_process_with_another_hash_seed(program, story, hash_seed) -> None:
    async def main() -> None:
        async with in_process(source(program)) as executor:
            whole = await executor.play(Story("Job", **story))
        async with subprocess_(source(program), hash_seed=hash_seed) as executor:
            await replays(executor, whole)
            half = await executor.play(whole.prefix(len(whole.stored) // 2 or 1))
            same(whole, half)

    asyncio.run(main())


SEQUENTIAL = [("do", 1), ("sleep", 2), ("retry", 1), ("wait", 3), ("do", 2), ("timeout", 3), ("gather", 1)]


@settings(max_examples=QUICK)
@given(st.data())
def test_a_journal_with_an_entry_dropped_or_renamed_is_detected(data) -> None:
    """P20, journals: what the code decided must be there, and nothing else."""

    async def main() -> None:
        async with in_process(source(SEQUENTIAL)) as executor:
            whole = await executor.play(Story("Job", order=3, events=[("t1", 1)]))
            journal = [e for e in whole.journal if not isinstance(e, Completed)]
            at = data.draw(st.integers(1, len(journal) - 1))
            victim = journal[at]
            if hasattr(victim, "asked") and data.draw(st.booleans()):
                changed = [*journal[:at], with_(victim, asked=b"x" * 16), *journal[at + 1 :]]
            elif hasattr(victim, "path"):
                changed = [*journal[:at], with_(victim, path="elsewhere#1"), *journal[at + 1 :]]
            else:
                return
            mutated = Story("Job")
            mutated.stored = encoded(changed)
            run = executor.activate(mutated)
            commands = await executor.until_idle(run)
            executor.drop(run)
            assert [type(command).__name__ for command in commands] == ["Diverge"], (victim, commands)

    asyncio.run(main())


MUTATIONS = {
    "rename a step": ("do 1", "do one"),
    "change an argument": ("y=1", "y=7"),
    "insert a step": ('await step.sleep("nap", 2)', 'await step.do("new", plus, 1); await step.sleep("nap", 2)'),
    "delete a step": ('await step.sleep("nap", 2)', "pass"),
    "change a duration": ('step.sleep("nap", 2)', 'step.sleep("nap", 3)'),
    "change an event type": ('type=f"t{3 % 2}"', 'type="t9"'),
    "change the kind": ('step.sleep("nap", 2)', 'step.do("nap", plus, 2)'),
}
HARMLESS = {
    "comment": ("seen = []", "seen = []  # a comment"),
    "rename of a local": ("failed", "trouble"),
    "reformat": ("seen = []", "seen = [\n        ]"),
    "retry policy": ("delay=1", "delay=9"),
    "timeout of a wait": ("timeout=3 + 1", "timeout=3 + 9"),
}


def test_each_behaviour_changing_mutation_of_the_program_is_detected() -> None:
    assert {name for name in MUTATIONS if not verdicts()[name]} == set()


def test_each_harmless_mutation_of_the_program_is_accepted() -> None:
    assert {name for name in HARMLESS if verdicts()[name]} == set()


def verdicts() -> dict[str, bool]:
    """Whether the journal of the program diverges under each mutation of it."""

    async def main() -> dict[str, bool]:
        text = source(SEQUENTIAL)
        async with in_process(text) as executor:
            whole = await executor.play(Story("Job", order=3, events=[("t1", 1)]))
        found = {}
        for name, (old, new) in (MUTATIONS | HARMLESS).items():
            assert old in text, name
            async with in_process(text.replace(old, new)) as executor:
                run = executor.activate(whole.prefix(len(whole.stored) - 1))
                commands = await executor.until_idle(run)
                executor.drop(run)
                found[name] = any(type(command).__name__ == "Diverge" for command in commands)
        return found

    return asyncio.run(main())


def with_(entry: AnyEntry, **changes) -> AnyEntry:
    import msgspec

    return msgspec.structs.replace(entry, **changes)


def encoded(journal: list[AnyEntry]) -> list[bytes]:
    from executor.core import codec

    chain = codec.CHAIN_START
    stored = []
    for entry in journal:
        chain = codec.chain_after(chain, entry)
        stored.append(codec.encode(entry, chain))
    return stored
