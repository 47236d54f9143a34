"""A failed attempt's error and its step's retry option, to what the executor is told: ErrorFact and RetryPolicy.

Whatever of the option is a function of the tenant's is asked here, inside; the executor gets numbers.
"""

from __future__ import annotations

import inspect
from collections.abc import Container
from typing import Any, cast

import msgspec

from executor.core.commands import RetryPolicy
from executor.core.failure import ErrorFact
from executor.sandbox import faults
from executor.workflow.durations import duration_ms
from executor.workflow.errors import NonRetryableError
from executor.workflow.options import Retry

HIDDEN = "(hidden: the step is sensitive)"
MEMBER_COUNT_MAX = 1_000
"""Members of groups that are looked at."""


class Verdict(msgspec.Struct, frozen=True):
    """What becomes of the step."""

    error: ErrorFact
    policy: RetryPolicy


def policy_of(retry: Retry) -> RetryPolicy:
    return RetryPolicy(retry.limit, retry.delay_ms, retry.backoff, retry.max_delay_ms, float(retry.jitter))


def at_once(retry: Retry, attempt: int, error: BaseException, fact: ErrorFact) -> Verdict | None:
    """The verdict, unless a function of the tenant's has to be asked for it (`asked`)."""
    if fact.retryable and is_of(error, (NonRetryableError, *retry.non_retryable_classes)):
        fact = _without_retry(fact)
    if fact.retryable and attempt <= retry.limit and (retry.delay_function or retry.is_non_retryable):
        return None
    return Verdict(fact, policy_of(retry))


def asked(retry: Retry, attempt: int, error: BaseException, fact: ErrorFact, files: Container[str]) -> Verdict:
    """Call the tenant's functions; what they say. Where one fails, there is no retry, and the error says so."""
    what = "Retry(non_retryable=…)"
    try:
        told = cast("Exception", error)
        if retry.is_non_retryable is not None:
            answer = _called(retry.is_non_retryable(told))
            if type(answer) is not bool:
                raise TypeError(f"it returned a {type(answer).__name__}; it returns True or False")
            if answer:
                return Verdict(_without_retry(fact), policy_of(retry))
        policy = policy_of(retry)
        if retry.delay_function is not None:
            what = "Retry(delay=…)"
            delay = _called(retry.delay_function(attempt, told))
            policy = msgspec.structs.replace(
                policy, delay_ms=duration_ms(delay, of="what it returned"), backoff="constant"
            )
    except BaseException as failure:  # tenant code
        own = faults.fact(failure, files, code="step_failed")
        return broken(retry, fact, f"{what} failed on attempt {attempt}", own)
    return Verdict(fact, policy)


def broken(retry: Retry, fact: ErrorFact, what: str, own: ErrorFact) -> Verdict:
    """The verdict if the option cannot say: `own` is why, `fact` how the attempt itself had failed."""
    message = f"{what}: {own.type}: {own.message} (the attempt had failed with {fact.type}: {fact.message[:1000]})"
    traceback = own.traceback or fact.traceback
    return Verdict(
        ErrorFact(own.type, message, traceback, retryable=False, code="step_failed").bounded(), policy_of(retry)
    )


def hidden(fact: ErrorFact) -> ErrorFact:
    """The fact of a sensitive step: which error it was, and no text of it.

    It is made here, and not where a journal is shown: what run() sees of it would be told by its own failure too.
    """
    return msgspec.structs.replace(fact, message=HIDDEN, traceback="")


def is_of(error: BaseException, classes: tuple[type[BaseException], ...]) -> bool:
    """Whether `except` would take it for one of `classes`; of a group, whether it would take any member.

    A group failed as its worst member did: what no retry mends does not get better in company.
    """
    left: list[Any] = [error]
    seen = 0
    while left and seen < MEMBER_COUNT_MAX:
        one = left.pop()
        seen += 1
        kind = type(one)
        ancestors = type.__dict__["__mro__"].__get__(kind)  # as the interpreter does it: no method of the tenant's
        if any(ancestor is each for ancestor in ancestors for each in classes):
            return True
        if issubclass(kind, BaseExceptionGroup):
            left.extend(faults._own(BaseExceptionGroup, "exceptions", one)[:MEMBER_COUNT_MAX])
    return False


def _called(result: Any) -> Any:
    if inspect.iscoroutine(result):
        result.close()  # or the interpreter would complain about it as well
        raise TypeError("it is async; write a plain function")
    return result


def _without_retry(fact: ErrorFact) -> ErrorFact:
    return msgspec.structs.replace(fact, retryable=False)
