"""Gate: many starts at once, or one garbage collection alone.

An instance pins its commit and then journals itself. Between the two a collection would see a commit that nobody needs.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio


class Gate:
    """Fair enough: a waiting collection lets nobody else in, so it waits only for those already inside."""

    def __init__(self) -> None:
        self._inside = 0
        self._alone = trio.Lock()
        self._left: trio.Event | None = None

    async def enter(self) -> None:
        """Together with others of this kind, never during `alone`; `leave` must follow. Often no checkpoint."""
        while self._alone.locked():
            async with self._alone:
                pass
        self._inside += 1

    def leave(self) -> None:
        self._inside -= 1
        if not self._inside and self._left is not None:
            self._left.set()

    @asynccontextmanager
    async def alone(self) -> AsyncGenerator[None]:
        """With nobody else inside."""
        async with self._alone:
            while self._inside:
                self._left = trio.Event()
                await self._left.wait()
            self._left = None
            yield
