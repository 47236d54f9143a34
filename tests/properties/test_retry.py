"""P13: retry delays follow the declared formula, stay within their bounds, and are equal in every replay."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from executor.core import retry
from executor.core.commands import RetryPolicy
from executor.sandbox.step_failures import policy_of
from executor.workflow import Retry

POLICIES = st.builds(
    RetryPolicy,
    limit=st.integers(0, 10_000),
    delay_ms=st.integers(0, 10**9),
    backoff=st.sampled_from(["constant", "linear", "exponential"]),
    max_delay_ms=st.integers(0, 10**12),
    jitter=st.floats(0, 1),
)
ATTEMPTS = st.integers(1, 10_000)
SEEDS = st.binary(max_size=24)


def declared_ms(policy: RetryPolicy, attempt: int) -> int:
    """The formula of the documents, without the jitter."""
    factor = {"constant": 1, "linear": attempt, "exponential": 2 ** (attempt - 1)}[policy.backoff]
    return min(policy.delay_ms * factor, policy.max_delay_ms, retry.DELAY_MS_MAX)


@given(POLICIES, ATTEMPTS, SEEDS)
def test_delay_is_the_declared_one_less_at_most_its_share_of_jitter(
    policy: RetryPolicy, attempt: int, seed: bytes
) -> None:
    found = retry.delay_ms(policy, attempt, seed=seed)
    if attempt > policy.limit:
        assert found is None
        return
    full = declared_ms(policy, attempt)
    assert found is not None
    assert full - full * policy.jitter <= found + 1e-6 * full
    assert found <= full
    if policy.jitter == 0:
        assert found == full


@given(POLICIES, ATTEMPTS, SEEDS)
def test_delay_is_equal_wherever_it_is_computed(policy: RetryPolicy, attempt: int, seed: bytes) -> None:
    again = RetryPolicy(policy.limit, policy.delay_ms, policy.backoff, policy.max_delay_ms, policy.jitter)
    assert retry.delay_ms(policy, attempt, seed=seed) == retry.delay_ms(again, attempt, seed=bytes(seed))


@given(POLICIES, st.integers(1, 9_998), SEEDS)
def test_delays_without_jitter_never_shrink(policy: RetryPolicy, attempt: int, seed: bytes) -> None:
    plain = RetryPolicy(10_000, policy.delay_ms, policy.backoff, policy.max_delay_ms, 0.0)
    first, second = (retry.delay_ms(plain, number, seed=seed) for number in (attempt, attempt + 1))
    assert first is not None
    assert second is not None
    assert first <= second


@given(
    limit=st.integers(0, 10_000),
    delay=st.floats(0, 10**6),
    backoff=st.sampled_from(["constant", "linear", "exponential"]),
    max_delay=st.floats(0, 10**6),
    jitter=st.floats(0, 1),
)
def test_option_says_what_the_policy_says(**given: Any) -> None:
    option = Retry(**given)
    policy = policy_of(option)
    assert (policy.limit, policy.backoff, policy.jitter) == (option.limit, option.backoff, option.jitter)
    for seconds, milliseconds in ((given["delay"], policy.delay_ms), (given["max_delay"], policy.max_delay_ms)):
        assert milliseconds == (max(round(seconds * 1000), 1) if seconds > 0 else 0)
