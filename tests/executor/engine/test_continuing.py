"""Instances that go on for ever: what one execution after the other costs does not grow."""

from __future__ import annotations

import random

import trio

from executor.core import codec, values
from executor.core.commands import Complete, Continue, StepDone, Wait
from executor.core.entries import Continued, EventReceived, Started, WaitEnded
from executor.engine.engine import EngineLimits
from tests.executor.engine.world import COMMIT, ScriptedHost, World, world

KEY = ("acme", "one")
ASKED = b"q" * 16
PAYLOAD_BYTES = 4_000
KEPT_BYTES = 50_000
CHUNK_BYTES_MAX = 40_000
"""Of journals in the store: the first chunk, and those at both ends of what is kept, stay whole."""


def loops(seen):
    """Continues until its payload says 0, each time with bytes that nothing can pack; then it waits for an event."""
    begin = next(entry for entry in reversed(seen) if isinstance(entry, Started | Continued))
    left, _ = values.decode(begin.payload)
    if any(isinstance(entry, WaitEnded) for entry in seen):
        return [Complete(b"\xc0")], False
    if left:
        ballast = random.Random(left).randbytes(PAYLOAD_BYTES)
        return [Continue(values.encode([left - 1, ballast]))], False
    return [Wait("wait#1", ASKED, "w:1", "go", None)], True


async def begin(w: World, executions: int) -> None:
    payload = values.encode([executions, b""])
    await w.engine.start(KEY, workflow="Loops", commit=COMMIT, payload=payload)


def looping() -> ScriptedHost:
    host = ScriptedHost()
    host.scripts["Loops"] = loops
    return host


async def test_only_the_present_execution_is_read_and_held_in_memory(tmp_path):
    async with world(tmp_path, host=looping()) as w:
        await begin(w, 50)
        await w.until(KEY, "waiting")
        held = w.engine.residents.get(KEY)
        assert held is None or held.journal.kept < 10
        await w.until_gone(KEY)
        [found] = await w.engine.reads.read([KEY])
        assert found.instance.execution == 50
        assert found.journal.kept < 10
        assert found.journal.first == found.instance.begin_at > 100
    async with world(tmp_path, host=looping()) as w:
        await w.engine.send_event(KEY, id="e", type="go", payload=b"\xc0")
        assert await w.until_final(KEY) == "complete"


async def test_events_that_nobody_had_read_reach_a_later_execution_of_a_later_life(tmp_path):
    host = looping()

    def reads_late(seen):
        begin = next(entry for entry in reversed(seen) if isinstance(entry, Started | Continued))
        left, _ = values.decode(begin.payload)
        if left == 2:  # the first execution: it waits until the event has come
            if not any(isinstance(entry, EventReceived) for entry in seen):
                return [StepDone("a#1", ASKED, "w:1", 1, 1, b"\xc0")] if len(seen) == 1 else [], True
            return [Continue(values.encode([1, b""]))], False
        if left == 1:
            return [Continue(values.encode([0, b""]))], False
        return loops(seen)

    host.scripts["Loops"] = reads_late
    async with world(tmp_path, host=host) as w:
        await w.engine.start(KEY, workflow="Loops", commit=COMMIT, payload=values.encode([2, b""]))
        await w.until(KEY, "waiting")
        await w.engine.pause(KEY)
        await w.engine.send_event(KEY, id="e", type="go", payload=b"\xc3")
        await w.until_gone(KEY)
    async with world(tmp_path, host=host) as w:
        await w.engine.resume(KEY)
        assert await w.until_final(KEY) == "complete"
        told = [type(entry).__name__ for entry in w.journal(KEY)]
        assert told[-5:] == ["Continued", "Continued", "WaitStarted", "WaitEnded", "Completed"]


async def test_what_is_on_disk_of_earlier_executions_is_bounded_and_readers_have_the_newest(tmp_path):
    async with world(tmp_path, host=looping(), limits=EngineLimits(history_bytes_max=KEPT_BYTES)) as w:
        await begin(w, 200)
        await w.until(KEY, "waiting")
        with trio.fail_after(20):
            while True:
                await trio.to_thread.run_sync(w.store._store.fold)
                stored = w.store.journal(*KEY)
                if sum(len(data) for _, data in stored) < KEPT_BYTES + 4 * CHUNK_BYTES_MAX:
                    break
        assert stored[0][0] == 1
        last = stored[-1][0]
        sequences = [sequence for sequence, _ in stored]
        assert sequences[-10:] == list(range(last - 9, last + 1))
        newest = [entry for _, data in stored if isinstance(entry := codec.decode(data)[0], Continued)]
        lefts = [values.decode(entry.payload)[0] for entry in newest]
        assert lefts[-10:] == list(range(9, -1, -1))
        assert sum(len(entry.payload) for entry in newest) > KEPT_BYTES - 2 * PAYLOAD_BYTES
        assert w.store.check() == []
        await w.engine.send_event(KEY, id="e", type="go", payload=b"\xc0")
        assert await w.until_final(KEY) == "complete"
