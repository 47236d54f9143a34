"""Schedule: when a workflow is started by itself, as its class declares it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from executor.workflow.durations import Duration, duration_ms

Overlap = Literal["skip", "queue", "cancel", "allow"]
CatchUp = Literal["none", "last", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A class attribute `schedule = Schedule(cron="0 6 * * *", timezone="Europe/Berlin")` of a workflow, or a list.

    It is read from the source when it is pushed, without running it: write literals. `cron` has five fields; `every` is
    a duration, counted from `start` or else from 1970. Dates are ISO 8601 text, in `timezone` if they name no other.
    `overlap`: what a firing does while an instance of an earlier one has not ended. `catch_up`: which firings are made
    up for that came while the platform was down, no further back than `catch_up_window`. `jitter`: fired up to so much
    later, always the same for the same time.
    """

    cron: str | None = None
    every: Duration | None = None
    timezone: str = "UTC"
    start: str | None = None
    end: str | None = None
    overlap: Overlap = "skip"
    catch_up: CatchUp = "last"
    catch_up_window: Duration | None = None
    jitter: Duration = 0
    payload: Any = None

    def __post_init__(self) -> None:
        # The rest is checked at the push, where cron and time zones can be read.
        if (self.cron is None) == (self.every is None):
            raise TypeError('Schedule() needs either cron="0 6 * * *" or every="10 minutes"')
        for name in ("every", "catch_up_window", "jitter"):
            value = getattr(self, name)
            if value is not None:
                duration_ms(value, of=f"Schedule({name}=…)")
