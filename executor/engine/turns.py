"""Turns: a few places for work that tenants ask for, given so that none waits for what another has piled up.

A free place goes to a tenant that has nothing under way before one that has, then to the one that took the least time
of late (what it took counts half after HALF_S), then in the order of arrival. With several places the last free one is
kept for tenants that have nothing under way.

**Bound.** Let a tenant have nothing under way. What it asks for begins at once while fewer tenants than there are
places have something under way; else when the first place becomes free, behind one piece of work of each tenant that
waits too and has taken as little time as it, or pieces of NOTHING_S together. However much others have waiting, and
have had, it waits for no more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import count

import trio

HALF_S = 60.0
LEAST_S = 0.001
"""What a turn counts at least."""
NOTHING_S = 0.01
"""Less than that is nothing, so that one that took much does not wait for ever for newcomers."""
TAKEN_KEPT = 1_000
"""Tenants whose time is remembered though it has become nothing, at most."""


class _Wait:
    __slots__ = ("given", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.given = trio.Event()


class Turns:
    """`count_max`: pieces of work at once; `of_tenant_max`: of one tenant."""

    def __init__(self, count_max: int, of_tenant_max: int) -> None:
        self._free = count_max
        self._kept = 1 if count_max > 1 else 0
        self._of_tenant_max = of_tenant_max
        self._running: dict[str, int] = {}
        self._waiting: dict[str, deque[_Wait]] = {}
        self._taken: dict[str, tuple[float, float]] = {}
        """Seconds that a tenant took of late, as of a moment."""
        self._numbers = count()

    def __len__(self) -> int:
        """Tenants that have something under way, or wait."""
        return len(self._running.keys() | self._waiting.keys())

    @asynccontextmanager
    async def turn(self, tenant: str) -> AsyncGenerator[None]:
        """A place, once it is the tenant's turn."""
        await self._enter(tenant)
        began = trio.current_time()
        try:
            yield
        finally:
            self._leave(tenant, max(LEAST_S, trio.current_time() - began))

    async def _enter(self, tenant: str) -> None:
        if tenant not in self._waiting and self._may(tenant):
            # Whoever waits may not have this place.
            self._give(tenant)
            return
        wait = _Wait(next(self._numbers))
        self._waiting.setdefault(tenant, deque()).append(wait)
        try:
            await wait.given.wait()
        except trio.Cancelled:
            if wait.given.is_set():
                self._leave(tenant, LEAST_S)
            else:
                self._forget(tenant, wait)
            raise

    def _forget(self, tenant: str, wait: _Wait) -> None:
        waiting = self._waiting[tenant]
        waiting.remove(wait)
        if not waiting:
            del self._waiting[tenant]

    def _may(self, tenant: str) -> bool:
        running = self._running.get(tenant, 0)
        return self._free > (self._kept if running else 0) and running < self._of_tenant_max

    def _give(self, tenant: str) -> None:
        self._free -= 1
        self._running[tenant] = self._running.get(tenant, 0) + 1

    def _leave(self, tenant: str, spent_s: float) -> None:
        self._free += 1
        self._running[tenant] -= 1
        if not self._running[tenant]:
            del self._running[tenant]
        now = trio.current_time()
        self._taken[tenant] = (self._left_s(tenant, now) + spent_s, now)
        if len(self._taken) > TAKEN_KEPT:
            self._taken = {name: one for name, one in self._taken.items() if self._taken_s(name, now)}
        while (following := self._next()) is not None:
            wait = self._waiting[following].popleft()
            if not self._waiting[following]:
                del self._waiting[following]
            self._give(following)
            wait.given.set()

    def _left_s(self, tenant: str, now: float) -> float:
        """Of what it took, however little: little by little it becomes much."""
        taken_s, at = self._taken.get(tenant, (0.0, now))
        left_s: float = taken_s * 0.5 ** ((now - at) / HALF_S)
        return left_s

    def _taken_s(self, tenant: str, now: float) -> float:
        left_s = self._left_s(tenant, now)
        return left_s if left_s >= NOTHING_S else 0.0

    def _next(self) -> str | None:
        if not self._free:
            return None
        now = trio.current_time()
        ready = [tenant for tenant in self._waiting if self._may(tenant)]
        return min(ready, key=lambda tenant: self._rank(tenant, now)) if ready else None

    def _rank(self, tenant: str, now: float) -> tuple[int, float, int]:
        return self._running.get(tenant, 0), self._taken_s(tenant, now), self._waiting[tenant][0].number
