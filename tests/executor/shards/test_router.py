"""Laws of the router: each instance has one owner, and what is asked of all is one answer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor.core.errors import Conflict, PerdureError, Refused, Unavailable
from executor.ports import Row, Seen, Start, StoredRow, Vitals
from executor.shards.router import RoutedInstances
from facets import shard_of

COUNT = 3
OWNERS = [shard % COUNT for shard in range(64)]


def stored(instance: str, generation: int, at_ms: int) -> StoredRow:
    return StoredRow("acme", instance, generation, 1, Row("waiting", None, "W", "c" * 40, at_ms, at_ms, b""))


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

    async def page(
        self, tenant: str, *, limit: int, after: str | None, **_filters: str | None
    ) -> tuple[list[StoredRow], str | None]:
        assert tenant == "acme"
        older = [row for row in reversed(self.rows) if after is None or row.generation < int(after)]
        return older[:limit], str(older[limit - 1].generation) if len(older) > limit else None

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


def page_of(router: RoutedInstances, *, limit: int, after: str | None) -> Any:
    return router.page("acme", state=None, workflow=None, commit=None, limit=limit, after=after)


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


def run(awaitable: Any) -> Any:
    import trio

    async def main() -> Any:
        return await awaitable

    return trio.run(main)


@pytest.mark.parametrize("cursor", ["", "7", "7:", "7:1.2", "6:1.2.3", "7:1.2.x", "7:1.2.3.4", "17"])
async def test_cursor_of_something_else_is_refused(cursor: str) -> None:
    router, _ = routed()
    with pytest.raises(Refused) as refused:
        await page_of(router, limit=3, after=cursor)
    assert refused.value.code == "bad_request"


async def test_counts_are_those_of_all() -> None:
    router, parts = routed()
    for number in range(10):
        await router.start(start(f"i{number}"))
    assert await router.counts("acme") == {"waiting": 10}
    assert sum(len(part.rows) for part in parts) == 10
