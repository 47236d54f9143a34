"""Laws of the channel between two processes of one executor: both ends here are in one."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from executor.core.errors import Conflict, Unavailable
from executor.shards.calls import METHODS
from executor.shards.channel import PART_BYTES, Call, Channel

Answering = Callable[[Channel, list[Call]], None]


@asynccontextmanager
async def joined(answering: Answering, **bounds: int) -> AsyncGenerator[tuple[Channel, Channel, list[int]]]:
    """Caller, callee, and the numbers of the calls that were cancelled at the callee."""
    one, other = socket.socketpair()
    cancelled: list[int] = []
    callee: Channel
    caller = Channel(
        one, on_calls=lambda _: None, on_cancel=lambda _: None, lost=Unavailable("gone", retry_after_s=1), **bounds
    )
    callee = Channel(
        other,
        on_calls=lambda calls: answering(callee, calls),
        on_cancel=cancelled.append,
        lost=Unavailable("gone"),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(caller.run)
        nursery.start_soon(callee.run)
        yield caller, callee, cancelled
        nursery.cancel_scope.cancel()


def nothing(_channel: Channel, _calls: list[Call]) -> None:
    """Never answer."""


async def test_calls_of_one_moment_arrive_together_and_each_gets_its_own_answer() -> None:
    seen: list[int] = []

    def answering(channel: Channel, calls: list[Call]) -> None:
        seen.append(len(calls))
        for call in reversed(calls):
            [tenant] = METHODS["counts"].arguments(call.arguments)
            channel.answer(call.number, {tenant: call.number})

    async with joined(answering) as (caller, _, _):
        answers: dict[str, dict[str, int]] = {}

        async def ask(name: str) -> None:
            answers[name] = await caller.call("counts", name)

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(ask, f"t{number}")
    assert all(list(answer) == [name] for name, answer in answers.items())
    assert len(answers) == 50
    assert len(seen) <= 2


async def test_error_arrives_as_it_was_raised() -> None:
    error = Conflict("it is there", code="instance_exists", hint="Take another.", workflow="W", size=3)

    def answering(channel: Channel, calls: list[Call]) -> None:
        for call in calls:
            channel.fail(call.number, error)

    async with joined(answering) as (caller, _, _):
        with pytest.raises(Conflict) as raised:
            await caller.call("counts", "acme")
    assert raised.value.to_json() == error.to_json()


async def test_cancelled_caller_leaves_at_once_and_the_other_end_is_told() -> None:
    async with joined(nothing) as (caller, _, cancelled):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(caller.call, "counts", "acme")
                await wait_all_tasks_blocked()
                assert not cancelled
                scope.cancel()
        await wait_all_tasks_blocked()
        assert cancelled == [1]


async def test_one_call_too_many_is_refused_with_what_is_full_and_when_to_come_again() -> None:
    async with joined(nothing, calls_max=2) as (caller, _, _), trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(caller.call, "counts", "acme")
        await wait_all_tasks_blocked()
        with pytest.raises(Unavailable, match="bound of calls under way: 2 of 2") as full:
            await caller.call("counts", "acme")
        assert (full.value.code, full.value.details["retry_after_s"], full.value.details["full"]) == (
            "busy",
            1,
            "calls",
        )
        nursery.cancel_scope.cancel()


async def test_bytes_of_arguments_under_way_are_bounded_and_given_back() -> None:
    taken: list[Call] = []
    async with joined(lambda _, calls: taken.extend(calls), bytes_max=1000) as (caller, callee, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller.call, "send_event", "acme", "i", "e", "go", bytes(900))
            await wait_all_tasks_blocked()
            with pytest.raises(Unavailable, match="bound of bytes"):
                await caller.call("send_event", "acme", "i", "e", "go", bytes(200))
            callee.answer(taken[0].number, True)
        with trio.move_on_after(0):
            await caller.call("send_event", "acme", "i", "e", "go", bytes(900))  # there is room again
        assert len(taken) <= 2


async def test_long_answer_is_cut_and_a_short_one_overtakes_it() -> None:
    image = bytes(range(256)) * (40 * PART_BYTES // 256)
    order: list[str] = []

    def answering(channel: Channel, calls: list[Call]) -> None:
        for call in calls:
            channel.answer(call.number, image if call.method == "image" else {"a": 1})

    async with joined(answering) as (caller, _, _):

        async def large() -> None:
            assert await caller.call("image", "acme", "i") == image
            order.append("large")

        async def small() -> None:
            await caller.call("counts", "acme")
            order.append("small")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(large)
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            nursery.start_soon(small)
    assert order == ["small", "large"]


async def test_peer_that_does_not_read_holds_up_those_who_make_large_answers() -> None:
    one, other = socket.socketpair()
    channel = Channel(one, on_calls=lambda _: None, on_cancel=lambda _: None, lost=Unavailable("gone"))
    made = 0

    async def make() -> None:
        nonlocal made
        for number in range(100):
            await channel.room()
            channel.answer(number, bytes(1024 * 1024))
            made += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(channel.run)
        nursery.start_soon(make)
        await wait_all_tasks_blocked()
        assert 8 <= made <= 10
        nursery.cancel_scope.cancel()
    other.close()


async def test_all_who_wait_are_told_when_the_other_end_is_gone() -> None:
    one, other = socket.socketpair()
    caller = Channel(one, on_calls=lambda _: None, on_cancel=lambda _: None, lost=Unavailable("gone", retry_after_s=1))
    raised: list[Unavailable] = []

    async def ask() -> None:
        with pytest.raises(Unavailable, match="gone") as gone:
            await caller.call("counts", "acme")
        raised.append(gone.value)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            nursery.start_soon(caller.run)
            other.close()
    assert [error.details["retry_after_s"] for error in raised] == [1, 1]
    with pytest.raises(Unavailable, match="gone"):
        await caller.call("counts", "acme")


async def test_callee_may_ask_its_caller_before_it_answers_however_full_the_caller_is() -> None:
    """Each end counts its own calls only: the way back needs nothing of what the call under way holds."""
    one, other = socket.socketpair()
    front: Channel
    shard: Channel

    def at_the_front(calls: list[Call]) -> None:
        for call in calls:
            front.answer(call.number, None)

    def at_the_shard(calls: list[Call]) -> None:
        for call in calls:
            nursery.start_soon(ask_back, call.number)

    async def ask_back(number: int) -> None:
        await shard.call("close_children", "acme", "boss", ["kid"])
        shard.answer(number, {"acme": 1})

    lost = Unavailable("gone")
    front = Channel(one, on_calls=at_the_front, on_cancel=lambda _: None, lost=lost, calls_max=1)
    shard = Channel(other, on_calls=at_the_shard, on_cancel=lambda _: None, lost=lost, calls_max=1)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(front.run)
            nursery.start_soon(shard.run)
            assert await front.call("counts", "acme") == {"acme": 1}
            nursery.cancel_scope.cancel()
