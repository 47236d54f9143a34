"""Ballast: the bytes of long journals whose instances have runs, by tenant, and who has to wait.

What a run takes of the platform's memory is in proportion to its instance's journal. Journals under LARGE are bounded
by the number of runs. Of longer ones a tenant has a share of bytes: an instance that would go beyond it waits on disk,
in the order of their turns, and one that grows beyond it leaves its sandbox once nothing of it executes, and waits too.
A single one may always run, whatever it weighs (`core.bounds` say how much that can be), so each gets on in its turn.
"""

from __future__ import annotations

from collections import deque

import trio

from executor.core.summary import LARGE
from executor.engine.resident import Key


class Ballast:
    """`bytes_max`: of all tenants; the share of one is half of it."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._share_max = bytes_max // 2
        self._sizes: dict[Key, int] = {}
        """Of those that have runs."""
        self._by_tenant: dict[str, int] = {}
        self._waiting: dict[str, deque[tuple[Key, int, trio.Event]]] = {}
        self._queued: dict[Key, int] = {}
        self.total = 0

    def queued(self, key: Key, size: int) -> None:
        """It is put into the queue, with a journal of so many bytes."""
        if size >= LARGE:
            self._queued[key] = size

    def taken(self, key: Key) -> int:
        """It comes from the queue: bytes of its journal, if that is long; else 0."""
        return self._queued.pop(key, 0) if self._queued else 0

    async def enter(self, key: Key, size: int) -> None:
        """Return when a run of it may begin; give it back by `leave`."""
        tenant = key[0]
        if not self._has_room(tenant, size) or tenant in self._waiting:
            admitted = trio.Event()
            line = self._waiting.setdefault(tenant, deque())
            waiter = (key, size, admitted)
            line.append(waiter)
            try:
                await admitted.wait()
            except trio.Cancelled:
                if admitted.is_set():
                    self.leave(key)
                else:
                    line.remove(waiter)
                    self._forget_line(tenant)
                raise
        else:
            self._set(key, size)

    def note(self, key: Key, size: int) -> None:
        """The journal of one that has a run has grown."""
        if size >= LARGE:
            self._set(key, size)

    def leave(self, key: Key) -> None:
        """Its run is over."""
        if key in self._sizes:
            self._set(key, 0)
            for tenant in [key[0], *self._waiting]:
                self._admit(tenant)

    def is_over(self, key: Key) -> bool:
        """Whether it has to leave: its tenant has more than it may, and not by it alone."""
        size = self._sizes.get(key)
        if size is None:
            return False
        own = self._by_tenant[key[0]]
        return own > size and (own > self._share_max or self.total > self._bytes_max)

    def _has_room(self, tenant: str, size: int) -> bool:
        own = self._by_tenant.get(tenant, 0)
        return not own or (own + size <= self._share_max and self.total + size <= self._bytes_max)

    def _admit(self, tenant: str) -> None:
        line = self._waiting.get(tenant)
        while line and self._has_room(tenant, line[0][1]):
            key, size, admitted = line.popleft()
            self._set(key, size)
            admitted.set()
        if line is not None:
            self._forget_line(tenant)

    def _forget_line(self, tenant: str) -> None:
        if not self._waiting.get(tenant, True):
            del self._waiting[tenant]

    def _set(self, key: Key, size: int) -> None:
        change = size - self._sizes.pop(key, 0)
        if size:
            self._sizes[key] = size
        self.total += change
        own = self._by_tenant.get(key[0], 0) + change
        if own:
            self._by_tenant[key[0]] = own
        else:
            self._by_tenant.pop(key[0], None)
