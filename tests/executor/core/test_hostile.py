"""What hostile tenants can do to the core: any commands in any order, and work out of proportion to what was sent."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from executor.core import codec, decide, instance, summary, values
from executor.core.commands import (
    AcceptUpdate,
    Beat,
    Cancel,
    Child,
    Complete,
    Continue,
    Diverge,
    Emit,
    EndUpdate,
    Fail,
    GroupBegin,
    GroupEnd,
    RetryPolicy,
    SetAttributes,
    SetStatus,
    Sleep,
    StepBegun,
    StepDone,
    StepError,
    Undo,
    Undone,
    Wait,
)
from executor.core.entries import ChildEnded, ChildStarted, Paused, Restarted, Resumed, Undoing, Unheld
from executor.core.failure import ErrorFact
from executor.core.instance import fold
from tests.executor.core.strategies import ASKED, begin, started

ATTEMPTS = st.sampled_from([1, 1, 1, 2, 0, 2**64 - 1])
INTEGERS = st.sampled_from([-(2**63), -1, 0, 1, 2, 5, 1_000, 2**64 - 1])
PATHS = st.sampled_from(["a#1", "b#1", "g#1", "g#1/a#1", "undo/a#1", "w#1", "c#1", "é" * 1_024, "", "x" * 1_025])
CALL = {
    "path": PATHS,
    "asked": st.sampled_from([ASKED] * 9 + [b"short"]),
    "where": st.sampled_from(["w.py:1"] * 9 + ["x" * 513]),
}
ERRORS = st.builds(
    ErrorFact, st.sampled_from(["ValueError", "x" * 5_000]), st.text(max_size=3), retryable=st.booleans()
)
POLICIES = st.builds(
    RetryPolicy,
    INTEGERS,
    INTEGERS,
    st.sampled_from(["constant", "linear", "exponential"]),
    INTEGERS,
    st.sampled_from([0.0, 1.0, -1.0, float("nan"), float("inf")]),
)
BYTES = st.sampled_from(
    [
        b"",
        b"\xc0",
        b"\x01",
        b"\x80",
        b"\x90",
        b"\xc1",
        b"\xff" * 9,
        b"\x91" * 3_000,
        bytes(1024 * 1024 + 1),
        b"\x81\x01\x02",
        b"\x81\xc0\x02",
        b"\xc7\x01\x07x",
        values.encode({"n": 1}),
        values.encode({"n.m": None, "": 1}),
        values.encode({"n": {"m": [1]}}),
        values.encode({f"a{number}": number for number in range(40)}),
        values.encode({"n": "x" * 20_000}),
    ]
)
NAMES = st.sampled_from(["w", "w", "a", "", "\x00", "é", "x" * 300])
GOING = [
    st.builds(StepDone, **CALL, attempt=ATTEMPTS, started_at_ms=INTEGERS, value=BYTES, delta=st.none()),
    st.builds(StepError, **CALL, attempt=ATTEMPTS, started_at_ms=INTEGERS, error=ERRORS, retry=POLICIES, details=BYTES),
    st.builds(Sleep, **CALL, duration_ms=st.none(), until_ms=INTEGERS, is_date=st.booleans()),
    st.builds(Sleep, **CALL, duration_ms=INTEGERS, until_ms=st.none() | INTEGERS),
    st.builds(Wait, **CALL, type=NAMES, timeout_ms=st.none() | INTEGERS, match=BYTES),
    st.builds(Cancel, PATHS),
    st.builds(StepBegun, PATHS, CALL["where"], ATTEMPTS, INTEGERS),
    st.builds(Beat, PATHS, ATTEMPTS, BYTES),
    st.builds(SetStatus, INTEGERS, BYTES),
    st.builds(SetAttributes, INTEGERS, BYTES),
    st.builds(Emit, NAMES, st.lists(BYTES, max_size=3), PATHS, INTEGERS, INTEGERS),
    st.builds(
        Child,
        **CALL,
        workflow=NAMES,
        payload=BYTES,
        channel=st.none() | NAMES,
        id=st.none() | NAMES,
        close=st.sampled_from(["terminate", "abandon"]),
        is_awaited=st.booleans(),
    ),
    st.builds(AcceptUpdate, NAMES, NAMES, BYTES),
    st.builds(EndUpdate, NAMES, st.none() | BYTES, st.none() | ERRORS),
    st.builds(GroupBegin, **CALL),
    st.builds(GroupEnd, PATHS),
]
ENDS = st.one_of(
    st.builds(Complete, BYTES),
    st.builds(Fail, ERRORS),
    st.builds(Diverge, NAMES, st.none(), st.none()),
    st.builds(Continue, BYTES),
    st.builds(Undo, ERRORS),
    st.builds(Undone, st.lists(NAMES, max_size=3)),
)
OUTSIDE = st.sampled_from(["pause", "undo", "unhold", "event", "clock", "child started", "child ended"])


def outside(found, what, now_ms, number):
    """Entries that the executor makes of itself, or of a call."""
    if found.outcome is not None:
        return ()
    if what == "pause":
        return (Resumed(now_ms),) if found.is_paused else (Paused(now_ms),)
    if what == "undo":
        return () if found.held is not None or found.undoing is not None else (Undoing(now_ms, None),)
    if what == "unhold":
        return (Unheld(now_ms),) if found.held is not None else ()
    if what == "event":
        payload = values.encode({"n": number % 3})
        return decide.on_event(found, id=f"e{number}", type="w", payload=payload, now_ms=now_ms).entries
    if what == "clock":
        return decide.on_clock(found, now_ms).entries
    for path, child in found.children.items():
        if what == "child started" and not child.is_started:
            return (ChildStarted(now_ms, path, "c" * 40),)
        if what == "child ended" and child.is_started and child.request.is_awaited:
            return (ChildEnded(now_ms, path, "complete", b"\xc0", None),)
    return ()


@settings(max_examples=500)
@given(
    st.lists(st.sampled_from([*GOING, OUTSIDE, OUTSIDE, OUTSIDE, ENDS]).flatmap(lambda one: one), max_size=20),
    st.sampled_from([1, 100_000]),
)
def test_any_sequence_of_commands_is_a_violation_or_leaves_a_journal_that_folds(sequence, step_ms):
    found, journal = begin(), [started()]
    now_ms = 1_000
    for number, one in enumerate(sequence):
        now_ms += step_ms
        try:
            if isinstance(one, str):
                entries = outside(found, one, now_ms, number)
            else:
                entries = decide.on_command(found, one, now_ms=now_ms, id="i").entries
        except decide.Violation:
            continue  # its sandbox would be ended; the next one may say the rest
        for entry in entries:
            stored = codec.encode(entry, codec.chain_after(found.chain, entry))
            assert codec.decode(stored)[0] == entry
            found.apply(entry)
            journal.append(entry)
        wake_at_ms = found.next_wake_ms()
        assert wake_at_ms is None or -(2**63) <= wake_at_ms < 2**63, "a row has it"
        summary.decode(summary.encode(found))
    assert fold(journal) == found
    open_paths = [*found.sleeps, *found.waits, *found.retries, *found.children]
    assert len(open_paths) == len(set(open_paths))
    settled = {path for path, child in found.children.items() if child.is_started and not child.request.is_awaited}
    assert set(open_paths) & found.settled == settled
    assert found.unread_bytes == sum(len(one.event.payload) for one in found.unread.values())
    restarted = fold([*journal, Restarted(now_ms, found.begin_at, keeps_events=True)])
    assert restarted.can_go_on


# --- restarts


def test_folding_a_journal_of_many_restarts_costs_no_more_than_its_length(monkeypatch):
    applied = 0
    apply = instance.Instance.apply

    def counted(self, entry):
        nonlocal applied
        applied += 1
        apply(self, entry)

    monkeypatch.setattr(instance.Instance, "apply", counted)
    journal = [started()]
    found = begin()
    for number in range(40):
        done = StepDone("b#1", ASKED, "w.py:1", 1, 0, b"\xc0")
        [entry] = decide.on_command(found, done, now_ms=2_000).entries
        journal.append(entry)
        # Back to before the step, each time: what is kept includes all restarts so far.
        journal.append(Restarted(2_000, len(journal) - 1, keeps_events=True))
        applied = 0
        if number < 14:
            found = fold(journal)
            assert applied <= len(journal)
    found = fold(journal)
    assert applied <= len(journal)
    assert (found.execution, found.sequence, found.settled) == (40, 81, set())
