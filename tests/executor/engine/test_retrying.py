"""Retry: a failed instance goes on from the step that failed it. What it keeps: tests of `executor.core.rewind`."""

from __future__ import annotations

import pytest

from executor.core.commands import Complete, Fail, RetryPolicy, StepBegun, StepDone, StepError, Undo, Undone, Wait
from executor.core.entries import Restarted, StepFailed, StepStarted, StepSucceeded, Undoing, WaitEnded
from executor.core.errors import Conflict
from executor.core.failure import ErrorFact
from tests.executor.engine.world import COMMIT, ScriptedHost, world

ASKED = b"q" * 16
KEY = ("acme", "one")
ERROR = ErrorFact("ValueError", "no", "")


def has(seen, kind, path):
    return any(isinstance(entry, kind) and entry.path == path for entry in seen)


class Service:
    """What the second step calls: it fails until `is_up`."""

    def __init__(self):
        self.is_up = False

    def flaky(self, seen):
        if not has(seen, StepSucceeded, "a#1"):
            return [StepDone("a#1", ASKED, "w.py:1", 1, 0, b"\xc0")], False
        if not has(seen, WaitEnded, "w#1"):
            return [Wait("w#1", ASKED, "w.py:2", "go", None)], True
        if has(seen, StepFailed, "b#1"):
            return [Fail(ERROR)], False
        if has(seen, StepSucceeded, "b#1"):
            return [Complete(b"\xc0")], False
        begun = StepBegun("b#1", "w.py:3", 1, 0)
        if self.is_up:
            return [begun, StepDone("b#1", ASKED, "w.py:3", 1, 0, b"\xc0")], False
        return [begun, StepError("b#1", ASKED, "w.py:3", 1, 0, ERROR, RetryPolicy(limit=0))], False

    def undoing(self, seen):
        if not any(isinstance(entry, Undoing) for entry in seen):
            return ([Undo(ERROR)], False) if has(seen, StepFailed, "b#1") else self.flaky(seen)
        if not has(seen, StepSucceeded, "undo/a#1"):
            return [StepDone("undo/a#1", ASKED, "w.py:1", 1, 0, b"\xc0")], False
        return [Undone([])], False


@pytest.fixture
def service():
    return Service()


@pytest.fixture
def host(service):
    host = ScriptedHost()
    host.scripts.update({"Flaky": service.flaky, "Undoing": service.undoing})
    host.scripts["Raises"] = lambda seen: ([Fail(ERROR)], False)
    host.scripts["Returns"] = lambda seen: ([Complete(b"\xc0")], False)
    return host


async def failed(w, workflow):
    await w.engine.start(KEY, workflow=workflow, commit=COMMIT, payload=b"\xc0")
    if workflow in ("Flaky", "Undoing"):
        await w.engine.send_event(KEY, id="e", type="go", payload=b"\xc0")
    assert await w.until_final(KEY) == "failed"


async def test_a_retry_goes_on_from_the_step_that_failed(tmp_path, host, service):
    """With new attempts; steps, events and waits before it count as they are."""
    async with world(tmp_path, host=host) as w:
        await failed(w, "Flaky")
        await w.engine.retry(KEY, by="kim")
        assert await w.until_final(KEY) == "failed"
        service.is_up = True
        await w.engine.retry(KEY, by="kim")
        assert await w.until_final(KEY) == "complete"
        journal = w.journal(KEY)
        restarts = [entry for entry in journal if isinstance(entry, Restarted)]
        assert [(entry.keeps_events, entry.by) for entry in restarts] == [(True, "kim"), (True, "kim")]
        whole = w.whole_journal(KEY)
        assert [(type(whole[entry.after]), whole[entry.after].path) for entry in restarts] == [
            (StepStarted, "b#1"),
            (StepStarted, "b#1"),
        ]
        steps = [(entry.path, entry.attempt) for entry in journal if isinstance(entry, StepSucceeded | StepFailed)]
        assert steps == [("a#1", 1), ("b#1", 1), ("b#1", 1), ("b#1", 1)]
        assert sum(isinstance(entry, WaitEnded) for entry in journal) == 1


async def test_a_retry_survives_the_end_of_the_executor(tmp_path, host, service):
    async with world(tmp_path, host=host) as w:
        await failed(w, "Flaky")
    service.is_up = True
    async with world(tmp_path, host=host) as w:
        await w.engine.retry(KEY)
    async with world(tmp_path, host=host) as w:
        assert await w.until_final(KEY) == "complete"


@pytest.mark.parametrize(
    ("workflow", "message"),
    [
        ("Raises", 'no step of instance "one" failed: run() raised by itself, and would again'),
        ("Undoing", 'instance "one" cannot begin again with "b#1": "a#1" before it has been undone'),
    ],
)
async def test_a_retry_that_is_refused_changes_nothing(tmp_path, host, workflow, message):
    async with world(tmp_path, host=host) as w:
        await failed(w, workflow)
        before = w.whole_journal(KEY)
        with pytest.raises(Conflict) as caught:
            await w.engine.retry(KEY)
        assert (caught.value.code, caught.value.message) == ("invalid_state", message)
        assert w.whole_journal(KEY) == before


async def test_a_restart_keeps_no_result_of_a_step_that_was_undone(tmp_path, host, service):
    async with world(tmp_path, host=host) as w:
        await failed(w, "Undoing")
        with pytest.raises(Conflict) as caught:
            await w.engine.restart(KEY, from_step=("w", 1))
        assert caught.value.message == 'instance "one" cannot begin again with "w#1": "a#1" before it has been undone'
        assert caught.value.hint == 'Restart it from its beginning, or from "a#1".'
        service.is_up = True
        await w.engine.restart(KEY, from_step=("a", 1))
        assert await w.until_final(KEY) == "complete"


async def test_what_has_not_failed_is_not_retried(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await w.engine.start(KEY, workflow="Flaky", commit=COMMIT, payload=b"\xc0")
        await w.until(KEY, "waiting")
        with pytest.raises(Conflict) as caught:
            await w.engine.retry(KEY)
        assert caught.value.code == "invalid_state"
        assert caught.value.message == 'instance "one" is waiting and cannot be retried'
        assert caught.value.hint == "Only what has failed is retried. Restart it to begin again."
        await w.engine.terminate(KEY)
        with pytest.raises(Conflict) as caught:
            await w.engine.retry(KEY)
        assert (caught.value.code, caught.value.hint) == ("instance_finished", "Restart it.")
