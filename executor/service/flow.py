"""Flow control at the start: what a workflow declares, brought to bear on each of its instances.

Concurrency becomes limits that the instance queues behind; rate, debounce and singleton are decided here, where all
starts come through: by the API, by schedules, and of children (`executor.engine.peers`). Rates are remembered in
memory; what is not is found out from the instance of the same key that is to begin last, never earlier than the truth.
Which instances belong together are reserved search attributes, so nothing else has to be kept, and a restart forgets
nothing that counts.

**A start counts once.** One that is asked for again finds its instance, which has used the rate; while two ask for the
same, the second waits for the first one's outcome. If there is no instance, as the start failed, the moment that it was
given is kept for it until it has passed.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import trio

from executor.core import flow, summary
from executor.core.entries import StartOptions
from executor.core.errors import Conflict, NotFound, PerdureError
from executor.core.flow import KEY_ATTRIBUTE, RATE_ATTRIBUTE, Rate
from executor.core.lifecycle import FINAL, STATES
from executor.core.search import Condition, Query
from executor.engine.peers import Prepared
from executor.ports import Clock, Instances, Seen, Start, StoredRow
from executor.service.flow_state import FlowState, Place
from executor.service.start_options import NO_OPTIONS
from executor.views import StartRequest
from executor.workflow.flow import Flow

PAGE = 1_000
NEWEST = 10
LIVE = tuple(state for state in STATES if state not in FINAL)


def prepared(start: Start, request: StartRequest, declared: Flow | None) -> Prepared:
    """`start` with what the workflow declares added to its options."""
    if declared is None:
        return Prepared(start)
    key = flow.key_of(start.workflow, declared, request.payload)
    options = flow.counted(start.options or NO_OPTIONS, start.workflow, declared, key)
    if request.priority is None:
        options = msgspec.structs.replace(options, priority=declared.priority)
    return Prepared(_with(start, options), declared, key)


class Flows:
    """Decides rates, debounces and singletons, in the process that has the service. `state`: one for all of them."""

    def __init__(self, instances: Instances, clock: Clock, state: FlowState | None = None) -> None:
        self._instances = instances
        self._clock = clock
        self._state = state or FlowState()

    async def start(self, wanted: Prepared) -> Seen:
        """Start it as its flow says, durably. The one that it replaced, if it did.

        Raises Conflict (`singleton_exists`, `instance_exists`), and what `Instances.start` raises.
        """
        if wanted.flow is None:
            return await self._instances.start(wanted.start)
        if wanted.is_alone:
            return await self._alone(wanted)
        [answer] = await self._together([wanted])
        if isinstance(answer, PerdureError):
            raise answer
        return answer

    async def start_many(self, wanted: Sequence[Prepared]) -> list[Seen | PerdureError]:
        """As many `start`s, in that order within a key; each fails for itself alone."""
        answers: dict[int, Seen | PerdureError] = {}
        of_key: dict[Place, list[int]] = {}
        together: list[int] = []
        for index, one in enumerate(wanted):
            if one.is_alone:
                of_key.setdefault(_place(one), []).append(index)
            else:
                together.append(index)

        async def one_by_one(indexes: list[int]) -> None:
            # Each may replace or end the one that came just before it.
            for index in indexes:
                try:
                    answers[index] = await self._alone(wanted[index])
                except PerdureError as error:
                    answers[index] = error

        if together:
            found = await self._together([wanted[index] for index in together])
            answers.update(zip(together, found, strict=True))
        if of_key:
            async with trio.open_nursery() as nursery:
                for indexes in of_key.values():
                    nursery.start_soon(one_by_one, indexes)
        return [answers[index] for index in range(len(wanted))]

    def forget(self, tenant: str) -> None:
        """The tenant is gone."""
        self._state.forget(tenant)

    # --- rates

    async def _together(self, wanted: Sequence[Prepared]) -> list[Seen | PerdureError]:
        """Starts that only a rate may delay, in one group commit."""
        named = [one.start.key for one in wanted if _rate(one) is not None and not one.start.is_new]
        async with self._state.of_ids.held(named):
            timed: list[Start | PerdureError] = []
            for one in wanted:
                try:
                    timed.append(await self._timed(one))
                except PerdureError as error:
                    timed.append(error)
            starts = [start for start in timed if isinstance(start, Start)]
            answers = iter(await self._instances.start_many(starts) if starts else ())
            found = [next(answers) if isinstance(start, Start) else start for start in timed]
            for one, answer in zip(wanted, found, strict=True):
                if not isinstance(answer, PerdureError):
                    self._state.given.pop(one.start.key, None)
            return found

    async def _timed(self, wanted: Prepared) -> Start:
        """The start, delayed as its rate says. One that names its own time keeps it, and does not count."""
        start, rate = wanted.start, _rate(wanted)
        options = start.options or NO_OPTIONS
        if rate is None or options.start_at_ms is not None or await self._exists(start):
            return start
        state, place = self._state, _place(wanted)
        at_ms = state.given.get(start.key)
        now_ms = self._clock.now_ms()
        if at_ms is None or at_ms < now_ms:
            if place not in state.debts:
                found = await self._debt(place, rate)
                state.debts.setdefault(place, found)
            now_ms = self._clock.now_ms()
            at_ms, debt = rate.slot(state.debts[place], now_ms)
            state.owe(place, debt)
            if not start.is_new:
                state.give(start.key, at_ms)
        options = flow.timed(options, wanted.key, at_ms)
        return _with(start, options if at_ms <= now_ms else msgspec.structs.replace(options, start_at_ms=at_ms))

    async def _debt(self, place: Place, rate: Rate) -> int:
        """What the rate owes, from the instance of the key whose moment is the last: at least the truth."""
        query = Query(
            where=(Condition(RATE_ATTRIBUTE, "prefix", (f"{place[1]}:",)),), order=f"attributes.{RATE_ATTRIBUTE}"
        )
        rows, _ = await self._instances.page(place[0], query, limit=1, after=None)
        return rate.debt_after(flow.counted_at_ms(rows[0].row.attributes)) if rows else 0

    async def _exists(self, start: Start) -> bool:
        """Whether the id is taken: the start is then answered by that instance, or refused."""
        if start.is_new:
            return False
        try:
            await self._instances.status(*start.key)
        except NotFound:
            return False
        return True

    # --- debounces and singletons

    async def _alone(self, wanted: Prepared) -> Seen:
        """One start of a key at a time: each sees what the one before did."""
        declared = wanted.flow
        assert declared is not None, "only what declares a flow is alone"
        async with self._state.of_keys.held([_place(wanted)]):
            replaced = await self._debounced(wanted, declared)
            if replaced is not None:
                return replaced
            if not await self._exists(wanted.start):
                if declared.singleton is not None:
                    await self._make_way(wanted, declared.singleton)
                wanted = wanted._replace(start=self._delayed(wanted, declared))
            [answer] = await self._together([wanted])
        if isinstance(answer, PerdureError):
            raise answer
        return answer

    async def _debounced(self, wanted: Prepared, declared: Flow) -> Seen | None:
        """The pending instance of the key, with this payload and a new time; None: there is none."""
        pause_ms = flow.debounce_ms(declared)
        if pause_ms is None or wanted.is_child:
            return None
        start = wanted.start
        options = start.options or NO_OPTIONS
        at_ms = max(self._clock.now_ms() + pause_ms, options.start_at_ms or 0)
        # One that waits for its time is the newest: until then no other of its key begins to exist.
        for row in await self._of_key(_place(wanted), ("waiting",), limit=NEWEST):
            if not _is_delayed(row):
                continue
            try:
                return await self._instances.reschedule(
                    row.tenant, row.instance, payload=start.payload, start_at_ms=at_ms, debounce=wanted.key
                )
            except (Conflict, NotFound):
                continue  # Its time came just now.
        return None

    def _delayed(self, wanted: Prepared, declared: Flow) -> Start:
        start, pause_ms = wanted.start, flow.debounce_ms(declared)
        if pause_ms is None or wanted.is_child:
            return start
        options = start.options or NO_OPTIONS
        at_ms = max(self._clock.now_ms() + pause_ms, options.start_at_ms or 0)
        return _with(start, msgspec.structs.replace(options, start_at_ms=at_ms, debounce=wanted.key))

    async def _make_way(self, wanted: Prepared, policy: str) -> None:
        """For a singleton: see that none of its key is there. Raises Conflict (`singleton_exists`)."""
        start = wanted.start
        rows = await self._of_key(_place(wanted), LIVE, limit=1 if policy == "skip" else None)
        above = await self._above(start) if rows and policy == "cancel" else set[str]()
        for row in rows:
            if policy == "skip" or row.instance in above:
                above_it = " and is above this child, which cannot end it" if row.instance in above else ""
                raise Conflict(
                    f'instance "{row.instance}" of the singleton {start.workflow} has not ended{above_it}',
                    code="singleton_exists",
                    hint="Let it continue as new, or start another workflow."
                    if above_it
                    else 'Wait for it or terminate it, or declare singleton="cancel".',
                    instance=row.instance,
                    state=row.row.state,
                )
        for row in rows:
            try:
                await self._instances.terminate(row.tenant, row.instance)
            except NotFound:
                pass  # Deleted meanwhile.
            except Conflict as ended:
                if ended.code != "instance_finished":
                    raise

    async def _above(self, start: Start) -> set[str]:
        """The instances whose child this one would be, directly or not."""
        found: set[str] = set()
        parent = (start.options or NO_OPTIONS).parent
        name = None if parent is None else parent.instance
        while name is not None and name not in found:
            found.add(name)
            try:
                seen = await self._instances.status(start.key[0], name)
            except NotFound:
                break
            above = summary.decode(seen.row.row.summary).parent
            name = None if above is None else above[0]
        return found

    async def _of_key(self, place: Place, states: tuple[str, ...], *, limit: int | None = None) -> list[StoredRow]:
        """Instances of the key in these states, newest first."""
        tenant, key = place
        query = Query(states=states, where=(Condition(KEY_ATTRIBUTE, "=", (key,)),))
        found: list[StoredRow] = []
        after: str | None = None
        while True:
            rows, after = await self._instances.page(tenant, query, limit=limit or PAGE, after=after)
            found += rows
            if after is None or limit is not None:
                return found


def _place(wanted: Prepared) -> Place:
    return wanted.start.key[0], wanted.key


def _rate(wanted: Prepared) -> Rate | None:
    return None if wanted.flow is None else flow.rate_of(wanted.flow)


def _is_delayed(row: StoredRow) -> bool:
    """Whether it waits for its start."""
    waits = summary.decode(row.row.summary).waits
    return bool(waits) and waits[0].kind == "start"


def _with(start: Start, options: StartOptions) -> Start:
    return msgspec.structs.replace(start, options=None if options == NO_OPTIONS else options)
