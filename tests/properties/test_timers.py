"""P11: timers end in the order in which they are due, none early, and a clock that is set changes nothing but times."""

from __future__ import annotations

from collections import Counter

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from executor.core import codec
from executor.core.entries import (
    AnyEntry,
    AttemptFailed,
    Completed,
    SleepEnded,
    SleepStarted,
    StepFailed,
    StepSucceeded,
    Trace,
    WaitEnded,
    WaitStarted,
)
from executor.core.lifecycle import FINAL
from tests.simulation.programs import Operation, payload_of
from tests.simulation.world import Life, World

QUICK = settings.default.max_examples if settings.default is not None else 50
KEY = ("acme", "one")
DURATIONS_MS = st.one_of(st.integers(0, 5_000), st.sampled_from([0, 1, 999, 1_000, 60_000, 100_000]))
naps = DURATIONS_MS.map(lambda ms: ["nap", ms])
waits = DURATIONS_MS.map(lambda ms: ["wait", "never", ms])
steps = st.tuples(st.integers(0, 4), st.sampled_from([0, 1, 700])).map(lambda both: ["step", *both])
timers = st.one_of(naps, waits, steps)
programs = st.lists(
    st.one_of(timers, st.lists(timers, min_size=2, max_size=6).map(lambda parts: ["both", *parts])),
    min_size=1,
    max_size=4,
)
scripts = st.lists(
    st.tuples(st.sampled_from([0, 1, 300, 2_000, 30_000]), st.sampled_from([-30_000, -400, -1, 1, 900, 40_000, 10**8])),
    max_size=5,
)


def told(seed: int, program: list[Operation], script: list[tuple[int, int]], *, crash_at: int | None) -> list[AnyEntry]:
    """The journal of the program while somebody sets the clock: after so many milliseconds, by so many. At the
    `crash_at`-th time the machine loses power too."""
    world = World(seed)

    async def live(life: Life) -> None:
        await life.start(KEY, payload_of(program, 1))
        for number, (after_ms, by_ms) in enumerate(script):
            await trio.sleep(after_ms / 1000)
            life.clock.set_by(by_ms)
            if number == crash_at:
                world.disk.turn_off()
                await trio.sleep_forever()
        await _finish(life)

    try:
        ended = world.live(live)
        if crash_at is not None and crash_at < len(script):
            ended = world.live(_finish)
        assert ended is None, ended
        return codec.decode_journal(world.witness.memory[KEY].journal)
    finally:
        world.close()


async def _finish(life: Life) -> None:
    while True:
        row = life.real_store.row(*KEY)
        if row is not None and row.row.state in FINAL:
            return
        await trio.sleep(5)


def check_timers(journal: list[AnyEntry]) -> None:
    """None ends early; of two that were both pending, that one ends first which is due first."""
    pending: dict[str, int] = {}
    for entry in journal:
        match entry:
            case SleepStarted():
                pending[entry.path] = entry.wake_at_ms
            case WaitStarted() if entry.deadline_ms is not None:
                pending[entry.path] = entry.deadline_ms
            case SleepEnded() | WaitEnded():
                due_ms = pending.pop(entry.path)
                assert entry.at_ms >= due_ms, f"{entry.path} ended {due_ms - entry.at_ms} ms early"
                if due_ms > journal[0].at_ms:
                    earlier = {path: ms for path, ms in pending.items() if ms < due_ms}
                    assert not earlier, f"{entry.path} ended before {earlier}"
            case _:
                pass


def check_retries(journal: list[AnyEntry]) -> None:
    due: dict[str, int] = {}
    for entry in journal:
        if isinstance(entry, AttemptFailed | StepSucceeded | StepFailed):
            assert entry.started_at_ms >= due.get(entry.path, 0), entry
        if isinstance(entry, AttemptFailed):
            due[entry.path] = entry.retry_at_ms


def happened(journal: list[AnyEntry]) -> Counter[tuple[object, ...]]:
    """What happened, but when and in which order."""
    return Counter(
        (type(entry).__name__, getattr(entry, "path", ""), getattr(entry, "attempt", 0))
        for entry in journal
        if not isinstance(entry, Trace)
    )


@settings(max_examples=max(QUICK // 2, 10))
@given(st.integers(0, 2**32), programs, scripts, st.none() | st.integers(0, 4))
def test_timers_end_in_order_and_never_early_however_the_clock_is_set(seed, program, script, crash_at) -> None:
    """P11: in sandboxes and at rest, over a crash; and the same happens as by a clock that nobody sets."""
    journal = told(seed, program, script, crash_at=crash_at)
    check_timers(journal)
    if all(by_ms > 0 for _, by_ms in script):
        check_retries(journal)
    quiet = told(seed + 1, program, [], crash_at=None)
    check_timers(quiet)
    check_retries(quiet)
    assert happened(journal) == happened(quiet)
    assert isinstance(journal[-1], Completed)
    assert journal[-1] == Completed(journal[-1].at_ms, quiet[-1].value)  # type: ignore[union-attr]
