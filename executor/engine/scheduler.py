"""Scheduler: which instance is activated next. Tenants take turns, so that one with a long queue delays nobody."""

from __future__ import annotations

from collections import OrderedDict, deque

from executor.engine.resident import Key
from executor.engine.signal import Signal


class FairQueue:
    """Keys in turn over tenants, first in first out within one; a key is in it at most once."""

    def __init__(self) -> None:
        self._by_tenant: OrderedDict[str, deque[Key]] = OrderedDict()
        self._members: set[Key] = set()
        self._filled = Signal()

    def __len__(self) -> int:
        return len(self._members)

    def put(self, key: Key) -> None:
        """Add `key` at the end of its tenant's queue, unless it is in it."""
        if key in self._members:
            return
        self._members.add(key)
        self._by_tenant.setdefault(key[0], deque()).append(key)
        self._filled.notify()

    def take(self) -> Key | None:
        """The next key, or None. Its tenant goes to the end of the round."""
        if not self._by_tenant:
            return None
        tenant, queue = self._by_tenant.popitem(last=False)
        key = queue.popleft()
        if queue:
            self._by_tenant[tenant] = queue
        self._members.discard(key)
        return key

    async def wait(self) -> None:
        """Return when there is something to take."""
        while not self._members:
            await self._filled.wait()
