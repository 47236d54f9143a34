"""Signal: "something changed, look again", for any number of waiters."""

from __future__ import annotations

import trio


class Signal:
    """Look first, then wait: with no await in between, a change cannot be missed."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def notify(self) -> None:
        """Wake everybody who waits now."""
        self._event.set()
        self._event = trio.Event()

    async def wait(self) -> None:
        """Return at the next `notify`."""
        await self._event.wait()
