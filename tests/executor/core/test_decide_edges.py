"""Decisions at their edges: the millisecond at which something is due, what crosses on the way, who comes first."""

import pytest

from executor.core import decide, matching, values
from executor.core.commands import (
    EMIT_ITEMS_MAX,
    AcceptUpdate,
    Beat,
    Cancel,
    Child,
    Complete,
    Continue,
    Emit,
    GroupBegin,
    GroupEnd,
    RetryPolicy,
    SetStatus,
    Sleep,
    StepBegun,
    StepDone,
    StepError,
    Wait,
)
from executor.core.decide import decided, shown, steps
from executor.core.decide.waits import SLEEP_MS_MAX
from executor.core.entries import (
    AttemptFailed,
    Cancelled,
    EventReceived,
    Held,
    SleepEnded,
    Started,
    StepSucceeded,
    WaitEnded,
    WaitStarted,
)
from executor.core.errors import Conflict
from executor.core.failure import ErrorFact
from executor.core.instance import Instance
from tests.executor.core.strategies import ASKED, begin

ERROR = ErrorFact("ValueError", "no")


def do(instance, command, now_ms=2_000):
    entries = decide.on_command(instance, command, now_ms=now_ms, id="boss").entries
    for entry in entries:
        instance.apply(entry)
    return list(entries)


def sleep(path, ms):
    return Sleep(path, ASKED, "w.py:2", ms, None)


def wait(path="w#1", timeout_ms=None):
    return Wait(path, ASKED, "w.py:3", "approved", timeout_ms)


def child(path, channel=None, id=None):
    return Child(path, ASKED, "w.py:3", "W", b"\xc0", channel, id, "terminate", True)


def failing(path="a#1", attempt=1, **policy):
    retry = RetryPolicy(**{"limit": 5, "delay_ms": 1_000, "backoff": "constant", "jitter": 0.0} | policy)
    return StepError(path, ASKED, "w.py:1", attempt, 1_500, ERROR, retry)


def test_what_is_due_together_ends_in_the_order_in_which_it_fell_due():
    instance = begin()
    for command in (sleep("late", 300), sleep("first", 100), wait("second", 200), sleep("beside", 200), wait("w", 100)):
        do(instance, command)
    assert [entry.path for entry in decide.on_clock(instance, 2_200).entries] == ["first", "w", "beside", "second"]


def test_wait_ends_at_its_deadline_and_not_before():
    instance = begin()
    do(instance, wait(timeout_ms=500))
    assert decide.on_clock(instance, 2_499).entries == ()
    assert decide.on_clock(instance, 2_500).entries == (WaitEnded(2_500, "w#1", None),)


def test_wait_without_a_timeout_is_never_due():
    instance = begin()
    do(instance, wait())
    assert (instance.next_wake_ms(), decide.on_clock(instance, 10**15).entries) == (None, ())


def test_retries_are_made_when_they_are_due_in_the_order_of_their_times():
    instance = begin()
    for path, delay_ms in (("late#1", 301), ("second#1", 300), ("first#1", 100)):
        do(instance, failing(path, delay_ms=delay_ms))
    assert [failed.path for failed in decide.due_retries(instance, 2_300)] == ["first#1", "second#1"]


def test_jitter_is_another_for_each_instance_step_and_attempt_and_the_same_again():
    def retry_at_ms(path, attempt, seed):
        instance = Instance()
        instance.apply(Started(1_000, "W", "c" * 40, b"\xc0", seed))
        for number in range(1, attempt + 1):
            [failed] = do(instance, failing(path, number, delay_ms=10**9, max_delay_ms=10**9, jitter=1.0))
        assert isinstance(failed, AttemptFailed)
        return failed.retry_at_ms

    asked = [("a#1", 1, b"one"), ("a#1", 2, b"one"), ("b#1", 1, b"one"), ("a#1", 1, b"two")]
    found = [retry_at_ms(*each) for each in asked]
    assert len(set(found)) == 4
    assert found == [retry_at_ms(*each) for each in asked]


def test_held_instance_takes_nothing_from_a_run_that_has_not_heard_of_it():
    instance = begin()
    instance.apply(Held(1_900, "nondeterminism", "both sides", None, None))
    for command in (StepDone("a#1", ASKED, "w.py:1", 1, 1_500, b"v"), sleep("s#1", 1), Complete(b"v")):
        assert do(instance, command) == []


def test_step_began_no_later_than_it_is_reported_whatever_the_sandbox_says():
    done = StepDone("a#1", ASKED, "w.py:1", 1, 9_999, b"v")
    assert do(begin(), done) == [StepSucceeded(2_000, "a#1", ASKED, "w.py:1", 1, 2_000, b"v")]
    instance = begin()
    assert [entry.at_ms for entry in do(instance, StepBegun("a#1", "w.py:1", 1, 9_999))] == [2_000]
    assert [entry.at_ms for entry in do(begin(1_500), StepBegun("a#1", "w.py:1", 1, 5))] == [1_500]


def test_end_of_a_group_that_is_not_open_is_no_entry():
    assert do(begin(), GroupEnd("g#1")) == []


def test_giving_up_what_has_its_outcome_already_is_no_entry():
    instance = begin()
    do(instance, StepBegun("a#1", "w.py:1", 1, 1_500))
    do(instance, StepDone("a#1", ASKED, "w.py:1", 1, 1_500, b"v"))
    do(instance, sleep("s#1", 0))
    do(instance, wait(timeout_ms=0))
    instance.apply(*decide.on_clock(instance, 2_000).entries)
    for path in ("a#1", "s#1", "w#1"):
        assert do(instance, Cancel(path)) == []


def test_retry_that_is_given_up_is_made_no_more():
    instance = begin()
    do(instance, failing())
    assert do(instance, Cancel("a#1")) == [Cancelled(2_000, "a#1")]
    assert (decide.due_retries(instance, 10**9), instance.next_wake_ms()) == ([], None)


@pytest.mark.parametrize(("type_", "payload"), [("approved", b"other"), ("paid", b"p")])
def test_event_id_with_another_type_or_payload_is_a_conflict(type_, payload):
    instance = begin()
    found = decide.on_event(instance, id="e1", type="approved", payload=b"p", now_ms=2_000).entries
    assert found == (EventReceived(2_000, "e1", "approved", b"p", 1),)
    instance.apply(found[0])
    with pytest.raises(Conflict) as caught:
        decide.on_event(instance, id="e1", type=type_, payload=payload, now_ms=2_000)
    assert (caught.value.code, caught.value.message) == (
        "event_exists",
        'an event with id "e1" was sent before with another type or payload',
    )


@pytest.mark.parametrize(
    "begun",
    [
        StepBegun("p#1", "w.py:1", 1, 0),
        failing("p#1"),
        StepDone("p#1", ASKED, "w.py:1", 1, 0, b"v"),
        sleep("p#1", 100),
        wait("p#1"),
        child("p#1"),
        GroupBegin("p#1", ASKED, "w.py:1"),
    ],
)
@pytest.mark.parametrize("command", [sleep("p#1", 100), wait("p#1"), child("p#1"), GroupBegin("p#1", ASKED, "w.py:1")])
def test_path_that_is_taken_is_a_violation_whatever_has_it(begun, command):
    instance = begin()
    do(instance, begun)
    with pytest.raises(decide.Violation, match="p#1 is already journaled"):
        do(instance, command)


def test_path_of_a_child_is_no_steps():
    instance = begin()
    do(instance, child("p#1"))
    for command in (StepDone("p#1", ASKED, "w.py:1", 1, 0, b"v"), failing("p#1"), StepBegun("p#1", "w.py:1", 1, 0)):
        with pytest.raises(decide.Violation):
            do(instance, command)


def test_attempt_begins_once_and_one_more_than_what_failed():
    instance = begin()
    begun = StepBegun("a#1", "w.py:1", 1, 1_500)
    assert len(do(instance, begun)) == 1
    assert do(instance, begun) == []  # by a sandbox that made it again after another's death
    with pytest.raises(decide.Violation, match="step a#1 begins attempt 2 out of order"):
        do(instance, StepBegun("a#1", "w.py:1", 2, 1_500))
    do(instance, failing())
    [again] = do(instance, StepBegun("a#1", "w.py:1", 2, 1_900))
    assert (again.attempt, do(instance, Beat("a#1", 1, b"\xc0"))) == (2, [])
    [beat] = do(instance, Beat("a#1", 2, b"\xc0"))
    assert (beat.attempt, do(instance, Beat("b#1", 1, b"\xc0"))) == (2, [])


def test_sleep_and_wait_of_no_length_end_at_once_and_none_is_over_a_century():
    [started_, ended] = do(begin(), Sleep("s#1", ASKED, "w.py:2", 0, None))
    assert (started_.wake_at_ms, type(ended)) == (2_000, SleepEnded)
    [started_, ended] = do(begin(), Sleep("s#1", ASKED, "w.py:2", None, 2_000, is_date=True))
    assert (started_.is_absolute, type(ended)) == (True, SleepEnded)
    [started_] = do(begin(), wait(timeout_ms=10**18))
    assert started_.deadline_ms == 2_000 + SLEEP_MS_MAX


def test_restart_adds_up_what_all_its_waits_look_through(monkeypatch):
    instance = begin()
    for number in range(4):
        decided = decide.on_event(
            instance, id=f"e{number}", type="approved", payload=values.encode({"n": number}), now_ms=1_000
        )
        instance.apply(decided.entries[0])
    for number in range(5):
        match = values.encode({"n": -1})
        instance.apply(WaitStarted(1_900, f"w#{number}", ASKED, "w.py:3", "approved", None, match))
    monkeypatch.setattr("executor.core.decide.waits.RESTART_LOOKED_BYTES_MAX", 5 * 4 * matching.LOOK_BYTES)
    assert decide.after_restart(instance, now_ms=2_000) == ()
    monkeypatch.setattr("executor.core.decide.waits.RESTART_LOOKED_BYTES_MAX", 4 * 4 * matching.LOOK_BYTES - 1)
    [held] = decide.after_restart(instance, now_ms=2_000)
    assert held.code == "limit_exceeded"


def test_looking_costs_the_bytes_of_what_may_fit_and_little_for_the_rest():
    asked = values.encode({"n": 1})
    far = values.encode({"m": "x" * 3_200})
    near = values.encode({"x": {"n": 1}, "m": "x" * 3_200})
    look = matching.LOOK_BYTES + len(near) // matching.SEARCH_SHARE
    assert matching.first(asked, [(7, far)]) == (None, matching.LOOK_BYTES + len(far) // matching.SEARCH_SHARE)
    assert matching.first(asked, [(7, near)]) == (None, look + len(near))
    assert matching.first(b"", [(7, near)]) == (7, 0)


def test_payload_that_cannot_be_read_fits_only_a_wait_without_a_match():
    asked = values.encode({})
    assert matching.first_wait([("w#1", values.encode({"n": 1})), ("w#2", b"")], b"\xc1") == "w#2"
    assert matching.matches(values.encode({"n": 1}), b"\xc1") is False
    assert matching.first_wait([("w#1", asked)], b"\xc1") == "w#1"


def test_match_needs_each_of_its_keys():
    payload = values.encode({"order": {"id": 7}, "paid": True})
    for match in ({"order.id": 7, "paid": False}, {"order.id": 8, "paid": True}, {"paid": True, "more": None}):
        assert matching.matches(values.encode(match), payload) is False
        assert matching.first_wait([("w#1", values.encode(match))], payload) is None


def test_what_a_step_says_is_bounded_to_the_byte():
    instance = begin()
    full = "p" * decided.PATH_CHARS_MAX
    do(instance, StepBegun(full, "w" * decided.WHERE_CHARS_MAX, 1, 0))
    assert len(do(instance, Beat(full, 1, bytes(steps.DETAILS_BYTES_MAX)))) == 1
    for command in (
        Beat(full, 1, bytes(steps.DETAILS_BYTES_MAX + 1)),
        StepBegun(full + "p", "w.py:1", 1, 0),
        StepBegun("", "w.py:1", 1, 0),
        StepBegun("a#1", "w" * (decided.WHERE_CHARS_MAX + 1), 1, 0),
    ):
        with pytest.raises(decide.Violation):
            do(instance, command)


@pytest.mark.parametrize(
    ("bound", "command"),
    [
        (decided.VALUE_BYTES_MAX, lambda size: StepDone("a#1", ASKED, "w.py:1", 1, 0, bytes(size))),
        (decided.VALUE_BYTES_MAX, lambda size: Complete(bytes(size))),
        (decided.VALUE_BYTES_MAX, lambda size: Continue(bytes(size))),
        (decided.VALUE_BYTES_MAX, lambda size: AcceptUpdate("u", "n", bytes(size))),
        (decided.VALUE_BYTES_MAX, lambda size: Emit("s", [bytes(size)], "", 0, 1)),
        (decided.NAME_CHARS_MAX, lambda size: AcceptUpdate("u" * size, "n", b"\xc0")),
        (decided.NAME_CHARS_MAX, lambda size: AcceptUpdate("u", "n" * size, b"\xc0")),
        (shown.STATUS_BYTES_MAX, lambda size: SetStatus(1, bytes(size))),
        (shown.STREAM_CHARS_MAX, lambda size: Emit("s" * size, [b"\xc0"], "", 0, 1)),
        (EMIT_ITEMS_MAX, lambda size: Emit("s", [b"\xc0"] * size, "", 0, 1)),
        (decided.PATH_CHARS_MAX, lambda size: GroupBegin("g" * size, ASKED, "w.py:1")),
        (decided.WHERE_CHARS_MAX, lambda size: GroupBegin("g#1", ASKED, "w" * size)),
    ],
)
def test_what_a_sandbox_sends_is_bounded_and_the_bound_itself_is_allowed(bound, command):
    assert len(do(begin(), command(bound))) == 1
    with pytest.raises(decide.Violation):
        do(begin(), command(bound + 1))
