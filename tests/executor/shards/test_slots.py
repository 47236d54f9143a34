"""Laws of the ledger: never more than a limit allows over all processes, in the order of asking, and nothing is lost."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from executor.core.entries import FlowLimit
from executor.shards.slots import Limits, SlotLedger

ONE = (FlowLimit("one", "k", 1),)
THREE = (FlowLimit("three", "k", 3),)
OTHER = (FlowLimit("other", "k2", 1),)
BOTH = (*ONE, *OTHER)


class Process:
    """One that begins what it is let, and remembers it in order."""

    def __init__(self, ledger: SlotLedger) -> None:
        self.ledger = ledger
        self.has: list[tuple[str, Limits]] = []
        self.waits: list[tuple[str, Limits]] = []

    def ask(self, limits: Limits, tenant: str = "t") -> bool:
        has_it = self.ledger.take(self, tenant, limits)
        (self.has if has_it else self.waits).append((tenant, limits))
        return has_it

    def give(self, index: int = 0) -> None:
        self.ledger.give(self, *self.has.pop(index))

    def tell(self, name: str, *arguments: Any) -> None:
        assert name == "slot_granted"
        tenant, limits = arguments
        self.waits.remove((tenant, limits))
        self.has.append((tenant, limits))


def processes(count: int = 3) -> tuple[SlotLedger, list[Process]]:
    ledger = SlotLedger()
    return ledger, [Process(ledger) for _ in range(count)]


def test_slots_go_to_those_who_ask_in_the_order_of_asking() -> None:
    ledger, (a, b, c) = processes()
    assert [a.ask(ONE), b.ask(ONE), c.ask(ONE)] == [True, False, False]
    a.give()
    assert a.ask(ONE) is False
    assert (b.has, c.has, a.has) == ([("t", ONE)], [], [])
    b.give()
    assert (c.has, a.has) == ([("t", ONE)], [])
    c.give()
    assert a.has == [("t", ONE)]
    a.give()
    assert len(ledger) == 0


def test_the_same_key_of_another_tenant_is_another_limit() -> None:
    _, (a, b, _) = processes()
    assert [a.ask(ONE, "t"), b.ask(ONE, "u")] == [True, True]


def test_who_waits_for_two_limits_holds_none_and_lets_nobody_pass() -> None:
    _, (a, b, c) = processes()
    assert a.ask(ONE)
    assert not b.ask(BOTH)
    assert not c.ask(OTHER)
    a.give()
    assert b.has == [("t", BOTH)]
    b.give()
    assert c.has == [("t", OTHER)]


def test_one_with_a_smaller_count_is_not_starved_by_those_with_a_larger() -> None:
    _, (a, b, c) = processes()
    assert [a.ask(THREE), a.ask(THREE)] == [True, True]
    assert [b.ask(ONE), c.ask(THREE)] == [False, False]
    a.give()
    assert (b.has, c.has) == ([], [])
    a.give()
    assert (b.has, c.has) == ([("t", ONE)], [("t", THREE)])


def test_a_lost_process_gives_back_all_that_it_has_and_waits_for() -> None:
    ledger, (a, b, c) = processes()
    assert [a.ask(THREE), a.ask(THREE), a.ask(OTHER)] == [True, True, True]
    assert [a.ask(ONE), b.ask(ONE), c.ask(OTHER)] == [False, False, False]
    ledger.lost(a)
    assert (b.has, c.has) == ([("t", ONE)], [("t", OTHER)])
    b.give()
    c.give()
    ledger.lost(b)
    assert len(ledger) == 0


def test_asks_of_a_lost_process_stand_in_nobodys_way() -> None:
    ledger, (a, b, c) = processes()
    assert [a.ask(ONE), b.ask(BOTH), c.ask(OTHER)] == [True, False, False]
    ledger.lost(b)
    assert (c.has, b.has) == ([("t", OTHER)], [])


_LIMITS = st.sampled_from([ONE, THREE, OTHER, BOTH])


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("ask"), st.integers(0, 2), _LIMITS),
            st.tuples(st.just("give"), st.integers(0, 2), st.integers(0, 50)),
            st.tuples(st.just("lost"), st.integers(0, 2)),
        ),
        max_size=80,
    )
)
def test_over_any_schedule_no_limit_is_exceeded_and_all_that_ask_get_their_turn(
    schedule: list[tuple[object, ...]],
) -> None:
    ledger, living = processes()
    for action in schedule:
        match action:
            case ("ask", int(number), limits):
                process = living[number]
                if ("t", limits) not in process.waits:
                    process.ask(limits)  # type: ignore[arg-type]
            case ("give", int(number), int(index)) if living[number].has:
                living[number].give(index % len(living[number].has))
            case ("lost", int(number)):
                ledger.lost(living[number])
                living[number] = Process(ledger)
        held = [limits for process in living for _, limits in process.has]
        used = Counter(limit.key for limits in held for limit in limits)
        for limits in held:
            # One that was begun under a larger count may have more beside it.
            assert all(used[limit.key] <= (3 if limit.key == "k" else 1) for limit in limits)
        assert len(ledger) == used.total() + sum(len(process.waits) for process in living)
    for _ in range(1_000):
        able = [process for process in living if process.has]
        if not able:
            break
        able[0].give()
    assert [process.waits for process in living] == [[], [], []]
    assert len(ledger) == 0
