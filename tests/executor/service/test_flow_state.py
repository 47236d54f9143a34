"""Locks of places: one holder each, no two who want several wait for each other, and nothing is left behind."""

from __future__ import annotations

import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from executor.service.flow_state import FlowState, Locks

places = st.lists(st.tuples(st.just("acme"), st.sampled_from("abc")), max_size=4)
stories = st.lists(st.tuples(places, st.integers(0, 3), st.none() | st.integers(0, 4)), max_size=8)


@given(stories)
def test_each_place_has_one_holder_all_come_to_their_turn_and_nothing_stays(
    story: list[tuple[list[tuple[str, str]], int, int | None]],
) -> None:
    locks = Locks()
    held: set[tuple[str, str]] = set()
    done: list[int] = []

    async def one(number: int, wanted: list[tuple[str, str]], seconds: int, patience_s: int | None) -> None:
        with trio.move_on_after(float("inf") if patience_s is None else patience_s):
            async with locks.held(wanted):
                assert held.isdisjoint(wanted)
                held.update(wanted)
                try:
                    await trio.sleep(seconds)
                finally:
                    held.difference_update(wanted)
            done.append(number)

    async def main() -> None:
        with trio.fail_after(1_000):
            async with trio.open_nursery() as nursery:
                for number, (wanted, seconds, patience_s) in enumerate(story):
                    nursery.start_soon(one, number, wanted, seconds, patience_s)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert {number for number, (_, _, patience_s) in enumerate(story) if patience_s is None} <= set(done)
    assert len(locks) == 0


def test_what_is_remembered_of_a_tenant_goes_with_it() -> None:
    state = FlowState()
    for tenant in ("acme", "other"):
        state.owe((tenant, "k"), 1)
        state.give((tenant, "i"), 1)
    state.forget("acme")
    assert (list(state.debts), list(state.given)) == ([("other", "k")], [("other", "i")])
