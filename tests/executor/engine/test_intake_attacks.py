"""What a sandbox can say in one message never holds up the others for long, and is worked on in its order."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
import trio
import trio.testing

from executor.core import decide, matching, values
from executor.core.commands import Diverge, Emit, GroupEnd, Sleep, Wait
from executor.core.entries import Held, SleepStarted, StepRef
from executor.engine import committer, hearing, intake
from executor.engine.intake import Intake
from executor.sandbox import protocol
from executor.sandbox.protocol import Output, ProtocolError, Turn
from tests.executor.core.strategies import ASKED, begin
from tests.executor.engine.world import COMMIT, ScriptedHost, settled, world

KEY = ("acme", "one")


class Ticks:
    """A clock that goes on by a millisecond whenever somebody looks at it."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 0.001
        return self.now_s


class Growth(trio.abc.Instrument):
    """The most entries that a journal grew by in one step of a task."""

    def __init__(self, w) -> None:
        self._w = w
        self._before = 0
        self.most = 0

    def _count(self) -> int:
        resident = self._w.engine.residents.get(KEY)
        return 0 if resident is None else resident.instance.sequence

    def before_task_step(self, _task) -> None:
        self._before = self._count()

    def after_task_step(self, _task) -> None:
        self.most = max(self.most, self._count() - self._before)


def sleep(number: int) -> Sleep:
    return Sleep(f"s{number}#1", ASKED, "w.py:1", 60_000, None)


@pytest.mark.parametrize(
    "say",
    [
        lambda run, commands: [Turn(run, 1, commands, idle=True)],
        lambda run, commands: [Turn(run, 1, [command], idle=False) for command in commands],
        lambda run, commands: [Turn(run, 1, commands[:150], idle=False), Turn(run, 1, commands[150:], idle=True)],
    ],
    ids=["one turn", "many turns", "two turns"],
)
async def test_much_work_in_one_message_is_done_a_slice_at_a_time_in_its_order(tmp_path, monkeypatch, say):
    clock = Ticks()
    monkeypatch.setattr(hearing, "perf_counter", clock)
    monkeypatch.setattr(intake, "perf_counter", clock)
    host = ScriptedHost()
    host.scripts["Bad"] = lambda _seen: ([], False)
    async with world(tmp_path, host=host) as w:
        await w.engine.start(KEY, workflow="Bad", commit=COMMIT, payload=b"\xc0")
        await w.until(KEY, "running", "queued")
        await settled()
        [sandbox] = host.living
        growth = Growth(w)
        trio.lowlevel.add_instrument(growth)
        sandbox.say(say(next(iter(sandbox.runs)), [sleep(number) for number in range(300)]))
        while len(w.journal(KEY)) <= 300:
            await trio.testing.wait_all_tasks_blocked(0.001)
        trio.lowlevel.remove_instrument(growth)
        begun = [entry.path for entry in w.journal(KEY) if isinstance(entry, SleepStarted)]
        assert begun == [f"s{number}#1" for number in range(300)]
        assert growth.most <= intake.SLICE_S * 1000 + 2  # with Activated
        assert sandbox.death is None
        await w.engine.terminate(KEY)


class FakeDisk:
    def __init__(self) -> None:
        self.is_behind = False
        self.waiters = 0
        self._written = trio.Event()

    async def caught_up(self) -> None:
        self.waiters += self.is_behind
        while self.is_behind:
            await self._written.wait()

    def catch_up(self) -> None:
        self.is_behind = False
        self._written.set()
        self._written = trio.Event()


def test_tenants_with_much_to_say_take_turns_whatever_the_number_of_their_sandboxes(monkeypatch) -> None:
    monkeypatch.setattr(intake, "perf_counter", lambda: 0.0)
    done: list[str] = []

    def one_at_a_time(sandbox, frames, _until_s):
        done.append(sandbox)
        return frames[1:]

    async def scenario() -> None:
        taken: Intake[str] = Intake(one_at_a_time, FakeDisk())
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(taken.take, "acme", f"acme{number}", [1] * 5)
            await trio.lowlevel.checkpoint()
            nursery.start_soon(taken.take, "other", "other", [1] * 5)
        assert not taken._turns

    trio.run(scenario)
    assert len(done) == 105
    theirs = [place for place, name in enumerate(done) if name == "other"]
    gaps = [later - earlier for earlier, later in pairwise(theirs[1:])]
    assert max(gaps) <= 2, "one slice of the tenant with twenty sandboxes between two of the other's"


def test_nothing_is_taken_in_while_more_waits_to_be_written_than_should(monkeypatch) -> None:
    monkeypatch.setattr(intake, "perf_counter", lambda: 0.0)
    done: list[int] = []

    async def scenario() -> None:
        disk = FakeDisk()
        disk.is_behind = True

        def fills(_sandbox, frames, _until_s):
            done.append(frames[0])
            disk.is_behind = True
            return frames[1:]

        taken: Intake[str] = Intake(fills, disk)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(taken.take, "acme", "acme", [1, 2, 3])
            for count in range(3):
                await trio.testing.wait_all_tasks_blocked()
                assert (len(done), disk.waiters) == (count, count + 1)
                disk.catch_up()
        assert done == [1, 2, 3]

    trio.run(scenario)


async def test_sandbox_is_not_read_while_the_disk_is_behind(tmp_path, monkeypatch):
    host = ScriptedHost()
    host.scripts["Bad"] = lambda _seen: ([], False)
    async with world(tmp_path, host=host) as w:
        await w.engine.start(KEY, workflow="Bad", commit=COMMIT, payload=b"\xc0")
        with trio.fail_after(30):
            while not any(sandbox.runs for sandbox in host.living):
                await trio.testing.wait_all_tasks_blocked(0.001)
        [sandbox] = host.living
        run = next(iter(sandbox.runs))
        with monkeypatch.context() as patched:
            patched.setattr(committer, "PENDING_BYTES_MAX", -1)
            sandbox.say([Turn(run, 1, [sleep(1)], idle=False)])
            await trio.testing.wait_all_tasks_blocked(0.001)
            assert w.kinds(KEY) == ["Started"]
        w.engine.committer._taken.notify()  # a batch was taken
        while "SleepStarted" not in w.kinds(KEY):
            await trio.testing.wait_all_tasks_blocked(0.001)
        await w.engine.terminate(KEY)


# --- bounds of what is said


@pytest.mark.parametrize(
    "message",
    [
        [Output(1, 0, 0, 0, "log", "", "", 0, "")] * (protocol.FRAMES_MAX + 1),
        [Turn(1, 1, [GroupEnd("")] * (protocol.COMMANDS_MAX + 1), idle=False)],
        [Turn(1, 1, [Emit("s", [b""] * 10_001, "", 0, 1)], idle=False)],
    ],
    ids=["frames", "commands", "items"],
)
def test_message_of_more_things_than_any_honest_one_has_is_refused_before_they_are_made(message):
    body = msgspec.msgpack.encode(message)
    with pytest.raises(ProtocolError, match="Expected `array` of length <= "):
        protocol.decode_from_sandbox(body)
    with pytest.raises(ProtocolError, match="Expected `array` of length <= "):
        [protocol.decode_cut(frame) for frame in protocol.cut_from_sandbox(body)]


def test_sides_of_a_mismatch_are_cut():
    side = StepRef("k" * 1_000, "p" * 10_000, "w" * 10_000, b"a" * 1_000)
    [held] = decide.on_command(begin(), Diverge("m" * 10_000, side, None), now_ms=2_000).entries
    assert held == Held(
        2_000, "nondeterminism", "m" * 4_096, StepRef("k" * 16, "p" * 1_024, "w" * 512, b"a" * 16), None
    )


def test_type_of_an_awaited_event_has_a_bound():
    wait = Wait("w#1", ASKED, "w.py:1", "t" * 257, None)
    with pytest.raises(decide.Violation) as caught:
        decide.on_command(begin(), wait, now_ms=2_000)
    assert str(caught.value) == "wait w#1 is for an event with an overlong type"


def test_matches_of_the_open_waits_have_a_common_bound_that_holds_the_instance():
    found = begin()
    large = values.encode({f"k{number}": "x" * 1_000 for number in range(16)})
    kept: list[Held] = []
    for number in range(40):
        wait = Wait(f"w{number}#1", ASKED, "w.py:1", "go", None, large)
        [entry] = decide.on_command(found, wait, now_ms=2_000).entries
        found.apply(entry)
        if isinstance(entry, Held):
            kept.append(entry)
            break
    [held] = kept
    assert held.code == "limit_exceeded"
    assert held.message == (
        "its open waits with a match of more than 3 keys or 256 bytes have "
        f"{len(found.waits) * len(large) + len(large)} bytes of matches, the limit is 524288; "
        "match by fewer keys, or wait for fewer at once"
    )
    assert len(found.waits) == 524_288 // len(large)


def test_small_matches_count_for_nothing():
    assert matching.is_small(values.encode({"order": "x" * 200, "kind": 1, "n": None}))
    assert not matching.is_small(values.encode({"a": 1, "b": 1, "c": 1, "d": 1}))
    assert not matching.is_small(values.encode({"a": "x" * 256}))
    assert not matching.is_small(values.encode({str(number): 1 for number in range(20)}))
    assert matching.is_small(b"")


def test_event_that_meets_thousands_of_waits_makes_nothing_of_their_matches_that_lasts():
    waits = [(f"w{number}", values.encode({"n": number})) for number in range(3_000)]
    matching.wanted.cache_clear()
    assert matching.first_wait(waits, values.encode({"n": 2_999})) == "w2999"
    assert matching.wanted.cache_info().currsize == 0
    assert matching.wanted.cache_info().maxsize * 512 * 1024 <= 32 * 1024 * 1024
