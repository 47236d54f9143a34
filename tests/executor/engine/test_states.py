"""Every operation in every state, on the engine: what it answers, and what the journal has afterwards, is the table's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from executor.core.commands import (
    AcceptUpdate,
    Command,
    Complete,
    Diverge,
    EndUpdate,
    Fail,
    RetryPolicy,
    StepDone,
    StepError,
    Wait,
)
from executor.core.entries import AnyEntry, FlowLimit, StartOptions, StepFailed, StepSucceeded, Undoing, UpdateAccepted
from executor.core.errors import Conflict
from executor.core.failure import ErrorFact
from executor.core.lifecycle import STATES, TABLE
from executor.ports import Start
from executor.sandbox.protocol import Answer, Ask, Turn, Update
from tests.executor.engine.world import COMMIT, ScriptedHost, ScriptedSandbox, World, world

ASKED = b"q" * 16
NIL = b"\xc0"
ERROR = ErrorFact("ValueError", "no", "", False)
Seen = list[AnyEntry]


def silent(seen: Seen) -> tuple[list[Command], bool]:
    """A step, and then one that executes for ever; it answers what it is asked."""
    if not any(isinstance(entry, StepSucceeded) for entry in seen):
        return [StepDone("a#1", ASKED, "w.py:1", 1, 0, NIL)], False
    return _ends(seen), False


def step_then_wait(seen: Seen) -> tuple[list[Command], bool]:
    if any(isinstance(entry, Undoing) for entry in seen):
        return [], False  # it takes its time
    if not any(isinstance(entry, StepSucceeded) for entry in seen):
        return [StepDone("a#1", ASKED, "w.py:1", 1, 0, NIL)], False
    return [Wait("w#1", ASKED, "w.py:2", "never", None), *_ends(seen)], True


def fails(seen: Seen) -> tuple[list[Command], bool]:
    if not any(isinstance(entry, StepFailed) for entry in seen):
        return [StepError("a#1", ASKED, "w.py:1", 1, 0, ERROR, RetryPolicy())], False
    return [Fail(ERROR)], False


SCRIPTS = {
    "Silent": silent,
    "Waits": step_then_wait,
    "Fails": fails,
    "Completes": lambda _seen: ([Complete(NIL)], False),
    "Diverges": lambda _seen: ([Diverge("recorded a, requested b", None, None)], False),
}


def _ends(seen: Seen) -> list[Command]:
    return [EndUpdate(entry.id, NIL, None) for entry in seen if isinstance(entry, UpdateAccepted)]


def _answers(sandbox: ScriptedSandbox, frame: Update | Ask) -> None:
    if isinstance(frame, Ask):
        sandbox.say([Answer(frame.run, frame.number, NIL, None)])
    else:
        position = sandbox.runs[frame.run].position
        sandbox.say([Turn(frame.run, position, [AcceptUpdate(frame.id, frame.name, frame.payload)], idle=False)])


Key = tuple[str, str]
OPERATIONS: dict[str, Callable[[World, Key], Awaitable[object]]] = {
    "send_event": lambda w, key: w.engine.send_event(key, id="e1", type="news", payload=NIL),
    "pause": lambda w, key: w.engine.pause(key),
    "resume": lambda w, key: w.engine.resume(key),
    "terminate": lambda w, key: w.engine.terminate(key),
    "terminate_undoing": lambda w, key: w.engine.terminate(key, undo=True),
    "restart": lambda w, key: w.engine.restart(key, from_step=None),
    "retry": lambda w, key: w.engine.retry(key),
    "update": lambda w, key: w.engine.asking.update(key, id="u1", name="n", payload=NIL, wait_s=5),
    "ask": lambda w, key: w.engine.asking.ask(key, name="n", payload=NIL),
    "set_attributes": lambda w, key: w.engine.set_attributes(key, {"customer": "acme"}),
    "delete": lambda w, key: w.engine.delete(key),
}


async def in_each_state(w: World) -> dict[str, Key]:
    """An instance in each of the states."""
    keys = {state: ("acme", state) for state in STATES}
    one = StartOptions(limits=(FlowLimit("one at a time", "k", 1),))

    async def start(name: str, workflow: str, options: StartOptions | None = None) -> None:
        await w.engine.start_many([Start(("acme", name), workflow, COMMIT, NIL, options=options)])

    for name in ("waiting", "paused", "undoing", "terminated"):
        await start(name, "Waits")
        await w.until(keys[name], "waiting")
    await w.engine.pause(keys["paused"])
    await w.engine.terminate(keys["undoing"], undo=True)
    await w.engine.terminate(keys["terminated"])
    for name, workflow in (("complete", "Completes"), ("failed", "Fails"), ("held", "Diverges")):
        await start(name, workflow)
        await w.until(keys[name], name)
    await start("first", "Silent", one)
    await start("running", "Silent")
    for name in ("first", "running"):
        await w.until(("acme", name), "running")
    await start("queued", "Silent", one)
    return keys


async def state_of(w: World, key: Key) -> str:
    async with w.engine.residents.hold(key) as resident:
        return w.engine.state(resident)


@pytest.mark.parametrize("operation", TABLE)
async def test_each_operation_does_in_each_state_what_the_table_says(tmp_path: Path, operation: str) -> None:
    host = ScriptedHost()
    host.scripts.update(SCRIPTS)
    host.on_question = _answers
    async with world(tmp_path, host=host) as w:
        keys = await in_each_state(w)
        assert {state: await state_of(w, key) for state, key in keys.items()} == {state: state for state in STATES}
        found = {}
        for state, key in keys.items():
            before = w.journal(key)
            try:
                # What is queued is asked when its turn comes, which here it never does.
                is_asked = operation in ("ask", "update")
                with trio.move_on_after(0.1 if is_asked and state == "queued" else 30):
                    await OPERATIONS[operation](w, key)
                is_gone = w.store.row(*key) is None
                changed = is_gone or w.journal(key)[: len(before) + 1] != before or operation == "ask"
                found[state] = "do" if changed or (state, operation) == ("queued", "update") else "nothing"
            except Conflict as conflict:
                assert w.journal(key) == before
                found[state] = {"instance_finished": "finished", "invalid_state": "refuse"}[conflict.code]
        assert found == TABLE[operation]
