"""The clock."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Wall-clock time. Real in production, virtual in tests."""

    def now_ms(self) -> int: ...
    async def sleep_until_ms(self, at_ms: int) -> None: ...
