"""Flow control, the pure part: rates, keys and what may be declared."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from executor.core import flow
from executor.core.entries import FlowLimit
from executor.core.flow import Rate
from executor.workflow import Flow

_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
_VALUES = st.recursive(_SCALARS | st.binary(), lambda x: st.lists(x) | st.dictionaries(st.text(), x), max_leaves=10)
_RATES = st.builds(Rate, st.integers(1, 50), st.integers(1, 100_000), st.integers(1, 20))
_GAPS = st.lists(st.one_of(st.just(0), st.integers(0, 50), st.integers(0, 200_000)), min_size=1, max_size=120)


def slots(rate: Rate, gaps: list[int]) -> list[tuple[int, int]]:
    """When each of some starts came, and when it may be."""
    now_ms, debt, found = 1_000_000, 0, []
    for gap in gaps:
        now_ms += gap
        at_ms, debt = rate.slot(debt, now_ms)
        found.append((now_ms, at_ms))
    return found


@given(_RATES, _GAPS)
def test_no_window_has_more_starts_than_the_rate_and_its_burst_allow(rate: Rate, gaps: list[int]) -> None:
    times = [at_ms for _, at_ms in slots(rate, gaps)]
    for first in times:
        within = sum(first <= at_ms < first + rate.period_ms for at_ms in times)
        assert within <= rate.count - 1 + rate.burst


@given(_RATES, _GAPS)
def test_starts_keep_their_order_and_none_is_before_it_came(rate: Rate, gaps: list[int]) -> None:
    found = slots(rate, gaps)
    assert all(at_ms >= came_ms for came_ms, at_ms in found)
    times = [at_ms for _, at_ms in found]
    assert times == sorted(times)


@given(_RATES, st.integers(1, 60))
def test_a_crowd_has_its_burst_at_once_and_then_the_rate_and_no_less(rate: Rate, crowd: int) -> None:
    """The limit delays no start longer than it must: the n-th of a crowd is at its exact place, rounded up."""
    times = [at_ms - 1_000_000 for _, at_ms in slots(rate, [0] * crowd)]
    exact = [max(0, number - rate.burst + 1) * rate.period_ms for number in range(crowd)]
    assert times == [-(-late // rate.count) for late in exact]


@example(Rate(1, 1_000, 5), [0] * 20)
@given(_RATES, _GAPS)
def test_a_rate_that_was_forgotten_is_taken_up_where_it_was_or_later(rate: Rate, gaps: list[int]) -> None:
    """After a restart the debt comes from the latest start alone: no window gets more than before."""
    debt, now_ms, times = 0, 1_000_000, []
    for index, gap in enumerate(gaps):
        now_ms += gap
        if times and index % 3 == 0:
            debt = rate.debt_after(times[-1])
        at_ms, debt = rate.slot(debt, now_ms)
        times.append(at_ms)
    for first in times:
        assert sum(first <= at_ms < first + rate.period_ms for at_ms in times) <= rate.count - 1 + rate.burst


def test_a_hundred_a_minute_are_six_hundred_milliseconds_apart() -> None:
    rate = flow.rate_of(Flow(rate="100/minute"))
    assert rate is not None
    assert rate == Rate(100, 60_000, 1)
    assert [at_ms - 1_000_000 for _, at_ms in slots(rate, [0, 0, 0, 5_000])] == [0, 600, 1_200, 5_000]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (None, {"customer": {"id": 7}, "items": ["a", "b"]}),
        ("payload", {"customer": {"id": 7}, "items": ["a", "b"]}),
        ("payload.customer.id", 7),
        ("payload.items.1", "b"),
        ("payload.items.2", None),
        ("payload.items.x", None),
        ("payload.missing", None),
        ("payload.customer.id.deeper", None),
    ],
)
def test_a_path_names_a_part_of_the_payload_and_what_is_not_there_is_none(path: str | None, found: object) -> None:
    assert flow.value_at(path, {"customer": {"id": 7}, "items": ["a", "b"]}) == found


def test_keys_are_equal_for_values_that_json_does_not_tell_apart_and_for_no_others() -> None:
    per = Flow(concurrency=1, per="payload.c")

    def key(value: object, workflow: str = "W", declared: Flow = per) -> str:
        return flow.key_of(workflow, declared, {"c": value})

    assert key({"a": 1, "b": [2]}) == key({"b": [2.0], "a": 1.0})
    assert key(None) == flow.key_of("W", per, {}) == flow.key_of("W", per, None)
    others = [key("1"), key(1), key(True), key(None), key([1]), key("W"), key(1, "V"), key(1, "W", Flow(concurrency=1))]
    assert len(set(others)) == len(others)


@given(_VALUES)
def test_every_value_has_a_key(value: object) -> None:
    key = flow.key_of("W", Flow(per="payload"), value)
    assert len(key) == 2 * flow.KEY_BYTES


def test_the_limit_is_named_after_workflow_and_path() -> None:
    assert flow.limits_of("W", Flow(), "k") == ()
    assert flow.limits_of("W", Flow(concurrency=5), "k") == (FlowLimit("W", "k", 5),)
    assert flow.limits_of("W", Flow(concurrency=5, per="payload.c"), "k") == (FlowLimit("W per payload.c", "k", 5),)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"concurrency": 0}, "flow: Flow(concurrency=0) is not between 1 and 10000"),
        ({"concurrency": True}, "flow: Flow(concurrency=…) is of type bool; write a whole number"),
        ({"per": "payload.\ud800"}, "flow: Flow(per='payload.\\ud800') is not a path like \"payload.customer\""),
        ({"per": "payload." + "a" * 193}, "flow: Flow(per=…) has 201 characters, the limit is 200"),
        ({"per": "customer"}, "flow: Flow(per='customer') is not a path like \"payload.customer\""),
        ({"rate": "100"}, 'flow: Flow(rate=\'100\') is not a rate like "100/minute" or "5/10 seconds"'),
        ({"rate": "0/minute"}, "flow: Flow(rate=0) is not between 1 and 1000000"),
        (
            {"rate": "5/fortnight"},
            (
                "flow: Flow(rate=…) is '1 fortnight': 'fortnight' is not a unit; units are ms, seconds, minutes, hours,"
                " days and weeks"
            ),
        ),
        ({"burst": 2}, "flow: Flow(burst=…) goes with rate=…"),
        ({"debounce": 0}, "flow: Flow(debounce=…) is 0, which debounces nothing"),
        ({"singleton": "wait"}, 'flow: Flow(singleton=\'wait\') is not "skip" or "cancel"'),
        ({"priority": 101}, "flow: Flow(priority=101) is not between -100 and 100"),
        (
            {"limit": 1},
            "flow: there is no Flow(limit=…); it takes concurrency, per, rate, burst, debounce, singleton, priority",
        ),
        ([], "flow: flow must be Flow(…)"),
    ],
)
def test_what_is_declared_wrongly_is_refused_by_name(fields: object, message: str) -> None:
    assert flow.problem(json.dumps({"flow": fields})) == message


def test_what_is_declared_rightly_is_the_flow_that_was_written() -> None:
    written = {"concurrency": 5, "per": "payload.c", "rate": "5 / 10 seconds", "burst": 3, "debounce": "5 seconds"}
    text = json.dumps({"flow": written, "schedule": "@daily"})
    assert flow.problem(text) is None
    assert flow.declared(text) == Flow(
        concurrency=5, per="payload.c", rate="5 / 10 seconds", burst=3, debounce="5 seconds"
    )
    assert flow.declared("") is None
    assert flow.declared('{"schedule": "@daily"}') is None
