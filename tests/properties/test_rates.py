"""Rates hold over starts from outside, children and schedules, failed and repeated, at once and over restarts.

Whoever asks, however often and whatever is lost on the way: an id is started once, and of the moments at which instances
are to begin there are in no window more than the rate and its burst allow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import trio
from hypothesis import event, given
from hypothesis import strategies as st

from executor.core import flow
from executor.core.entries import Parent, StartOptions
from executor.core.errors import NotFound, PerdureError, Unavailable
from executor.core.search import Query
from executor.engine.peers import Prepared
from executor.ports import Instances, Row, Seen, Start, StoredRow
from executor.service.flow import Flows
from executor.service.flow_state import FlowState
from executor.workflow.flow import Flow
from tests.executor.engine.world import BASE_MS, StandingClock

KEY = "k" * 32
TENANT = "acme"


class Made:
    """Instances that were made: by id, when each is to begin. `fails`: what becomes of the next calls."""

    def __init__(self, clock: StandingClock) -> None:
        self.clock = clock
        self.moments: dict[str, int] = {}
        self.attributes: dict[str, bytes] = {}
        self.fails: list[str] = []

    async def status(self, tenant: str, instance: str) -> Seen:
        await trio.lowlevel.checkpoint()
        if instance not in self.moments:
            raise NotFound("none", code="instance_not_found")
        return self._seen(instance)

    async def start_many(self, starts: Sequence[Start]) -> list[Seen | PerdureError]:
        fails = self.fails.pop(0) if self.fails else ""
        await trio.lowlevel.checkpoint()
        if fails == "before":
            return [Unavailable("busy") for _ in starts]
        for start in starts:
            options = start.options or StartOptions()
            if start.key[1] not in self.moments:
                self.moments[start.key[1]] = max(options.start_at_ms or 0, self.clock.now_ms())
                self.attributes[start.key[1]] = options.attributes
        await trio.lowlevel.checkpoint()
        return [Unavailable("no answer") if fails else self._seen(start.key[1]) for start in starts]

    async def page(self, tenant: str, query: Query, *, limit: int, after: str | None) -> tuple[list[StoredRow], None]:
        assert (query.order, query.is_descending, limit) == ("attributes.$rate", True, 1)
        await trio.lowlevel.checkpoint()
        newest = max(self.moments, key=lambda name: flow.counted_at_ms(self.attributes[name]), default=None)
        return ([] if newest is None else [self._seen(newest).row]), None

    def _seen(self, name: str) -> Seen:
        row = Row("waiting", None, "W", "c" * 40, 0, 0, b"", self.attributes[name])
        return Seen(StoredRow(TENANT, name, 1, 1, row))


class Ask(NamedTuple):
    """Ids that are asked for by one call (None: one that the platform draws), as children or not."""

    ids: tuple[int | None, ...]
    are_children: bool
    fails: str


asks = st.builds(
    Ask,
    st.lists(st.none() | st.integers(0, 6), min_size=1, max_size=4).map(tuple),
    st.booleans(),
    st.sampled_from(("", "", "", "before", "after")),
)
moments = st.lists(
    st.tuples(st.integers(0, 2_500), st.booleans(), st.lists(asks, min_size=1, max_size=4)), min_size=1, max_size=8
)
calm = moments.map(
    lambda story: [(pause, False, [one._replace(fails="") for one in together]) for pause, _, together in story]
)
rates = st.builds(
    lambda count, seconds, burst: Flow(rate=f"{count}/{seconds} seconds", burst=burst),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(1, 3),
)


@given(rates, moments | calm)
def test_no_window_has_more_starts_than_the_rate_allows_whoever_asks_and_whatever_is_lost(
    declared: Flow, story: list[tuple[int, bool, list[Ask]]]
) -> None:
    clock = StandingClock()
    made = Made(clock)
    drawn = iter(range(1_000))

    def wanted(name: int | None, is_child: bool) -> Prepared:
        is_new = name is None and not is_child
        key = (TENANT, f"new{next(drawn)}" if name is None else f"i{name}")
        parent = Parent("boss", "p#1", is_awaited=True) if is_child else None
        return Prepared(Start(key, "W", "c" * 40, b"\xc0", is_new, StartOptions(parent=parent)), declared, KEY)

    async def ask(flows: Flows, one: Ask) -> None:
        if one.fails:
            made.fails.append(one.fails)
        answers = await flows.start_many([wanted(name, one.are_children) for name in one.ids])
        assert len(answers) == len(one.ids)

    async def main() -> None:
        flows = Flows(cast("Instances", made), clock, FlowState())
        for pause_ms, restarts, together in story:
            clock.advance(pause_ms)
            if restarts:
                flows = Flows(cast("Instances", made), clock, FlowState())
            async with trio.open_nursery() as nursery:
                for one in together:
                    nursery.start_soon(ask, flows, one)

    trio.run(main)
    rate = cast("Any", flow.rate_of(declared))
    begun = sorted(made.moments.values())
    event(f"more than the burst: {len(begun) > rate.burst}")
    for first, at_ms in enumerate(begun):
        within = [other for other in begun[first:] if other < at_ms + rate.period_ms]
        assert len(within) <= rate.count - 1 + rate.burst
    if not any(restarts or any(one.fails for one in together) for _, restarts, together in story):
        assert begun == _exactly(rate, story)


def _exactly(rate: flow.Rate, story: list[tuple[int, bool, list[Ask]]]) -> list[int]:
    """The moments, when each id uses the rate once."""
    now_ms, debt, found, known = BASE_MS, 0, [], set[int]()
    for pause_ms, _, together in story:
        now_ms += pause_ms
        asked = [name for one in together for name in one.ids]
        new = {name for name in asked if name is not None} - known
        known |= new
        for _ in range(asked.count(None) + len(new)):
            at_ms, debt = rate.slot(debt, now_ms)
            found.append(at_ms)
    return found
