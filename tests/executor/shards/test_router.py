"""Laws of the router: each instance has one owner, and what is asked of all is one answer."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor.adapters.state import facets_query, translated
from executor.core import attributes
from executor.core.entries import FlowLimit, StartOptions
from executor.core.errors import Conflict, PerdureError, Refused, Unavailable
from executor.core.search import EVERYTHING, Query
from executor.core.search import query as search_words
from executor.ports import ChildEnd, Row, Seen, Share, Start, StoredRow, Vitals
from executor.shards.calls import METHODS, encode
from executor.shards.router import RoutedInstances, share_of_part
from facets import search, shard_of

COUNT = 3
OWNERS = [shard % COUNT for shard in range(64)]


def stored(instance: str, generation: int, at_ms: int, *, updated_at_ms: int = 0, size: int | None = None) -> StoredRow:
    found = b"" if size is None else attributes.encode({"size": size})
    row = Row("waiting", None, "W", "c" * 40, at_ms, updated_at_ms, b"", found)
    return StoredRow("acme", instance, generation, 1, row)


class Part:
    """One owner's instances, newest last."""

    def __init__(self) -> None:
        self.rows: list[StoredRow] = []
        self.error: PerdureError | None = None
        self.calls: list[tuple[Any, ...]] = []

    async def start(self, start: Start) -> Seen:
        [seen] = await self.start_many([start])
        assert isinstance(seen, Seen)
        return seen

    async def start_many(self, starts: list[Start]) -> list[Seen | PerdureError]:
        if self.error is not None:
            raise self.error
        self.calls.append(tuple(start.key[1] for start in starts))
        answers: list[Seen | PerdureError] = []
        for start in starts:
            if start.workflow == "Taken":
                answers.append(Conflict("taken", code="instance_exists"))
            else:
                self.rows.append(stored(start.key[1], len(self.rows) + 1, 0))
                answers.append(Seen(self.rows[-1]))
        return answers

    async def child_ended(self, tenant: str, parent: str, end: ChildEnd) -> None:
        self.calls.append(("child_ended", tenant, parent, end.child))

    async def close_children(self, tenant: str, parent: str, children: list[str]) -> None:
        self.calls.append(("close_children", tenant, parent, tuple(children)))
        if self.error is not None:
            raise self.error

    async def page(
        self, tenant: str, query: Query, *, limit: int, after: str | None
    ) -> tuple[list[StoredRow], str | None]:
        assert tenant == "acme"
        wanted = facets_query(query)
        behind = None if after is None else translated(search.read_cursor)(wanted, after)
        found: list[StoredRow] = []
        for part in search.parts(wanted):
            is_down = search.is_descending(wanted, part)
            places = [(place_of(wanted, row), row) for row in self.rows]
            kept = [
                (place.at, row)
                for place, row in places
                if place.part == part
                and (
                    behind is None
                    or behind.part < part
                    or (behind.part == part and ((place.at < behind.at) if is_down else (place.at > behind.at)))
                )
            ]
            found += [row for _, row in sorted(kept, key=lambda one: one[0], reverse=is_down)]
        page = found[:limit]
        return page, search.cursor(wanted, place_of(wanted, page[-1])) if len(found) > limit else None

    async def matches(self, tenant: str, query: Query) -> int:
        assert (tenant, query.states) == ("acme", ("waiting",))
        return len(self.rows) if len(self.rows) < 5 else 9_000

    async def counts(self, tenant: str) -> dict[str, int]:
        assert tenant == "acme"
        return {"waiting": len(self.rows)} if self.rows else {}

    async def commits(self, _tenant: str) -> set[str]:
        if self.error is not None:
            raise self.error
        return {row.row.commit for row in self.rows}

    async def vitals(self) -> Vitals:
        if self.error is not None:
            raise self.error
        return Vitals(True, 3, 2, 1)


def routed() -> tuple[RoutedInstances, list[Part]]:
    parts = [Part() for _ in range(COUNT)]
    return RoutedInstances(parts, OWNERS, layout=7), parts  # type: ignore[arg-type]


def start(instance: str, workflow: str = "W") -> Start:
    return Start(("acme", instance), workflow, "c" * 40, b"")


async def test_instance_goes_to_the_owner_of_its_shard() -> None:
    router, parts = routed()
    for number in range(40):
        await router.start(start(f"i{number}"))
    for index, part in enumerate(parts):
        assert part.rows
        assert {OWNERS[shard_of("acme", row.instance)] for row in part.rows} == {index}


async def test_new_instances_of_one_limit_are_all_with_one_owner_so_that_it_holds_for_all_of_them() -> None:
    router, parts = routed()
    owners: dict[str, set[int]] = {}
    for key in ("k1", "k2", "k3", "k4"):
        options = StartOptions(limits=(FlowLimit("L", key, 1),))
        starts = [Start(("acme", f"run_{n}"), "W", "c" * 40, b"", is_new=True, options=options) for n in range(20)]
        for answer in [*await router.start_many(starts), await router.start(starts[0])]:
            assert isinstance(answer, Seen)
            owners.setdefault(key, set()).add(OWNERS[shard_of("acme", answer.row.instance)])
            assert answer.row.instance.startswith("run_")
    assert all(len(found) == 1 for found in owners.values())
    assert len(set[int]().union(*owners.values())) > 1
    assert sum(len(part.rows) for part in parts) == 4 * 21


async def test_an_id_that_was_asked_for_is_kept_whatever_limits_there_are() -> None:
    router, _ = routed()
    options = StartOptions(limits=(FlowLimit("L", "k", 1),))
    names = [f"i{n}" for n in range(9)]
    starts = [Start(("acme", name), "W", "c" * 40, b"", options=options) for name in names]
    answers = await router.start_many(starts)
    assert [answer.row.instance for answer in answers if isinstance(answer, Seen)] == names


@pytest.mark.parametrize(
    ("concurrency", "parts"), [(None, [None, None, None]), (7, [3, 2, 2]), (3, [1, 1, 1]), (1, [1, 1, 1])]
)
def test_a_tenants_concurrency_is_shared_out_and_each_part_has_one(
    concurrency: int | None, parts: list[int | None]
) -> None:
    found = [share_of_part(Share(5, concurrency), COUNT, number) for number in range(COUNT)]
    assert found == [Share(5, part) for part in parts]


async def test_many_starts_are_one_call_to_each_owner_and_answered_in_their_order() -> None:
    router, parts = routed()
    starts = [start(f"i{number}", "Taken" if number % 7 == 0 else "W") for number in range(40)]
    answers = await router.start_many(starts)
    assert [len(part.calls) for part in parts] == [1, 1, 1]
    for asked, answer in zip(starts, answers, strict=True):
        if asked.workflow == "Taken":
            assert isinstance(answer, Conflict)
        else:
            assert isinstance(answer, Seen)
            assert answer.row.instance == asked.key[1]


async def test_owner_that_is_away_fails_its_own_starts_only() -> None:
    router, parts = routed()
    parts[1].error = Unavailable("away", retry_after_s=1)
    starts = [start(f"i{number}") for number in range(40)]
    for asked, answer in zip(starts, await router.start_many(starts), strict=True):
        assert isinstance(answer, Unavailable) == (OWNERS[shard_of(*asked.key)] == 1)


async def test_owner_that_is_away_shows_in_the_vitals_and_never_in_a_set_of_commits() -> None:
    router, parts = routed()
    assert await router.vitals() == Vitals(True, 3, 6, 3)
    parts[2].error = Unavailable("away")
    assert await router.vitals() == Vitals(False, 3, 4, 2)
    with pytest.raises(Unavailable, match="away"):
        await router.commits("acme")  # garbage collection would take what it has not heard of


def place_of(wanted: search.Query, row: StoredRow) -> search.Place:
    return search.place_of(wanted, row.generation, row.row.updated_at_ms, row.row.attributes)


def page_of(router: RoutedInstances, *, limit: int, after: str | None, query: Query = EVERYTHING) -> Any:
    return router.page("acme", query, limit=limit, after=after)


@given(
    parts_times=st.lists(st.lists(st.integers(0, 6), max_size=12), min_size=COUNT, max_size=COUNT),
    limit=st.integers(1, 7),
    later=st.lists(st.integers(0, COUNT - 1), max_size=3),
)
def test_pages_join_to_one_list_newest_first_whatever_begins_meanwhile(
    parts_times: list[list[int]], limit: int, later: list[int]
) -> None:
    router, parts = routed()
    for number, (part, times) in enumerate(zip(parts, parts_times, strict=True)):
        part.rows = [stored(f"{number}-{key}", key, at) for key, at in enumerate(sorted(times), start=1)]
    whole = sorted(
        (-row.row.created_at_ms, index, -row.generation, row.instance)
        for index, part in enumerate(parts)
        for row in part.rows
    )
    found: list[StoredRow] = []
    cursor: str | None = None
    while True:
        rows, cursor = run(page_of(router, limit=limit, after=cursor))
        found += rows
        assert len(found) <= len(whole), "a page repeats what one before it had"
        for index in later:  # begins between two pages
            part = parts[index]
            part.rows.append(stored(f"later-{index}-{len(part.rows)}", len(part.rows) + 1, 9))
        if cursor is None:
            break
        assert len(rows) == limit
    assert [row.instance for row in found] == [item[-1] for item in whole]


things = st.tuples(st.integers(0, 4), st.none() | st.integers(0, 2))


@given(
    parts_things=st.lists(st.lists(things, max_size=6), min_size=COUNT, max_size=COUNT),
    limit=st.integers(1, 5),
    order=st.sampled_from(["created", "updated", "attributes.size"]),
    is_descending=st.booleans(),
)
def test_pages_of_every_order_join_to_that_order(
    parts_things: list[list[tuple[int, int | None]]], limit: int, order: str, is_descending: bool
) -> None:
    router, parts = routed()
    for number, (part, found) in enumerate(zip(parts, parts_things, strict=True)):
        part.rows = [
            # All of one time of making, so that the parts' order settles what is equal.
            stored(f"{number}-{key}", key, 0, updated_at_ms=updated, size=size)
            for key, (updated, size) in enumerate(found, start=1)
        ]
    query = Query(order=order, is_descending=is_descending)
    whole = [(index, row) for index, part in enumerate(parts) for row in part.rows]
    sign = -1 if is_descending else 1

    def key(item: tuple[int, StoredRow]) -> tuple[Any, ...]:
        index, row = item
        size = attributes.decode(row.row.attributes).get("size")
        if order == "created":
            return (index, sign * row.generation)
        if order == "updated":
            return (sign * row.row.updated_at_ms, index, sign * row.generation)
        return (1, index, -row.generation) if size is None else (0, sign * int(size), index, sign * row.generation)  # type: ignore[arg-type]

    found_rows: list[StoredRow] = []
    cursor: str | None = None
    while True:
        rows, cursor = run(page_of(router, limit=limit, after=cursor, query=query))
        found_rows += rows
        if cursor is None:
            break
        assert len(rows) == limit
    assert [row.instance for row in found_rows] == [row.instance for _, row in sorted(whole, key=key)]


async def test_matches_are_those_of_all_up_to_the_bound() -> None:
    router, parts = routed()
    for part, count in zip(parts, (1, 2, 3), strict=True):
        part.rows = [stored(f"{count}-{key}", key, 0) for key in range(count)]
    assert await router.matches("acme", Query(states=("waiting",))) == 6
    for part in parts[:2]:
        part.rows *= 9
    assert await router.matches("acme", Query(states=("waiting",))) == 10_001


def run(awaitable: Any) -> Any:
    import trio

    async def main() -> Any:
        return await awaitable

    return trio.run(main)


@pytest.mark.parametrize("cursor", ["", "7", "7:", "7:1.2", "6:..", "7:..x", "7:...", "17"])
async def test_cursor_of_something_else_is_refused(cursor: str) -> None:
    router, _ = routed()
    with pytest.raises(Refused) as refused:
        await page_of(router, limit=3, after=cursor)
    assert refused.value.code == "bad_request"


def test_a_search_crosses_the_channel_as_it_is() -> None:
    query = search_words(
        state="running,waiting",
        where={"due": {"<": datetime(2026, 3, 1, tzinfo=UTC)}, "amount": {"in": [1, 2.5, "x", True]}},
        order_by="-amount",
        created_from_ms=5,
    )
    sent = encode(("acme", query, 10, None))
    tenant, found, limit, after = METHODS["page"].arguments(sent)
    assert (tenant, found, limit, after) == ("acme", query, 10, None)
    values = [value for condition in found.where for value in condition.values]
    assert [type(value) for value in values] == [datetime, int, float, str, bool]


async def test_counts_are_those_of_all() -> None:
    router, parts = routed()
    for number in range(10):
        await router.start(start(f"i{number}"))
    assert await router.counts("acme") == {"waiting": 10}
    assert sum(len(part.rows) for part in parts) == 10


async def test_childs_end_goes_to_whoever_has_the_parent() -> None:
    parts = [Part() for _ in range(COUNT)]
    router = RoutedInstances(parts, OWNERS, layout=1)  # type: ignore[arg-type]  # as much of the port as is used
    await router.child_ended("acme", "boss", ChildEnd("call#1", "kid", "c" * 40, "complete", b"", None))
    owner = OWNERS[shard_of("acme", "boss")]
    assert [part.calls for part in parts] == [
        [("child_ended", "acme", "boss", "kid")] if index == owner else [] for index in range(COUNT)
    ]


async def test_children_are_closed_by_whoever_has_each_and_one_that_is_busy_keeps_none_of_the_others() -> None:
    parts = [Part() for _ in range(COUNT)]
    parts[1].error = Unavailable("busy", code="busy")
    router = RoutedInstances(parts, OWNERS, layout=1)  # type: ignore[arg-type]
    children = [f"kid-{number}" for number in range(30)]
    with pytest.raises(Unavailable):
        await router.close_children("acme", "boss", children)
    for index, part in enumerate(parts):
        mine = tuple(child for child in children if OWNERS[shard_of("acme", child)] == index)
        assert mine
        assert part.calls == [("close_children", "acme", "boss", mine)]
