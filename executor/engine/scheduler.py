"""Scheduler: which instance is activated next.

Tenants take turns by weight (stride scheduling): each has a time of its own, which goes on by 1/weight with every
instance taken, and the tenant with the earliest is next. One that comes begins at the time of whoever was taken last,
so a pause saves up nothing. Within a tenant, priority decides, then order of arrival.

**Bound.** Let tenant T have nothing queued but one instance that no limit holds up, and let U be the other tenants that
have something queued. Before it at most the sum over U of (⌊weight of U / weight of T⌋ + 1) instances are taken,
however many they have queued: with equal weights two for each of them, and one if T had nothing taken of late.

Instances of a tenant with the same limits are in one **line**. A line whose limit is full, and a tenant that has its
share, are put aside until a place is given back, so what they hold up is passed over at no cost. Everything takes
O(log n) in lines and tenants, and nothing depends on how many wait in a line.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections import deque
from collections.abc import Sequence
from math import lcm
from typing import NamedTuple

from executor.core.entries import FlowLimit
from executor.engine.places import WEIGHT_MAX, Places
from executor.engine.resident import Key
from executor.engine.signal import Signal

STRIDE = lcm(*range(1, WEIGHT_MAX + 1))
"""A turn at weight 1; a whole number at every weight, so that shares are exact."""

LEFT_MIN = 1_000
TENANT, PLATFORM = "tenant", "platform"


class Queued(NamedTuple):
    """An instance that waits for its turn, and what decides when it comes."""

    key: Key
    priority: int
    limits: tuple[FlowLimit, ...]


class Waiting(NamedTuple):
    """Behind what an instance waits: the name of a limit that is full, "tenant" (its tenant has all that it may) or
    "platform"; and its `position` (1: the next) among those of its tenant that have the same limits."""

    limit: str
    position: int


class _Bucket:
    """Those of one priority, in order of arrival. `taken`: how many were, ever."""

    __slots__ = ("keys", "taken")

    def __init__(self) -> None:
        self.keys: deque[tuple[int, Key]] = deque()
        self.taken = 0


class _Line:
    """Those with the same limits. `head`: rank (negated priority) and number of the first. `offered`: numbers of heads
    that are among the tenant's offers."""

    __slots__ = ("_buckets", "_ranks", "blocked_by", "count", "head", "limits", "offered")

    def __init__(self, limits: tuple[FlowLimit, ...]) -> None:
        self.limits = limits
        self.count = 0
        self.head: tuple[int, int] | None = None
        self.blocked_by: FlowLimit | None = None
        self.offered: set[int] = set()
        self._ranks: list[int] = []
        self._buckets: dict[int, _Bucket] = {}

    def put(self, rank: int, number: int, key: Key, *, is_first: bool) -> int:
        """Its index in its bucket; `head` is new if it is the first now."""
        bucket = self._buckets.get(rank)
        if bucket is None:
            bucket = self._buckets[rank] = _Bucket()
            insort(self._ranks, rank)
        self.count += 1
        if self.head is None or rank < self.head[0] or (is_first and rank == self.head[0]):
            self.head = (rank, number)
        if is_first:
            bucket.keys.appendleft((number, key))
            bucket.taken -= 1
            return bucket.taken
        bucket.keys.append((number, key))
        return bucket.taken + len(bucket.keys) - 1

    def first(self) -> Key:
        return self._buckets[self._ranks[0]].keys[0][1]

    def take(self) -> tuple[int, Key]:
        """The first, with its rank."""
        rank = self._ranks[0]
        bucket = self._buckets[rank]
        _, key = bucket.keys.popleft()
        bucket.taken += 1
        self.count -= 1
        if not bucket.keys:
            del self._buckets[rank], self._ranks[0]
        self.head = (self._ranks[0], self._buckets[self._ranks[0]].keys[0][0]) if self._ranks else None
        return rank, key

    def position(self, rank: int, index: int) -> int:
        before = sum(len(self._buckets[other].keys) for other in self._ranks if other < rank)
        return before + index - self._buckets[rank].taken + 1


class _Tenant:
    """`time`: its own, in the unit of STRIDE. `offers`: heads of lines that may be ready, the first on top; one that is
    not its line's head (any more, or just now) is void. `ready`: how many are in lines that are not blocked."""

    __slots__ = ("blocked", "count", "is_in_round", "lines", "offers", "ready", "time")

    def __init__(self, time: int) -> None:
        self.time = time
        self.is_in_round = False
        self.count = 0
        self.ready = 0
        self.lines: dict[tuple[FlowLimit, ...], _Line] = {}
        self.offers: list[tuple[int, int, _Line]] = []
        self.blocked: dict[str, list[_Line]] = {}

    def offer(self, line: _Line) -> None:
        assert line.head is not None, "only lines that are not empty are offered"
        rank, number = line.head
        if number not in line.offered:
            line.offered.add(number)
            heapq.heappush(self.offers, (rank, number, line))

    def withdraw(self) -> None:
        """Take the first offer away."""
        _, number, line = heapq.heappop(self.offers)
        line.offered.discard(number)


class FairQueue:
    """Instances that wait for a place; each is in it at most once. See the module's text."""

    def __init__(self, places: Places) -> None:
        self._places = places
        places.on_freed = self._freed
        self._tenants: dict[str, _Tenant] = {}
        self._round: list[tuple[int, int, str]] = []
        """Tenants that may have one to be taken: time, order of entry, name."""
        self._left: dict[str, int] = {}
        """Times of tenants that have nothing queued, while they are ahead of `_now`."""
        self._now = 0
        self._number = 0
        self._members: dict[Key, tuple[_Line, int, int]] = {}
        self._ready = 0
        self._blocked = 0
        """How many are in lines that are blocked."""
        self._shorter = Signal()
        self.changed = Signal()
        """Notified when there may be something to take that was not there before."""

    def __len__(self) -> int:
        return len(self._members)

    def count_of(self, tenant: str) -> int:
        """How many of the tenant's are queued."""
        found = self._tenants.get(tenant)
        return 0 if found is None else found.count

    @property
    def ready(self) -> int:
        """How many are queued that neither their limit nor their tenant's share was found to hold up."""
        return self._ready

    @property
    def wants_places(self) -> bool:
        """Whether a place of any run would let another begin: not all that are queued are held up by limits."""
        return len(self._members) > self._blocked

    def put(self, key: Key, *, priority: int = 0, limits: Sequence[FlowLimit] = (), is_first: bool = False) -> None:
        """Add an instance, unless it is in the queue. `is_first`: it had its turn and could not use it; so it goes
        before all of its tenant that have its priority."""
        if key in self._members:
            return
        tenant = self._tenants.get(key[0])
        if tenant is None:
            tenant = self._tenants[key[0]] = _Tenant(self._left.pop(key[0], 0))
        own = tuple(limits)
        line = tenant.lines.get(own)
        if line is None:
            line = tenant.lines[own] = _Line(own)
        self._number += 1
        before = line.head
        number = -self._number if is_first else self._number
        self._members[key] = (line, -priority, line.put(-priority, number, key, is_first=is_first))
        tenant.count += 1
        if line.blocked_by is not None:
            self._blocked += 1
            return
        if line.head != before:
            tenant.offer(line)
        self._add_ready(tenant, 1)
        self._enter(key[0], tenant)
        self.changed.notify()

    def take(self) -> Queued | None:
        """The next instance that may begin, or None. Whether there is a place at all is the caller's to know."""
        while self._round:
            time, _, name = self._round[0]
            tenant = self._tenants[name]
            line = self._ready_line(tenant) if self._places.has_share(name) else None
            if line is None:
                heapq.heappop(self._round)
                self._leave(tenant)
                continue
            tenant.withdraw()
            rank, key = line.take()
            del self._members[key]
            tenant.count -= 1
            self._add_ready(tenant, -1)
            self._now = time
            tenant.time = time + STRIDE // self._places.share(name).weight
            if line.count:
                tenant.offer(line)
            else:
                del tenant.lines[line.limits]
            if tenant.count:
                self._number += 1
                heapq.heapreplace(self._round, (tenant.time, self._number, name))
            else:
                heapq.heappop(self._round)
                del self._tenants[name]
                self._remember(name, tenant.time)
            if not self._round:
                # Nobody waits for a turn: what was before does not count any more.
                self._now = max(self._now, *self._left.values()) if self._left else self._now
                self._left.clear()
            self._shorter.notify()
            return Queued(key, -rank, line.limits)
        return None

    def waiting(self, key: Key) -> Waiting | None:
        """What the instance waits behind; None: it is not queued."""
        found = self._members.get(key)
        if found is None:
            return None
        line, rank, index = found
        full = line.blocked_by or self._places.full(key, line.limits)
        if full is not None:
            name = full.name
        else:
            name = PLATFORM if self._places.has_share(key[0]) else TENANT
        return Waiting(name, line.position(rank, index))

    async def until_shorter_than(self, length: int) -> None:
        """Return once fewer than `length` instances wait for nothing but places."""
        while self._ready >= length:
            await self._shorter.wait()

    # --- inside

    def _ready_line(self, tenant: _Tenant) -> _Line | None:
        """The line whose head is to be taken; those that are found to be held up are put aside."""
        while tenant.offers:
            rank, number, line = tenant.offers[0]
            if line.blocked_by is None and line.head == (rank, number):
                full = self._places.full(line.first(), line.limits)
                if full is None:
                    return line
                line.blocked_by = full
                tenant.blocked.setdefault(full.key, []).append(line)
                self._blocked += line.count
                self._add_ready(tenant, -line.count)
            tenant.withdraw()
        return None

    def _remember(self, name: str, time: int) -> None:
        self._left[name] = time
        if len(self._left) > 2 * len(self._tenants) + LEFT_MIN:
            self._left = {other: left for other, left in self._left.items() if left > self._now}

    def _freed(self, name: str, limits: Sequence[FlowLimit]) -> None:
        """A place was given back: what waited for it may be next."""
        tenant = self._tenants.get(name)
        if tenant is not None:
            for limit in limits:
                for line in tenant.blocked.pop(limit.key, ()):
                    line.blocked_by = None
                    tenant.offer(line)
                    self._blocked -= line.count
                    self._add_ready(tenant, line.count)
            self._enter(name, tenant)
        self.changed.notify()

    def _enter(self, name: str, tenant: _Tenant) -> None:
        if not tenant.is_in_round and tenant.offers:
            tenant.is_in_round = True
            tenant.time = max(tenant.time, self._now)
            self._number += 1
            heapq.heappush(self._round, (tenant.time, self._number, name))
            self._ready += tenant.ready

    def _leave(self, tenant: _Tenant) -> None:
        tenant.is_in_round = False
        self._ready -= tenant.ready
        self._shorter.notify()

    def _add_ready(self, tenant: _Tenant, count: int) -> None:
        tenant.ready += count
        if tenant.is_in_round:
            self._ready += count
            if count < 0:
                self._shorter.notify()
