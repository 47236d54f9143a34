"""P12: whatever is asked for with an id happens once: starts, events and updates, any number of times, concurrently, and
again after a crash; so do the children of steps."""

from __future__ import annotations

from collections import Counter
from typing import Any

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from executor.core import codec
from executor.core.entries import (
    AnyEntry,
    ChildEnded,
    ChildRequested,
    Completed,
    EventReceived,
    Started,
    StepSucceeded,
    UpdateAccepted,
    UpdateEnded,
    WaitEnded,
)
from executor.core.errors import Conflict, NotFound, PerdureError
from executor.ports import StoredRow
from tests.simulation.programs import payload_of
from tests.simulation.world import COMMIT, Life, World

QUICK = settings.default.max_examples if settings.default is not None else 50
KEY = ("acme", "one")
PROGRAM = [
    ["both", ["wait", "go", None], ["call", "abandon", ["step", 0, 1]], ["call", "terminate"], ["step", 1, 5]],
    ["spawn", "abandon"],
    ["wait", "go", None],
    ["wait", "stop", None],
]
PAYLOADS = (payload_of(PROGRAM, 1), payload_of(PROGRAM, 2))
requests = st.tuples(
    st.sampled_from(["start", "start", "event", "event", "event", "update", "update"]),
    st.integers(0, 2),  # which event or update
    st.sampled_from([0, 0, 0, 0, 1]),  # 1: another payload
    st.sampled_from([0, 0, 0, 1, 5, 40]),  # when
)


class Callers:
    """`answers`: to each request what came of it; True: it was new."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, int, int], list[bool | str]] = {}

    async def all(self, life: Life, wanted: list[tuple[str, int, int, int]]) -> None:
        async with trio.open_nursery() as nursery:
            for kind, number, other, at_ms in wanted:
                nursery.start_soon(self._one, life, kind, number, other, at_ms)

    async def _one(self, life: Life, kind: str, number: int, other: int, at_ms: int) -> None:
        await trio.sleep(at_ms / 1000)
        name = (kind, 0 if kind == "start" else number, other)
        while True:
            try:
                found: bool | str = await self._ask(life, kind, number, other)
            except NotFound:
                await trio.sleep(0.01)  # nobody has started it yet
                continue
            except PerdureError as error:
                found = error.code
            self.answers.setdefault(name, []).append(found)
            return

    async def _ask(self, life: Life, kind: str, number: int, other: int) -> bool:
        engine = life.engine
        if kind == "start":
            row: Any = await engine.start(KEY, workflow="Program", commit=COMMIT, payload=PAYLOADS[other])
            assert isinstance(row, StoredRow)
            return False
        if kind == "event":
            payload = bytes([0xC2 + other])
            return await engine.send_event(KEY, id=f"e{number}", type="go", payload=payload)
        payload = bytes([0xC2 + other])
        done = await engine.asking.update(KEY, id=f"u{number}", name="note", payload=payload, wait_s=60)
        return done.is_new


@settings(max_examples=max(QUICK // 2, 10))
@given(
    st.integers(0, 2**32),
    st.lists(requests, min_size=4, max_size=16),
    st.none() | st.integers(1, 60),
    st.sets(st.sampled_from([1, 3, 10, 30]), max_size=2),
)
def test_what_has_an_id_happens_once_however_often_it_is_asked_for(seed, wanted, crash_at, deaths_ms) -> None:
    """P12: `crash_at`: the machine loses power at that operation of the disk, and everybody asks once more. Sandboxes
    die at `deaths_ms`."""
    world = World(seed)
    wanted = [("start", 0, 0, 0), *wanted]
    callers = [Callers(), Callers()]

    async def kill(life: Life) -> None:
        for ms in sorted(deaths_ms):
            await trio.sleep(ms / 1000)
            for sandbox in life.host.living:
                sandbox.kill("crashed")

    async def first(life: Life) -> None:
        if crash_at is not None:
            world.disk.off_at = world.disk.operations + crash_at
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill, life)
            await callers[0].all(life, wanted)

    async def again(life: Life) -> None:
        await callers[1].all(life, wanted)
        await life.finish()

    try:
        died = world.live(first)
        ended = world.live(again, deep=True)
        assert ended is None, ended
        journals = {key: codec.decode_journal(known.journal) for key, known in world.witness.memory.items()}
    finally:
        world.close()
    check_journals(journals)
    if died is None:
        check_answers(callers[0].answers, journals[KEY])


def check_journals(journals: dict[tuple[str, str], list[AnyEntry]]) -> None:
    journal = journals[KEY]
    assert [type(entry) for entry in journal].count(Started) == 1
    for kind in (EventReceived, UpdateAccepted, UpdateEnded):
        assert set(Counter(entry.id for entry in journal if isinstance(entry, kind)).values()) <= {1}
    ended = [entry for entry in journal if isinstance(entry, WaitEnded) and entry.event is not None]
    assert len({entry.event for entry in ended}) == len(ended) == 3
    done = Counter(entry.path for entry in journal if isinstance(entry, StepSucceeded))
    assert set(done.values()) == {1}
    assert {path for path in done if path.startswith("update")} == {
        f"update {entry.id}#1" for entry in journal if isinstance(entry, UpdateAccepted)
    }
    children = [entry.child for entry in journal if isinstance(entry, ChildRequested)]
    assert len(children) == 3
    assert {name for _, name in journals} == {KEY[1], *children}
    assert [type(entry) for entry in journal].count(ChildEnded) == 2
    for each in journals.values():
        assert isinstance(each[-1], Completed) or any(isinstance(entry, Completed) for entry in each)


def check_answers(answers: dict[tuple[str, int, int], list[bool | str]], journal: list[AnyEntry]) -> None:
    """One of those who asked for an event was told that it was new; who came with another payload, that it exists."""
    first = journal[0]
    assert isinstance(first, Started)
    for (kind, number, other), found in answers.items():
        if kind == "start":
            is_it = first.payload == PAYLOADS[other]
            assert set(found) == {False if is_it else "instance_exists"}
            continue
        if kind == "update":
            accepted = {entry.id: entry.payload for entry in journal if isinstance(entry, UpdateAccepted)}
            is_it = accepted[f"u{number}"] == bytes([0xC2 + other])
            if is_it:
                assert found.count(True) <= 1
                assert set(found) <= {True, False, "sandbox_unavailable"}
            else:
                assert set(found) <= {"update_exists", "sandbox_unavailable"}
            continue
        received = {entry.id: entry.payload for entry in journal if isinstance(entry, EventReceived)}
        is_it = received[f"e{number}"] == bytes([0xC2 + other])
        if is_it:
            assert sorted(found) == [False] * (len(found) - 1) + [True]
        else:
            assert set(found) == {"event_exists"}


def test_conflict_is_what_another_payload_is_told() -> None:
    """P12: the codes that the property names are those of a Conflict."""
    world = World("conflicts")
    told: list[str] = []

    async def live(life: Life) -> None:
        await life.start(KEY, PAYLOADS[0])
        await life.send_event(KEY, "e1", "go")
        for ask in (life.start(KEY, PAYLOADS[1]), life.send_event(KEY, "e1", "stop")):
            try:
                await ask
            except Conflict as conflict:
                told.append(conflict.code)

    try:
        assert world.live(live) is None
    finally:
        world.close()
    assert told == ["instance_exists", "event_exists"]
