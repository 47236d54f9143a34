"""Executions: an instance begins anew, by its own wish or somebody else's, and what it keeps."""

from __future__ import annotations

import threading

import pytest
import trio

from executor.core import codec
from executor.core.commands import Complete, Continue, Sleep, StepBegun, StepDone, Undone, Wait
from executor.core.entries import (
    Activated,
    Continued,
    Released,
    Restarted,
    SleepEnded,
    StepStarted,
    StepSucceeded,
    Terminated,
    Undoing,
    WaitEnded,
    WaitStarted,
)
from executor.core.errors import Conflict, NotFound, Refused
from executor.engine import limits as engine_limits
from executor.engine.engine import EngineLimits
from executor.sandbox.protocol import Activate, Drop
from tests.executor.engine.world import COMMIT, ScriptedHost, world

ASKED = b"q" * 16
KEY = ("acme", "one")


def done(path, value=b"\xc0"):
    return StepDone(path, ASKED, "w.py:1", 1, 0, value)


def has(seen, kind, path):
    return any(isinstance(entry, kind) and entry.path == path for entry in seen)


def step_wait_step(seen):
    if not has(seen, StepSucceeded, "a#1"):
        return [StepBegun("a#1", "w.py:1", 1, 0), done("a#1")], False
    if not has(seen, WaitEnded, "w#1"):
        return [Wait("w#1", ASKED, "w.py:2", "go", None)], True
    if not has(seen, StepSucceeded, "b#1"):
        return [StepBegun("b#1", "w.py:3", 1, 0), done("b#1")], False
    return [Complete(b"\xc0")], False


def step_undo(seen):
    """A step, a wait; once it is being undone, the step is undone."""
    if any(isinstance(entry, Undoing) for entry in seen):
        if not has(seen, StepSucceeded, "undo/a#1"):
            return [done("undo/a#1")], False
        return [Undone([])], False
    return step_wait_step(seen)


def counts_down(seen):
    begin = next(entry for entry in seen if hasattr(entry, "payload") and hasattr(entry, "seed"))
    if not has(seen, StepSucceeded, "a#1"):
        return [done("a#1", begin.payload)], False
    if begin.payload != b"\x00":
        return [Continue(bytes((begin.payload[0] - 1,)))], False
    if not has(seen, WaitEnded, "w#1"):
        return [Wait("w#1", ASKED, "w.py:2", "go", None)], True
    return [Complete(b"\xc0")], False


def many_steps(seen):
    number = sum(isinstance(entry, StepSucceeded) for entry in seen) + 1
    return [done(f"a#{number}")], False


@pytest.fixture
def host():
    host = ScriptedHost()
    host.scripts.update(
        {"Waits": step_wait_step, "Undo": step_undo, "Count": counts_down, "Many": many_steps, "Sleeps": sleeps}
    )
    return host


def sleeps(seen):
    if not has(seen, SleepEnded, "s#1"):
        return [Sleep("s#1", ASKED, "w.py:2", 60_000, None)], True
    return [Complete(b"\xc0")], False


async def start(w, workflow, payload=b"\xc0"):
    await w.engine.start(KEY, workflow=workflow, commit=COMMIT, payload=payload)


async def send(w, number):
    await w.engine.send_event(KEY, id=f"e{number}", type="go", payload=b"\xc0")


def kinds_of(entries):
    return [type(entry).__name__ for entry in entries]


async def test_each_activation_and_release_is_in_the_journal(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await start(w, "Waits")
        await w.until(KEY, "waiting")
        await send(w, 1)
        await w.until_final(KEY)
        assert kinds_of(w.whole_journal(KEY)) == [
            "Started",
            "Activated",
            "StepStarted",
            "StepSucceeded",
            "WaitStarted",
            "Released",
            "EventReceived",
            "WaitEnded",
            "Activated",
            "StepStarted",
            "StepSucceeded",
            "Completed",
        ]


async def test_traces_are_not_sent_to_the_run_and_not_in_the_chain(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await start(w, "Waits")
        await w.until(KEY, "waiting")
        await send(w, 1)
        await w.until_final(KEY)
        totals = [frame.total for frame in host.log if isinstance(frame, Activate)]
        assert totals == [1, 8]
        stored = [codec.decode(data) for _, data in w.store.journal(*KEY)]
        traces = [chain for entry, chain in stored if isinstance(entry, Activated | Released | StepStarted)]
        assert traces == [b""] * 5
        chain = codec.CHAIN_START
        for entry in w.journal(KEY):  # without them
            chain = codec.chain_after(chain, entry)
        assert stored[-1][1] == chain


async def test_restart_from_the_beginning_forgets_steps_and_events(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await start(w, "Waits")
        await w.until(KEY, "waiting")
        await send(w, 1)
        await w.until_final(KEY)
        await w.engine.restart(KEY, by="kim")
        await w.until(KEY, "waiting")
        journal = w.whole_journal(KEY)
        [restarted] = [entry for entry in journal if isinstance(entry, Restarted)]
        assert (restarted.after, restarted.keeps_events, restarted.by) == (1, False, "kim")
        assert kinds_of(w.journal(KEY)).count("StepSucceeded") == 3
        await send(w, 1)
        assert await w.until_final(KEY) == "complete"


async def test_restart_from_a_step_keeps_what_was_recorded_before_it_began(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await start(w, "Waits")
        await w.until(KEY, "waiting")
        await send(w, 1)
        await w.until_final(KEY)
        await w.engine.restart(KEY, from_step=("b", 1))
        assert await w.until_final(KEY) == "complete"
        steps = [entry.path for entry in w.journal(KEY) if isinstance(entry, StepSucceeded)]
        assert steps == ["a#1", "b#1", "b#1"]


async def test_restart_from_a_wait_gives_it_the_event_again(tmp_path, host):
    """What came from outside is not lost with what the run made of it."""
    async with world(tmp_path, host=host) as w:
        await start(w, "Waits")
        await w.until(KEY, "waiting")
        await send(w, 1)
        await w.until_final(KEY)
        await w.engine.restart(KEY, from_step=("w", 1))
        assert await w.until_final(KEY) == "complete"
        assert kinds_of(w.journal(KEY)).count("EventReceived") == 1
        assert kinds_of(w.journal(KEY)).count("WaitEnded") == 2


async def test_restart_begins_the_present_execution_anew_and_not_the_first(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await start(w, "Count", b"\x02")
        await w.until(KEY, "waiting")
        await send(w, 1)
        await w.until_final(KEY)
        await w.engine.restart(KEY)
        await w.until(KEY, "waiting")
        last = max(at for at, entry in enumerate(w.whole_journal(KEY), start=1) if isinstance(entry, Continued))
        [restarted] = [entry for entry in w.whole_journal(KEY) if isinstance(entry, Restarted)]
        assert restarted.after == last
        assert kinds_of(w.journal(KEY)).count("Continued") == 2
        assert w.journal(KEY)[-2].value == b"\x00", "its step has seen the last payload again"


async def test_restart_whose_facet_cannot_go_back_is_refused_and_changes_nothing(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await start(w, "Waits")
        await w.until(KEY, "waiting")
        before, revert = w.whole_journal(KEY), w.store.revert

        def not_kept(*_key, after):
            raise Refused("The facet as of entry 1 is not kept any more.", code="facet_refused")

        w.store.revert = not_kept
        for from_step in (None, ("a", 1)):
            with pytest.raises(Refused) as caught:
                await w.engine.restart(KEY, from_step=from_step)
            assert caught.value.code == "facet_refused"
        w.store.revert = revert
        await send(w, 1)
        assert await w.until_final(KEY) == "complete"
        assert w.whole_journal(KEY)[: len(before)] == before
        assert "Restarted" not in kinds_of(w.whole_journal(KEY))


async def test_restart_survives_the_end_of_the_executor(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await start(w, "Waits")
        await w.until(KEY, "waiting")
        await send(w, 1)
        await w.until_final(KEY)
        await w.engine.restart(KEY)
        await w.until(KEY, "waiting")
    async with world(tmp_path, host=host) as w:
        assert w.store.row(*KEY).row.state == "waiting"
        await send(w, 2)
        assert await w.until_final(KEY) == "complete"


async def test_restart_of_a_running_instance_drops_its_run_first(tmp_path, host):
    host.scripts["Silent"] = lambda seen: ([], False)
    async with world(tmp_path, host=host) as w:
        await start(w, "Silent")
        while not host.living or not host.living[0].runs:
            await trio.testing.wait_all_tasks_blocked(0.001)
        await w.engine.restart(KEY)
        while sum(isinstance(frame, Activate) for frame in host.log) < 2:
            await trio.testing.wait_all_tasks_blocked(0.001)
        kinds = [type(frame) for frame in host.log if isinstance(frame, Activate | Drop)]
        assert kinds == [Activate, Drop, Activate]


async def test_restart_from_an_unknown_step_changes_nothing_and_names_what_there_is(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await start(w, "Waits")
        await w.until(KEY, "waiting")
        before = w.whole_journal(KEY)
        with pytest.raises(NotFound) as caught:
            await w.engine.restart(KEY, from_step=("b", 1))
        assert caught.value.code == "step_not_found"
        assert caught.value.message == 'instance "one" has no step "b#1" in its journal'
        assert caught.value.hint == 'Its latest are "a#1", "w#1".'
        assert w.whole_journal(KEY) == before


async def test_continued_instance_replays_only_its_present_execution_and_keeps_unread_events(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await start(w, "Count", b"\x03")
        await w.until(KEY, "waiting")
        journal = w.journal(KEY)
        assert [entry.payload for entry in journal if isinstance(entry, Continued)] == [b"\x02", b"\x01", b"\x00"]
        assert len({entry.seed for entry in journal if hasattr(entry, "seed")}) == 4
        await send(w, 1)
        assert await w.until_final(KEY) == "complete"
    assert kinds_of(journal)[-3:] == ["Continued", "StepSucceeded", "WaitStarted"]


async def test_event_sent_before_it_continued_is_read_after(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await start(w, "Count", b"\x02")
        await send(w, 1)
        assert await w.until_final(KEY) == "complete"


async def test_termination_with_undo_undoes_and_then_ends(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await start(w, "Undo")
        await w.until(KEY, "waiting")
        await w.engine.terminate(KEY, undo=True, by="kim")
        assert await w.until_final(KEY) == "terminated"
        journal = w.journal(KEY)
        assert kinds_of(journal)[-3:] == ["Undoing", "StepSucceeded", "Terminated"]
        assert journal[-1] == Terminated(journal[-1].at_ms, "kim")


async def test_undoing_goes_on_after_the_end_of_the_executor(tmp_path, host):
    is_silent = True

    def undo_later(seen):
        if is_silent and any(isinstance(entry, Undoing) for entry in seen):
            return [], False
        return step_undo(seen)

    host.scripts["Undo"] = undo_later
    async with world(tmp_path, host=host, limits=EngineLimits(stop_grace_s=0.01)) as w:
        await start(w, "Undo")
        await w.until(KEY, "waiting")
        await w.engine.terminate(KEY, undo=True)
        await w.until(KEY, "undoing")
        with pytest.raises(Conflict) as caught:
            await w.engine.pause(KEY)
        assert caught.value.code == "invalid_state"
    is_silent = False
    async with world(tmp_path, host=host) as w:
        assert await w.until_final(KEY) == "terminated"


async def test_termination_with_undo_of_what_did_nothing_is_an_ordinary_one(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await start(w, "Sleeps")
        await w.until(KEY, "waiting")
        await w.engine.terminate(KEY, undo=True)
        assert w.kinds(KEY)[-1] == "Terminated"
        assert "Undoing" not in w.kinds(KEY)


async def test_execution_with_too_many_steps_is_held_and_told_how_to_go_on(tmp_path, host):
    async with world(tmp_path, host=host, limits=EngineLimits(steps_max=10)) as w:
        await start(w, "Many")
        assert await w.until(KEY, "held") == "held"
        held = w.journal(KEY)[-1]
        assert held.code == "limit_exceeded"
        expected = "its execution has 11 steps, the limit is 10; self.continue_as_new(payload) begins a new execution"
        assert held.message == expected
        await w.engine.output.flush()
        lines = [line.text for line in w.store.output(*KEY, after=0, limit=10)]
        assert lines == [
            "this execution has 8 steps of at most 10; self.continue_as_new(payload) begins a new execution"
        ]


async def test_journal_only_grows_by_a_restart(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await start(w, "Waits")
        await w.until(KEY, "waiting")
        await send(w, 1)
        await w.until_final(KEY)
        before = w.whole_journal(KEY)
        await w.engine.restart(KEY, from_step=("b", 1))
        await w.until_final(KEY)
        after = w.whole_journal(KEY)
        assert after[: len(before)] == before
        assert isinstance(after[len(before)], Restarted)


async def test_wait_that_stands_again_is_given_an_event_that_came_after_it_at_once(tmp_path, host):
    """Going back to a step that ran beside a wait: the wait is before it, the event that answered it after."""

    def step_beside_wait(seen):
        commands = []
        if not has(seen, WaitStarted, "w#1"):
            commands.append(Wait("w#1", ASKED, "w.py:2", "go", None))
        if not has(seen, StepSucceeded, "a#1"):
            commands += [StepBegun("a#1", "w.py:1", 1, 0), done("a#1")]
        if has(seen, WaitEnded, "w#1") and has(seen, StepSucceeded, "a#1"):
            return [Complete(b"\xc0")], False
        return commands, True

    host.scripts["Beside"] = step_beside_wait
    async with world(tmp_path, host=host) as w:
        await start(w, "Beside")
        await w.until(KEY, "waiting")
        await send(w, 1)
        await w.until_final(KEY)
        await w.engine.restart(KEY, from_step=("a", 1))
        assert await w.until_final(KEY) == "complete"
        assert kinds_of(w.journal(KEY))[-4:] == ["Restarted", "WaitEnded", "StepSucceeded", "Completed"]


class SlowRevert:
    """A store whose way back takes until `go`."""

    def __init__(self, store):
        self._store = store
        self.began, self.go = threading.Event(), threading.Event()

    def __getattr__(self, name):
        return getattr(self._store, name)

    def revert(self, *key, after):
        self.began.set()
        assert self.go.wait(10)
        return self._store.revert(*key, after=after)


async def test_instance_deleted_while_it_is_restarted_is_gone_and_nobody_else_is_harmed(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await start(w, "Waits")
        await w.until(KEY, "waiting")
        await send(w, 1)
        await w.until_final(KEY)
        slow = w.engine.store = SlowRevert(w.store)
        refused = []

        async def restart():
            try:
                await w.engine.restart(KEY)
            except NotFound as error:
                refused.append(error.code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(restart)
            while not slow.began.is_set():
                await trio.testing.wait_all_tasks_blocked(0.001)
            await w.engine.delete(KEY)
            slow.go.set()
        assert refused == ["instance_not_found"]
        assert w.store.row(*KEY) is None
        await start(w, "Waits")
        await w.until(KEY, "waiting")


async def test_execution_that_has_too_much_with_all_its_restarts_is_held(tmp_path, host, monkeypatch):
    """A restart begins no new history: what it left behind is read too."""
    monkeypatch.setattr(engine_limits, "HISTORY_BYTES_MAX", 2_000)
    async with world(tmp_path, host=host) as w:
        await start(w, "Waits")
        for _ in range(50):
            if await w.until(KEY, "waiting", "held") == "held":
                break
            await w.engine.restart(KEY)
            await trio.testing.wait_all_tasks_blocked(0.001)
        held = w.journal(KEY)[-1]
        assert held.code == "limit_exceeded"
        assert held.message.startswith("its execution with all restarts has 2")
        assert "bytes of journal, the limit is 2000; " in held.message
