"""SlotLedger: how many runs each limit has in all shard processes together, and who waits for one. Kept by the front.

A process asks before it begins an instance behind limits. It gets one slot of each limit, or waits for all of them and
holds none meanwhile: so no two processes hold what the other one waits for. A limit's slots go to those that ask for it
in the order of asking, and who is first for one of its limits lets nobody pass there while it waits for another.

In memory only. What a process has goes back when it ends; when the front ends, the processes do.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol

from executor.core.entries import FlowLimit

Limits = tuple[FlowLimit, ...]
_Slot = tuple[str, str]
"""Tenant and key of a limit."""


class Holder(Protocol):
    """One life of a shard process: its channel. Told `slot_granted` with tenant and limits."""

    def tell(self, name: str, *arguments: Any) -> None: ...


_Ask = tuple[Holder, str, Limits]


class SlotLedger:
    """See the module's text. A process asks for the same again only once it was granted: so what waits is bounded by
    what the processes have queued."""

    def __init__(self) -> None:
        self._used: Counter[_Slot] = Counter()
        self._held: dict[Holder, Counter[tuple[str, Limits]]] = {}
        self._waiting: dict[_Slot, dict[_Ask, None]] = {}
        """Who waits for each, in the order of asking."""
        self._asked: dict[Holder, dict[_Ask, None]] = {}

    def __len__(self) -> int:
        """Slots that are taken, and asks that wait."""
        return sum(self._used.values()) + sum(map(len, self._asked.values()))

    def take(self, holder: Holder, tenant: str, limits: Limits) -> bool:
        """Whether it has one of each now. If not, it is told when it has."""
        ask = (holder, tenant, limits)
        for limit in limits:
            self._waiting.setdefault((tenant, limit.key), {})[ask] = None
        if self._is_next(ask):
            self._grant(ask)
            return True
        self._asked.setdefault(holder, {})[ask] = None
        return False

    def give(self, holder: Holder, tenant: str, limits: Limits) -> None:
        """Take back what it was granted; who is next is told."""
        held = self._held[holder]
        held[tenant, limits] -= 1
        if not held[tenant, limits]:
            del held[tenant, limits]
            if not held:
                del self._held[holder]
        self._free(tenant, limits, 1)
        self._go_on([(tenant, limit.key) for limit in limits])

    def lost(self, holder: Holder) -> None:
        """The process is gone: so is all that it has and waits for."""
        freed: list[_Slot] = []
        for ask in self._asked.pop(holder, ()):
            freed += self._leave(ask)
        for (tenant, limits), count in self._held.pop(holder, Counter[tuple[str, Limits]]()).items():
            self._free(tenant, limits, count)
            freed += [(tenant, limit.key) for limit in limits]
        self._go_on(freed)

    # --- inside

    def _is_next(self, ask: _Ask) -> bool:
        _, tenant, limits = ask
        return all(
            next(iter(self._waiting[tenant, limit.key])) == ask and self._used[tenant, limit.key] < limit.count
            for limit in limits
        )

    def _grant(self, ask: _Ask) -> list[_Slot]:
        """What it does not wait for any more."""
        holder, tenant, limits = ask
        self._held.setdefault(holder, Counter())[tenant, limits] += 1
        self._used.update((tenant, limit.key) for limit in limits)
        return self._leave(ask)

    def _leave(self, ask: _Ask) -> list[_Slot]:
        _, tenant, limits = ask
        left = [(tenant, limit.key) for limit in limits]
        for slot in left:
            waiting = self._waiting[slot]
            del waiting[ask]
            if not waiting:
                del self._waiting[slot]
        return left

    def _free(self, tenant: str, limits: Limits, count: int) -> None:
        for limit in limits:
            self._used[tenant, limit.key] -= count
            if not self._used[tenant, limit.key]:
                del self._used[tenant, limit.key]

    def _go_on(self, slots: list[_Slot]) -> None:
        """Grant what can be granted now that something of these has changed."""
        while slots:
            ask = next(iter(self._waiting.get(slots[-1], ())), None)
            if ask is None or not self._is_next(ask):
                slots.pop()
                continue
            holder, tenant, limits = ask
            slots += self._grant(ask)
            asked = self._asked[holder]
            del asked[ask]
            if not asked:
                del self._asked[holder]
            holder.tell("slot_granted", tenant, limits)
