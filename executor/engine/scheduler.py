"""Scheduler: which instance is activated next. Tenants take turns, so that one with a long queue delays nobody."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable

from executor.engine.resident import Key
from executor.engine.signal import Signal


class FairQueue:
    """Keys in turn over tenants, first in first out within one; a key is in it at most once."""

    def __init__(self) -> None:
        self._by_tenant: OrderedDict[str, deque[Key]] = OrderedDict()
        self._members: set[Key] = set()
        self._shorter = Signal()
        self.changed = Signal()
        """Notified by `put`, and by whoever makes room for what was passed over."""

    def __len__(self) -> int:
        return len(self._members)

    def put(self, key: Key) -> None:
        """Add `key` at the end of its tenant's queue, unless it is in it."""
        if key in self._members:
            return
        self._members.add(key)
        self._by_tenant.setdefault(key[0], deque()).append(key)
        self.changed.notify()

    def take(self, may: Callable[[str], bool]) -> Key | None:
        """The next key of a tenant that `may`, or None. Its tenant goes to the end of the round."""
        tenant = next(filter(may, self._by_tenant), None)
        if tenant is None:
            return None
        queue = self._by_tenant.pop(tenant)
        key = queue.popleft()
        if queue:
            self._by_tenant[tenant] = queue
        self._members.discard(key)
        self._shorter.notify()
        return key

    async def until_shorter_than(self, length: int) -> None:
        """Return once fewer than `length` keys are queued."""
        while len(self._members) >= length:
            await self._shorter.wait()
