"""Retry arithmetic: delays and bounds as declared (P13)."""

from hypothesis import given
from hypothesis import strategies as st

from executor.core import retry
from executor.core.commands import RetryPolicy

SEED = b"seed"


def plain(backoff, delay_ms=1_000, limit=5, max_delay_ms=3_600_000):
    return RetryPolicy(limit=limit, delay_ms=delay_ms, backoff=backoff, max_delay_ms=max_delay_ms, jitter=0.0)


def delays(policy, attempts):
    return [retry.delay_ms(policy, attempt, seed=SEED) for attempt in range(1, attempts + 1)]


def test_constant_delay_stays():
    assert delays(plain("constant"), 4) == [1_000, 1_000, 1_000, 1_000]


def test_linear_delay_grows_by_itself():
    assert delays(plain("linear"), 4) == [1_000, 2_000, 3_000, 4_000]


def test_exponential_delay_doubles():
    assert delays(plain("exponential"), 4) == [1_000, 2_000, 4_000, 8_000]


def test_limit_counts_retries_after_the_first_attempt():
    assert delays(plain("constant", limit=2), 4) == [1_000, 1_000, None, None]
    assert delays(plain("constant", limit=0), 1) == [None]


def test_delay_never_exceeds_its_maximum():
    assert delays(plain("exponential", max_delay_ms=3_000), 4) == [1_000, 2_000, 3_000, 3_000]


def test_jitter_is_the_same_for_the_same_failure_and_differs_between_attempts():
    policy = RetryPolicy(limit=50, delay_ms=1_000_000, backoff="constant", jitter=0.5)
    first = [retry.delay_ms(policy, attempt, seed=b"a") for attempt in range(1, 20)]
    assert first == [retry.delay_ms(policy, attempt, seed=b"a") for attempt in range(1, 20)]
    assert len(set(first)) > 10
    assert first != [retry.delay_ms(policy, attempt, seed=b"b") for attempt in range(1, 20)]


@given(
    limit=st.integers(-5, 20_000),
    delay=st.integers(-10, 10**15),
    backoff=st.sampled_from(["constant", "linear", "exponential"]),
    ceiling=st.integers(-10, 10**15),
    jitter=st.floats(),
    attempt=st.integers(1, 30_000),
)
def test_any_policy_gives_a_bounded_delay_or_gives_up(limit, delay, backoff, ceiling, jitter, attempt):
    policy = RetryPolicy(limit, delay, backoff, ceiling, jitter)
    found = retry.delay_ms(policy, attempt, seed=SEED)
    if attempt > min(limit, retry.RETRY_LIMIT_MAX):
        assert found is None
    else:
        assert 0 <= found <= min(max(ceiling, 0), retry.DELAY_MS_MAX)


def test_policies_beyond_all_bounds_are_brought_into_them():
    """They come from a sandbox, which may send what no Retry(…) can say."""
    endless = plain("constant", limit=10**6)
    assert [retry.delay_ms(endless, attempt, seed=SEED) for attempt in (10_000, 10_001)] == [1_000, None]
    year_ms = 366 * 24 * 3_600_000
    assert delays(plain("exponential", delay_ms=10**12, max_delay_ms=10**15), 1) == [year_ms]
    assert retry.delay_ms(plain("exponential", limit=10_000), 9_999, seed=SEED) == 3_600_000
    assert delays(plain("linear", delay_ms=-5, max_delay_ms=10), 2) == [0, 0]
    for jitter in (-0.5, 1.5, float("nan"), float("inf")):
        policy = RetryPolicy(limit=5, delay_ms=1_000, backoff="constant", max_delay_ms=3_600_000, jitter=jitter)
        assert retry.delay_ms(policy, 1, seed=SEED) == 1_000


def test_whole_jitter_takes_anything_from_nothing_to_all():
    policy = RetryPolicy(limit=1_000, delay_ms=1_000, backoff="constant", max_delay_ms=3_600_000, jitter=1.0)
    found = [retry.delay_ms(policy, attempt, seed=SEED) for attempt in range(1, 500)]
    assert 0 <= min(found) < 20
    assert 980 < max(found) <= 1_000
