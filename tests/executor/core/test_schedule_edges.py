"""Schedules at their edges: the last moment that is in time, in the window, in the plan, in the jitter."""

from __future__ import annotations

from typing import Any

import pytest

from executor.core.errors import Refused
from executor.core.schedule import LATE_MS, PLAN_MAX, instance_id, jitter_ms, parse_declarations, parse_spec, plan
from tests.executor.core.test_schedule import DAY, HOUR, MINUTE, at

NOON = at("2027-05-01T12:00")
"""A fixed time each hour."""
HOURLY: dict[str, Any] = {"cron": "0 * * * *"}


def test_time_is_missed_a_minute_and_the_jitter_after_it_and_not_before() -> None:
    spec = parse_spec(**HOURLY, catch_up="none", jitter="10 minutes")
    bound = NOON + LATE_MS + 10 * MINUTE
    assert (plan(spec, "s", NOON - 1, bound - 1).fire, plan(spec, "s", NOON - 1, bound - 1).missed) == ((NOON,), None)
    assert (plan(spec, "s", NOON - 1, bound).fire, plan(spec, "s", NOON - 1, bound).missed) == ((), (NOON, NOON))


def test_plan_has_a_bounded_number_of_times_and_the_next_one_goes_on() -> None:
    spec = parse_spec(every=1, jitter="1 day", overlap="allow")
    found = plan(spec, "s", NOON, NOON + DAY + MINUTE)
    assert len(found.fire) == PLAN_MAX == 100
    assert plan(spec, "s", found.cursor_ms, NOON + DAY + MINUTE).fire[0] == found.fire[-1] + 1_000


@pytest.mark.parametrize("policy", ["last", "all"])
def test_what_is_as_old_as_the_window_is_made_up_for_and_what_is_older_is_not(policy: str) -> None:
    spec = parse_spec(cron="0 12 * * *", catch_up=policy, catch_up_window="90 minutes")
    window = 90 * MINUTE
    assert plan(spec, "s", NOON - HOUR, NOON + window).fire == (NOON,)
    late = plan(spec, "s", NOON - HOUR, NOON + window + 1)
    assert (late.fire, late.missed, late.cursor_ms) == ((), (NOON, NOON), NOON)


def test_all_makes_up_for_what_has_just_been_missed_too() -> None:
    spec = parse_spec(**HOURLY, catch_up="all")
    found = plan(spec, "s", NOON - HOUR, NOON + LATE_MS)
    assert (found.fire, found.missed, found.cursor_ms) == ((NOON,), None, NOON)


def test_all_reaches_back_a_day_to_the_millisecond() -> None:
    spec = parse_spec(cron="0 12 * * *", catch_up="all")
    assert plan(spec, "s", NOON - HOUR, NOON + DAY).fire == (NOON, NOON + DAY)
    assert plan(spec, "s", NOON - HOUR, NOON + DAY + 1).fire == (NOON + DAY,)


def test_jitter_reaches_its_bound_and_spreads_schedules_of_the_same_times() -> None:
    spec = parse_spec(**HOURLY, jitter=0.002)
    assert {jitter_ms(spec, "s", NOON + n * HOUR) for n in range(50)} == {0, 1, 2}
    wide = parse_spec(**HOURLY, jitter="1 day")
    assert len({jitter_ms(wide, name, NOON) for name in ("a", "b", "c", "W:1")}) == 4


@pytest.mark.parametrize("policy", ["none", "last", "all"])
def test_what_falls_due_at_the_moment_of_looking_is_fired(policy: str) -> None:
    found = plan(parse_spec(**HOURLY, catch_up=policy), "s", NOON - 1, NOON)
    assert (found.fire, found.missed, found.cursor_ms) == ((NOON,), None, NOON)


def test_what_is_missed_reaches_to_the_edge_of_the_window() -> None:
    spec = parse_spec(**HOURLY, catch_up="all", catch_up_window="1 hour")
    found = plan(spec, "s", NOON - 1, NOON + HOUR + 1)
    assert (found.fire, found.missed) == ((NOON + HOUR,), (NOON, NOON))


def test_schedules_whose_names_look_alike_start_instances_of_their_own() -> None:
    names = ["a b", "a-b", "a/b", "x" * 50, "x" * 51, "x" * 52]
    assert len({instance_id(name, NOON) for name in names}) == len(names)
    assert instance_id("a", NOON) != instance_id("a", NOON + 1), "one that fires more often than each second"


def test_workflow_declares_fifty_schedules_and_no_more() -> None:
    assert len(parse_declarations(["0 6 * * *"] * 50)) == 50
    with pytest.raises(Refused) as caught:
        parse_declarations(["0 6 * * *"] * 51)
    assert (caught.value.message, caught.value.hint) == (
        "the schedule is one of 51 of the same workflow",
        "The limit is 50.",
    )
