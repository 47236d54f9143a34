"""What all who decide about starts remember together: starts from outside, of schedules, and of children."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager

import trio

Place = tuple[str, str]
"""A tenant, and a key of its flows or the id of an instance."""

RATES_KEPT_MAX = 100_000
GIVEN_KEPT_MAX = 100_000


class Locks:
    """A lock for each place that somebody holds or waits for."""

    def __init__(self) -> None:
        self._locks: dict[Place, tuple[trio.Lock, int]] = {}

    def __len__(self) -> int:
        return len(self._locks)

    @asynccontextmanager
    async def held(self, places: Iterable[Place]) -> AsyncGenerator[None]:
        """All of them, taken in their order, so that no two who want several wait for each other."""
        wanted = sorted(set(places))
        used: list[Place] = []
        taken: list[trio.Lock] = []
        try:
            for place in wanted:
                lock, users = self._locks.get(place) or (trio.Lock(), 0)
                self._locks[place] = (lock, users + 1)
                used.append(place)
                await lock.acquire()
                taken.append(lock)
            yield
        finally:
            for lock in taken:
                lock.release()
            for place in used:
                lock, users = self._locks.pop(place)
                if users > 1:
                    self._locks[place] = (lock, users - 1)


class FlowState:
    """`debts`: of the rates used of late, by key (see core.flow.Rate). `given`: moments that starts of these ids were
    given and which they did not take yet, as whoever asked for them got no answer. `of_keys`, `of_ids`: whose start is
    being decided about."""

    def __init__(self) -> None:
        self.debts: OrderedDict[Place, int] = OrderedDict()
        self.given: OrderedDict[Place, int] = OrderedDict()
        self.of_keys = Locks()
        self.of_ids = Locks()

    def owe(self, place: Place, debt: int) -> None:
        _keep(self.debts, place, debt, RATES_KEPT_MAX)

    def give(self, place: Place, at_ms: int) -> None:
        _keep(self.given, place, at_ms, GIVEN_KEPT_MAX)

    def forget(self, tenant: str) -> None:
        for places in (self.debts, self.given):
            for place in [place for place in places if place[0] == tenant]:
                del places[place]


def _keep(places: OrderedDict[Place, int], place: Place, value: int, count_max: int) -> None:
    places[place] = value
    places.move_to_end(place)
    if len(places) > count_max:
        places.popitem(last=False)
