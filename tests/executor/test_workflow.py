"""Durations and options, as tenants write them."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from executor.workflow import Retry, Workflow
from executor.workflow.durations import duration_ms
from executor.workflow.options import StepOptions
from executor.workflow.step import Step


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("10 seconds", 10_000),
        ("1 day", 86_400_000),
        ("500 ms", 500),
        ("500ms", 500),
        ("1.5 hours", 5_400_000),
        ("1 hour 30 minutes", 5_400_000),
        ("1 hour and 30 min", 5_400_000),
        ("2 Weeks", 1_209_600_000),
        (2.5, 2_500),
        (0, 0),
        (0.0001, 1),
        (timedelta(minutes=2), 120_000),
    ],
)
def test_duration_in_milliseconds(text, milliseconds) -> None:
    assert duration_ms(text) == milliseconds


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("soon", "duration is 'soon', which is not a duration; write \"10 seconds\""),
        ("10", "duration is '10', which is not a duration"),
        (
            "1 month",
            "duration is '1 month': 'month' is not a unit; units are ms, seconds, minutes, hours, days and weeks",
        ),
        (-1, "duration is -1; it must be finite and not negative"),
        (float("nan"), "duration is nan; it must be finite and not negative"),
        ("200 years", "'years' is not a unit"),
        (10**12, "duration is 1000000000000, which is more than 100 years"),
    ],
)
def test_wrong_duration_says_what_is_wrong(value, message) -> None:
    with pytest.raises(ValueError) as wrong:
        duration_ms(value)
    assert message in str(wrong.value)


@pytest.mark.parametrize("value", [None, True, [1]])
def test_duration_of_a_wrong_type_is_a_type_error(value) -> None:
    with pytest.raises(TypeError, match=f"duration is of type {type(value).__name__}; write"):
        duration_ms(value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": -1}, "Retry(limit=-1) is not between 0 and 10000"),
        ({"backoff": "often"}, 'Retry(backoff=\'often\') is not "constant", "linear" or "exponential"'),
        ({"jitter": 2}, "Retry(jitter=2) is not between 0 and 1"),
        ({"delay": "x"}, "Retry(delay=…) is 'x', which is not a duration"),
        ({"max_delay": -1}, "Retry(max_delay=…) is -1; it must be finite and not negative"),
    ],
)
def test_wrong_retry_says_what_is_wrong(options, message) -> None:
    with pytest.raises(ValueError) as wrong:
        Retry(**options)
    assert str(wrong.value).startswith(message)


def test_retry_limit_of_a_wrong_type_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="Retry\\(limit=…\\) is of type str; write a whole number"):
        Retry(limit="3")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"retry": 3}, TypeError, "step option retry= is of type int; write retry=Retry(limit=3)"),
        ({"timeout": 0}, ValueError, "step option timeout= is 0, which no attempt could meet"),
        ({"sensitive": True}, TypeError, "step option sensitive= is not supported by this release; leave it out"),
        ({"tiemout": 1}, TypeError, "there is no step option tiemout=; the options are retry= and timeout="),
    ],
)
def test_wrong_option_says_what_is_wrong(options, error, message) -> None:
    with pytest.raises(error) as wrong:
        StepOptions().changed(options)
    assert str(wrong.value) == message


def test_default_retry_is_five_exponential_from_a_second() -> None:
    retry = StepOptions().retry
    assert (retry.limit, retry.delay_ms, retry.backoff, retry.max_delay_ms, retry.jitter) == (
        5,
        1000,
        "exponential",
        3_600_000,
        0.1,
    )


def test_called_coroutine_in_place_of_a_function_is_explained() -> None:
    async def function() -> None: ...

    with pytest.raises(TypeError, match="step 'a' was given a coroutine that is already called; give the function"):
        Step(None).do("a", function())  # type: ignore[arg-type]


def test_sleep_until_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="takes a datetime with a time zone"):
        Step(None).sleep_until("s", datetime(2026, 1, 1))  # type: ignore[arg-type]


def test_facet_and_current_attempt_outside_a_step_say_so() -> None:
    from executor.workflow import NotHere

    with pytest.raises(NotHere, match=r"self\.facet\.execute\(\) was called outside of a step"):
        Workflow().facet.execute("select 1")
    with pytest.raises(NotHere, match=r"step\.current\(\) works inside a step"):
        Step(None).current()  # type: ignore[arg-type]
