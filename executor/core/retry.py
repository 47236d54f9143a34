"""Retry arithmetic: policy, attempt and a seed to the delay before the next attempt, or None to give up."""

from __future__ import annotations

from hashlib import blake2b
from typing import Literal, Protocol


class Policy(Protocol):
    """What the arithmetic needs of a retry policy."""

    @property
    def limit(self) -> int: ...
    @property
    def delay_ms(self) -> int: ...
    @property
    def backoff(self) -> Literal["constant", "linear", "exponential"]: ...
    @property
    def max_delay_ms(self) -> int: ...
    @property
    def jitter(self) -> float: ...


RETRY_LIMIT_MAX = 10_000
DELAY_MS_MAX = 366 * 24 * 3_600_000
_EXPONENT_MAX = 63


def delay_ms(policy: Policy, attempt: int, *, seed: bytes) -> int | None:
    """Milliseconds from the failure of attempt `attempt` (1, 2, …) to the next; None: the retries are used up.

    constant: delay; linear: delay x attempt; exponential: delay x 2^(attempt-1); never above `max_delay_ms`. The jitter
    takes away up to its share of the delay (so a bound stays a bound), drawn from `seed` and the attempt: the same
    failure gets the same delay wherever it is computed. Out-of-range policies are brought into range, not refused:
    they come from a sandbox.
    """
    if attempt > min(policy.limit, RETRY_LIMIT_MAX):
        return None
    base = max(0, policy.delay_ms)
    ceiling = min(max(0, policy.max_delay_ms), DELAY_MS_MAX)
    if policy.backoff == "linear":
        full = base * attempt
    elif policy.backoff == "exponential":
        full = base << min(attempt - 1, _EXPONENT_MAX)
    else:
        full = base
    full = min(full, ceiling)
    jitter = policy.jitter if 0.0 <= policy.jitter <= 1.0 else 0.0
    draw = int.from_bytes(blake2b(seed + attempt.to_bytes(8, "big"), digest_size=8).digest(), "big") / 2**64
    return full - int(full * jitter * draw)
