"""Defects that the durability scenarios found, each at its smallest: pauses, deaths and full disks at bad moments."""

import threading

import pytest
import trio
import trio.testing

from executor.core.commands import Cancel, Complete, RetryPolicy, Sleep, StepDone, StepError
from executor.core.entries import AttemptFailed, Cancelled, SleepEnded, StepSucceeded
from executor.core.errors import Corrupt, NotFound, Unavailable
from executor.core.failure import ErrorFact
from executor.engine.committer import Committer
from executor.engine.worker import Worker
from executor.ports import Append, OutputText, Row
from executor.sandbox.protocol import Activate, GoOn, Quiesce, Turn
from tests.executor.engine.world import COMMIT, ScriptedHost, ScriptedSandbox, world

ASKED = b"q" * 16
KEY = ("acme", "one")


def one_step(seen):
    if any(isinstance(entry, StepSucceeded) for entry in seen):
        return [Complete(b"\xc0")], False
    return [StepDone("a#1", ASKED, "w.py:1", 1, 0, b"\xc0")], False


def executes_for_ever(seen):
    return [], False


class BusySandbox(ScriptedSandbox):
    """Hears of a pause, and of all that comes then, only when it is told to."""

    def __init__(self, host, spec):
        super().__init__(host, spec)
        self.unheard = []
        self.is_told = False

    async def send(self, frames):
        for frame in frames:
            if not self.is_told and (self.unheard or isinstance(frame, Quiesce)):
                self.unheard.append(frame)
            else:
                await super().send([frame])


class BusyHost(ScriptedHost):
    async def open(self, spec):
        await trio.lowlevel.checkpoint()
        sandbox = BusySandbox(self, spec)
        self.sandboxes.append(sandbox)
        return sandbox


async def test_instance_resumed_before_its_pause_was_heard_goes_on(tmp_path):
    """The run was told to start nothing more, and then that it may."""
    host, told = BusyHost(), []
    host.scripts["One"] = lambda seen: one_step(seen) if told else ([], False)
    async with world(tmp_path, host=host) as w:
        await w.engine.start(KEY, workflow="One", commit=COMMIT, payload=b"\xc0")
        with trio.fail_after(30):
            while not (host.sandboxes and host.sandboxes[0].runs):
                await trio.testing.wait_all_tasks_blocked(0.001)
            sandbox = host.sandboxes[0]
            await w.engine.pause(KEY)
            await w.engine.resume(KEY)
            while not any(isinstance(frame, GoOn) for frame in sandbox.unheard):  # else it would overtake the others
                await trio.testing.wait_all_tasks_blocked(0.001)
            told.append("go on")
            sandbox.is_told = True
            await sandbox.send(sandbox.unheard)
            assert await w.until_final(KEY) == "complete"
        assert w.kinds(KEY) == ["Started", "Paused", "Resumed", "StepSucceeded", "Completed"]


class GatedStore:
    """A state store whose appends wait, and fail with what they are told to."""

    def __init__(self, store):
        self._store = store
        self.gate = threading.Event()
        self.gate.set()
        self.appends = 0

    def append(self, records):
        self.appends += 1
        assert self.gate.wait(10)
        self._store.append(records)

    def __getattr__(self, name):
        return getattr(self._store, name)


async def test_step_whose_result_is_on_its_way_to_disk_when_the_sandbox_dies_is_not_executed_again(tmp_path):
    host = ScriptedHost()
    host.scripts["One"] = one_step
    async with world(tmp_path, host=host) as w:
        await w.engine.start(KEY, workflow="One", commit=COMMIT, payload=b"\xc0")
        gated = w.engine.committer._store = GatedStore(w.store)
        gated.gate.clear()
        with trio.fail_after(30):
            while not gated.appends:
                await trio.testing.wait_all_tasks_blocked(0.001)
            host.sandboxes[0].kill("crashed")
            # Longer than the pause before a new sandbox is tried; the disk is slower still.
            await trio.sleep(0.3)
            assert [frame.total for frame in host.log if isinstance(frame, Activate)] == [1]
            gated.gate.set()
            assert await w.until_final(KEY) == "complete"
        assert [frame.total for frame in host.log if isinstance(frame, Activate)] == [1, 3]
        assert w.kinds(KEY) == ["Started", "StepSucceeded", "Completed"]


def append(sequence):
    return Append(*KEY, sequence, b"entry", None, Row("running", None, "W", COMMIT, 1, 1, b""))


class FullOnce:
    """The first append finds the disk full, after `go`; room is there at once again."""

    def __init__(self):
        self.go = threading.Event()
        self.written = []

    def append(self, records):
        if not self.go.is_set():
            assert self.go.wait(10)
            raise Unavailable("no room", code="storage_full")
        self.written += [(record.instance, record.sequence) for record in records]


async def test_what_follows_a_refused_record_of_the_same_instance_is_refused_too(nursery):
    """Else the store would be given record 2 after the loss of record 1: a gap, and the end of the executor."""
    store, outcomes = FullOnce(), []
    committer = Committer(store, Worker("test-writer"))
    nursery.start_soon(committer.run)
    other = Append("acme", "two", 1, b"entry", None, Row("running", None, "W", COMMIT, 1, 1, b""))
    committer.submit([append(1)], 100, lambda error: outcomes.append(("one 1", error)))
    await trio.testing.wait_all_tasks_blocked(0.01)
    committer.submit([append(2)], 100, lambda error: outcomes.append(("one 2", error)))
    committer.submit([other], 100, lambda error: outcomes.append(("two 1", error)))
    store.go.set()
    with trio.fail_after(30):
        while len(outcomes) < 3:
            await trio.testing.wait_all_tasks_blocked(0.001)
    assert [(name, getattr(error, "code", None)) for name, error in outcomes] == [
        ("one 1", "storage_full"),
        ("one 2", "storage_full"),
        ("two 1", None),
    ]
    assert store.written == [("two", 1)]


def gives_up_its_retry(seen):
    failed = [entry for entry in seen if isinstance(entry, AttemptFailed)]
    if any(isinstance(entry, Cancelled) for entry in seen):
        return [], True
    if not failed:
        error = StepError("a#1", ASKED, "w.py:1", 1, 0, ErrorFact("ValueError", "no"), RetryPolicy(5, 10, "constant"))
        return [error], True
    return [], False


async def test_run_that_gave_up_a_retry_while_it_was_asked_for_comes_to_rest(tmp_path):
    """The attempt never reports: nobody may wait for it."""
    host = ScriptedHost()
    host.scripts["One"] = gives_up_its_retry
    async with world(tmp_path, host=host) as w:
        await w.engine.start(KEY, workflow="One", commit=COMMIT, payload=b"\xc0")
        with trio.fail_after(30):
            await w.until(KEY, "waiting")
            w.clock.advance(1_000)
            await w.until(KEY, "running")
            while not any(run.attempts for sandbox in host.living for run in sandbox.runs.values()):
                await trio.testing.wait_all_tasks_blocked(0.001)
            sandbox = host.living[0]
            (number,) = sandbox.runs
            sandbox.say([Turn(number, 2, [Cancel("a#1")], True)])
            await w.until(KEY, "waiting")
            await w.until_gone(KEY)
        assert w.kinds(KEY) == ["Started", "AttemptFailed", "Cancelled"]


class FullStore:
    """A state store on a disk that is full until it is told otherwise."""

    def __init__(self, store):
        self._store = store
        self.is_full = True
        self.refused = 0

    def append(self, records):
        if self.is_full:
            self.refused += 1
            raise Unavailable("no room", code="storage_full")
        self._store.append(records)

    def __getattr__(self, name):
        return getattr(self._store, name)


def activations(host):
    return [frame for frame in host.log if isinstance(frame, Activate)]


async def test_while_the_disk_is_full_no_step_is_executed_again_and_again(tmp_path, monkeypatch):
    """Its result could not be kept: first it must be known that there is room."""
    monkeypatch.setattr("executor.engine.losses.FULL_DISK_PAUSE_S", 0.02)
    host = ScriptedHost()
    host.scripts["One"] = one_step
    async with world(tmp_path, host=host) as w:
        full = FullStore(w.store)
        w.engine.committer._store = w.store
        with trio.fail_after(30):
            host.scripts["One"] = executes_for_ever
            await w.engine.start(KEY, workflow="One", commit=COMMIT, payload=b"\xc0")
            while not activations(host):
                await trio.testing.wait_all_tasks_blocked(0.001)
            host.scripts["One"] = one_step
            w.engine.committer._store = full
            sandbox = host.living[0]
            (number,) = sandbox.runs
            sandbox.say([Turn(number, 1, one_step([])[0], False)])
            while full.refused < 4:
                await trio.sleep(0.01)
            assert len(activations(host)) == 1
            full.is_full = False
            assert await w.until_final(KEY) == "complete"
        assert len(activations(host)) == 2
        assert w.kinds(KEY) == ["Started", "StepSucceeded", "Completed"]


def sleeps(seen):
    if any(isinstance(entry, SleepEnded) for entry in seen):
        return [Complete(b"\xc0")], False
    return [Sleep("s#1", ASKED, "w.py:2", 60_000, None)], True


async def test_timer_that_cannot_be_journaled_is_tried_at_a_measured_pace(tmp_path, monkeypatch):
    monkeypatch.setattr("executor.engine.losses.FULL_DISK_PAUSE_S", 0.1)
    host = ScriptedHost()
    host.scripts["One"] = sleeps
    async with world(tmp_path, host=host) as w:
        await w.engine.start(KEY, workflow="One", commit=COMMIT, payload=b"\xc0")
        with trio.fail_after(30):
            await w.until(KEY, "waiting")
            await w.until_gone(KEY)
            full = w.engine.committer._store = FullStore(w.store)
            w.clock.advance(60_000)
            begun_s, refused = trio.current_time(), full.refused
            while full.refused < refused + 5:
                await trio.sleep(0.001)
            assert trio.current_time() - begun_s >= 4 * 0.1
            full.is_full = False
            assert await w.until_final(KEY) == "complete"
        assert w.kinds(KEY) == ["Started", "SleepStarted", "SleepEnded", "Completed"]


async def test_instance_deleted_while_the_disk_is_full_harms_nobody(tmp_path, monkeypatch):
    """What begins again after the pause finds nothing, and the executor goes on."""
    monkeypatch.setattr("executor.engine.losses.FULL_DISK_PAUSE_S", 0.05)
    host = ScriptedHost()
    host.scripts["One"] = executes_for_ever
    async with world(tmp_path, host=host) as w:
        await w.engine.start(KEY, workflow="One", commit=COMMIT, payload=b"\xc0")
        with trio.fail_after(30):
            while not activations(host):
                await trio.testing.wait_all_tasks_blocked(0.001)
            full = w.engine.committer._store = FullStore(w.store)
            sandbox = host.living[0]
            (number,) = sandbox.runs
            sandbox.say([Turn(number, 1, one_step([])[0], False)])
            while not full.refused:
                await trio.testing.wait_all_tasks_blocked(0.001)
            full.is_full = False
            await w.engine.delete_tenant("acme")
            await trio.sleep(0.1)
            host.scripts["One"] = one_step
            other = ("birch", "two")
            await w.engine.start(other, workflow="One", commit=COMMIT, payload=b"\xc0")
            assert await w.until_final(other) == "complete"


class BrokenStore(FullStore):
    """A state store whose disk fails, slowly: what is on it is unknown from then on."""

    def append(self, records):
        threading.Event().wait(0.05)
        raise Corrupt("Writing log.db failed: the disk does not answer.", code="corrupt_store")


async def test_failed_write_stops_the_executor_and_is_told_to_everybody_who_waits(tmp_path):
    """Nobody is acknowledged, and nobody who waits for it keeps the executor from stopping."""
    host = ScriptedHost()
    host.scripts["One"] = executes_for_ever
    told = []

    async def start(w, name):
        try:
            await w.engine.start(("acme", name), workflow="One", commit=COMMIT, payload=b"\xc0", is_new=True)
        except Corrupt as error:
            told.append((name, error.message))

    with trio.fail_after(30):
        with pytest.RaisesGroup(Corrupt, flatten_subgroups=True):
            async with world(tmp_path, host=host) as w:
                await w.engine.start(KEY, workflow="One", commit=COMMIT, payload=b"\xc0")
                while not activations(host):
                    await trio.testing.wait_all_tasks_blocked(0.001)
                w.engine.committer._store = BrokenStore(w.store)
                async with trio.open_nursery() as nursery:
                    for name in ("two", "three", "four"):
                        nursery.start_soon(start, w, name)
                    await trio.sleep_forever()
    message = "Writing log.db failed: the disk does not answer."
    assert sorted(told) == [("four", message), ("three", message), ("two", message)]
    async with world(tmp_path, host=ScriptedHost()) as w:
        assert [row.instance for row in w.store.in_states({"queued", "running"}, limit=9, after=0)] == ["one"]


class FullForOutput(FullStore):
    def append_output(self, lines):
        if self.is_full:
            self.refused += 1
            raise Unavailable("output.db cannot grow", code="storage_full")
        self._store.append_output(lines)


async def test_captured_output_waits_for_room_on_the_disk(tmp_path, monkeypatch):
    """It neither stops the executor nor is lost, and reading what is there goes on."""
    monkeypatch.setattr("executor.engine.output.FULL_DISK_PAUSE_S", 0.02)
    host = ScriptedHost()
    host.scripts["One"] = executes_for_ever
    async with world(tmp_path, host=host) as w:
        await w.engine.start(KEY, workflow="One", commit=COMMIT, payload=b"\xc0")
        full = w.engine.output._store = FullForOutput(w.store)
        with trio.fail_after(30):
            for number in range(3):
                w.engine.output.add(OutputText(*KEY, 1, number, 1, "stdout", "", "", 0, f"line {number}"))
            while full.refused < 3:
                await trio.sleep(0.01)
            await w.engine.output.flush()
            assert w.store.output(*KEY, after=0, limit=9) == []
            full.is_full = False
            while not (lines := w.store.output(*KEY, after=0, limit=9)):
                await trio.sleep(0.01)
        assert [line.text for line in lines] == ["line 0", "line 1", "line 2"]


async def test_instance_whose_version_is_gone_is_held_and_says_so(tmp_path):
    """It must never happen; if it does (a damaged store), nobody may wait for ever without a word."""
    host = ScriptedHost()
    host.scripts["One"] = one_step
    async with world(tmp_path, host=host) as w:

        def gone(tenant, commit):
            raise NotFound(f"tenant {tenant} has no version {commit[:8]}", code="version_not_found")

        w.engine.runner.sandboxes._code.bundle = gone
        await w.engine.start(KEY, workflow="One", commit=COMMIT, payload=b"\xc0")
        with trio.fail_after(30):
            await w.until(KEY, "held")
        held = w.journal(KEY)[-1]
        assert (held.code, held.message) == (
            "code_not_loadable",
            "the code of its commit is gone: tenant acme has no version cccccccc",
        )
