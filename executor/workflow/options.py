"""Options of a step, checked where they are written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from executor.workflow.durations import Duration, duration_ms

Backoff = Literal["constant", "linear", "exponential"]

OPTIONS = frozenset({"retry", "timeout"})
OPTIONS_LATER = frozenset({"undo", "sensitive", "heartbeat", "isolation"})
"""Names that are reserved by the design and not built yet: refused, never ignored."""

RETRY_LIMIT_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and when a failed step is tried again.

    `limit` retries follow the first attempt (0: none). The n-th waits `delay` (constant), n times `delay` (linear) or
    2^(n-1) times `delay` (exponential), never more than `max_delay`, spread by the share `jitter` of itself.
    """

    limit: int = 5
    delay: Duration = "1 second"
    backoff: Backoff = "exponential"
    max_delay: Duration = "1 hour"
    jitter: float = 0.1

    def __post_init__(self) -> None:
        if isinstance(self.limit, bool) or not isinstance(self.limit, int):
            raise TypeError(f"Retry(limit=…) is of type {type(self.limit).__name__}; write a whole number")
        if not 0 <= self.limit <= RETRY_LIMIT_MAX:
            raise ValueError(f"Retry(limit={self.limit}) is not between 0 and {RETRY_LIMIT_MAX}")
        if self.backoff not in get_args(Backoff):
            raise ValueError(f'Retry(backoff={self.backoff!r}) is not "constant", "linear" or "exponential"')
        if isinstance(self.jitter, bool) or not isinstance(self.jitter, int | float):
            raise TypeError(f"Retry(jitter=…) is of type {type(self.jitter).__name__}; write a number from 0 to 1")
        if not math.isfinite(self.jitter) or not 0 <= self.jitter <= 1:
            raise ValueError(f"Retry(jitter={self.jitter}) is not between 0 and 1")
        duration_ms(self.delay, of="Retry(delay=…)")
        duration_ms(self.max_delay, of="Retry(max_delay=…)")

    @property
    def delay_ms(self) -> int:
        return duration_ms(self.delay)

    @property
    def max_delay_ms(self) -> int:
        return duration_ms(self.max_delay)


@dataclass(frozen=True, slots=True)
class StepOptions:
    """`timeout_ms` bounds one attempt; None: no bound."""

    retry: Retry = Retry()
    timeout_ms: int | None = None

    def changed(self, options: Mapping[str, object]) -> StepOptions:
        """These options with the given ones in their place. Raises TypeError or ValueError naming the option."""
        retry, timeout_ms = self.retry, self.timeout_ms
        for name, value in options.items():
            if name == "retry":
                if not isinstance(value, Retry):
                    raise TypeError(f"step option retry= is of type {type(value).__name__}; write retry=Retry(limit=3)")
                retry = value
            elif name == "timeout":
                timeout_ms = _timeout_ms(value)
            elif name in OPTIONS_LATER:
                raise TypeError(f"step option {name}= is not supported by this release; leave it out")
            else:
                raise TypeError(f"there is no step option {name}=; the options are retry= and timeout=")
        return StepOptions(retry, timeout_ms)


def _timeout_ms(value: object) -> int | None:
    if value is None:
        return None
    milliseconds = duration_ms(value, of="step option timeout=")  # type: ignore[arg-type]  # it checks the type itself
    if milliseconds == 0:
        raise ValueError("step option timeout= is 0, which no attempt could meet")
    return milliseconds
