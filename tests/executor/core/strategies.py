"""Valid journals: what a run and the outside world can make an executor write, built by the core itself."""

from hypothesis import strategies as st

from executor.core import decide
from executor.core.commands import Cancel, Complete, Fail, RetryPolicy, Sleep, StepDone, StepError, Wait
from executor.core.entries import Paused, Resumed, Started
from executor.core.failure import ErrorFact
from executor.core.instance import Instance

ASKED = b"q" * 16
NAMES = ("a", "b", "c")
TYPES = ("approved", "paid")


def started(at_ms=1_000):
    return Started(at_ms, "W", "c" * 40, b"\xc0", b"seed")


def begin(at_ms=1_000):
    instance = Instance()
    instance.apply(started(at_ms))
    return instance


@st.composite
def actions(draw, instance, now_ms):
    """One thing that can happen to the instance next, as the entries it makes."""
    kind = draw(st.sampled_from(["done", "error", "sleep", "wait", "cancel", "event", "clock", "pause"]))
    fresh = f"{draw(st.sampled_from(NAMES))}#{instance.sequence}"
    open_paths = [*instance.sleeps, *instance.waits, *instance.retries, *instance.consumed]
    if kind == "done":
        path = draw(st.sampled_from([fresh, *instance.retries]))
        attempt = instance.attempts.get(path, 0) + 1
        command = StepDone(path, ASKED, "w.py:1", attempt, now_ms - 1, draw(st.binary(max_size=5)))
    elif kind == "error":
        path = draw(st.sampled_from([fresh, *instance.retries]))
        attempt = instance.attempts.get(path, 0) + 1
        error = ErrorFact("ValueError", draw(st.text(max_size=5)), "", draw(st.booleans()))
        command = StepError(path, ASKED, "w.py:1", attempt, now_ms, error, RetryPolicy(limit=2))
    elif kind == "sleep":
        command = Sleep(fresh, ASKED, "w.py:2", draw(st.integers(-5, 5_000)), None)
    elif kind == "wait":
        command = Wait(fresh, ASKED, "w.py:3", draw(st.sampled_from(TYPES)), draw(st.none() | st.integers(0, 5_000)))
    elif kind == "cancel":
        if not open_paths:
            return ()
        command = Cancel(draw(st.sampled_from(open_paths)))
    elif kind == "event":
        return decide.on_event(
            instance,
            id=f"e{instance.sequence}",
            type=draw(st.sampled_from(TYPES)),
            payload=draw(st.binary(max_size=3)),
            now_ms=now_ms,
        ).entries
    elif kind == "pause":
        return (Resumed(now_ms),) if instance.is_paused else (Paused(now_ms),)
    else:
        return decide.on_clock(instance, now_ms).entries
    return decide.on_command(instance, command, now_ms=now_ms).entries


@st.composite
def journals(draw, min_size=1, max_actions=12):
    """A journal, as a list of entries."""
    instance = begin()
    journal = [started()]
    now_ms = 1_000
    for _ in range(draw(st.integers(min_size - 1, max_actions))):
        now_ms += draw(st.integers(0, 3_000))
        entries = draw(actions(instance, now_ms))
        for entry in entries:
            instance.apply(entry)
            journal.append(entry)
    while len(journal) < min_size:
        entry = Paused(now_ms)
        instance.apply(entry)
        journal.append(entry)
    if draw(st.booleans()):
        end = draw(st.sampled_from([Complete(b"\xc0"), Fail(ErrorFact("ValueError", "no"))]))
        for entry in decide.on_command(instance, end, now_ms=now_ms).entries:
            journal.append(entry)
    return journal
