"""Parked: runs at rest that stay in their sandbox for a moment, because replaying them would cost more than that.

Replay is linear in the journal, so a workflow that waits briefly, again and again, would pay for its whole past each
time. A run with a long journal is therefore kept for some seconds. It is durably at rest all the same: nothing depends
on it, and it goes as soon as somebody wants its place.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import trio

from executor.engine.resident import Key, Resident

JOURNAL_ENTRIES_MIN = 100
"""Shorter journals are replayed in less time than it takes to look after them."""
KEPT_MAX = 64
KEPT_S = 10.0


class Parked:
    """`let_go` ends the run of a resident. `is_off`: none is kept, as the platform is told to unload at every wait."""

    def __init__(self, let_go: Callable[[Resident], None], *, is_off: bool) -> None:
        self._let_go = let_go
        self._is_off = is_off
        self._kept: OrderedDict[Key, tuple[float, Resident]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    async def run(self) -> None:
        """Let go of those whose time is over, until cancelled."""
        while True:
            await trio.sleep(KEPT_S / 2)
            now = trio.current_time()
            while self._kept and next(iter(self._kept.values()))[0] <= now:
                self._let_go_oldest()

    def wants(self, resident: Resident) -> bool:
        """Whether keeping its run is worth it, and allowed."""
        options = resident.instance.start.options
        return (
            resident.journal.kept >= JOURNAL_ENTRIES_MIN
            and not self._is_off
            # One with limits gives its place to the next at once.
            and (options is None or (options.unload != "every-wait" and not options.limits))
        )

    def keep(self, resident: Resident) -> bool:
        """Keep its run, if that is worth it."""
        if not self.wants(resident):
            return False
        if resident.key not in self._kept:
            self._kept[resident.key] = (trio.current_time() + KEPT_S, resident)
            if len(self._kept) > KEPT_MAX:
                self._let_go_oldest()
        return True

    def discard(self, resident: Resident) -> None:
        """It is at rest no longer."""
        self._kept.pop(resident.key, None)

    def clear(self) -> None:
        """Let go of all."""
        while self._kept:
            self._let_go_oldest()

    def _let_go_oldest(self) -> None:
        _, (_, resident) = self._kept.popitem(last=False)
        self._let_go(resident)
