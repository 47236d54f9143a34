"""P4: journals only grow, and a replay of the first n entries asks next for what entry n + 1 records."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from executor.core.commands import (
    AcceptUpdate,
    Child,
    Command,
    Complete,
    Continue,
    EndUpdate,
    Fail,
    GroupBegin,
    GroupEnd,
    Sleep,
    StepDone,
    StepError,
    Undo,
    Undone,
    Wait,
)
from executor.core.entries import (
    AnyEntry,
    AttemptFailed,
    ChildRequested,
    Completed,
    Continued,
    Failed,
    GroupEnded,
    GroupStarted,
    SleepStarted,
    StepFailed,
    StepSucceeded,
    Undoing,
    UpdateEnded,
    WaitStarted,
)
from tests.executor.fake_executor import FakeExecutor, Story, in_process
from tests.executor.sandbox.programs import ENDS, rich_programs, rich_source, rich_stories
from tests.properties.language import assert_same, job

QUICK = settings.default.max_examples if settings.default is not None else 50

ASKED_BY: dict[type, tuple[type, ...]] = {
    StepSucceeded: (StepDone,),
    AttemptFailed: (StepError,),
    StepFailed: (StepError,),
    SleepStarted: (Sleep,),
    WaitStarted: (Wait,),
    ChildRequested: (Child,),
    GroupStarted: (GroupBegin,),
    GroupEnded: (GroupEnd,),
    UpdateEnded: (EndUpdate,),
    Completed: (Complete,),
    Continued: (Continue,),
    Undoing: (Undo,),
}
"""Entries that a run asks for, by what. The others come from outside, from the clock, or from what was asked before."""


def what(thing: AnyEntry | Command) -> tuple[object, ...]:
    """What an entry and the command that asks for it have in common."""
    names = ("path", "asked", "where", "attempt", "type", "match", "workflow", "payload", "id")
    if isinstance(thing, ChildRequested | Child):
        names = ("path", "asked", "where", "workflow", "payload", "close", "is_awaited")
    return tuple(getattr(thing, name, None) for name in names)


async def replayed(executor: FakeExecutor, story: Story) -> list[Command]:
    """What a run asks for that is given this journal, and whose due retries are made."""
    run = executor.activate(story)
    try:
        return await executor.until_idle(run)
    finally:
        executor.drop(run)


@settings(max_examples=QUICK)
@given(rich_programs, st.sampled_from(ENDS), rich_stories, st.lists(st.floats(0, 0.999), min_size=3, max_size=3))
def test_replay_of_a_prefix_asks_for_what_the_next_entry_records(program, end, story, places) -> None:
    """P4: for what a run asks for; and whatever it asks for is in the journal sooner or later, asked equally."""

    async def main() -> None:
        async with in_process(rich_source(program, end)) as executor:
            whole = await executor.play(job(story))
            journal = whole.journal
            for length in {whole.cuts[int(place * (len(whole.cuts) - 1))] for place in places}:
                prefix = whole.prefix(length)
                assert prefix.stored == whole.stored[:length]
                commands = await replayed(executor, prefix)
                check_next(journal, length, commands)
                check_asked(journal, length, commands)

    asyncio.run(main())


def check_next(journal: list[AnyEntry], length: int, commands: list[Command]) -> None:
    following = journal[length]
    kinds = ASKED_BY.get(type(following))
    if kinds is None or (isinstance(following, Failed) and following.error is None):
        return
    earlier = {getattr(entry, "path", None) for entry in journal[:length] if isinstance(entry, AttemptFailed)}
    if getattr(following, "path", None) in earlier:
        return  # A retry: it is made when the executor says that it is due.
    if isinstance(following, Completed | Continued | Undoing):
        assert any(isinstance(command, kinds) for command in commands), (following, commands)
        return
    if isinstance(following, UpdateEnded):
        assert any(isinstance(command, EndUpdate) and command.id == following.id for command in commands)
        return
    asked = [what(command) for command in commands if isinstance(command, kinds)]
    assert what(following) in asked, (following, commands)


def check_asked(journal: list[AnyEntry], length: int, commands: list[Command]) -> None:
    """Each thing asked for now is recorded later, in this execution, or was given up, or came too late."""
    later = journal[length:]
    recorded: dict[object, tuple[object, ...]] = {}
    for entry in later:
        if isinstance(entry, Continued):
            break
        path = getattr(entry, "path", None)
        if path is not None and type(entry) in ASKED_BY:
            recorded.setdefault((type(entry), path), what(entry))
    for command in commands:
        if isinstance(command, Complete | Fail | Undone | Undo | Continue | AcceptUpdate | EndUpdate):
            continue
        kinds = [kind for kind, asks in ASKED_BY.items() if isinstance(command, asks)]
        found = [recorded[kind, command.path] for kind in kinds if (kind, command.path) in recorded]
        assert all(one == what(command) for one in found), (command, found)


@settings(max_examples=max(QUICK // 2, 10))
@given(rich_programs, st.sampled_from(ENDS), rich_stories, st.floats(0, 0.999))
def test_continued_prefix_keeps_its_bytes_and_comes_to_the_same(program, end, story, place) -> None:
    """P4: append-only: a story that goes on from a prefix has that prefix, byte for byte."""

    async def main() -> None:
        async with in_process(rich_source(program, end)) as executor:
            whole = await executor.play(job(story))
            length = whole.cuts[int(place * (len(whole.cuts) - 1))]
            again = await executor.play(whole.prefix(length))
            assert again.stored[:length] == whole.stored[:length]
            assert_same(whole, again)

    asyncio.run(main())
