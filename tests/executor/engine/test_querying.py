"""Queries of tenants that ask for much delay nobody else's beyond a bound; whose turn it is: test_turns.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from executor.core.errors import Refused
from executor.engine.querying import QUESTION_S_MAX
from executor.engine.resident import Key
from executor.ports import Queried
from tests.executor.engine.world import World, world

ANSWER = Queried([], [], False, 1)


async def query(w: World, tenant: str) -> None:
    await w.engine.querying.query((tenant, "one"), sql="SELECT 1", parameters=b"\x90", limit=1)


def endless_but_for(w: World, monkeypatch: pytest.MonkeyPatch, polite: str) -> list[str]:
    """Whose questions were begun; those of all but one tenant are stopped when their time is up."""
    begun: list[str] = []

    async def answer(key: Key, _question: object) -> Queried:
        begun.append(key[0])
        if key[0] != polite:
            await trio.sleep_forever()
        return ANSWER

    monkeypatch.setattr(w.engine.querying, "_query", answer)
    return begun


async def test_two_tenants_with_endless_queries_leave_a_place_to_a_third(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world(tmp_path) as w, trio.open_nursery() as nursery:
        begun = endless_but_for(w, monkeypatch, "polite")
        for tenant in ("a", "b"):
            for _ in range(20):
                nursery.start_soon(query, w, tenant)
        await wait_all_tasks_blocked()
        assert sorted(begun) in (["a", "a", "b"], ["a", "b", "b"])
        for _ in range(3):
            await query(w, "polite")
        nursery.cancel_scope.cancel()


async def test_many_tenants_with_endless_queries_delay_one_that_asks_for_little_by_one_query(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    async def stopped(w: World, tenant: str) -> None:
        with pytest.raises(Refused):
            await query(w, tenant)

    async with world(tmp_path) as w, trio.open_nursery() as nursery:
        endless_but_for(w, monkeypatch, "polite")
        for number in range(8):
            for _ in range(10):
                nursery.start_soon(stopped, w, f"hostile {number}")
        await trio.sleep(2 * QUESTION_S_MAX + 1)  # Each of them has had a place.
        for _ in range(3):
            asked_at = trio.current_time()
            await query(w, "polite")
            assert trio.current_time() - asked_at <= QUESTION_S_MAX
        nursery.cancel_scope.cancel()
