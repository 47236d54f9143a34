"""Places: how many runs there are, of whom, and who may have one more.

An instance has a place from the moment it is taken from the queue until its run leaves its sandbox; one that sleeps has
none. It may be given a place twice (its activation has one, then its run): towards limits it counts once.

Where several processes share the limits (`slots`), an instance that counts towards limits must also have a slot of the
server's. It has its place while the server is asked, so that an answer is never in vain. If the server has none, the
place is given back and the line waits; the slot that comes later is kept for the line until its turn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from executor.core.entries import FlowLimit
from executor.engine.resident import Key
from executor.ports import Share, Slots

WEIGHT_MAX = 100

Line = tuple[str, tuple[FlowLimit, ...]]
"""A tenant, and limits that some of its instances have."""

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
        self._slots: Slots | None = None
        self._with_slot: set[Key] = set()
        self._asked: set[Line] = set()
        """Lines that wait for the server's answer, or after a refusal for a slot."""
        self._kept: set[Line] = set()
        """Lines that have a slot for the next of theirs."""

    @property
    def slots(self) -> Slots | None:
        """Where slots are asked for; None: no other process has instances."""
        return self._slots

    @slots.setter
    def slots(self, slots: Slots) -> None:
        self._slots = slots
        slots.on_granted = self._granted

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

    def full(self, key: Key, limits: tuple[FlowLimit, ...]) -> FlowLimit | None:
        """The first of the limits under which one more instance of the tenant could not begin now."""
        if key in self._limited and (self._slots is None or key in self._with_slot):
            return None  # It counts already.
        for limit in limits:
            if self._by_limit[key[0], limit.key] >= limit.count:
                return limit
        if self._asked and (key[0], limits) in self._asked:
            return limits[0]
        return None

    def reserve(self, key: Key, limits: tuple[FlowLimit, ...]) -> bool:
        """`take`; whether it has a slot too. If not, ask for one, and then either `admit` it or give the place back."""
        self.take(key, limits)
        line = (key[0], limits)
        if line in self._kept and key not in self._with_slot:
            self._kept.discard(line)
            self._with_slot.add(key)
        elif key not in self._with_slot:
            self._asked.add(line)
        return key in self._with_slot

    def admit(self, key: Key, limits: tuple[FlowLimit, ...]) -> None:
        """The server has answered that it has a slot for the instance."""
        self._with_slot.add(key)
        self.answered(key[0], limits)

    def answered(self, tenant: str, limits: tuple[FlowLimit, ...]) -> None:
        """The line may ask again: it has what it asked for, or nobody heard it."""
        self._asked.discard((tenant, limits))
        self.on_freed(tenant, limits)

    def _granted(self, tenant: str, limits: tuple[FlowLimit, ...]) -> None:
        self._kept.add((tenant, limits))
        self.answered(tenant, limits)

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
            if key in self._with_slot and self._slots is not None:
                self._with_slot.discard(key)
                self._slots.give(tenant, counted)
            for limit in counted:
                self._by_limit[tenant, limit.key] -= 1
                if not self._by_limit[tenant, limit.key]:
                    del self._by_limit[tenant, limit.key]
        self.on_freed(tenant, counted)
