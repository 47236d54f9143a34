"""The watch-dog's arithmetic: pure, so time is a number here."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor.sandbox.protocol import Activate, Drop, Entries, Output, Ping, Pong, Turn
from executor.sandbox.watch import Watch


@pytest.fixture
def watch() -> Watch:
    return Watch(ping_after_s=1.0, turn_timeout_s=5.0, answered_s=100.0)


def activate(run: int = 1) -> Activate:
    return Activate(run, "i", "W", "c", 0)


OUTPUT = Output(1, 0, 0, 0, "log", "", "", 0, "still here")


def test_idle_sandbox_is_left_alone(watch):
    assert not watch.busy
    assert watch.due(1_000_000.0) is None


def test_working_sandbox_is_asked_after_the_first_second(watch):
    watch.sent([activate()], 200.0)
    assert watch.due(200.9) is None
    assert watch.due(201.0) == "ping"
    assert watch.number == 1


def test_answer_in_time_keeps_it_alive_and_is_asked_again(watch):
    watch.sent([activate()], 200.0)
    assert watch.due(201.0) == "ping"
    watch.received([Pong(1)], 204.9)
    assert watch.due(205.0) is None
    assert watch.due(205.9) == "ping"
    assert watch.number == 2


def test_no_answer_for_the_whole_timeout_is_the_end(watch):
    watch.sent([activate()], 200.0)
    assert watch.due(201.0) == "ping"
    assert watch.due(204.9) is None
    assert watch.due(205.0) == "kill"


def test_other_frames_are_no_answer(watch):
    watch.sent([activate()], 200.0)
    assert watch.due(201.0) == "ping"
    watch.received([OUTPUT, Turn(1, 0, [], idle=False)], 204.0)
    assert watch.due(205.0) == "kill"


def test_chatter_does_not_put_off_the_question(watch):
    watch.sent([activate()], 200.0)
    watch.received([OUTPUT], 200.9)
    assert watch.due(201.0) == "ping"


def test_answer_to_an_older_question_does_not_count(watch):
    watch.sent([activate()], 200.0)
    watch.due(201.0)
    watch.received([Pong(1)], 201.1)
    watch.due(202.1)
    watch.received([Pong(1)], 202.2)
    assert watch.due(206.1) == "kill"


def test_idle_turn_that_has_seen_everything_ends_the_work(watch):
    watch.sent([activate(), Entries(1, 1, [b"", b""])], 200.0)
    watch.received([Turn(1, 2, [], idle=True)], 200.1)
    assert not watch.busy


def test_idle_turn_that_crossed_newer_entries_does_not_end_the_work(watch):
    watch.sent([activate(), Entries(1, 1, [b"", b""])], 200.0)
    watch.received([Turn(1, 1, [], idle=True)], 200.1)
    assert watch.busy


def test_one_idle_run_does_not_excuse_another(watch):
    watch.sent([activate(1), activate(2)], 200.0)
    watch.received([Turn(1, 0, [], idle=True)], 200.1)
    assert watch.due(201.0) == "ping"


def test_dropped_run_is_work_until_the_sandbox_has_answered_once(watch):
    watch.sent([activate()], 200.0)
    watch.sent([Drop(1)], 200.5)
    assert watch.busy
    assert watch.due(201.5) == "ping"
    watch.received([Pong(1)], 201.6)
    assert not watch.busy


def test_pings_themselves_are_not_work(watch):
    watch.sent([Ping(1)], 200.0)
    assert not watch.busy


def test_time_in_which_the_host_does_not_read_is_not_counted(watch):
    watch.sent([activate()], 200.0)
    assert watch.due(201.0) == "ping"
    watch.host_paused(300.0)
    assert watch.due(303.9) is None
    assert watch.due(304.0) == "kill"


def test_short_timeout_is_kept_though_the_first_question_comes_later_by_default():
    watch = Watch(ping_after_s=1.0, turn_timeout_s=0.4, answered_s=0.0)
    watch.sent([activate()], 0.0)
    assert watch.due(0.2) == "ping"
    assert watch.due(0.4) == "kill"


@given(
    st.lists(
        st.tuples(st.floats(0.01, 2.0), st.sampled_from(["send", "chatter", "idle", "answer", "look"])), max_size=60
    )
)
def test_silent_sandbox_at_work_never_outlives_its_timeout_by_more_than_a_tick(story):
    """Law: whatever happened before, from the last answer on a sandbox at work dies within the timeout, and one that
    answers every question at once never dies."""
    watch = Watch(ping_after_s=1.0, turn_timeout_s=5.0, answered_s=0.0)
    now = 0.0
    for wait_s, what in story:
        now += wait_s
        if what == "send":
            watch.sent([activate()], now)
        elif what == "chatter":
            watch.received([OUTPUT], now)
        elif what == "idle":
            watch.received([Turn(1, 0, [], idle=True)], now)
        elif what == "answer" and watch.asked_s is not None:
            watch.received([Pong(watch.number)], now)
        decision = watch.due(now)
        assert decision != "kill" or now - watch.answered_s >= 4.999
        if decision == "ping":
            watch.received([Pong(watch.number)], now)
            assert watch.due(now) is None
    watch.sent([activate()], now)
    start = now
    steps = 0
    while watch.due(now) != "kill":
        now += 0.1
        steps += 1
        assert steps < 1000
    assert now - start <= 5.0 + 0.2
