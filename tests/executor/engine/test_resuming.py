"""An instance that is paused and resumed while a step executes goes on beside that step."""

from __future__ import annotations

import trio

from executor.core.commands import Command, Complete, Sleep, StepDone, Wait
from executor.core.entries import AnyEntry, SleepEnded, StepSucceeded, WaitEnded
from executor.sandbox.protocol import Activate, GoOn, Quiesce, Turn
from tests.executor.engine.test_engine import ASKED, KEY, done, has, start
from tests.executor.engine.world import ScriptedHost, World, world

Told = list[str]


def beside(told: Told, awaited: list[Command], end: type[AnyEntry]):
    """A step that executes until it is told, beside something that is awaited, which another step follows."""

    def script(seen: list[AnyEntry]) -> tuple[list[Command], bool]:
        commands = list(awaited)
        if any(isinstance(entry, end) for entry in seen):
            commands.append(done("after#1", 1))
        if told:
            commands.append(StepDone("long#1", ASKED, "w.py:1", 1, 0, b"\xc0"))
        if has(seen, StepSucceeded, "long#1") and has(seen, StepSucceeded, "after#1"):
            commands.append(Complete(b"\xc0"))
        return commands, has(seen, StepSucceeded, "long#1")

    return script


async def paused_and_resumed(w: World, begun: str) -> None:
    await start(w, "Beside")
    while begun not in w.kinds(KEY):
        await trio.testing.wait_all_tasks_blocked(0.001)
    await w.engine.pause(KEY)
    await trio.testing.wait_all_tasks_blocked(0.01)
    await w.engine.resume(KEY)


async def reaches(w: World, kind: str) -> None:
    with trio.fail_after(30):
        while kind not in w.kinds(KEY):
            await trio.testing.wait_all_tasks_blocked(0.001)


async def ends(w: World, told: Told) -> None:
    """The long step ends: its next word."""
    told.append("end")
    [sandbox] = w.host.living
    [number] = sandbox.runs
    sandbox._turn(number)
    with trio.fail_after(30):
        assert await w.until_final(KEY) == "complete"
    assert [type(frame) for frame in w.host.log if isinstance(frame, Activate | Quiesce | GoOn)] == [
        Activate,
        Quiesce,
        GoOn,
    ]


async def test_event_after_a_resume_lets_the_run_go_on_beside_a_step_that_still_executes(tmp_path):
    host, told = ScriptedHost(), Told()
    host.executes_on = True
    host.scripts["Beside"] = beside(told, [Wait("w#1", ASKED, "w.py:2", "go", None)], WaitEnded)
    async with world(tmp_path, host=host) as w:
        await paused_and_resumed(w, "WaitStarted")
        await w.engine.send_event(KEY, id="e", type="go", payload=b"\xc0")
        await reaches(w, "StepSucceeded")
        await ends(w, told)
        expected = ["Started", "WaitStarted", "Paused", "Resumed", "EventReceived", "WaitEnded"]
        assert w.kinds(KEY) == [*expected, "StepSucceeded", "StepSucceeded", "Completed"]


async def test_sleep_that_a_pause_has_shifted_ends_beside_a_step_that_still_executes(tmp_path):
    host, told = ScriptedHost(), Told()
    host.executes_on = True
    host.scripts["Beside"] = beside(told, [Sleep("s#1", ASKED, "w.py:2", 60_000, None)], SleepEnded)
    async with world(tmp_path, host=host) as w:
        await start(w, "Beside")
        await reaches(w, "SleepStarted")
        await w.engine.pause(KEY)
        w.clock.advance(50_000)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await w.engine.resume(KEY)
        w.clock.advance(59_000)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert w.kinds(KEY)[-1] == "Resumed"
        w.clock.advance(1_000)
        await reaches(w, "StepSucceeded")
        await ends(w, told)
        assert w.kinds(KEY)[3:] == ["Resumed", "SleepEnded", "StepSucceeded", "StepSucceeded", "Completed"]


async def test_word_from_before_the_resume_does_not_put_the_run_to_rest(tmp_path):
    """It says that nothing executes, and was said when the run was to start nothing."""
    host, told = ScriptedHost(), Told()
    host.executes_on = True
    host.scripts["Beside"] = beside(told, [Wait("w#1", ASKED, "w.py:2", "go", None)], WaitEnded)
    async with world(tmp_path, host=host) as w:
        await paused_and_resumed(w, "WaitStarted")
        [run] = [found for sandbox in host.living for found in sandbox.runs]
        host.living[0].say([Turn(run, 3, [], True)])
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert w.engine.state(w.engine.residents.get(KEY)) == "running"
        await w.engine.send_event(KEY, id="e", type="go", payload=b"\xc0")
        await reaches(w, "StepSucceeded")
        await ends(w, told)
