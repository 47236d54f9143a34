"""Turns: whose work is next, and for how much of others' it waits at most. A virtual clock; work is sleeping."""

from __future__ import annotations

import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from executor.engine.turns import Turns

WORK_S = 20.0


class Story:
    """`begun`: who began, and when, in order."""

    def __init__(self, count_max: int, of_tenant_max: int) -> None:
        self.turns = Turns(count_max, of_tenant_max)
        self.begun: list[tuple[str, float]] = []
        self.running: list[str] = []
        self.most = 0
        self.most_of_one = 0

    async def work(self, tenant: str, seconds: float = WORK_S) -> None:
        async with self.turns.turn(tenant):
            self.begun.append((tenant, trio.current_time()))
            self.running.append(tenant)
            self.most = max(self.most, len(self.running))
            self.most_of_one = max(self.most_of_one, *map(self.running.count, self.running))
            try:
                await trio.sleep(seconds)
            finally:
                self.running.remove(tenant)

    def when(self, tenant: str) -> list[float]:
        return [at - self.begun[0][1] for name, at in self.begun if name == tenant]


async def test_a_tenant_with_much_waits_behind_itself_and_others_begin_at_once(autojump_clock: MockClock) -> None:
    story = Story(4, 2)
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(story.work, "hostile")
        await wait_all_tasks_blocked()
        nursery.start_soon(story.work, "polite")
    assert story.when("polite") == [0]
    assert story.when("hostile") == [0, 0, 20, 20, 40, 40, 60, 60, 80, 80]


async def test_last_free_place_is_kept_for_whoever_has_nothing_under_way(autojump_clock: MockClock) -> None:
    story = Story(4, 2)
    async with trio.open_nursery() as nursery:
        for tenant in ("a", "a", "b", "b", "b"):
            nursery.start_soon(story.work, tenant)
            await wait_all_tasks_blocked()
        assert story.running == ["a", "a", "b"]
        await story.work("polite", 1)
    assert story.when("polite") == [0]


async def test_one_that_asked_for_little_waits_for_the_first_free_place_whatever_others_have_waiting(
    autojump_clock: MockClock,
) -> None:
    story = Story(4, 2)
    waited: list[float] = []

    async def polite() -> None:
        await trio.sleep(8 * WORK_S + 1)  # Each of the others has had its first turn.
        for _ in range(5):
            asked_at = trio.current_time()
            await story.work("polite", 0.1)
            waited.append(trio.current_time() - asked_at)
            await trio.sleep(WORK_S / 3)

    async with trio.open_nursery() as nursery:
        for number in range(30):
            for _ in range(10):
                nursery.start_soon(story.work, f"hostile {number}")
        nursery.start_soon(polite)
    assert len(waited) == 5
    assert max(waited) <= WORK_S + 0.1


async def test_newcomers_are_served_once_each_before_one_of_them_is_served_again(autojump_clock: MockClock) -> None:
    story = Story(4, 2)
    async with trio.open_nursery() as nursery:
        for number in range(30):
            for _ in range(10):
                nursery.start_soon(story.work, f"hostile {number}")
        await wait_all_tasks_blocked()
        nursery.start_soon(story.work, "polite")
    assert story.when("polite") == [7 * WORK_S]  # 30 before it, four at a time


async def test_turns_go_round_between_tenants_and_by_arrival_within_one(autojump_clock: MockClock) -> None:
    story = Story(1, 1)
    async with trio.open_nursery() as nursery:
        for tenant in ("a", "a", "a", "b", "b", "c"):
            nursery.start_soon(story.work, tenant, 1)
            await wait_all_tasks_blocked()
    assert [name for name, _ in story.begun] == ["a", "b", "c", "a", "b", "a"]


async def test_whoever_takes_less_time_has_more_turns(autojump_clock: MockClock) -> None:
    story = Story(1, 1)
    async with trio.open_nursery() as nursery:
        for tenant, seconds in (("long", 4.0), ("short", 1.0)):
            for _ in range(20):
                nursery.start_soon(story.work, tenant, seconds)
    first = [name for name, _ in story.begun[:25]]
    assert (first.count("long"), first.count("short")) == (5, 20)


async def test_what_was_taken_is_forgotten_with_time(autojump_clock: MockClock) -> None:
    """Else one that took much would wait for newcomers, as long as there are any."""
    story = Story(1, 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(story.work, "much", 4)
        await wait_all_tasks_blocked()
        nursery.start_soon(story.work, "much", 1)
        for number in range(700):
            nursery.start_soon(story.work, f"newcomer {number}", 1)
            await trio.sleep(1)
    [_, again] = story.when("much")
    assert 500 < again < 600


async def test_many_short_turns_are_as_much_as_a_long_one(autojump_clock: MockClock) -> None:
    """Else one that takes a moment, again and again, would count as one that took nothing."""
    story = Story(1, 1)
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(story.work, "hostile", 0.002)
        await trio.sleep(0.05)
        assert len(story.when("hostile")) > 10
        before = len(story.begun)
        await story.work("polite", 1)
    assert [name for name, _ in story.begun[before:]].index("polite") <= 1


async def test_one_that_gives_up_leaves_its_place_to_others_and_nothing_behind(autojump_clock: MockClock) -> None:
    story = Story(1, 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(story.work, "a", 5)
        await wait_all_tasks_blocked()
        with trio.move_on_after(1):
            await story.work("b")
        nursery.start_soon(story.work, "c", 5)
    assert story.when("c") == [5]
    assert len(story.turns) == 0


async def test_place_given_to_one_that_gives_up_at_that_moment_is_given_on(autojump_clock: MockClock) -> None:
    story = Story(1, 1)
    scope = trio.CancelScope()

    async def fickle() -> None:
        with scope:
            await story.work("b")

    async with trio.open_nursery() as nursery:
        async with story.turns.turn("a"):
            nursery.start_soon(fickle)
            await wait_all_tasks_blocked()
            nursery.start_soon(story.work, "c", 1)
            await wait_all_tasks_blocked()
            scope.cancel()  # It gives up, and before it knows, the place is its.
    assert [name for name, _ in story.begun] == ["c"]
    assert len(story.turns) == 0


pieces = st.lists(
    st.tuples(st.sampled_from("abcd"), st.integers(0, 3), st.integers(0, 5), st.none() | st.integers(1, 9)), max_size=30
)


@given(pieces, st.integers(1, 4), st.integers(1, 2))
def test_whatever_comes_no_bound_is_exceeded_and_all_that_wait_get_their_turn(
    story_of: list[tuple[str, int, int, int | None]], count_max: int, of_tenant_max: int
) -> None:
    story = Story(count_max, of_tenant_max)
    done: list[int] = []

    async def one(number: int, tenant: str, seconds: int, patience_s: int | None) -> None:
        with trio.move_on_after(float("inf") if patience_s is None else patience_s):
            await story.work(tenant, seconds)
            done.append(number)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for number, (tenant, pause_s, seconds, patience_s) in enumerate(story_of):
                await trio.sleep(pause_s)
                nursery.start_soon(one, number, tenant, seconds, patience_s)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert {number for number, piece in enumerate(story_of) if piece[3] is None} <= set(done)
    assert story.most <= count_max
    assert story.most_of_one <= of_tenant_max
    assert len(story.turns) == 0
