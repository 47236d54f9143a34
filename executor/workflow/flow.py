"""Flow: how many instances of a workflow run, how often they start, and which of them replace each other."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from executor.workflow.durations import Duration, duration_ms

COUNT_MAX = 10_000
PRIORITY_MAX = 100
PER_CHARS_MAX = 200
_PER = re.compile(r"payload(\.[^.\s\ud800-\udfff]+)*")
_RATE = re.compile(r"(\d+)\s*/\s*(\d+(?:\.\d+)?)?\s*([a-z]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Class attribute `flow` of a Workflow, written with literals: it is read at the push, without running the code.

    `per`: what of the payload the limits are counted by, for example "payload.customer"; None: all instances of the
    workflow together. What is missing in a payload counts as None.

    `concurrency`: so many run at once; one that sleeps or waits for an event does not count. The others are queued.
    `rate`: so many start in a time, "100/minute", "5/10 seconds", evenly spaced, `burst` of them at once; the others
    start later. `debounce`: a start waits so long; another one within that time replaces it and begins the time anew.
    `singleton`: while one has not ended, a further start is refused ("skip"), or terminates it ("cancel").
    `priority`: -100 to 100; higher goes first among the tenant's own, unless the start says another.
    """

    concurrency: int | None = None
    per: str | None = None
    rate: str | None = None
    burst: int = 1
    debounce: Duration | None = None
    singleton: Literal["skip", "cancel"] | None = None
    priority: int = 0

    def __post_init__(self) -> None:
        if self.concurrency is not None:
            _whole("concurrency", self.concurrency, 1, COUNT_MAX)
        if self.per is not None and not (isinstance(self.per, str) and _PER.fullmatch(self.per)):
            raise ValueError(f'Flow(per={self.per!r}) is not a path like "payload.customer"')
        if self.per is not None and len(self.per) > PER_CHARS_MAX:
            raise ValueError(f"Flow(per=…) has {len(self.per)} characters, the limit is {PER_CHARS_MAX}")
        _whole("burst", self.burst, 1, COUNT_MAX)
        if self.rate is None:
            if self.burst != 1:
                raise ValueError("Flow(burst=…) goes with rate=…")
        else:
            self.rate_parts()
        if self.debounce is not None and duration_ms(self.debounce, of="Flow(debounce=…)") == 0:
            raise ValueError("Flow(debounce=…) is 0, which debounces nothing")
        if self.singleton not in (None, "skip", "cancel"):
            raise ValueError(f'Flow(singleton={self.singleton!r}) is not "skip" or "cancel"')
        _whole("priority", self.priority, -PRIORITY_MAX, PRIORITY_MAX)

    def rate_parts(self) -> tuple[int, int]:
        """Starts, and the milliseconds in which they may be. Raises ValueError: there is no rate, or it is wrong."""
        match = _RATE.fullmatch(self.rate.strip().lower()) if isinstance(self.rate, str) else None
        if match is None:
            raise ValueError(f'Flow(rate={self.rate!r}) is not a rate like "100/minute" or "5/10 seconds"')
        count = int(match[1])
        _whole("rate", count, 1, 1_000_000)
        period_ms = duration_ms(f"{match[2] or 1} {match[3]}", of="Flow(rate=…)")
        if period_ms == 0:
            raise ValueError(f"Flow(rate={self.rate!r}) is in no time at all")
        return count, period_ms


def _whole(name: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"Flow({name}=…) is of type {type(value).__name__}; write a whole number")
    if not least <= value <= most:
        raise ValueError(f"Flow({name}={value}) is not between {least} and {most}")
