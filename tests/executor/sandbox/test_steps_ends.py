"""How attempts end: results, failures, timeouts, cancellation with its grace time, and that nothing is left (P16)."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from executor.core.commands import StepDone
from executor.sandbox.step_attempt import Attempt
from tests.executor.sandbox.steps_world import World, current, really, until, virtually


def left_tasks() -> int:
    """Besides the test's own."""
    return len(asyncio.all_tasks()) - 1


def test_beginning_is_told_before_the_outcome() -> None:
    async def function() -> int:
        return 7

    async def main(world: World) -> None:
        owner = await world.outcome(function)
        assert (owner.told[0], owner.result, len(owner.told)) == ("begun 1", 7, 2)
        assert 0 < owner.report.started_at_ms
        assert world.executing == 0

    virtually(main)


def test_short_attempt_is_never_said_to_last_and_a_long_one_once_within_200_ms() -> None:
    async def main(world: World) -> None:
        loop = asyncio.get_running_loop()
        for wait_s, told in ((0.09, 0), (0.25, 1), (30.0, 1)):
            owner, _ = world.begin(asyncio.sleep, wait_s)
            begun_s = loop.time()
            if told:
                await until(lambda owner=owner: "lasts 1" in owner.told)
                assert 0.1 <= loop.time() - begun_s <= 0.201
            await owner.over.wait()
            assert owner.told.count("lasts 1") == told
        assert not world.steps._young
        assert not world.steps._older

    virtually(main)


def test_one_timer_tells_of_all_attempts_that_last() -> None:
    async def main(world: World) -> int:
        made = []
        loop: Any = asyncio.get_running_loop()
        call_at = loop.call_at
        loop.call_at = lambda *args, **options: made.append(args) or call_at(*args, **options)
        owners = [world.begin(asyncio.Event().wait)[0] for _ in range(100)]
        count = len(made)
        loop.call_at = call_at
        await asyncio.sleep(0.3)
        assert all(owner.told == ["begun 1", "lasts 1"] for owner in owners)
        return count

    assert virtually(main) == 1


def test_sync_attempt_begins_when_a_thread_takes_it() -> None:
    gate = threading.Event()

    async def main(world: World) -> None:
        first, _ = world.begin(gate.wait)
        second, _ = world.begin(lambda: None, path="s#2")
        assert (first.told, second.told) == (["begun 1"], [])
        gate.set()
        await second.over.wait()
        assert [str(told)[:7] for told in second.told] == ["begun 1", "StepDon"]
        assert second.report.started_at_ms >= first.report.started_at_ms
        assert (world.threads_taken, world.executing) == (0, 0)

    really(main, threads=1)


# --- timeout and grace


def test_timeout_is_reported_when_the_clean_up_has_ended() -> None:
    seen: list[float] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(3)
            seen.append(asyncio.get_running_loop().time())

    async def main(world: World) -> None:
        began_s = asyncio.get_running_loop().time()
        owner = await world.outcome(slow, timeout=10)
        assert asyncio.get_running_loop().time() == seen[0] == began_s + 13
        assert (owner.error.type, owner.error.message) == (
            "executor.workflow.StepTimeout",
            "the attempt did not end within 10 s",
        )
        assert owner.error.retryable
        assert left_tasks() == world.executing == 0

    virtually(main)


@pytest.mark.parametrize(("grace", "seconds"), [(None, 5.0), ("1500 ms", 1.5), (0, 0.0)])
def test_clean_up_that_overstays_the_grace_time_is_closed(grace: Any, seconds: float) -> None:
    seen: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            try:
                await asyncio.sleep(1000)
            except GeneratorExit:
                seen.append("closed")
                raise

    async def main(world: World) -> None:
        began_s = asyncio.get_running_loop().time()
        options = {} if grace is None else {"grace": grace}
        owner = await world.outcome(slow, timeout=10, **options)
        assert asyncio.get_running_loop().time() == pytest.approx(began_s + 10 + seconds)
        assert owner.error.type == "executor.workflow.StepTimeout"
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (left_tasks(), world.executing, seen) == (0, 0, ["closed"])

    virtually(main)


def test_result_that_comes_after_the_timeout_does_not_count() -> None:
    async def slow() -> str:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(100)
        return "late"

    async def main(world: World) -> None:
        owner = await world.outcome(slow, timeout=1)
        assert owner.error.type == "executor.workflow.StepTimeout"

    virtually(main)


def test_cancelled_attempt_reports_nothing_and_has_its_grace_to_clean_up() -> None:
    seen: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            print("cleaning")
            await asyncio.sleep(4.9)
            seen.append("cleaned")

    async def main(world: World) -> None:
        owner, attempt = world.begin(slow)
        await asyncio.sleep(1)
        attempt.cancel()
        assert world.executing == 1  # its place is its own until it has ended
        await asyncio.sleep(6)
        assert (owner.reports, seen, world.executing, left_tasks()) == ([], ["cleaned"], 0, 0)
        assert [line.text for line in owner.lines] == ["cleaning"]

    virtually(main)


def test_code_that_swallows_its_cancellation_holds_nothing_up() -> None:
    async def stubborn() -> None:
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(1000)

    async def main(world: World) -> None:
        owner = await world.outcome(stubborn, timeout=1, grace=1)
        assert owner.error.type == "executor.workflow.StepTimeout"
        _, attempt = world.begin(stubborn, owner=world.owner(), path="s#2", grace=1)
        await asyncio.sleep(1)
        attempt.cancel()
        await asyncio.sleep(1.1)
        assert (world.executing, left_tasks()) == (0, 0)

    virtually(main)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the interpreter says that it tried
def test_code_that_will_not_be_closed_is_forgotten() -> None:
    ended = asyncio.Event()

    async def immortal() -> None:
        while not ended.is_set():
            with suppress(BaseException):
                await asyncio.sleep(1)

    async def main(world: World) -> None:
        owner, attempt = world.begin(immortal, grace=1)
        await asyncio.sleep(1)
        attempt.cancel()
        held = weakref.ref(owner)
        del owner
        await asyncio.sleep(1.1)
        gc.collect()
        assert (held(), world.executing, left_tasks()) == (None, 0, 0)
        ended.set()

    virtually(main)


def test_attempt_given_up_while_it_cleans_up_after_its_timeout_reports_nothing() -> None:
    async def slow() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(2)

    async def main(world: World) -> None:
        owner, attempt = world.begin(slow, timeout=1)
        await asyncio.sleep(2)
        attempt.cancel()
        await asyncio.sleep(10)
        assert (owner.reports, world.executing, left_tasks()) == ([], 0, 0)

    virtually(main)


def test_tasks_that_a_step_has_made_end_with_it() -> None:
    seen: list[str] = []

    async def left(name: str) -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(1)
            seen.append(name)

    async def function(fails: Any) -> str:
        asyncio.get_running_loop().create_task(left(f"after {fails}"))
        await asyncio.sleep(0)
        if fails is True:
            raise ValueError
        if fails is None:
            await asyncio.sleep(1000)
        return "done"

    async def main(world: World) -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        owner = await world.outcome(function, False)
        assert (owner.result, loop.time()) == ("done", began_s)  # a result waits for nobody
        await asyncio.sleep(1)
        began_s = loop.time()
        owner = await world.outcome(function, True)
        assert loop.time() == began_s + 1  # the next attempt shall not overlap with it
        owner = await world.outcome(function, None, timeout=1)
        assert loop.time() == began_s + 3
        assert seen == ["after False", "after True", "after None"]
        assert left_tasks() == 0

    virtually(main)


def test_sync_attempt_over_its_timeout_is_reported_at_once_and_its_thread_comes_back() -> None:
    gate = threading.Event()

    async def main(world: World) -> None:
        owner = await world.outcome(gate.wait, timeout="5 ms")
        assert owner.error.type == "executor.workflow.StepTimeout"
        assert (world.executing, world.threads_taken, world.steps._abandoned) == (0, 1, 1)
        gate.set()
        await until(lambda: world.threads_taken == 0)
        assert world.steps._abandoned == 0

    really(main)


def test_facet_is_free_at_once_when_an_attempt_runs_out_of_time() -> None:
    async def main(world: World) -> None:
        owner = world.owner()

        async def slow() -> None:
            facet = current()._runtime.facet  # type: ignore[union-attr]
            facet.execute("create table t (x)", [])
            try:
                await asyncio.sleep(100)
            finally:
                await asyncio.sleep(4)
                facet.execute("select 1", [])

        async def other() -> int:
            return len(current()._runtime.facet_execute("select * from sqlite_master", []))  # type: ignore[union-attr]

        _, attempt = world.begin(slow, owner=owner, timeout=10)
        await asyncio.sleep(11)
        assert not attempt.is_ended
        world.begin(other, owner=owner, path="s#2")
        await owner.over.wait()
        assert owner.result == 0
        await asyncio.sleep(10)
        assert owner.reports[1].error.type == "executor.workflow.StepTimeout"
        assert (owner.facet._holder, left_tasks()) == (None, 0)

    virtually(main)


# --- P16


async def sleeps() -> None:
    await asyncio.sleep(1000)


async def cleans_up_for_long() -> None:
    try:
        await asyncio.sleep(1000)
    finally:
        await asyncio.sleep(1000)


async def swallows() -> None:
    for _ in range(50):
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(1000)


async def holds_the_facet() -> None:
    async with current()._runtime.facet_exclusive():  # type: ignore[union-attr]
        await asyncio.sleep(1000)


async def waits_for_others() -> None:
    await asyncio.gather(*(sleeps() for _ in range(3)), cleans_up_for_long(), return_exceptions=True)


async def leaves_a_task() -> None:
    asyncio.get_running_loop().create_task(swallows())


async def fails() -> None:
    await asyncio.sleep(2)
    raise ValueError("no")


CODES: list[Callable[..., Any]] = [
    sleeps, cleans_up_for_long, swallows, holds_the_facet, waits_for_others, leaves_a_task, fails
]  # fmt: skip


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.__name__)
@pytest.mark.parametrize("end", ["timeout", "cancel", "drop", "heartbeat"])
def test_nothing_is_left_of_an_attempt_after_its_grace_time(code: Callable[..., Any], end: str) -> None:
    options: dict[str, Any] = {"timeout": {"timeout": 3}, "heartbeat": {"heartbeat": 3}}.get(end, {})

    async def main(world: World) -> None:
        owner, attempt = world.begin(code, grace=2, **options)
        await asyncio.sleep(3)
        if end in {"cancel", "drop"}:
            attempt.cancel(is_dropped=end == "drop")
        await asyncio.sleep(2.5)
        assert left_tasks() == 0, asyncio.all_tasks()
        assert (world.executing, owner.facet._holder) == (0, None)
        assert (attempt._task, attempt._timer, attempt._watch) == (None, None, None)
        expected_end = "value" if code is leaves_a_task else "error" if options or code is fails else "nothing"
        made = ["value" if isinstance(report, StepDone) else "error" for report in owner.reports] or ["nothing"]
        assert made == [expected_end]
        kept = weakref.ref(attempt)
        del attempt, owner
        gc.collect()
        assert kept() is None, [each for each in gc.get_objects() if isinstance(each, Attempt)]

    virtually(main)
