"""The clock of a test: it stands still while anything executes, and jumps when nothing does."""

from __future__ import annotations

import time
from datetime import UTC, datetime

_time_ns = time.time_ns
"""The real clock, taken before a sandbox's replacement could be in its place."""


class VirtualClock:
    """Milliseconds since the Unix epoch, as `run()` and the journal see them. Steps see the real clock."""

    def __init__(self, now: datetime | None = None) -> None:
        """`now`: where it begins; the real time if None. Raises ValueError without a time zone."""
        if now is not None and now.utcoffset() is None:
            raise ValueError("now= takes a datetime with a time zone; add tzinfo=timezone.utc")
        self.now_ms = _time_ns() // 1_000_000 if now is None else round(now.timestamp() * 1000)

    @property
    def now(self) -> datetime:
        """In UTC."""
        return datetime.fromtimestamp(self.now_ms / 1000, UTC)

    def move_to(self, at_ms: int) -> None:
        """Never goes back."""
        self.now_ms = max(self.now_ms, at_ms)
