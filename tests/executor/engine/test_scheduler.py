"""The queue: fair turns by weight, priorities, limits that hold up nobody else, and positions."""

from __future__ import annotations

from collections import Counter, deque
from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from executor.core.entries import FlowLimit
from executor.engine.places import Places
from executor.engine.resident import Key
from executor.engine.scheduler import LEFT_MIN, FairQueue, Queued, Waiting
from executor.ports import Share

ONE = FlowLimit("one at a time", "k", 1)
TWO = FlowLimit("two at a time", "k2", 2)
EVERY = 1_000_000


def queue_of(places: int = EVERY, share: int = EVERY) -> tuple[FairQueue, Places]:
    found = Places(places, share)
    return FairQueue(found), found


def drain(queue: FairQueue) -> list[str]:
    """Ids in the order they are taken, each without keeping its place."""
    return [queued.key[1] for queued in iter(queue.take, None)]


def begin(queue: FairQueue, places: Places) -> Queued | None:
    queued = queue.take()
    if queued is not None:
        places.take(queued.key, queued.limits)
    return queued


def test_a_key_is_in_the_queue_at_most_once() -> None:
    queue, _ = queue_of()
    queue.put(("t", "a"))
    queue.put(("t", "a"), priority=5)
    assert (len(queue), queue.count_of("t"), queue.ready) == (1, 1, 1)
    assert queue.take() == Queued(("t", "a"), 0, ())
    assert (queue.take(), len(queue), queue.count_of("t"), queue.ready) == (None, 0, 0, 0)


def test_tenants_take_turns_and_within_one_it_is_first_in_first_out() -> None:
    queue, _ = queue_of()
    for name in ("a1", "a2", "a3"):
        queue.put(("a", name))
    for name in ("b1", "b2"):
        queue.put(("b", name))
    assert drain(queue) == ["a1", "b1", "a2", "b2", "a3"]


def test_higher_priority_goes_first_among_the_tenants_own_and_touches_nobody_else() -> None:
    queue, _ = queue_of()
    queue.put(("a", "a1"))
    queue.put(("a", "low"), priority=-100)
    queue.put(("a", "high"), priority=100, limits=(TWO,))
    queue.put(("a", "a2"))
    queue.put(("b", "b1"), priority=-100)
    assert drain(queue) == ["high", "b1", "a1", "a2", "low"]


def test_weights_are_the_ratio_of_turns() -> None:
    queue, places = queue_of()
    places.set_share("a", Share(weight=3))
    for number in range(40):
        queue.put(("a", f"a{number}"))
        queue.put(("b", f"b{number}"))
    assert Counter(name[0] for name in drain(queue)[:40]) == {"a": 30, "b": 10}


def test_what_is_behind_a_full_limit_blocks_no_other() -> None:
    queue, places = queue_of()
    for name in ("k1", "k2", "k3"):
        queue.put(("a", name), limits=(ONE,), priority=9)
    queue.put(("a", "free"))
    first = begin(queue, places)
    assert first is not None
    assert first.key == ("a", "k1")
    assert drain(queue) == ["free"]
    assert (len(queue), queue.ready, queue.wants_places) == (2, 0, False)
    places.release(first.key)
    assert (queue.ready, queue.wants_places) == (2, True)
    assert [queued.key[1] if (queued := begin(queue, places)) else None for _ in range(2)] == ["k2", None]


def test_the_same_key_of_another_tenant_is_another_limit() -> None:
    queue, places = queue_of()
    queue.put(("a", "a1"), limits=(ONE,))
    queue.put(("b", "b1"), limits=(ONE,))
    assert [begin(queue, places), begin(queue, places)] == [
        Queued(("a", "a1"), 0, (ONE,)),
        Queued(("b", "b1"), 0, (ONE,)),
    ]


def test_each_obeys_the_count_that_it_was_started_with() -> None:
    """A deployment that changes the limit changes it for what is started from then on."""
    queue, places = queue_of()
    three = FlowLimit("k", "k", 3)
    places.take(("a", "x"), (three,))
    queue.put(("a", "old"), limits=(ONE,))
    queue.put(("a", "new"), limits=(three,))
    assert drain(queue) == ["new"]


def test_a_tenant_that_has_its_concurrency_waits_for_a_place_of_its_own() -> None:
    queue, places = queue_of()
    places.set_share("a", Share(concurrency=1))
    for name in ("a1", "a2"):
        queue.put(("a", name))
    queue.put(("b", "b1"))
    taken = [begin(queue, places) for _ in range(3)]
    assert [queued and queued.key[1] for queued in taken] == ["a1", "b1", None]
    assert queue.waiting(("a", "a2")) == Waiting("tenant", 1)
    assert (queue.ready, queue.wants_places) == (0, True)
    places.release(("b", "b1"))
    assert queue.take() is None
    places.release(("a", "a1"))
    assert queue.take() == Queued(("a", "a2"), 0, ())


def test_a_raised_concurrency_counts_at_once() -> None:
    queue, places = queue_of(share=5)
    places.set_share("a", Share(concurrency=1))
    queue.put(("a", "a1"))
    queue.put(("a", "a2"))
    assert begin(queue, places) is not None
    assert begin(queue, places) is None
    places.set_share("a", Share())
    assert begin(queue, places) == Queued(("a", "a2"), 0, ())


def test_positions_count_those_before_it_with_the_same_limits() -> None:
    queue, places = queue_of()
    for name in ("k1", "k2", "k3"):
        queue.put(("a", name), limits=(ONE,))
    queue.put(("a", "k4"), limits=(ONE,), priority=1)
    queue.put(("a", "free"))
    assert queue.waiting(("a", "k2")) == Waiting("platform", 3)
    assert queue.waiting(("a", "k4")) == Waiting("platform", 1)
    assert queue.waiting(("a", "free")) == Waiting("platform", 1)
    assert begin(queue, places) == Queued(("a", "k4"), 1, (ONE,))
    assert queue.waiting(("a", "k1")) == Waiting("one at a time", 1)
    assert queue.waiting(("a", "k3")) == Waiting("one at a time", 3)
    assert queue.waiting(("a", "k4")) is None


def test_a_pause_saves_up_no_turns() -> None:
    queue, _ = queue_of()
    for number in range(20):
        queue.put(("a", f"a{number}"))
    assert [queue.take() is not None for _ in range(10)] == [True] * 10
    for number in range(5):
        queue.put(("b", f"b{number}"))
    assert [name[0] for name in drain(queue)[:6]] == ["b", "a", "b", "a", "b", "a"]


def test_what_overtakes_again_and_again_leaves_nothing_behind_in_memory() -> None:
    queue, _ = queue_of()
    queue.put(("a", "low"), priority=-1)
    for number in range(1_000):
        queue.put(("a", f"{number}"))
        assert queue.take() == Queued(("a", f"{number}"), 0, ())
    assert len(queue._tenants["a"].offers) == 1


def test_tenants_that_come_and_go_are_forgotten() -> None:
    """Their times matter only while somebody waits who could be overtaken."""
    queue, _ = queue_of()
    for number in range(10_000):
        queue.put(("stays", f"{number}"))
    for number in range(5_000):
        queue.put((f"t{number}", "x"))
        queue.take()
        queue.take()
    assert len(queue._left) <= LEFT_MIN + 2
    drain(queue)
    assert queue._left == {}


def test_a_hundred_thousand_of_one_tenant_delay_the_single_start_of_another_by_one() -> None:
    """P19, in the size that the promise names."""
    queue, _ = queue_of()
    for number in range(100_000):
        queue.put(("big", f"{number}"))
    assert queue.take() is not None
    queue.put(("small", "s"))
    assert [queued.key[0] for _ in range(2) if (queued := queue.take())].count("small") == 1


@given(
    st.lists(st.tuples(st.integers(1, 100), st.integers(0, 40)), min_size=1, max_size=6),
    st.integers(1, 100),
    st.integers(0, 60),
    st.booleans(),
    st.data(),
)
def test_a_single_start_waits_for_a_bounded_number_of_activations(
    others: list[tuple[int, int]], weight: int, before: int, has_just_run: bool, data: st.DataObject
) -> None:
    """P19: whatever the others have queued, and come with meanwhile, the bound of the module's text holds."""
    queue, places = queue_of()
    numbers = count()
    places.set_share("mine", Share(weight=weight))
    for index, (other, queued) in enumerate(others):
        places.set_share(f"t{index}", Share(weight=other))
        for _ in range(queued):
            queue.put((f"t{index}", f"{next(numbers)}"))
    for _ in range(before):
        queue.take()
    if has_just_run:
        queue.put(("mine", "earlier"))
        while (queued_now := queue.take()) is not None and queued_now.key[0] != "mine":
            pass
    queue.put(("mine", "single"))
    bound = sum(other // weight + 1 for other, _ in others)
    taken = 0
    while (queued_now := queue.take()) is not None and queued_now.key[0] != "mine":
        taken += 1
        if data.draw(st.booleans()):  # they go on coming
            queue.put((queued_now.key[0], f"{next(numbers)}"))
            index = data.draw(st.integers(0, len(others) - 1))
            queue.put((f"t{index}", f"{next(numbers)}"))
    assert queued_now == Queued(("mine", "single"), 0, ())
    assert taken <= bound


class Model:
    """What may be taken, by looking at everything."""

    def __init__(self, places: int, share: int) -> None:
        self.places, self.share_max = places, share
        self.queued: deque[Queued] = deque()
        self.running: list[Queued] = []

    def may_begin(self, queued: Queued) -> bool:
        own = [other for other in self.running if other.key[0] == queued.key[0]]
        used = Counter(limit.key for other in own for limit in other.limits)
        return len(own) < self.share_max and all(used[limit.key] < limit.count for limit in queued.limits)

    def best_of(self, tenant: str) -> Queued | None:
        able = [one for one in self.queued if one.key[0] == tenant and self.may_begin(one)]
        return min(able, key=lambda one: (-one.priority, self.queued.index(one)), default=None)


_LIMITS = st.sampled_from([(), (ONE,), (TWO,), (ONE, TWO), (FlowLimit("k", "k", 3),)])


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.sampled_from("ab"), st.integers(-2, 2), _LIMITS),
            st.tuples(st.just("take")),
            st.tuples(st.just("end"), st.integers(0, 50)),
        ),
        max_size=120,
    )
)
def test_over_any_schedule_no_limit_is_exceeded_and_nobody_who_may_begin_is_passed_over(
    schedule: list[tuple[object, ...]],
) -> None:
    queue, places = queue_of(5, 4)
    model = Model(5, 4)
    numbers = count()
    for action in schedule:
        match action:
            case ("put", str(tenant), int(priority), tuple(limits)):
                one = Queued((tenant, f"{next(numbers)}"), priority, limits)
                queue.put(one.key, priority=priority, limits=limits)
                model.queued.append(one)
            case ("take",) if places.has_room:
                taken = begin(queue, places)
                able = {tenant: model.best_of(tenant) for tenant in "ab"}
                if taken is None:
                    assert able == {"a": None, "b": None}
                else:
                    assert taken == able[taken.key[0]]
                    model.queued.remove(taken)
                    model.running.append(taken)
            case ("end", int(index)) if model.running:
                ended = model.running.pop(index % len(model.running))
                places.release(ended.key)
        assert len(queue) == len(model.queued)
        assert places.total == len(model.running)
        for one in model.queued:
            line = [other for other in model.queued if other.key[0] == one.key[0] and other.limits == one.limits]
            order = sorted(line, key=lambda other: (-other.priority, model.queued.index(other)))
            found = queue.waiting(one.key)
            assert found is not None
            assert found.position == order.index(one) + 1


def test_a_second_place_of_the_same_instance_counts_once_towards_its_limits() -> None:
    """An activation has a place, and the run that it begins has one of its own."""
    places = Places(9, 9)
    key: Key = ("a", "x")
    places.take(key, (TWO,))
    places.take(key, (TWO,))
    assert places.full(("a", "y"), (TWO,)) is None
    places.release(key)
    places.take(("a", "y"), (TWO,))
    assert places.full(("a", "z"), (TWO,)) == TWO
    places.release(key)
    assert places.full(("a", "z"), (TWO,)) is None
    assert places.total == 1
