"""What hostile tenants can do to the core: any commands in any order, and work out of proportion to what was sent."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from executor.core import codec, decide, instance, matching, summary, values
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
from executor.core.errors import Refused
from executor.core.failure import ErrorFact
from executor.core.folding import fold
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


# --- bounds of what one instance has


def feed(found, command, now_ms=2_000):
    entries = decide.on_command(found, command, now_ms=now_ms, id="i").entries
    for entry in entries:
        found.apply(entry)
    return list(entries)


@pytest.mark.parametrize(
    "command",
    [
        Sleep("new#1", ASKED, "w.py:1", 10, None),
        Wait("new#1", ASKED, "w.py:1", "go", None),
        Child("new#1", ASKED, "w.py:1", "W", b"\xc0", None, None, "abandon", False),
        GroupBegin("new#1", ASKED, "w.py:1"),
        StepBegun("new#1", "w.py:1", 1, 0),
        AcceptUpdate("new", "n", b"\xc0"),
        StepError("new#1", ASKED, "w.py:1", 1, 0, ErrorFact("E", "no"), RetryPolicy()),
    ],
)
def test_what_is_open_at_once_has_a_limit_that_holds_the_instance(command, monkeypatch):
    monkeypatch.setattr("executor.core.decide.command.OPEN_MAX", 6)
    found = begin()
    feed(found, Sleep("s#1", ASKED, "w.py:1", 10_000, None))
    feed(found, Wait("w#1", ASKED, "w.py:1", "go", None))
    feed(found, GroupBegin("g#1", ASKED, "w.py:1"))
    feed(found, StepBegun("a#1", "w.py:1", 1, 0))
    feed(found, Child("c#1", ASKED, "w.py:1", "W", b"\xc0", None, None, "terminate", True))
    assert found.open_count == 5
    feed(found, AcceptUpdate("u1", "n", b"\xc0"))
    assert found.held is None
    [held] = feed(found, command)
    assert (held.code, held.message[:55]) == (
        "limit_exceeded",
        "6 steps, sleeps, waits, children, groups and updates ha",
    )


def test_what_ends_makes_room_for_what_begins(monkeypatch):
    monkeypatch.setattr("executor.core.decide.command.OPEN_MAX", 1)
    found = begin()
    feed(found, StepBegun("a#1", "w.py:1", 1, 0))
    error = StepError("a#1", ASKED, "w.py:1", 1, 0, ErrorFact("E", "no", retryable=True), RetryPolicy(limit=1))
    feed(found, error)
    assert (found.held, list(found.retries)) == (None, ["a#1"])
    feed(found, StepDone("a#1", ASKED, "w.py:1", 2, 0, b"\xc0"))
    feed(found, AcceptUpdate("u1", "n", b"\xc0"))
    feed(found, EndUpdate("u1", b"\xc0", None))
    feed(found, GroupBegin("g#1", ASKED, "w.py:1"))
    feed(found, GroupEnd("g#1"))
    feed(found, Sleep("s#1", ASKED, "w.py:1", 10, None))
    assert (found.held, found.open_count) == (None, 1)


def test_streams_of_an_instance_have_a_limit_that_holds_it(monkeypatch):
    monkeypatch.setattr("executor.core.decide.command.STREAMS_MAX", 2)
    found = begin()
    for number, stream in enumerate(["a", "b", "a"], start=1):
        feed(found, Emit(stream, [b"\xc0"], "", 0, number))
    [held] = feed(found, Emit("c", [b"\xc0"], "", 0, 4))
    assert (held.code, held.message) == ("limit_exceeded", "it has 2 output streams, the limit is 2")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (Emit("s", [bytes(1024 * 1024 + 1)], "", 0, 1), "an item of a stream is over 1048576 bytes"),
        (AcceptUpdate("u1", "n", bytes(1024 * 1024 + 1)), "an update of 1048577 bytes"),
        (SetAttributes(1, bytes(256 * 1024 + 1)), "changes of attributes of 262145 bytes"),
        (
            Child("c#1", ASKED, "w.py:1", "W", b"\x81\x01\x02", None, None, "abandon", False),
            "child c#1 has a malformed payload: value: a dict with the key 1 of type int",
        ),
        (
            Wait("w#1", ASKED, "w.py:1", "go", None, values.encode([1])),
            "wait w#1 has a malformed match: match is no dict",
        ),
        (
            Wait("w#1", ASKED, "w.py:1", "go", None, values.encode({"n": "x" * 16_400})),
            "wait w#1 has a malformed match: match is 16406 bytes, the limit is 16384",
        ),
    ],
)
def test_more_than_an_honest_sandbox_sends_is_a_violation(command, message):
    with pytest.raises(decide.Violation) as caught:
        feed(begin(), command)
    assert str(caught.value) == message


@pytest.mark.parametrize("begun", [Sleep("p#1", ASKED, "w.py:1", 9, None), Wait("p#1", ASKED, "w.py:1", "go", None)])
@pytest.mark.parametrize(
    "command",
    [
        StepBegun("p#1", "w.py:1", 1, 0),
        StepDone("p#1", ASKED, "w.py:1", 1, 0, b"\xc0"),
        GroupBegin("p#1", ASKED, "w.py:1"),
    ],
)
def test_a_path_is_of_one_thing(begun, command):
    found = begin()
    feed(found, begun)
    with pytest.raises(decide.Violation):
        feed(found, command)


def test_payloads_of_unread_events_have_a_limit_but_a_single_one_always_fits(monkeypatch):
    monkeypatch.setattr("executor.core.decide.waits.UNREAD_BYTES_MAX", 10)
    found = begin()

    def send(number, size):
        entries = decide.on_event(found, id=f"e{number}", type="go", payload=bytes(size), now_ms=2_000).entries
        for entry in entries:
            found.apply(entry)

    send(1, 50)
    with pytest.raises(Refused) as caught:
        send(2, 1)
    assert caught.value.code == "limit_exceeded"
    assert caught.value.message == "events of 50 bytes wait to be read, the limit is 10"
    feed(found, Wait("w#1", ASKED, "w.py:1", "go", None))
    send(2, 6)
    send(3, 4)
    assert found.unread_bytes == 10
    feed(found, Cancel("w#1"))
    assert found.unread_bytes == 60
    assert list(found.buffered["go"]) == [1, 2, 3]


def test_the_latest_updates_are_known_by_their_id_and_what_has_not_ended_always(monkeypatch):
    monkeypatch.setattr(instance, "UPDATES_KEPT_MAX", 3)
    found = begin()
    feed(found, AcceptUpdate("open", "n", b"\xc0"))
    for number in range(5):
        feed(found, AcceptUpdate(f"u{number}", "n", b"\xc0"))
        feed(found, EndUpdate(f"u{number}", b"\xc0", None))
    assert list(found.updates) == list(found.update_digests) == ["open", "u3", "u4"]
    assert found.updates_open == 1


# --- matching


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abn"), inner, max_size=2),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["a", "b", "a.b", "n.a.b"]), ANY, max_size=2), ANY)
def test_search_before_the_decoding_drops_nothing_that_fits(match, payload):
    wanted = matching.Wanted(match)
    encoded = values.encode(payload)
    if wanted.fits(values.decode(encoded)):
        assert wanted.may_fit(encoded)


def test_equal_floats_of_different_bytes_fit():
    assert matching.matches(values.encode({"n": -0.0}), values.encode({"n": 0.0}))


def test_wait_decodes_those_events_only_that_may_fit(monkeypatch):
    decoded = []
    monkeypatch.setattr(matching, "_decoded", lambda payload: decoded.append(payload) or values.decode(payload))
    events = [(number, values.encode({"n": number, "x": "x" * 640})) for number in range(100)]
    found, looked = matching.first(values.encode({"n": 90}), events)
    assert (found, len(decoded)) == (90, 1)
    assert looked < 100 * 100 + 700


def test_event_is_decoded_once_for_all_waits(monkeypatch):
    decoded = []
    monkeypatch.setattr(matching, "_decoded", lambda payload: decoded.append(payload) or values.decode(payload))
    waits = [(f"w#{number}", values.encode({"n": number})) for number in range(100)]
    assert matching.first_wait(waits, values.encode({"n": 90})) == "w#90"
    assert len(decoded) == 1


def test_thousand_waits_make_no_more_of_a_summary_than_what_is_shown(monkeypatch):
    found, made, shown = begin(), [], summary._shown
    for number in range(1_000):
        feed(found, Sleep(f"s#{number}", ASKED, "w.py:1", 10_000 - number, None))
    monkeypatch.setattr(summary, "_shown", lambda path, waits: made.append(path) or shown(path, waits))
    waits = summary.decode(summary.encode(found)).waits
    assert [wait.path for wait in waits] == made == [f"s#{number}" for number in range(999, 979, -1)]
