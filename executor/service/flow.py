"""Flow control at the start: options checked, and what a workflow declares brought to bear on each of its instances.

Concurrency becomes limits that the instance queues behind; rate, debounce and singleton are decided here, where all
starts by the API and by schedules come through. Rates are remembered in memory; what is not is found out from the
newest instance of the same key, never earlier than the truth. Which instances belong together is a reserved search
attribute, so nothing else has to be kept, and a restart forgets nothing that counts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
import trio

from executor.core import attributes, flow, summary
from executor.core.entries import StartOptions
from executor.core.errors import Conflict, NotFound, Refused
from executor.core.flow import KEY_ATTRIBUTE, Rate
from executor.core.lifecycle import FINAL, STATES
from executor.core.search import Condition, Query
from executor.ports import Clock, Instances, Seen, Start, StoredRow
from executor.views import StartRequest
from executor.workflow.durations import duration_ms
from executor.workflow.flow import PRIORITY_MAX, Flow

RATES_KEPT_MAX = 100_000
PAGE = 1_000
NEWEST = 10
LIVE = tuple(state for state in STATES if state not in FINAL)
_NO_OPTIONS = StartOptions()


class Prepared(NamedTuple):
    """A start, and what still has to be decided about it: `flow` None: nothing."""

    start: Start
    flow: Flow | None = None
    key: str = ""

    @property
    def is_alone(self) -> bool:
        """Whether it has to be started by itself: it may end or replace another of its key."""
        return self.flow is not None and (self.flow.debounce is not None or self.flow.singleton is not None)


def check(request: StartRequest, now_ms: int) -> StartOptions | None:
    """The options that a request names, None if it names none. Raises Refused (`bad_request`) naming the option."""
    start_at_ms = _start_at_ms(request, now_ms)
    priority = 0 if request.priority is None else request.priority
    if not -PRIORITY_MAX <= priority <= PRIORITY_MAX:
        raise Refused(f"priority is {priority}, not between -{PRIORITY_MAX} and {PRIORITY_MAX}", code="bad_request")
    retention = _retention_ms(request.retention or {})
    options = StartOptions(
        start_at_ms=start_at_ms,
        attributes=attributes.encode(request.attributes or {}),
        priority=priority,
        unload=request.unload or "",
        retain_complete_ms=retention.get("complete"),
        retain_failed_ms=retention.get("failed"),
    )
    return None if options == _NO_OPTIONS else options


def prepared(start: Start, request: StartRequest, declared: Flow | None, payload: Any) -> Prepared:
    """`start` with what the workflow declares added to its options."""
    if declared is None:
        return Prepared(start)
    key = flow.key_of(start.workflow, declared, payload)
    options = start.options or _NO_OPTIONS
    is_decided_here = declared.rate is not None or declared.debounce is not None or declared.singleton is not None
    added = options.attributes
    if is_decided_here:
        added = attributes.merge(added, {KEY_ATTRIBUTE: key}, is_reserved=True)
    options = msgspec.structs.replace(
        options,
        attributes=added,
        priority=declared.priority if request.priority is None else options.priority,
        limits=flow.limits_of(start.workflow, declared, key),
    )
    start = msgspec.structs.replace(start, options=None if options == _NO_OPTIONS else options)
    return Prepared(start, declared, key) if is_decided_here else Prepared(start)


class Flows:
    """Decides rates, debounces and singletons. One for all tenants, in the process that has the service."""

    def __init__(self, instances: Instances, clock: Clock) -> None:
        self._instances = instances
        self._clock = clock
        self._debts: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._locks: dict[tuple[str, str], tuple[trio.Lock, int]] = {}

    async def start(self, wanted: Prepared) -> Seen:
        """Start it as its flow says, durably. The one that it replaced, if it did.

        Raises Conflict (`singleton_exists`, `instance_exists`), and what `Instances.start` raises.
        """
        declared = wanted.flow
        if declared is None:
            return await self._instances.start(wanted.start)
        if not wanted.is_alone:
            return await self._instances.start(await self.timed(wanted))
        async with self._alone(wanted.start.key[0], wanted.key):
            replaced = await self._debounced(wanted, declared)
            if replaced is not None:
                return replaced
            if not await self._exists(wanted.start):
                if declared.singleton is not None:
                    await self._make_way(wanted, declared.singleton)
                wanted = wanted._replace(start=self._delayed(wanted.start, declared, wanted.key))
                return await self._instances.start(await self.timed(wanted))
            return await self._instances.start(wanted.start)

    async def timed(self, wanted: Prepared) -> Start:
        """The start, delayed as its rate says. One that names its own time keeps it, and does not count."""
        start, rate = wanted.start, None if wanted.flow is None else flow.rate_of(wanted.flow)
        options = start.options or _NO_OPTIONS
        if rate is None or options.start_at_ms is not None or await self._exists(start):
            return start
        place = (start.key[0], wanted.key)
        if place not in self._debts:
            found = await self._debt(start.key[0], wanted.key, rate)
            self._debts.setdefault(place, found)
        now_ms = self._clock.now_ms()
        at_ms, self._debts[place] = rate.slot(self._debts[place], now_ms)
        self._debts.move_to_end(place)
        if len(self._debts) > RATES_KEPT_MAX:
            self._debts.popitem(last=False)
        return start if at_ms <= now_ms else _at(start, at_ms)

    def forget(self, tenant: str) -> None:
        """The tenant is gone."""
        for place in [place for place in self._debts if place[0] == tenant]:
            del self._debts[place]

    # --- inside

    async def _exists(self, start: Start) -> bool:
        """Whether the id is taken: the start is then answered by that instance, or refused."""
        if start.is_new:
            return False
        try:
            await self._instances.status(*start.key)
        except NotFound:
            return False
        return True

    async def _debounced(self, wanted: Prepared, declared: Flow) -> Seen | None:
        """The pending instance of the key, with this payload and a new time; None: there is none."""
        pause_ms = flow.debounce_ms(declared)
        if pause_ms is None:
            return None
        start = wanted.start
        options = start.options or _NO_OPTIONS
        at_ms = max(self._clock.now_ms() + pause_ms, options.start_at_ms or 0)
        # One that waits for its time is the newest: until then no other of its key begins to exist.
        for row in await self._of_key(start.key[0], wanted.key, ("waiting",), limit=NEWEST):
            if _slot_of(row) is None:
                continue
            try:
                return await self._instances.reschedule(
                    row.tenant, row.instance, payload=start.payload, start_at_ms=at_ms, debounce=wanted.key
                )
            except (Conflict, NotFound):
                continue  # Its time came just now.
        return None

    def _delayed(self, start: Start, declared: Flow, key: str) -> Start:
        pause_ms = flow.debounce_ms(declared)
        if pause_ms is None:
            return start
        options = start.options or _NO_OPTIONS
        at_ms = max(self._clock.now_ms() + pause_ms, options.start_at_ms or 0)
        options = msgspec.structs.replace(options, start_at_ms=at_ms, debounce=key)
        return msgspec.structs.replace(start, options=options)

    async def _make_way(self, wanted: Prepared, policy: str) -> None:
        """For a singleton: see that none of its key is there. Raises Conflict (`singleton_exists`)."""
        start = wanted.start
        limit = 1 if policy == "skip" else None
        for row in await self._of_key(start.key[0], wanted.key, LIVE, limit=limit):
            if policy == "skip":
                raise Conflict(
                    f'instance "{row.instance}" of the singleton {start.workflow} has not ended',
                    code="singleton_exists",
                    hint='Wait for it or terminate it, or declare singleton="cancel".',
                    instance=row.instance,
                    state=row.row.state,
                )
            try:
                await self._instances.terminate(row.tenant, row.instance)
            except NotFound:
                pass  # Deleted meanwhile.
            except Conflict as ended:
                if ended.code != "instance_finished":
                    raise

    async def _debt(self, tenant: str, key: str, rate: Rate) -> int:
        """What the rate owes, from the newest instance of the key: at least the truth."""
        for row in await self._of_key(tenant, key, (), limit=1):
            slot = _slot_of(row)
            return rate.debt_after(row.row.updated_at_ms if slot is None else slot)
        return 0

    async def _of_key(
        self, tenant: str, key: str, states: tuple[str, ...], *, limit: int | None = None
    ) -> list[StoredRow]:
        """Instances of the key in these states, newest first."""
        query = Query(states=states, where=(Condition(KEY_ATTRIBUTE, "=", (key,)),))
        found: list[StoredRow] = []
        after: str | None = None
        while True:
            rows, after = await self._instances.page(tenant, query, limit=limit or PAGE, after=after)
            found += rows
            if after is None or limit is not None:
                return found

    @asynccontextmanager
    async def _alone(self, tenant: str, key: str) -> AsyncGenerator[None]:
        """One start of a key at a time: each sees what the one before did."""
        place = (tenant, key)
        lock, users = self._locks.get(place, (trio.Lock(), 0))
        self._locks[place] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks.pop(place)
            if users > 1:
                self._locks[place] = (lock, users - 1)


def _slot_of(row: StoredRow) -> int | None:
    """When a delayed start is due; None: it has begun."""
    waits = summary.decode(row.row.summary).waits
    return waits[0].until_ms if waits and waits[0].kind == "start" else None


def _at(start: Start, at_ms: int) -> Start:
    options = msgspec.structs.replace(start.options or _NO_OPTIONS, start_at_ms=at_ms)
    return msgspec.structs.replace(start, options=options)


def _start_at_ms(request: StartRequest, now_ms: int) -> int | None:
    if request.at is not None:
        if request.delay is not None:
            raise Refused("delay and at are both given", code="bad_request", hint="Give one of them.")
        at_ms = _utc_ms(request.at)
        return at_ms if at_ms > now_ms else None
    if request.delay is None:
        return None
    delay_ms = _duration_ms(request.delay, "delay")
    return now_ms + delay_ms if delay_ms else None


def _utc_ms(at: datetime) -> int:
    if at.tzinfo is None or at.utcoffset() is None:
        raise Refused("at has no time zone", code="bad_request", hint="Write datetime.now(UTC), or .astimezone().")
    return round(at.timestamp() * 1000)


def _retention_ms(retention: Mapping[str, str | float]) -> dict[str, int]:
    for name in retention:
        if name not in ("complete", "failed"):
            raise Refused(
                f'retention has "{name[:40]}"; it takes "complete", and "failed" for failed and terminated instances',
                code="bad_request",
            )
    return {name: _duration_ms(value, f"retention {name}") for name, value in retention.items()}


def _duration_ms(value: str | float, what: str) -> int:
    try:
        return duration_ms(value, of=what)
    except (TypeError, ValueError) as wrong:
        raise Refused(str(wrong), code="bad_request") from None
