"""Times of schedules: cron and intervals, clocks that change, what is made up for after downtime."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from executor.core.errors import Refused
from executor.core.ids import is_instance_id
from executor.core.schedule import (
    CATCH_UP_ALL_MS,
    LATE_MS,
    PLAN_MAX,
    ScheduleSpec,
    due_ms,
    instance_id,
    jitter_ms,
    next_ms,
    parse_declarations,
    parse_spec,
    plan,
    upcoming,
)

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
BERLIN = "Europe/Berlin"


def at(text: str, zone: str = "UTC") -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


def times(after: str, count: int, zone: str = "UTC", **spec: Any) -> list[str]:
    """The next times as a clock on the wall shows them, with the offset where it is not that of UTC."""
    found = upcoming(parse_spec(timezone=zone, **spec), at(after, zone), count)
    shown = [datetime.fromtimestamp(ms / 1000, ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M%z") for ms in found]
    return [text.removesuffix("+0000") for text in shown]


# --- ordinary times


@pytest.mark.parametrize(
    ("cron", "after", "expected"),
    [
        ("0 6 * * *", "2027-05-01T06:00", ["2027-05-02 06:00", "2027-05-03 06:00"]),
        ("*/20 9 * * *", "2027-05-01T09:30", ["2027-05-01 09:40", "2027-05-02 09:00"]),
        ("0 0 29 2 *", "2026-11-23T00:00", ["2028-02-29 00:00", "2032-02-29 00:00"]),
        ("0 0 29 2 *", "2096-03-01T00:00", ["2104-02-29 00:00", "2108-02-29 00:00"]),
        ("0 0 31 * *", "2027-01-31T00:00", ["2027-03-31 00:00", "2027-05-31 00:00"]),
        ("0 0 L * *", "2027-01-31T00:00", ["2027-02-28 00:00", "2027-03-31 00:00"]),
        ("59 23 31 12 *", "2026-12-31T23:59", ["2027-12-31 23:59", "2028-12-31 23:59"]),
        ("0 9 * * MON#1", "2027-05-01T00:00", ["2027-05-03 09:00", "2027-06-07 09:00"]),
        ("0 0 * 2 MON#5", "2026-11-23T00:00", ["2044-02-29 00:00", "2072-02-29 00:00"]),
        ("0 0 13 * FRI", "2027-08-01T00:00", ["2027-08-06 00:00", "2027-08-13 00:00"]),
        ("@daily", "2027-05-01T06:00", ["2027-05-02 00:00", "2027-05-03 00:00"]),
        ("@Hourly", "2027-05-01T06:00", ["2027-05-01 07:00", "2027-05-01 08:00"]),
    ],
)
def test_cron_fires_when_debians_does(cron: str, after: str, expected: list[str]) -> None:
    assert times(after, 2, cron=cron) == expected


def test_interval_counts_from_its_start_or_from_the_epoch() -> None:
    assert times("2027-05-01T00:05", 2, every="45 minutes") == ["2027-05-01 00:45", "2027-05-01 01:30"]
    from_start = {"every": "45 minutes", "start": "2027-05-01T00:10"}
    assert times("2027-04-01T00:00", 2, **from_start) == ["2027-05-01 00:10", "2027-05-01 00:55"]
    assert times("2027-05-01T00:10", 1, **from_start) == ["2027-05-01 00:55"]


def test_start_is_the_first_time_that_may_be_and_end_the_first_that_may_not() -> None:
    bounds = {"cron": "0 6 * * *", "start": "2027-05-02T06:00", "end": "2027-05-04T06:00"}
    assert times("2026-01-01T00:00", 5, **bounds) == ["2027-05-02 06:00", "2027-05-03 06:00"]


def test_start_and_end_are_of_the_schedules_zone_unless_they_name_one() -> None:
    found = parse_spec(cron="0 6 * * *", timezone=BERLIN, start="2027-07-01T00:00", end="2027-08-01T00:00Z")
    assert (found.start_ms, found.end_ms) == (at("2027-06-30T22:00"), at("2027-08-01T00:00"))


# --- clocks that change


def test_fixed_time_that_the_clocks_skip_fires_at_the_first_moment_after_the_gap() -> None:
    assert times("2027-03-27T12:00", 2, BERLIN, cron="30 2 * * *") == [
        "2027-03-28 03:00+0200",
        "2027-03-29 02:30+0200",
    ]


def test_several_fixed_times_in_one_gap_fire_once_together() -> None:
    assert times("2027-03-27T23:00", 3, BERLIN, cron="0,30 2,3 * * *") == [
        "2027-03-28 03:00+0200",
        "2027-03-28 03:30+0200",
        "2027-03-29 02:00+0200",
    ]


def test_fixed_time_that_comes_twice_fires_the_first_time() -> None:
    assert times("2027-10-30T12:00", 2, BERLIN, cron="30 2 * * *") == [
        "2027-10-31 02:30+0200",
        "2027-11-01 02:30+0100",
    ]
    between = at("2027-10-31T02:45", BERLIN) + HOUR  # 02:45 for the second time
    assert next_ms(parse_spec(cron="50 2 * * *", timezone=BERLIN), between) == at("2027-11-01T02:50", BERLIN)


def test_frequent_times_go_through_an_hour_that_comes_twice_twice() -> None:
    assert times("2027-10-31T01:30", 6, BERLIN, cron="*/30 * * * *") == [
        "2027-10-31 02:00+0200",
        "2027-10-31 02:30+0200",
        "2027-10-31 02:00+0100",
        "2027-10-31 02:30+0100",
        "2027-10-31 03:00+0100",
        "2027-10-31 03:30+0100",
    ]


def test_frequent_times_in_a_gap_do_not_fire() -> None:
    assert times("2027-03-28T01:30", 2, BERLIN, cron="*/30 * * * *") == [
        "2027-03-28 03:00+0200",
        "2027-03-28 03:30+0200",
    ]
    assert times("2027-03-28T01:30", 1, BERLIN, cron="*/15 2 * * *") == ["2027-03-29 02:00+0200"]


def test_midnight_that_does_not_exist_is_the_first_moment_of_that_day() -> None:
    assert times("2027-03-13T12:00", 2, "America/Havana", cron="0 0 * * *") == [
        "2027-03-14 01:00-0400",
        "2027-03-15 00:00-0400",
    ]


def test_change_of_half_an_hour_is_no_special_case() -> None:
    assert times("2026-10-04T01:30", 3, "Australia/Lord_Howe", cron="*/20 2 * * *") == [
        "2026-10-04 02:40+1100",
        "2026-10-05 02:00+1100",
        "2026-10-05 02:20+1100",
    ]
    assert times("2026-10-03T12:00", 1, "Australia/Lord_Howe", cron="10 2 * * *") == ["2026-10-04 02:30+1100"]


def test_day_that_a_country_left_out_fires_at_its_end() -> None:
    """Samoa had no 30 December 2011."""
    assert times("2011-12-29T12:00", 2, "Pacific/Apia", cron="0 9 * * *") == [
        "2011-12-31 00:00+1400",
        "2011-12-31 09:00+1400",
    ]


ZONES = [
    "UTC",
    BERLIN,
    "America/New_York",
    "America/Havana",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Africa/Casablanca",
]
FIELDS = st.tuples(
    st.sampled_from(["0", "30", "*", "*/15", "5,45", "59"]),
    st.sampled_from(["*", "0", "2", "1,2,3", "*/6", "23"]),
    st.sampled_from(["*", "*", "1", "29", "31", "L"]),
    st.sampled_from(["*", "*", "3", "10", "2", "1,3,5"]),
    st.sampled_from(["*", "*", "SUN", "1-5"]),
)
MOMENTS = st.integers(at("2024-01-01T00:00"), at("2030-01-01T00:00"))


@given(FIELDS, st.sampled_from(ZONES), MOMENTS)
def test_next_is_later_and_nothing_is_between(fields: tuple[str, ...], zone: str, after: int) -> None:
    """Every time follows from any moment before it: what is asked again after a restart is the same."""
    try:
        spec = parse_spec(cron=" ".join(fields), timezone=zone)
    except Refused:
        assert fields[2] in ("31", "29") and fields[3] == "2", fields
        return
    found = next_ms(spec, after)
    assert found is not None
    assert found > after
    assert next_ms(spec, found - 1) == found
    assert next_ms(spec, (after + found) // 2) == found


@settings(max_examples=25)
@given(
    st.sampled_from(["*", "*/7", "0", "10,50"]),
    st.sampled_from(["*", "2", "0,1,2,3"]),
    st.sampled_from(ZONES),
    st.integers(0, 400),
)
def test_times_of_a_day_are_those_of_the_walls_clock(minute: str, hour: str, zone: str, day: int) -> None:
    """Against a walk through the day minute by minute, with the two rules written out."""
    cron = f"{minute} {hour} * * *"
    is_frequent = minute[0] == "*" or hour[0] == "*"
    begin = at("2027-01-01T00:00") + day * DAY
    expected: list[int] = []
    shown: set[datetime] = set()
    before = datetime.fromtimestamp(begin / 1000 - 3 * 3600, ZoneInfo(zone)).replace(tzinfo=None)
    for ms in range(begin - 3 * HOUR, begin + DAY, MINUTE):
        wall = datetime.fromtimestamp(ms / 1000, ZoneInfo(zone)).replace(tzinfo=None, fold=0)
        skipped = []
        if not is_frequent:
            skipped = [
                before + timedelta(minutes=n) for n in range(1, max(0, int((wall - before) / timedelta(minutes=1))))
            ]
        is_new = is_frequent or wall not in shown
        if ms > begin and ((is_new and _fits(cron, wall)) or any(_fits(cron, time) for time in skipped)):
            expected.append(ms)
        shown.add(wall)
        before = max(before, wall) if not is_frequent else wall
    found = [ms for ms in upcoming(parse_spec(cron=cron, timezone=zone), begin, 1500) if ms < begin + DAY]
    assert found == expected


def _fits(cron: str, wall: datetime) -> bool:
    def one(field: str, value: int) -> bool:
        return field == "*" or (value % int(field[2:]) == 0 if field[0] == "*" else value in map(int, field.split(",")))

    minute, hour = cron.split()[:2]
    return one(minute, wall.minute) and one(hour, wall.hour)


# --- what is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "the schedule needs either cron or every"),
        ({"cron": "* * * * *", "every": 60}, "the schedule needs either cron or every"),
        ({"cron": "0 0 31 2 *"}, 'the schedule has cron "0 0 31 2 *": Bad day-of-month'),
        ({"cron": "0 0 31 4,6,9,11 *"}, 'the schedule has cron "0 0 31 4,6,9,11 *": Bad day-of-month'),
        ({"cron": "0 24 * * *"}, 'the schedule has cron "0 24 * * *": Bad hour'),
        ({"cron": "0 0 * * MON#2/2"}, 'the schedule has cron "0 0 * * MON#2/2": Bad day-of-week'),
        ({"cron": "0 0 * * MON#2/x"}, 'the schedule has cron "0 0 * * MON#2/x": Bad day-of-week'),
        ({"cron": "0 6 * *"}, 'the schedule has cron "0 6 * *", which is not five fields'),
        ({"cron": "0 0 6 * * *"}, 'the schedule has cron "0 0 6 * * *", which is not five fields'),
        ({"cron": "0 6 * * *" + " " * 200}, None),
        ({"cron": "0 6 * * *", "timezone": "Berlin"}, 'the schedule has timezone "Berlin", which is not known'),
        ({"cron": "0 6 * * *", "timezone": "../../etc/passwd"}, None),
        ({"cron": "0 6 * * *", "timezone": "localtime"}, 'the schedule has timezone "localtime", which is not known'),
        ({"every": 0.5}, "the schedule has every of 500 ms"),
        ({"every": "soon"}, None),
        ({"every": 60, "start": "tomorrow"}, 'the schedule has start "tomorrow", which is no date'),
        ({"every": 60, "start": "2027-01-02", "end": "2027-01-01"}, "the schedule never fires before its end: every 60000 ms"),
        ({"cron": "0 0 29 2 *", "start": "2027-01-01", "end": "2028-02-29"}, 'the schedule never fires before its end: cron "0 0 29 2 *"'),
        ({"every": 60, "overlap": "both"}, "the schedule has overlap='both'"),
        ({"every": 60, "catch_up": "some"}, "the schedule has catch_up='some'"),
        ({"every": 60, "jitter": "2 days"}, "the schedule has a jitter of 172800000 ms"),
    ],
)  # fmt: skip
def test_schedule_that_cannot_be_is_refused_with_the_reason(arguments: dict[str, Any], message: str | None) -> None:
    with pytest.raises(Refused) as refused:
        parse_spec(**arguments)
    assert refused.value.code == "bad_request"
    assert refused.value.hint
    if message is not None:
        assert refused.value.message == message


@given(st.text(max_size=30) | st.from_regex(r"[0-9*/,LW#A-Z-]{1,4}( [0-9*/,LW#A-Z-]{1,5}){4}", fullmatch=True))
def test_any_text_is_a_cron_that_fires_or_is_refused(text: str) -> None:
    try:
        spec = parse_spec(cron=text)
    except Refused:
        return
    assert next_ms(spec, 0) is not None


def test_declarations_are_texts_and_arguments_one_or_several() -> None:
    assert parse_declarations("0 6 * * *") == [(ScheduleSpec(cron="0 6 * * *"), None)]
    assert parse_declarations([{"every": "1 minute", "payload": {"a": 1}, "overlap": "queue"}, "@daily"]) == [
        (ScheduleSpec(every_ms=MINUTE, overlap="queue"), {"a": 1}),
        (ScheduleSpec(cron="0 0 * * *"), None),
    ]
    assert parse_declarations([]) == []


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (5, "the schedule is 5"),
        ({"crom": "0 6 * * *"}, "the schedule has no argument 'crom'"),
        ({"cron": 6}, "the schedule has cron=6"),
        (["0 6 * * *"] * 51, "the schedule is one of 51 of the same workflow"),
    ],
)
def test_declaration_that_cannot_be_read_is_refused(value: Any, message: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_declarations(value)
    assert refused.value.message == message


# --- what is due

HOURLY = {"cron": "0 * * * *"}
NOON = at("2027-05-01T12:00")


def test_time_within_a_minute_is_fired_whatever_the_catch_up_policy() -> None:
    for policy in ("none", "last", "all"):
        found = plan(parse_spec(**HOURLY, catch_up=policy), "s", NOON - HOUR, NOON + LATE_MS - 1)
        assert (found.fire, found.missed, found.cursor_ms) == ((NOON,), None, NOON)


@pytest.mark.parametrize(
    ("policy", "fire", "missed"),
    [
        ("none", (), (NOON - 2 * HOUR, NOON)),
        ("last", (NOON,), (NOON - 2 * HOUR, NOON - HOUR)),
        ("all", (NOON - 2 * HOUR, NOON - HOUR, NOON), None),
    ],
)
def test_after_downtime_the_policy_says_what_is_made_up_for(policy: str, fire: Any, missed: Any) -> None:
    found = plan(parse_spec(**HOURLY, catch_up=policy), "s", NOON - 3 * HOUR, NOON + 30 * MINUTE)
    assert (found.fire, found.missed, found.cursor_ms) == (fire, missed, NOON)


def test_time_that_is_exactly_a_minute_late_was_missed() -> None:
    found = plan(parse_spec(**HOURLY, catch_up="none"), "s", NOON - HOUR, NOON + LATE_MS)
    assert (found.fire, found.missed, found.cursor_ms) == ((), (NOON, NOON), NOON)


def test_last_is_the_one_that_is_due_now_if_there_is_one() -> None:
    found = plan(parse_spec(**HOURLY, catch_up="last"), "s", NOON - 3 * HOUR, NOON)
    assert (found.fire, found.missed) == ((NOON,), (NOON - 2 * HOUR, NOON - HOUR))


def test_window_bounds_what_is_made_up_for() -> None:
    two_hours = {"catch_up_window": "90 minutes"}
    found = plan(parse_spec(**HOURLY, catch_up="all", **two_hours), "s", NOON - 5 * HOUR, NOON + 10 * MINUTE)
    assert (found.fire, found.missed) == ((NOON - HOUR, NOON), (NOON - 4 * HOUR, NOON - 2 * HOUR))
    daily = parse_spec(cron="0 0 * * *", catch_up="last", **two_hours)
    found = plan(daily, "s", NOON - 2 * DAY, NOON)
    assert (found.fire, found.missed, found.cursor_ms) == (
        (),
        (NOON - DAY - 12 * HOUR, NOON - 12 * HOUR),
        NOON - 12 * HOUR,
    )


def test_all_reaches_a_day_back_unless_told_and_comes_in_portions() -> None:
    spec = parse_spec(every="1 minute", catch_up="all")
    now = NOON + 30_000
    first = plan(spec, "s", NOON - 3 * DAY, now)
    assert first.fire[0] == NOON - CATCH_UP_ALL_MS + MINUTE
    assert first.missed == (NOON - 3 * DAY + MINUTE, NOON - CATCH_UP_ALL_MS)
    assert len(first.fire) == PLAN_MAX
    second = plan(spec, "s", first.cursor_ms, now)
    assert (second.fire[0], second.missed) == (first.fire[-1] + MINUTE, None)


def test_clock_set_back_behind_what_was_decided_fires_nothing() -> None:
    spec = parse_spec(**HOURLY)
    found = plan(spec, "s", NOON, NOON - 5 * HOUR)
    assert (found.fire, found.missed, found.cursor_ms) == ((), None, NOON)
    assert due_ms(spec, "s", found.cursor_ms) == NOON + HOUR


def test_years_of_seconds_are_left_behind_in_few_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    from executor.core import schedule

    asked = 0
    real = schedule.next_ms

    def counted(spec: ScheduleSpec, after_ms: int) -> int | None:
        nonlocal asked
        asked += 1
        return real(spec, after_ms)

    monkeypatch.setattr(schedule, "next_ms", counted)
    found = plan(parse_spec(every="1 second"), "s", NOON - 3650 * DAY, NOON)
    assert found.missed == (NOON - 3650 * DAY + 1000, NOON - LATE_MS)
    assert asked < 200


def test_jitter_delays_within_its_bound_always_the_same_and_keeps_the_order() -> None:
    spec = parse_spec(cron="* * * * *", jitter="5 minutes")
    delays = [jitter_ms(spec, "s", NOON + n * MINUTE) for n in range(200)]
    assert delays == [jitter_ms(spec, "s", NOON + n * MINUTE) for n in range(200)]
    assert 0 <= min(delays) < 30_000 < 270_000 < max(delays) <= 300_000
    assert plan(spec, "s", NOON - 1, NOON + delays[0] - 1).fire == ()
    assert plan(spec, "s", NOON - 1, NOON + delays[0]).fire[0] == NOON
    fired: list[int] = []
    cursor = NOON - 1
    for now in range(NOON, NOON + HOUR, 10_000):
        found = plan(spec, "s", cursor, now)
        fired += found.fire
        cursor = found.cursor_ms
        assert found.missed is None
    assert fired == [NOON + n * MINUTE for n in range(len(fired))]


SCRIPTS = st.lists(st.integers(-2 * DAY, 3 * DAY), min_size=1, max_size=30)


@given(SCRIPTS, st.sampled_from(["0 * * * *", "*/7 * * * *", "30 2 * * *"]), st.sampled_from(["none", "last", "all"]))
def test_whatever_the_clock_does_each_time_is_decided_once_and_in_order(
    steps: list[int], cron: str, policy: Any
) -> None:
    """Fired and missed times together are all times up to the latest moment the clock has shown, each once."""
    spec = parse_spec(cron=cron, timezone=BERLIN, catch_up=policy)
    begin = now = cursor = latest = at("2027-03-26T12:00")
    decided: list[int] = []
    for step in steps:
        now += step
        latest = max(latest, now)
        while True:
            found = plan(spec, "s", cursor, now)
            if found.missed is not None:
                first, last = found.missed
                decided += [ms for ms in _all(spec, first - 1, last) if ms not in found.fire]
            decided += found.fire
            if found.cursor_ms == cursor:
                break
            cursor = found.cursor_ms
    assert decided == _all(spec, begin, latest)


def _all(spec: ScheduleSpec, after: int, until: int) -> list[int]:
    found: list[int] = []
    while (following := next_ms(spec, after)) is not None and following <= until:
        found.append(following)
        after = following
    return found


# --- names


@given(st.text(min_size=1, max_size=200), st.integers(0, at("2200-01-01T00:00")))
def test_instances_id_is_legal_and_tells_name_and_time(name: str, at_ms: int) -> None:
    found = instance_id(name, at_ms)
    assert is_instance_id(found)
    assert datetime.fromtimestamp(at_ms // 1000, UTC).strftime("-%Y%m%dT%H%M%SZ-") in found
    assert found == instance_id(name, at_ms) != instance_id(name + "x", at_ms)
