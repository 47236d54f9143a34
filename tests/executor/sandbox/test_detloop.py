"""The deterministic loop alone."""

from __future__ import annotations

import asyncio

import pytest

from executor.sandbox import detloop
from executor.workflow import NotHere


class Recorded:
    """Timers that are only written down."""

    def __init__(self) -> None:
        self.started: list[detloop.DurableTimer] = []
        self.cancelled: list[detloop.DurableTimer] = []

    def start_timer(self, timer: detloop.DurableTimer) -> None:
        self.started.append(timer)

    def cancel_timer(self, timer: detloop.DurableTimer) -> None:
        self.cancelled.append(timer)


@pytest.fixture
def timers() -> Recorded:
    return Recorded()


@pytest.fixture
def loop(timers: Recorded) -> detloop.DetLoop:
    detloop.install()
    return detloop.new_loop(timers, hash_base=1000)


def drive(loop: detloop.DetLoop, coroutine) -> asyncio.Task:
    with loop.running():
        task = loop.create_task(coroutine)
        loop.run_ready()
    return task


def test_runs_to_quiescence_without_time_passing(loop) -> None:
    async def main():
        for _ in range(5):
            await asyncio.sleep(0)
        return asyncio.get_running_loop().time()

    loop.now_ms = 5_000
    assert drive(loop, main()).result() == 5.0


def test_sleep_is_a_durable_timer_in_logical_time(loop, timers) -> None:
    async def main():
        await asyncio.sleep(1.5)
        return loop.time()

    loop.now_ms = 1_000
    task = drive(loop, main())
    assert not task.done()
    assert [timer.until_ms for timer in timers.started] == [2_500]
    loop.now_ms = 2_600
    with loop.running():
        loop.fire(timers.started[0])
        loop.run_ready()
    assert task.result() == 2.6


def test_cancelled_timer_is_reported_and_does_not_fire(loop, timers) -> None:
    async def main():
        async with asyncio.timeout(10):
            return "in time"

    task = drive(loop, main())
    assert task.result() == "in time"
    assert timers.cancelled == timers.started
    loop.fire(timers.started[0])
    assert loop.is_quiescent


def test_timer_of_no_time_is_ready_at_once(loop, timers) -> None:
    fired = []
    with loop.running():
        loop.call_later(0, fired.append, 1)
        loop.call_at(loop.time() - 1, fired.append, 2)
        loop.run_ready()
    assert (fired, timers.started) == ([1, 2], [])


def test_tasks_and_futures_hash_by_number(loop) -> None:
    async def nothing():
        pass

    async def main():
        futures = [loop.create_future() for _ in range(3)]
        tasks = [asyncio.create_task(nothing()) for _ in range(3)]
        gathered = asyncio.gather(*tasks)
        await gathered
        every = [*tasks, gathered, *futures]
        assert [hash(each) for each in every] == [hash(each) for each in every]
        return [hash(each) for each in every], [task.get_name() for task in tasks]

    hashes, names = drive(loop, main()).result()
    assert hashes == list(range(1002, 1009))  # a plain future gets its number when it is first asked for
    assert names == ["Task-2", "Task-3", "Task-4"]


def test_leaving_exceptions_stay_in_their_task(loop) -> None:
    async def leave():
        raise SystemExit(3)

    task = drive(loop, leave())
    assert isinstance(task.exception(), SystemExit)


def test_spinning_is_an_error(loop, monkeypatch) -> None:
    monkeypatch.setattr(detloop, "CALLBACKS_MAX", 100)

    async def spin():
        while True:
            await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="run\\(\\) made 100 turns without waiting for anything durable"):
        drive(loop, spin())
    loop.dispose()


@pytest.mark.parametrize(
    "name",
    [
        "run_in_executor",
        "create_connection",
        "add_reader",
        "subprocess_exec",
        "run_forever",
        "add_signal_handler",
        "call_soon_threadsafe",
        "set_task_factory",
    ],
)
def test_outside_world_is_refused(loop, name) -> None:
    with pytest.raises(NotHere, match=f"{name}\\(\\) is not available in run\\(\\)"):
        getattr(loop, name)(None)


def test_every_method_of_a_loop_is_there_or_refused() -> None:
    for name in vars(asyncio.AbstractEventLoop):
        assert name in vars(detloop.DetLoop) or name.startswith("__"), name


def test_dispose_closes_coroutines_and_generators(loop) -> None:
    closed = []

    async def generator():
        try:
            yield 1
        finally:
            closed.append("generator")

    async def waits():
        try:
            await loop.create_future()
        finally:
            closed.append("task")

    async def main():
        each = generator()
        await anext(each)
        loop.kept = asyncio.create_task(waits())
        await waits()

    drive(loop, main())
    loop.dispose()
    assert sorted(closed) == ["generator", "task", "task"]
    assert loop.live_tasks() == []


def test_dispose_survives_code_that_will_not_be_closed(loop) -> None:
    turns = []

    async def stubborn():
        while len(turns) < 1000:
            try:
                await loop.create_future()
            except BaseException:
                turns.append(1)

    drive(loop, stubborn())
    loop.dispose()
    assert 1 < len(turns) < 100
    assert detloop.graveyard  # kept for ever: the collector would only close it again


def test_async_generators_are_not_given_to_another_loop(loop) -> None:
    async def generator():
        yield 1

    async def main():
        return await anext(generator())

    async def outer():
        task = drive(loop, main())
        assert len(asyncio.get_running_loop()._asyncgens) == 0
        return task.result()

    assert asyncio.run(outer()) == 1


def test_lock_of_another_instance_is_refused(loop) -> None:
    lock = asyncio.Lock()

    async def hold():
        async with lock:
            await asyncio.Event().wait()

    drive(loop, hold())
    drive(loop, hold())
    other = detloop.new_loop(Recorded(), hash_base=1)
    assert "bound to a different event loop" in str(drive(other, hold()).exception())
    loop.dispose()
