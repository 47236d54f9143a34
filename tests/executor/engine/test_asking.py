"""Updates and queries at the engine: when a run is made for them, what is journaled, what a death costs."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from executor.core.commands import AcceptUpdate, Command, Complete, EndUpdate, Wait
from executor.core.entries import AnyEntry, StartOptions, UpdateAccepted, WaitEnded
from executor.core.errors import Conflict, NotFound, PerdureError, Refused, TenantError, Unavailable
from executor.core.failure import ErrorFact
from executor.ports import Start, Updated
from executor.sandbox.protocol import Activate, Answer, Ask, Turn, Update
from tests.executor.engine.world import COMMIT, ScriptedSandbox, World, world

KEY = ("acme", "i")
WAITING = ["Started", "WaitStarted"]


def _script(seen: list[AnyEntry]) -> tuple[list[Command], bool]:
    """Waits for an event, then returns; an update's handler gives its payload back at once."""
    commands: list[Command] = [Wait("go#1", b"q" * 16, "w.py:1", "go", None)]
    commands += [EndUpdate(entry.id, entry.payload, None) for entry in seen if isinstance(entry, UpdateAccepted)]
    if any(isinstance(entry, WaitEnded) for entry in seen):
        commands.append(Complete(b"\xc0"))
    return commands, True


def _accept(sandbox: ScriptedSandbox, frame: Update | Ask) -> None:
    """Accepts every update, and answers every query with its payload."""
    if isinstance(frame, Ask):
        sandbox.say([Answer(frame.run, frame.number, frame.payload, None)])
    else:
        position = sandbox.runs[frame.run].position
        accept = AcceptUpdate(frame.id, frame.name, frame.payload)
        sandbox.say([Turn(frame.run, position, [accept], idle=False)])


async def _waiting(there: World) -> None:
    there.host.scripts["W"] = _script
    there.host.on_question = _accept
    await there.engine.start(KEY, workflow="W", commit=COMMIT, payload=b"\xc0")
    await there.until(KEY, "waiting")
    await there.until_gone(KEY)


async def _update(there: World, id: str = "u1", payload: bytes = b"\x05", wait_s: float = 60.0) -> Updated:
    return await there.engine.asking.update(KEY, id=id, name="add", payload=payload, wait_s=wait_s)


async def _ask(there: World) -> bytes:
    return await there.engine.asking.ask(KEY, name="contents", payload=b"\x07")


async def test_an_instance_at_rest_is_activated_for_an_update_and_rests_again(tmp_path: Path) -> None:
    async with world(tmp_path) as there:
        await _waiting(there)
        assert await _update(there) == Updated(b"\x05", None, True)
        await there.until(KEY, "waiting")
        await there.until_gone(KEY)
        kinds = [type(entry).__name__ for entry in there.whole_journal(KEY)]
        assert kinds == [
            "Started",
            "Activated",
            "WaitStarted",
            "Released",
            "Activated",
            "UpdateAccepted",
            "UpdateEnded",
            "Released",
        ]


async def test_a_query_leaves_nothing(tmp_path: Path) -> None:
    async with world(tmp_path) as there:
        await _waiting(there)
        before = there.whole_journal(KEY)
        assert await _ask(there) == b"\x07"
        await there.until_gone(KEY)
        assert there.whole_journal(KEY) == before
        await trio.testing.wait_all_tasks_blocked()
        assert not any(sandbox.runs for sandbox in there.host.sandboxes)


async def test_the_same_id_is_the_same_update_also_beside_itself_and_after_the_executor(tmp_path: Path) -> None:
    async with world(tmp_path) as there:
        await _waiting(there)
        answers: list[Updated] = []

        async def one() -> None:
            answers.append(await _update(there))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(one)
        assert [(answer.value, answer.error) for answer in answers] == [(b"\x05", None)] * 3
        assert sorted(answer.is_new for answer in answers) == [False, False, True]
        assert await _update(there) == Updated(b"\x05", None, False)
        with pytest.raises(Conflict) as other:
            await _update(there, payload=b"\x06")
        assert other.value.code == "update_exists"
        assert len([frame for frame in there.host.log if isinstance(frame, Update)]) == 1
    async with world(tmp_path) as there:
        assert await _update(there) == Updated(b"\x05", None, False)
        assert there.kinds(KEY) == [*WAITING, "UpdateAccepted", "UpdateEnded"]


async def test_another_update_of_an_id_that_is_being_asked_is_a_conflict(tmp_path: Path) -> None:
    """It must not be answered by the one that it stands beside; and only one of two equal ones is new."""
    async with world(tmp_path) as there:
        await _waiting(there)
        answers: list[object] = []

        async def ask(payload: bytes) -> None:
            try:
                answers.append((await _update(there, payload=payload)).is_new)
            except Conflict as conflict:
                answers.append(conflict.code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, b"\x05")
            await trio.testing.wait_all_tasks_blocked(0)
            nursery.start_soon(ask, b"\x06")
            nursery.start_soon(ask, b"\x05")
        assert sorted(map(str, answers)) == ["False", "True", "update_exists"]
        kinds = [type(entry).__name__ for entry in there.whole_journal(KEY)]
        assert kinds.count("UpdateAccepted") == 1


async def test_an_update_that_dies_with_its_sandbox_before_it_is_accepted_is_sent_again(tmp_path: Path) -> None:
    async with world(tmp_path) as there:
        await _waiting(there)
        deaths: list[int] = []

        def die_once(sandbox: ScriptedSandbox, frame: Update | Ask) -> None:
            if not deaths:
                deaths.append(frame.number)
                sandbox.kill("crashed")
            else:
                _accept(sandbox, frame)

        there.host.on_question = die_once
        assert (await _update(there)).value == b"\x05"
        assert there.kinds(KEY) == [*WAITING, "UpdateAccepted", "UpdateEnded"]


async def test_a_question_that_kills_its_sandbox_is_given_up_and_the_instance_goes_on(tmp_path: Path) -> None:
    async with world(tmp_path) as there:
        await _waiting(there)
        there.host.on_question = lambda sandbox, _frame: sandbox.kill("crashed")
        with pytest.raises(Unavailable) as given_up:
            await _ask(there)
        assert given_up.value.code == "sandbox_unavailable"
        there.host.on_question = _accept
        await there.until(KEY, "waiting")
        assert await _ask(there) == b"\x07"
        assert there.kinds(KEY) == WAITING


@pytest.mark.parametrize(
    ("fact", "family", "code"),
    [
        (ErrorFact("ValueError", "too many", "", False, "update_refused"), Refused, "update_refused"),
        (ErrorFact("UnknownUpdate", "there is none", "", False, "update_refused"), NotFound, "unknown_handler"),
        (ErrorFact("ValueError", "no", "w.py:1", True, "query_failed"), TenantError, "query_failed"),
    ],
)
async def test_a_refusal_is_told_as_it_is(
    tmp_path: Path, fact: ErrorFact, family: type[PerdureError], code: str
) -> None:
    async with world(tmp_path) as there:
        await _waiting(there)
        there.host.on_question = lambda sandbox, frame: sandbox.say([Answer(frame.run, frame.number, None, fact)])
        with pytest.raises(PerdureError) as refused:
            await _update(there)
        assert (type(refused.value), refused.value.code) == (family, code)
        await there.until_gone(KEY)
        assert there.kinds(KEY) == WAITING


async def test_an_update_that_is_not_answered_in_time_goes_on_and_its_run_does_not(tmp_path: Path) -> None:
    async with world(tmp_path) as there:
        await _waiting(there)
        there.host.on_question = lambda _sandbox, _frame: None
        with pytest.raises(Unavailable) as late:
            await _update(there, wait_s=0.01)
        assert late.value.code == "timeout"
        await there.until_gone(KEY)
        await trio.testing.wait_all_tasks_blocked()
        assert not any(sandbox.runs for sandbox in there.host.sandboxes)


async def test_a_paused_instance_is_asked_and_not_updated(tmp_path: Path) -> None:
    async with world(tmp_path) as there:
        await _waiting(there)
        await there.engine.pause(KEY)
        assert await _ask(there) == b"\x07"
        assert [frame.paused for frame in there.host.log if isinstance(frame, Activate)] == [False, True]
        with pytest.raises(Conflict) as refused:
            await _update(there)
        assert refused.value.code == "invalid_state"
        await there.until_gone(KEY)
        assert there.kinds(KEY) == [*WAITING, "Paused"]


async def test_an_instance_that_has_not_begun_or_has_ended_is_not_asked(tmp_path: Path) -> None:
    async with world(tmp_path) as there:
        await _waiting(there)
        await there.engine.terminate(KEY)
        for ask in (_update, _ask):
            with pytest.raises(Conflict) as ended:
                await ask(there)
            assert ended.value.code == "instance_finished"
        later = ("acme", "later")
        delayed = StartOptions(start_at_ms=there.clock.now_ms() + 60_000)
        await there.engine.start_many([Start(later, "W", COMMIT, b"\xc0", False, delayed)])
        with pytest.raises(Conflict) as early:
            await there.engine.asking.ask(later, name="contents", payload=b"\xc0")
        assert early.value.code == "invalid_state"
        with pytest.raises(NotFound):
            await there.engine.asking.ask(("acme", "nobody"), name="contents", payload=b"\xc0")


async def test_who_waits_is_told_when_the_instance_ends_first(tmp_path: Path) -> None:
    async with world(tmp_path) as there:
        await _waiting(there)
        asked = trio.Event()
        there.host.on_question = lambda _sandbox, _frame: asked.set()
        async with trio.open_nursery() as nursery:

            async def waits() -> None:
                with pytest.raises(Conflict) as ended:
                    await _update(there)
                assert ended.value.code == "instance_finished"

            nursery.start_soon(waits)
            await asked.wait()
            await there.engine.terminate(KEY)
