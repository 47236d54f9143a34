"""What attempts say while they execute: heartbeats, their own timeout, and items of output streams."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import timedelta
from typing import Any

import pytest

from executor.core import values
from executor.core.commands import Beat, Emit, StepDone, StepError
from executor.core.errors import Refused
from executor.sandbox.step_signals import EMIT_COMMAND_BYTES, beat_interval_s
from executor.workflow.errors import NotHere
from tests.executor.sandbox.steps_world import Owner, World, current, emit, really, until, virtually


def beats(owner: Owner) -> list[Any]:
    return [values.decode(told.details) if told.details else None for told in owner.told if isinstance(told, Beat)]


def emits(owner: Owner) -> list[Emit]:
    return [told for told in owner.told if isinstance(told, Emit)]


@pytest.mark.parametrize(
    ("heartbeat_ms", "seconds"), [(None, 10.0), (1_000, 1.0), (2_000, 1.6), (30_000, 24.0), (600_000, 30.0)]
)
def test_heartbeats_are_sent_as_often_as_their_timeout_asks(heartbeat_ms: int | None, seconds: float) -> None:
    assert beat_interval_s(heartbeat_ms) == seconds


@pytest.mark.parametrize("is_sensitive", [True, False])
def test_details_of_a_sensitive_step_are_marked_wherever_they_are_sent(is_sensitive: bool) -> None:
    async def function() -> None:
        current().heartbeat("4111")
        await asyncio.sleep(1)
        raise ValueError

    async def main(world: World) -> None:
        owner, _ = world.begin(function, sensitive=is_sensitive)
        await owner.over.wait()
        assert isinstance(owner.report, StepError)
        [beat] = [each for each in owner.told if isinstance(each, Beat)]
        for told in (beat, owner.report):
            assert (told.details, told.is_sensitive) == (values.encode("4111"), is_sensitive)

    virtually(main)


def test_first_heartbeat_is_sent_at_once_and_the_newest_of_each_interval_after() -> None:
    async def function() -> None:
        for number in range(80):  # with heartbeat=30 s one in 24 s is sent
            current().heartbeat(number)
            await asyncio.sleep(0.7)

    async def main(world: World) -> None:
        owner, _ = world.begin(function, heartbeat="30 seconds")
        await asyncio.sleep(0)
        assert beats(owner) == [0]
        await owner.over.wait()
        assert beats(owner) == [0, 34, 68]
        assert owner.told[1] == Beat("s#1", 1, values.encode(0))

    virtually(main)


def test_newest_details_ride_with_the_failure() -> None:
    async def function() -> None:
        for number in range(5):
            current().heartbeat({"row": number})
        raise ValueError

    async def main(world: World) -> None:
        owner = await world.outcome(function)
        assert beats(owner) == [{"row": 0}]
        assert values.decode(owner.report.details) == {"row": 4}

    virtually(main)


def test_next_attempt_gets_the_last_details_and_passes_them_on() -> None:
    seen: list[object] = []

    async def function() -> None:
        seen.append(current().last_heartbeat)
        raise ValueError

    async def main(world: World) -> None:
        assert (await world.outcome(function)).report.details == b""
        owner = await world.outcome(function, number=2, details=values.encode([7]))
        assert values.decode(owner.report.details) == [7]
        assert seen == [None, [7]]

    virtually(main)


def test_heartbeat_without_details_keeps_the_last_ones() -> None:
    async def function() -> None:
        current().heartbeat("first")
        current().heartbeat()
        raise ValueError

    async def main(world: World) -> None:
        assert values.decode((await world.outcome(function)).report.details) == "first"

    virtually(main)


def test_heartbeat_too_long_away_is_a_timeout_of_its_own() -> None:
    async def function() -> None:
        for _ in range(10):
            current().heartbeat()
            await asyncio.sleep(2)
        current().heartbeat("last")
        await asyncio.sleep(100)

    async def main(world: World) -> None:
        began_s = asyncio.get_running_loop().time()
        owner = await world.outcome(function, heartbeat="3 seconds")
        assert asyncio.get_running_loop().time() == pytest.approx(began_s + 23)
        assert (owner.error.type, owner.error.message, owner.error.retryable) == (
            "executor.workflow.HeartbeatTimeout",
            "the attempt sent no heartbeat for 3 s",
            True,
        )
        assert values.decode(owner.report.details) == "last"

    virtually(main)


def test_step_that_never_sends_a_heartbeat_fails_by_it_too() -> None:
    async def main(world: World) -> None:
        owner = await world.outcome(asyncio.sleep, 100, heartbeat=2)
        assert owner.error.message == "the attempt sent no heartbeat for 2 s"

    virtually(main)


@pytest.mark.parametrize("how", ["given up", "over its time"])
def test_thread_sends_heartbeats_and_ends_by_one_when_it_is_given_up(how: str) -> None:
    given_up = threading.Event()
    ended: list[str] = []

    def function() -> None:
        current().heartbeat("from a thread")
        given_up.wait(10)
        try:
            current().heartbeat()
        except NotHere as error:
            ended.append(str(error))

    async def main(world: World) -> None:
        owner, attempt = world.begin(function, timeout=None if how == "given up" else "500 ms")
        await until(lambda: bool(beats(owner)))
        if how == "given up":
            attempt.cancel()
        else:
            await until(lambda: bool(owner.reports))
            assert owner.error.type == "executor.workflow.StepTimeout"
        given_up.set()
        await until(lambda: world.threads_taken == 0)
        assert beats(owner) == ["from a thread"]
        assert ended == ["this attempt of the step is over (timed out, cancelled or finished)"]

    really(main)


def test_thread_without_heartbeats_is_timed_out_and_one_with_them_is_not() -> None:
    gate = threading.Event()

    def alive() -> None:
        for _ in range(30):
            current().heartbeat()
            gate.wait(0.002)

    async def main(world: World) -> None:
        silent = await world.outcome(gate.wait, heartbeat="20 ms")
        assert silent.error.type == "executor.workflow.HeartbeatTimeout"
        gate.set()
        gate.clear()
        assert isinstance((await world.outcome(alive, heartbeat="40 ms")).report, StepDone)

    really(main)


@pytest.mark.parametrize(
    ("details", "message"),
    [
        (object(), "heartbeat details: "),
        ("x" * 70_000, "heartbeat details is 70005 bytes encoded, the limit is 65536"),
    ],
)
def test_heartbeat_with_wrong_details_raises_in_the_step(details: object, message: str) -> None:
    async def function() -> str:
        try:
            current().heartbeat(details)
        except Refused as refused:
            return refused.message
        return ""

    async def main(world: World) -> None:
        assert (await world.outcome(function)).result.startswith(message)

    virtually(main)


def test_heartbeat_outside_of_an_attempt_is_not_possible() -> None:
    async def main(world: World) -> None:
        kept: list[Any] = []

        async def function() -> None:
            kept.append(current())

        await world.outcome(function)
        with pytest.raises(NotHere, match="this attempt of the step is over"):
            kept[0].heartbeat()

    virtually(main)


# --- emit


def test_emitted_items_are_sent_in_batches_of_50_ms_in_their_order() -> None:
    async def function() -> None:
        emit("log", 1)
        emit("log", 2)
        emit("tokens", "a")
        emit("log", 3)
        await asyncio.sleep(0.06)
        emit("log", 4)
        await asyncio.sleep(1)

    async def main(world: World) -> None:
        owner, _ = world.begin(function)
        await asyncio.sleep(0.049)
        assert emits(owner) == []
        await asyncio.sleep(0.002)
        assert emits(owner) == [
            Emit("log", [values.encode(1), values.encode(2)], "s#1", 1, 2),
            Emit("tokens", [values.encode("a")], "s#1", 1, 3),
            Emit("log", [values.encode(3)], "s#1", 1, 4),
        ]
        await asyncio.sleep(0.1)
        assert emits(owner)[3] == Emit("log", [values.encode(4)], "s#1", 1, 5)
        await owner.over.wait()
        assert len(emits(owner)) == 4

    virtually(main)


@pytest.mark.parametrize("fails", [False, True])
def test_emitted_items_come_before_the_outcome_and_stay_when_it_is_a_failure(fails: bool) -> None:
    async def function() -> None:
        emit("log", "said")
        if fails:
            raise ValueError

    async def main(world: World) -> None:
        owner = await world.outcome(function)
        assert [type(told) for told in owner.told[1:]] == [Emit, StepError if fails else StepDone]

    virtually(main)


def test_items_of_64_kib_are_sent_at_once() -> None:
    async def main(world: World) -> None:
        owner = world.owner()
        seen: list[int] = []

        async def function() -> None:
            for _ in range(8):
                emit("log", "x" * 20_000)
                seen.append(len(emits(owner)))

        _, _ = world.begin(function, owner=owner)
        await owner.over.wait()
        assert seen == [0, 0, 0, 1, 1, 1, 1, 2]
        assert [len(each.items) for each in emits(owner)] == [4, 4]

    virtually(main)


def test_thread_emits_in_order_and_no_command_is_too_large() -> None:
    def function() -> None:
        for number in range(40):
            emit("log", str(number) + "x" * 50_000)

    async def main(world: World) -> None:
        owner = await world.outcome(function)
        items = [values.decode(item) for each in emits(owner) for item in each.items]
        assert [item.rstrip("x") for item in items] == [str(number) for number in range(40)]
        assert all(sum(map(len, each.items)) <= EMIT_COMMAND_BYTES for each in emits(owner))
        assert isinstance(owner.told[-1], StepDone)

    really(main)


@pytest.mark.parametrize(
    ("stream", "item", "message"),
    [
        (7, 1, "an output stream's name is a text, not int"),
        ("", 1, "the name of an output stream, '', is not 1 to 100 printable characters"),
        ("a\n", 1, "the name of an output stream, 'a\\n', is not 1 to 100 printable characters"),
        ("a", {1}, "item: "),
        ("a", "x" * 300_000, "item is 300005 bytes encoded, the limit is 262144"),
    ],
)
def test_wrong_item_is_an_error_in_the_step(stream: Any, item: object, message: str) -> None:
    async def function() -> str:
        try:
            emit(stream, item)
        except (Refused, TypeError, ValueError) as error:
            return str(error)
        return ""

    async def main(world: World) -> None:
        owner = await world.outcome(function)
        assert owner.result.startswith(message)
        assert emits(owner) == []

    virtually(main)


def test_attempt_that_is_over_emits_nothing() -> None:
    seen: list[str] = []

    async def function() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            try:
                emit("log", "late")
            except NotHere as error:
                seen.append(str(error))

    async def main(world: World) -> None:
        owner = await world.outcome(function, timeout=1)
        assert seen == ["this attempt of the step is over (timed out, cancelled or finished)"]
        assert emits(owner) == []

    virtually(main)


def test_attempt_knows_its_name_number_and_deadline() -> None:
    def function() -> tuple[str, int, float | None]:
        attempt = current()
        if attempt.deadline is None:
            return attempt.name, attempt.attempt, None
        assert attempt.deadline.utcoffset() == timedelta(0)
        return attempt.name, attempt.attempt, attempt.deadline.timestamp()

    async def main(world: World) -> None:
        began_s = time.time()
        owner = await world.outcome(function, timeout="1 hour", number=3)
        assert owner.result[:2] == ["s", 3]
        assert began_s - 0.001 <= owner.result[2] - 3600 <= time.time()
        assert (await world.outcome(function)).result == ["s", 1, None]

    really(main)
