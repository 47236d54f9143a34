"""Decisions at their edges: the millisecond at which something is due, what crosses on the way, who comes first."""

import msgspec
import pytest

from executor.core import decide
from executor.core.commands import Cancel, Complete, GroupEnd, RetryPolicy, Sleep, StepBegun, StepDone, StepError, Wait
from executor.core.entries import (
    AttemptFailed,
    Cancelled,
    EventReceived,
    Held,
    StartDue,
    Started,
    StartOptions,
    StepSucceeded,
    WaitEnded,
)
from executor.core.errors import Conflict
from executor.core.failure import ErrorFact
from executor.core.instance import Instance
from tests.executor.core.strategies import ASKED, begin, started

ERROR = ErrorFact("ValueError", "no")


def do(instance, command, now_ms=2_000):
    entries = decide.on_command(instance, command, now_ms=now_ms).entries
    for entry in entries:
        instance.apply(entry)
    return list(entries)


def sleep(path, ms):
    return Sleep(path, ASKED, "w.py:2", ms, None)


def wait(path="w#1", timeout_ms=None):
    return Wait(path, ASKED, "w.py:3", "approved", timeout_ms)


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


def test_delayed_start_is_due_at_its_time_and_not_before():
    instance = Instance()
    instance.apply(msgspec.structs.replace(started(), options=StartOptions(start_at_ms=5_000)))
    assert decide.on_clock(instance, 4_999).entries == ()
    assert decide.on_clock(instance, 5_000).entries == (StartDue(5_000),)


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
