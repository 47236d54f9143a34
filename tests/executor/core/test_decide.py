"""What follows from commands, events and the clock; and the laws of the fold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor.core import decide, matching, values
from executor.core.commands import (
    Beat,
    Cancel,
    Child,
    Complete,
    Continue,
    Fail,
    GroupBegin,
    RetryPolicy,
    Sleep,
    StepBegun,
    StepDone,
    StepError,
    Undo,
    Undone,
    Wait,
)
from executor.core.entries import (
    AttemptFailed,
    Cancelled,
    Completed,
    EventReceived,
    Failed,
    Paused,
    Resumed,
    SleepEnded,
    SleepStarted,
    StepFailed,
    StepSucceeded,
    Terminated,
    Undoing,
    WaitEnded,
    WaitStarted,
)
from executor.core.errors import Conflict, Refused
from executor.core.failure import ErrorFact
from executor.core.folding import fold
from tests.executor.core.strategies import ASKED, begin, journals

NO_RETRY = RetryPolicy(limit=0)
ERROR = ErrorFact("ValueError", "no")


def do(instance, command, now_ms=2_000):
    decided = decide.on_command(instance, command, now_ms=now_ms)
    for entry in decided.entries:
        instance.apply(entry)
    return list(decided.entries)


def event(instance, id="e1", type="approved", payload=b"p", now_ms=2_000):
    entries = decide.on_event(instance, id=id, type=type, payload=payload, now_ms=now_ms).entries
    for entry in entries:
        instance.apply(entry)
    return list(entries)


def wait(path="w#1", type="approved", timeout_ms=None):
    return Wait(path, ASKED, "w.py:3", type, timeout_ms)


def done(path="a#1", attempt=1, value=b"v"):
    return StepDone(path, ASKED, "w.py:1", attempt, 1_500, value)


def failed(path="a#1", attempt=1, retry=NO_RETRY, error=ERROR):
    return StepError(path, ASKED, "w.py:1", attempt, 1_500, error, retry)


def test_step_result_is_journaled_once():
    instance = begin()
    assert do(instance, done()) == [StepSucceeded(2_000, "a#1", ASKED, "w.py:1", 1, 1_500, b"v")]
    with pytest.raises(decide.Violation, match="step a#1 is already journaled"):
        do(instance, done())


def test_failed_attempt_is_retried_until_the_limit_and_then_failed():
    instance = begin()
    policy = RetryPolicy(limit=2, delay_ms=1_000, backoff="constant", jitter=0.0)
    assert do(instance, failed(retry=policy)) == [
        AttemptFailed(2_000, "a#1", ASKED, "w.py:1", 1, 1_500, ERROR, 3_000, 2)
    ]
    assert instance.next_wake_ms() == 3_000
    assert do(instance, failed(attempt=2, retry=policy))[0].retry_at_ms == 3_000
    assert do(instance, failed(attempt=3, retry=policy)) == [StepFailed(2_000, "a#1", ASKED, "w.py:1", 3, 1_500, ERROR)]
    assert instance.next_wake_ms() is None


def test_attempt_out_of_order_is_a_violation():
    with pytest.raises(decide.Violation, match="reports attempt 2 out of order"):
        do(begin(), done(attempt=2))


def test_error_that_is_not_retryable_fails_at_once():
    error = ErrorFact("NonRetryableError", "stop", "", False)
    assert isinstance(do(begin(), failed(retry=RetryPolicy(limit=5), error=error))[0], StepFailed)


def test_sleep_ends_when_due_and_not_before():
    instance = begin()
    assert do(instance, Sleep("s#1", ASKED, "w.py:2", 500, None)) == [
        SleepStarted(2_000, "s#1", ASKED, "w.py:2", 2_500)
    ]
    assert decide.on_clock(instance, 2_499).entries == ()
    assert decide.on_clock(instance, 2_500).entries == (SleepEnded(2_500, "s#1"),)


def test_sleep_until_a_past_time_ends_at_once():
    assert do(begin(), Sleep("s#1", ASKED, "w.py:2", None, 5)) == [
        SleepStarted(2_000, "s#1", ASKED, "w.py:2", 5),
        SleepEnded(2_000, "s#1"),
    ]


def test_event_before_the_wait_is_kept_for_it():
    instance = begin()
    assert event(instance) == [EventReceived(2_000, "e1", "approved", b"p", 1)]
    assert do(instance, wait()) == [
        WaitStarted(2_000, "w#1", ASKED, "w.py:3", "approved", None),
        WaitEnded(2_000, "w#1", 1),
    ]


def test_events_of_a_type_are_consumed_in_order_of_arrival():
    instance = begin()
    event(instance, "e1")
    event(instance, "e2")
    assert do(instance, wait("w#1"))[1].event == 1
    assert do(instance, wait("w#2"))[1].event == 2


def test_event_wakes_the_first_waiter_of_its_type_only():
    instance = begin()
    do(instance, wait("other#1", "paid"))
    do(instance, wait("w#1"))
    do(instance, wait("w#2"))
    assert event(instance)[1] == WaitEnded(2_000, "w#1", 1)
    assert set(instance.waits) == {"other#1", "w#2"}


def test_event_of_the_same_id_counts_once():
    instance = begin()
    event(instance)
    assert event(instance) == []


def test_event_id_with_another_payload_is_a_conflict():
    instance = begin()
    event(instance)
    with pytest.raises(Conflict) as caught:
        event(instance, payload=b"other")
    assert caught.value.code == "event_exists"


def test_wait_that_timed_out_gets_no_event():
    instance = begin()
    do(instance, wait(timeout_ms=100))
    instance.apply(decide.on_clock(instance, 2_100).entries[0])
    assert event(instance) == [EventReceived(2_000, "e1", "approved", b"p", 1)]
    assert list(instance.buffered["approved"]) == [1]


def test_cancelled_wait_gives_back_an_event_that_the_run_never_saw():
    instance = begin()
    do(instance, wait())
    event(instance)
    assert do(instance, Cancel("w#1")) == [Cancelled(2_000, "w#1")]
    assert list(instance.buffered["approved"]) == [1]


def test_event_that_is_given_back_goes_to_the_next_waiter():
    instance = begin()
    do(instance, wait("w#1"))
    event(instance)
    do(instance, wait("w#2"))
    assert do(instance, Cancel("w#1")) == [Cancelled(2_000, "w#1"), WaitEnded(2_000, "w#2", 1)]


def test_commands_after_the_end_are_too_late():
    instance = begin()
    instance.apply(Terminated(1_900))
    assert do(instance, done()) == []
    assert do(instance, Complete(b"v")) == []


def test_completion_carries_the_value():
    assert do(begin(), Complete(b"v")) == [Completed(2_000, b"v")]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (StepDone("a#1", b"short", "w.py:1", 1, 0, b""), "a malformed command for 'a#1'"),
        (StepDone("", ASKED, "w.py:1", 1, 0, b""), "a command with an empty or overlong path"),
        (StepDone("a#1", ASKED, "w.py:1", 1, 0, bytes(1024 * 1024 + 1)), "step a#1 returned 1048577 bytes"),
        (Sleep("s#1", ASKED, "w.py:1", 1, 1), "sleep s#1 names both or neither of duration and time"),
        (Complete(bytes(1024 * 1024 + 1)), r"run\(\) returned 1048577 bytes"),
    ],
)
def test_command_that_no_honest_sandbox_sends_is_a_violation(command, message):
    with pytest.raises(decide.Violation, match=message):
        do(begin(), command)


@given(journals())
def test_every_decided_journal_folds(journal):
    instance = fold(journal)
    assert instance.sequence == len(journal)
    open_paths = [*instance.sleeps, *instance.waits, *instance.retries]
    assert len(open_paths) == len(set(open_paths))
    assert not set(open_paths) & instance.settled


@given(journals())
def test_each_event_is_buffered_or_consumed_once(journal):
    instance = fold(journal)
    events = [entry.number for entry in journal if isinstance(entry, EventReceived)]
    buffered = [number for queue in instance.buffered.values() for number in queue]
    consumed = [kept.event.number for kept in instance.consumed.values()]
    assert sorted(buffered + consumed) == events


@given(journals(), st.integers(0, 20_000))
def test_clock_ends_exactly_what_is_due_in_order(journal, later_ms):
    instance = fold(journal)
    now_ms = journal[-1].at_ms + later_ms
    due = dict(instance.sleeps) | {
        path: w.deadline_ms for path, w in instance.waits.items() if w.deadline_ms is not None
    }
    ended = [entry.path for entry in decide.on_clock(instance, now_ms).entries]
    assert sorted(ended) == sorted(path for path, at_ms in due.items() if at_ms <= now_ms)
    assert [due[path] for path in ended] == sorted(due[path] for path in ended)


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        ({"order.id": 7}, True),
        ({"order.id": 7, "paid": True}, True),
        ({"order.id": "7"}, False),
        ({"paid": 1}, False),
        ({"order.id.digit": 7}, False),
        ({"order.number": None}, False),
        ({"order": {"id": 7}}, True),
        ({}, True),
    ],
)
def test_match_compares_type_and_value_and_dots_reach_into_it(match, fits):
    payload = values.encode({"order": {"id": 7}, "paid": True})
    assert matching.matches(values.encode(match) if match else b"", payload) is fits


def test_more_unread_events_than_the_limit_are_refused(monkeypatch):
    monkeypatch.setattr("executor.core.decide.waits.UNREAD_EVENTS_MAX", 2)
    instance = begin()
    event(instance, "e1")
    event(instance, "e2", type="paid")
    with pytest.raises(Refused) as caught:
        event(instance, "e3")
    assert (caught.value.code, caught.value.message) == (
        "limit_exceeded",
        "2 events wait to be read, the limit is 2",
    )
    assert event(instance, "e1") == []  # it is there already
    do(instance, wait())
    assert event(instance, "e3") == [EventReceived(2_000, "e3", "approved", b"p", 3)]


@pytest.mark.parametrize(
    "command",
    [
        done(),
        Sleep("s#1", ASKED, "w.py:2", 10, None),
        wait(),
        Complete(b"v"),
        Fail(ErrorFact("ValueError", "no")),
        Continue(b"\xc0"),
        Undo(ErrorFact("ValueError", "no")),
        Child("c#1", ASKED, "w.py:3", "W", b"\xc0", None, None, "terminate", True),
        GroupBegin("g#1", ASKED, "w.py:3"),
    ],
)
def test_what_run_asked_for_before_it_heard_that_it_is_undone_comes_too_late(command):
    instance = begin()
    instance.apply(Undoing(1_900, None))
    assert do(instance, command) == []


def test_undoing_ends_as_what_it_began_with_and_names_what_could_not_be_undone():
    instance = begin()
    instance.apply(Undoing(1_900, ErrorFact("ValueError", "no")))
    [failed] = do(instance, Undone(["undo/a#1"]))
    assert failed == Failed(2_000, ErrorFact("ValueError", "no (and it could not be undone: undo/a#1)"))
    instance = begin()
    instance.apply(Undoing(1_900, None, "kim"))
    assert do(instance, Undone([])) == [Terminated(2_000, "kim")]


def test_nothing_is_undone_that_was_not_being_undone():
    with pytest.raises(decide.Violation, match="what was not being undone is undone"):
        do(begin(), Undone([]))


def test_pause_shifts_durations_and_not_dates():
    instance = begin()
    do(instance, Sleep("s#1", ASKED, "w.py:2", 1_000, None))
    do(instance, Sleep("d#1", ASKED, "w.py:2", None, 9_000, is_date=True))
    do(instance, wait(timeout_ms=500))
    instance.apply(Paused(2_100))
    instance.apply(Resumed(7_100))
    assert instance.sleeps == {"s#1": 8_000, "d#1": 9_000}
    assert instance.waits["w#1"].deadline_ms == 7_500


def test_event_goes_to_the_first_wait_whose_match_it_has():
    instance = begin()
    do(instance, Wait("w#1", ASKED, "w.py:3", "approved", None, values.encode({"who.name": "kim"})))
    do(instance, Wait("w#2", ASKED, "w.py:3", "approved", None, values.encode({"n": 1})))
    assert event(instance, "e1", payload=values.encode({"n": True}))[1:] == []
    assert event(instance, "e2", payload=values.encode({"n": 1}))[1:] == [WaitEnded(2_000, "w#2", 2)]
    assert event(instance, "e3", payload=values.encode({"who": {"name": "kim"}}))[1:] == [WaitEnded(2_000, "w#1", 3)]
    taken = do(instance, Wait("w#3", ASKED, "w.py:3", "approved", None, values.encode({"n": True})))
    assert taken[1:] == [WaitEnded(2_000, "w#3", 1)]


def test_step_that_is_given_up_while_it_executes_says_so():
    instance = begin()
    do(instance, StepBegun("a#1", "w.py:1", 1, 1_500))
    assert list(instance.executing) == ["a#1"]
    assert do(instance, Cancel("a#1")) == [Cancelled(2_000, "a#1")]
    assert not instance.executing
    assert do(instance, Cancel("a#1")) == []


def test_details_that_are_sensitive_stay_so_in_the_journal():
    instance = begin()
    do(instance, StepBegun("a#1", "w.py:1", 1, 0))
    [beat] = do(instance, Beat("a#1", 1, b"\xc0", True))
    [failure] = do(instance, StepError("a#1", ASKED, "w.py:1", 1, 2, ErrorFact("E", "no"), NO_RETRY, b"\xc0", True))
    again = RetryPolicy(limit=1)
    [tried] = do(begin(), StepError("a#1", ASKED, "w.py:1", 1, 2, ErrorFact("E", "no"), again, b"\xc0", True))
    assert isinstance(failure, StepFailed)
    assert [(entry.details, entry.is_sensitive) for entry in (beat, tried)] == [(b"\xc0", True)] * 2


def test_waits_that_stand_again_share_out_the_kept_events_in_order():
    instance = begin()
    for number in range(3):
        event(instance, f"e{number}", payload=values.encode({"n": number}))
    for path, match in (("w#1", {"n": 2}), ("w#2", None), ("w#3", {"n": 0}), ("w#4", None)):
        asked_for = b"" if match is None else values.encode(match)
        instance.apply(WaitStarted(1_900, path, ASKED, "w.py:3", "approved", None, asked_for))
    ended = decide.after_restart(instance, now_ms=2_000)
    assert ended == (WaitEnded(2_000, "w#1", 3), WaitEnded(2_000, "w#2", 1), WaitEnded(2_000, "w#4", 2))


def test_restart_with_too_much_to_look_through_is_held(monkeypatch):
    """Attack: thousands of waits whose match nothing has, over thousands of events, looked through by one call."""
    monkeypatch.setattr("executor.core.decide.waits.RESTART_LOOKED_BYTES_MAX", 500)
    instance = begin()
    for number in range(10):
        event(instance, f"e{number}", payload=values.encode({"n": number}))
    for number in range(3):
        wanted = values.encode({"n": -1})
        instance.apply(WaitStarted(1_900, f"w#{number}", ASKED, "w.py:3", "approved", None, wanted))
    [held] = decide.after_restart(instance, now_ms=2_000)
    assert (type(held).__name__, held.code) == ("Held", "limit_exceeded")
