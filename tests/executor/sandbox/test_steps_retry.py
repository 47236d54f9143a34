"""What becomes of a failed attempt: retry options that are numbers, classes and functions."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from datetime import timedelta
from typing import Any

import pytest

from executor.core.commands import RetryPolicy
from executor.workflow import NonRetryableError, Retry, StepTimeout
from tests.executor.sandbox.steps_world import World, current, really, until, virtually


class PaymentError(ValueError):
    pass


async def fail(error: BaseException) -> None:
    raise error


def failing(error: BaseException, retry: Retry, *, number: int = 1, **options: Any) -> Any:
    """The StepError of an attempt that raises it."""

    async def main(world: World) -> Any:
        return (await world.outcome(fail, error, number=number, retry=retry, **options)).report

    return virtually(main)


def test_numbers_of_the_option_are_sent_as_they_are() -> None:
    retry = Retry(limit=3, delay="2 seconds", backoff="linear", max_delay=timedelta(minutes=1), jitter=0.5)
    assert failing(ValueError(), retry).retry == RetryPolicy(3, 2_000, "linear", 60_000, 0.5)


@pytest.mark.parametrize(
    ("given", "delay_ms"), [("3 seconds", 3_000), (0.5, 500), (timedelta(hours=1), 3_600_000), (0, 0)]
)
def test_delay_function_says_a_duration_that_is_then_constant(given: Any, delay_ms: int) -> None:
    seen: list[Any] = []

    def delay(attempt: int, error: Exception) -> Any:
        seen.append((attempt, error))
        return given

    error = ValueError("no")
    report = failing(error, Retry(limit=9, delay=delay, max_delay="1 day", jitter=0.25), number=4)
    assert report.retry == RetryPolicy(9, delay_ms, "constant", 86_400_000, 0.25)
    assert (report.error.type, report.error.message, report.error.retryable) == ("ValueError", "no", True)
    assert seen == [(4, error)]


def test_delay_function_is_not_asked_when_there_is_no_retry() -> None:
    def delay(attempt: int, error: Exception) -> float:
        raise AssertionError

    retry = Retry(limit=2, delay=delay, non_retryable=(KeyError,))
    for error, number in ((ValueError(), 3), (NonRetryableError(), 1), (KeyError(), 1)):
        assert "AssertionError" not in failing(error, retry, number=number).error.type


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outside")


def test_functions_are_asked_in_the_context_of_the_attempt() -> None:
    def delay(attempt: int, error: Exception) -> float:
        assert current().attempt == attempt == 2
        assert variable.get() == "outside"
        return 1

    assert failing(ValueError(), Retry(delay=delay), number=2).retry.delay_ms == 1_000


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            ValueError("boom"),
            "Retry(delay=…) failed on attempt 1: ValueError: boom (the attempt had failed with KeyError: 'k')",
        ),
        (
            "soon",
            (
                "Retry(delay=…) failed on attempt 1: ValueError: what it returned is 'soon', which is not a duration; "
                'write "10 seconds", "1 day", "1 hour 30 minutes", 2.5 (seconds) or a timedelta '
                "(the attempt had failed with KeyError: 'k')"
            ),
        ),
        (
            -1,
            (
                "Retry(delay=…) failed on attempt 1: ValueError: what it returned is -1; it must be finite and not "
                "negative (the attempt had failed with KeyError: 'k')"
            ),
        ),
        (
            SystemExit(3),
            "Retry(delay=…) failed on attempt 1: SystemExit: 3 (the attempt had failed with KeyError: 'k')",
        ),
    ],
    ids=["raises", "no duration", "negative", "exits"],
)
def test_delay_function_that_fails_ends_the_step(answer: object, message: str) -> None:
    def delay(attempt: int, error: Exception) -> Any:
        if isinstance(answer, BaseException):
            raise answer
        return answer

    error = failing(KeyError("k"), Retry(delay=delay)).error
    assert (error.message, error.retryable, error.code) == (message, False, "step_failed")


def test_async_functions_are_refused_by_name() -> None:
    async def answer(*_: object) -> bool:
        return True

    async def main(world: World) -> None:
        for retry, name in ((Retry(delay=answer), "delay"), (Retry(non_retryable=answer), "non_retryable")):  # type: ignore[arg-type]
            error = (await world.outcome(fail, ValueError("no"), retry=retry)).error
            assert error.message == (
                f"Retry({name}=…) failed on attempt 1: TypeError: it is async; write a plain function "
                "(the attempt had failed with ValueError: no)"
            )

    virtually(main)


def test_predicate_says_whether_no_retry_can_help() -> None:
    retry = Retry(non_retryable=lambda error: "fatal" in str(error))
    assert not failing(ValueError("fatal"), retry).error.retryable
    assert failing(ValueError("passing"), retry).error.retryable


def test_predicate_must_say_true_or_false() -> None:
    error = failing(ValueError("no"), Retry(non_retryable=lambda _: "yes")).error  # type: ignore[arg-type, return-value]
    assert error.message == (
        "Retry(non_retryable=…) failed on attempt 1: TypeError: it returned a str; it returns True or False "
        "(the attempt had failed with ValueError: no)"
    )


@pytest.mark.parametrize(
    ("error", "retryable"),
    [
        (ValueError(), False),
        (PaymentError(), False),
        (KeyError(), True),
        (NonRetryableError(), False),
        (ExceptionGroup("g", [KeyError(), PaymentError()]), False),
        (ExceptionGroup("g", [ExceptionGroup("h", [NonRetryableError()])]), False),
        (ExceptionGroup("g", [KeyError(), OSError()]), True),
    ],
    ids=["class", "subclass", "other", "always", "member", "deep member", "no member"],
)
def test_error_of_a_class_is_not_tried_again_nor_a_group_with_such_a_member(
    error: BaseException, retryable: bool
) -> None:
    for given in (ValueError, (ValueError,), (OverflowError, ValueError)):
        assert failing(error, Retry(non_retryable=given)).error.retryable is retryable


def test_class_is_compared_as_except_does_without_asking_it() -> None:
    class Sly(type):
        def __instancecheck__(cls, other: object) -> bool:
            raise AssertionError

        def __eq__(cls, other: object) -> bool:
            raise AssertionError

        __hash__ = type.__hash__

    class SlyError(Exception, metaclass=Sly):
        pass

    class Mine(SlyError):
        pass

    assert not failing(Mine(), Retry(non_retryable=(KeyError, SlyError))).error.retryable


def test_timeout_is_given_to_the_functions_as_its_error() -> None:
    seen: list[Any] = []

    def delay(attempt: int, error: Exception) -> float:
        seen.append(error)
        return 2

    async def main(world: World) -> None:
        report = (await world.outcome(asyncio.sleep, 9, timeout=1, retry=Retry(delay=delay))).report
        assert (report.retry.delay_ms, report.error.message) == (2_000, "the attempt did not end within 1 s")
        assert isinstance(seen[0], StepTimeout)
        assert str(seen[0]) == (
            'step "s#1" failed after 1 attempt: executor.workflow.StepTimeout: the attempt did not end within 1 s'
        )
        report = (await world.outcome(asyncio.sleep, 9, timeout=1, retry=Retry(non_retryable=StepTimeout))).report
        assert not report.error.retryable

    virtually(main)


def test_function_that_does_not_answer_in_its_time_ends_the_step_and_gives_the_thread_back_late() -> None:
    gate = threading.Event()

    def delay(attempt: int, error: Exception) -> float:
        gate.wait(10)
        return 1

    async def main(world: World) -> None:
        owner = await world.outcome(fail, ValueError("no"), retry=Retry(delay=delay))
        assert (owner.error.message, owner.error.retryable) == (
            (
                "a function of Retry(…) failed on attempt 1: TimeoutError: no answer within 0.01 s "
                "(the attempt had failed with ValueError: no)"
            ),
            False,
        )
        assert (world.executing, world.threads_taken, world.steps._abandoned) == (0, 1, 1)
        gate.set()
        await until(lambda: world.threads_taken == 0)
        assert (world.steps._abandoned, len(owner.reports)) == (0, 1)

    really(main, retry_answer_s=0.01)


def test_sync_attempt_asks_in_a_thread_too() -> None:
    def function() -> None:
        raise ValueError("no")

    async def main(world: World) -> None:
        owner = await world.outcome(function, retry=Retry(delay=lambda attempt, _: attempt * 2), number=3)
        assert owner.report.retry.delay_ms == 6_000
        assert (world.threads_taken, world.executing) == (0, 0)

    really(main, threads=1)


def test_attempt_given_up_while_its_functions_are_asked_reports_nothing() -> None:
    gate = threading.Event()
    asking = threading.Event()

    def delay(attempt: int, error: Exception) -> float:
        asking.set()
        gate.wait(10)
        return 1

    async def main(world: World) -> None:
        owner, attempt = world.begin(fail, ValueError("no"), retry=Retry(delay=delay))
        await until(asking.is_set)
        attempt.cancel()
        assert world.executing == 0
        gate.set()
        await until(lambda: world.threads_taken == 0)
        assert (owner.reports, world.steps._abandoned) == ([], 0)

    really(main)


def test_error_of_a_sensitive_step_is_told_by_its_type_only_and_retry_functions_see_it_whole() -> None:
    seen: list[Exception] = []

    def delay(attempt: int, error: Exception) -> int:
        seen.append(error)
        return 3

    error = PaymentError("card of nobody else")
    report = failing(error, Retry(delay=delay), sensitive=True)
    assert report.error.type.endswith("PaymentError")
    assert (report.error.message, report.error.traceback) == ("(hidden: the step is sensitive)", "")
    assert (report.error.retryable, report.error.code, report.retry.delay_ms) == (True, "step_failed", 3_000)
    assert seen == [error]
    assert "card of nobody else" in failing(error, Retry(delay=3)).error.message


def test_what_a_retry_function_of_a_sensitive_step_raises_is_hidden_too() -> None:
    def delay(attempt: int, error: Exception) -> int:
        raise KeyError(str(error))

    report = failing(PaymentError("card of nobody else"), Retry(delay=delay), sensitive=True)
    assert "card of nobody else" not in repr(report)
    assert (report.error.type, report.error.retryable) == ("KeyError", False)
