"""`step.poll`: a step made again and again, with durable pauses, until its result is good."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, get_args

from executor.workflow import runtime
from executor.workflow.durations import Duration, duration_ms
from executor.workflow.errors import PollTimeout
from executor.workflow.options import Backoff

PAUSE_MS_MAX = 366 * 24 * 3_600_000


@dataclass(frozen=True, slots=True)
class Pauses:
    """How long the n-th pause lasts, and when it is over; milliseconds."""

    every_ms: int
    backoff: Backoff
    max_ms: int
    timeout_ms: int | None

    @classmethod
    def of(cls, every: Duration, backoff: Backoff, max_every: Duration | None, timeout: Duration | None) -> Pauses:
        """Raises TypeError or ValueError naming the argument."""
        every_ms = duration_ms(every, of="every= of step.poll()")
        if every_ms == 0:
            raise ValueError("every= of step.poll() is 0; a poll pauses between its steps")
        if backoff not in get_args(Backoff):
            raise ValueError(f'backoff={backoff!r} of step.poll() is not "constant", "linear" or "exponential"')
        max_ms = PAUSE_MS_MAX if max_every is None else duration_ms(max_every, of="max_every= of step.poll()")
        timeout_ms = None if timeout is None else duration_ms(timeout, of="timeout= of step.poll()")
        return cls(every_ms, backoff, max(max_ms, 1), timeout_ms)

    def after(self, count: int) -> int:
        """The pause after so many steps (1, 2, …)."""
        if self.backoff == "linear":
            factor = count
        elif self.backoff == "exponential":
            factor = 2 ** min(count - 1, 40)
        else:
            factor = 1
        return min(self.every_ms * factor, self.max_ms)


async def run_poll(  # noqa: PLR0917  # one caller, in calls.py
    run: runtime.RunRuntime,
    name: str,
    check: Callable[[str], Coroutine[Any, Any, Any]],
    until: Callable[[Any], object],
    pauses: Pauses,
    where: str,
    scope: str,
) -> Any:
    """Steps "check" and sleeps "pause" in a group of the poll's name."""
    loop = asyncio.get_running_loop()
    begun_ms = round(loop.time() * 1000)
    path = run.begin_group(name, where, scope)
    try:
        count = 0
        while True:
            result = await check(path)
            if until(result):
                return result
            count += 1
            pause_ms = pauses.after(count)
            if pauses.timeout_ms is not None:
                left_ms = begun_ms + pauses.timeout_ms - round(loop.time() * 1000)
                if left_ms <= 0:
                    raise PollTimeout(path, count, result)
                pause_ms = min(pause_ms, left_ms)
            await run.sleep("pause", pause_ms, where, path)
    finally:
        run.end_group(path, where)
