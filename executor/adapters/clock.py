"""The machine's clock."""

from __future__ import annotations

import time

import trio

RECHECK_S = 60.0
"""The wall clock may be set: a long sleep looks at it again this often."""


class SystemClock:
    """Wall-clock time of this machine."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        return time.time_ns() // 1_000_000

    async def sleep_until_ms(self, at_ms: int) -> None:
        """Return when the wall clock shows `at_ms` or later."""
        while (left_ms := at_ms - self.now_ms()) > 0:  # noqa: ASYNC110 - nobody tells when the clock is set
            await trio.sleep(min(left_ms / 1000, RECHECK_S))
        await trio.lowlevel.checkpoint()
