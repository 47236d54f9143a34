"""Places: how many runs there are, of whom, and who may have one more.

An instance has a place from the moment it is taken from the queue until its run leaves its sandbox; one that sleeps has
none. It may be given a place twice (its activation has one, then its run): towards limits it counts once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from executor.core.entries import FlowLimit
from executor.engine.resident import Key
from executor.ports import Share

WEIGHT_MAX = 100


DEFAULT_SHARE = Share()


class Places:
    """`count_max`: of all tenants. `share_max`: of one tenant. `on_freed`: told the tenant and its limits."""

    def __init__(self, count_max: int, share_max: int) -> None:
        self.count_max = count_max
        self.total = 0
        self.on_freed: Callable[[str, Sequence[FlowLimit]], None] = lambda _tenant, _limits: None
        self._share_max = share_max
        self._shares: dict[str, Share] = {}
        self._by_tenant: Counter[str] = Counter()
        self._by_limit: Counter[tuple[str, str]] = Counter()
        self._limited: dict[Key, tuple[tuple[FlowLimit, ...], int]] = {}
        """Instances with limits that have places: their limits, and how many places."""

    def share(self, tenant: str) -> Share:
        return self._shares.get(tenant, DEFAULT_SHARE)

    def set_share(self, tenant: str, share: Share) -> None:
        """From now on. Runs that are more than it allows go on."""
        if share == DEFAULT_SHARE:
            self._shares.pop(tenant, None)
        else:
            self._shares[tenant] = share
        self.on_freed(tenant, ())

    @property
    def has_room(self) -> bool:
        return self.total < self.count_max

    def has_share(self, tenant: str) -> bool:
        """Whether the tenant may have one more: no tenant takes all places, whatever its code does in them."""
        bound = self._share_max
        share = self._shares.get(tenant)
        if share is not None and share.concurrency is not None:
            bound = min(bound, share.concurrency)
        return self._by_tenant[tenant] < bound

    def full(self, key: Key, limits: Sequence[FlowLimit]) -> FlowLimit | None:
        """The first of the limits under which one more instance of the tenant could not begin now."""
        if key in self._limited:
            return None  # It counts already.
        for limit in limits:
            if self._by_limit[key[0], limit.key] >= limit.count:
                return limit
        return None

    def take(self, key: Key, limits: Sequence[FlowLimit] = ()) -> None:
        """One more place for the instance; give it back by `release`."""
        tenant = key[0]
        self.total += 1
        self._by_tenant[tenant] += 1
        if limits:
            counted, places = self._limited.get(key, (tuple(limits), 0))
            if not places:
                self._by_limit.update((tenant, limit.key) for limit in counted)
            self._limited[key] = (counted, places + 1)

    def release(self, key: Key) -> None:
        """One place less."""
        tenant = key[0]
        self.total -= 1
        self._by_tenant[tenant] -= 1
        if not self._by_tenant[tenant]:
            del self._by_tenant[tenant]
        counted, places = self._limited.get(key, ((), 0))
        if places > 1:
            self._limited[key] = (counted, places - 1)
            counted = ()
        elif places:
            del self._limited[key]
            for limit in counted:
                self._by_limit[tenant, limit.key] -= 1
                if not self._by_limit[tenant, limit.key]:
                    del self._by_limit[tenant, limit.key]
        self.on_freed(tenant, counted)
