"""Durations and options, as tenants write them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from executor.workflow import Retry, Undo, Workflow
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
        ({"isolation": "x"}, TypeError, "step option isolation= is not supported by this release; leave it out"),
        (
            {"tiemout": 1},
            TypeError,
            (
                "there is no step option tiemout=; "
                "the options are retry=, timeout=, undo=, sensitive=, heartbeat=, stream=, grace="
            ),
        ),
        ({"heartbeat": 0}, ValueError, "step option heartbeat= is 0, which no attempt could meet"),
        (
            {"heartbeat": "1 minute", "timeout": 60},
            ValueError,
            (
                "step option heartbeat= is 60 s and timeout= is 60 s: the timeout would always come first; "
                "make heartbeat= the shorter one"
            ),
        ),
        ({"grace": "1 hour"}, ValueError, "step option grace= is '1 hour'; it may be 5 minutes at most"),
        ({"grace": -1}, ValueError, "step option grace= is -1; it must be finite and not negative"),
        ({"sensitive": 1}, TypeError, "step option sensitive= is of type int; write sensitive=True or leave it out"),
        ({"stream": "yes"}, TypeError, "step option stream= is of type str; write stream=True or leave it out"),
        (
            {"stream": True, "sensitive": True},
            ValueError,
            ("step options stream= and sensitive= do not go together: the bytes of a stream are not hidden"),
        ),
        (
            {"undo": "x"},
            TypeError,
            ("step option undo= is of type str; write a function of output and error, or Undo(function, retry=…)"),
        ),
    ],
)
def test_wrong_option_says_what_is_wrong(options, error, message) -> None:
    with pytest.raises(error) as wrong:
        StepOptions().changed(options)
    assert str(wrong.value) == message


def test_options_are_kept_as_numbers_and_switches() -> None:
    def undo(output: object, error: object) -> None: ...

    options = StepOptions().changed(
        {"timeout": "1 minute", "heartbeat": 30, "undo": undo, "grace": "1500 ms", "sensitive": True}
    )
    assert options == StepOptions(Retry(), 60_000, Undo(undo), True, 30_000, False, 1_500)
    changed = options.changed({"undo": None, "timeout": None, "heartbeat": None, "sensitive": False, "stream": True})
    assert changed == StepOptions(is_stream=True, grace_ms=1_500)
    assert StepOptions().grace_ms == 5_000


def test_undo_has_a_retry_and_a_timeout_of_its_own() -> None:
    undo = Undo(print, retry=Retry(limit=1), timeout="2 seconds")
    assert (undo.retry.limit, undo.timeout_ms, Undo(print).retry, Undo(print).timeout_ms) == (1, 2_000, Retry(), None)
    for wrong, message in (
        (lambda: Undo("x"), "Undo(…) was given a str, which cannot be called"),  # type: ignore[arg-type]
        (lambda: Undo(print, retry=3), "Undo(retry=…) is of type int; write retry=Retry(limit=3)"),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError) as caught:
            wrong()
        assert str(caught.value) == message
    with pytest.raises(ValueError, match="Undo\\(timeout=…\\) is 0, which no attempt could meet"):
        Undo(print, timeout=0)


@pytest.mark.parametrize("given", ["ValueError", 3, (ValueError, "KeyError"), int, [ValueError]], ids=repr)
def test_non_retryable_of_a_wrong_type_is_a_type_error(given: Any) -> None:
    with pytest.raises(TypeError) as caught:
        Retry(non_retryable=given)
    assert str(caught.value) == (
        "Retry(non_retryable=…) takes exception classes, (ValueError, KeyError), "
        "or a function that is given the error and returns True or False"
    )


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
