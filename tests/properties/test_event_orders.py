"""P10: events to different waits commute; those to the same wait are received in the order in which they were sent."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.executor.fake_executor import Story, in_process

QUICK = settings.default.max_examples if settings.default is not None else 50
SOURCE = """
import asyncio
from executor.workflow import *

class Job(Workflow):
    async def run(self, event, step):
        async def listen(branch, wants):
            got = []
            for type, match in wants:
                received = await step.wait_for_event(branch, type=type, match=match)
                got.append(received.payload)
                if len(got) % 2:
                    await step.do(branch, lambda: branch)
            return got
        names = sorted(event.payload)
        found = await asyncio.gather(*(listen(name, event.payload[name]) for name in names))
        return dict(zip(names, found))
"""
BRANCHES = ("a", "b", "c")


@st.composite
def waits_and_events(draw) -> tuple[dict[str, list[Any]], list[tuple[str, Any]], list[tuple[str, Any]]]:
    """Branches, each with a type (or a key of the same type) of its own and how often it waits; the events that satisfy
    them, in two orders that agree for each branch."""
    counts = {name: draw(st.integers(0, 4)) for name in BRANCHES}
    is_matched = draw(st.booleans())
    wants = {
        name: [["t", {"of": name}] if is_matched else [f"t {name}", None] for _ in range(count)]
        for name, count in counts.items()
    }
    order = [name for name, count in counts.items() for _ in range(count)]
    extra = draw(st.integers(0, 2))  # that nobody waits for
    shuffled = [draw(st.permutations(order)) for _ in range(2)]
    told = []
    for names in shuffled:
        numbers = dict.fromkeys(BRANCHES, 0)
        events: list[tuple[str, Any]] = []
        for name in names:
            numbers[name] += 1
            events.append(("t" if is_matched else f"t {name}", {"of": name, "number": numbers[name]}))
        for number in range(extra):
            events.insert(draw(st.integers(0, len(events))), ("nobody's", number))
        told.append(events)
    return wants, told[0], told[1]


@settings(max_examples=QUICK)
@given(waits_and_events(), st.integers(0, 1000), st.integers(0, 1000), st.booleans())
def test_events_to_different_waits_commute_and_to_the_same_keep_their_order(drawn, order, other, evict) -> None:
    """P10: before, between and after the waits, in runs that stay and in those that are evicted."""
    wants, first, second = drawn

    async def main() -> None:
        async with in_process(SOURCE) as executor:
            one = await executor.play(Story("Job", wants, order=order, events=first))
            two = await executor.play(Story("Job", wants, order=other, events=second), evict=evict)
        assert one.result == two.result
        for name, got in one.result.items():
            assert [payload["number"] for payload in got] == list(range(1, len(wants[name]) + 1))
            assert {payload["of"] for payload in got} <= {name}

    asyncio.run(main())
