"""AsyncPlatform on asyncio and on trio, embedded and remote: the same laws by the same code."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio

from executor import AsyncPlatform, NotFound, Unavailable
from executor.config import load
from executor.platform.embedded import AsyncEmbedded
from executor.platform.host import Host
from tests.executor.fake_service import WORKFLOWS, FakeService, fake_running
from tests.executor.surface import Served

Main = Callable[[], Awaitable[Any]]


def _on_asyncio(main: Main) -> Any:
    async def wrapped() -> Any:
        return await main()

    return asyncio.run(wrapped())


LIBRARIES = pytest.mark.parametrize("run", [_on_asyncio, trio.run], ids=["asyncio", "trio"])


class _Kept(AsyncEmbedded):
    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass


@pytest.fixture
def served() -> Iterator[Served]:
    from tests.executor.surface import serving

    with serving() as found:
        yield found


def _platform(way: str, served: Served) -> AsyncPlatform:
    if way == "embedded":
        return AsyncPlatform(_Kept(served.host))
    return AsyncPlatform.connect(served.url, token=served.service.admin_token)


@LIBRARIES
@pytest.mark.parametrize("way", ["embedded", "remote"])
def test_the_whole_life_of_an_instance(served: Served, run: Callable[[Main], Any], way: str) -> None:
    async def main() -> None:
        async with _platform(way, served) as platform:
            acme = await platform.tenant("acme")
            assert acme.git_url == served.url + "/git/acme.git"
            handle = await acme.start("Talker", {"b": b"\x00"}, id="t")
            assert [line.text for line in await handle.logs()] == ["one", "two"]
            with pytest.raises(Unavailable) as early:
                await handle.result(timeout=0.01)
            assert early.value.code == "timeout"
            await handle.send_event("go", {"by": "kim"}, id="e")
            assert await handle.result(timeout=10) == {"by": "kim"}
            assert [line.text async for line in handle.logs(follow=True)] == ["one", "two"]
            assert [row.id for row in await acme.instances()] == ["t"]
            with pytest.raises(NotFound):
                await acme.instance("none")

    run(main)


@LIBRARIES
def test_waiting_calls_need_no_threads(served: Served, run: Callable[[Main], Any]) -> None:
    async def main() -> None:
        async with _platform("embedded", served) as platform:
            acme = await platform.tenant("acme")
            handles = [await acme.start("Waiter") for _ in range(50)]
            before = threading.active_count()
            counts: list[int] = []

            async def finish() -> None:
                counts.append(threading.active_count())
                for handle in handles:
                    await handle.send_event("go", handle.id)

            if run is trio.run:
                results: list[Any] = []

                async def wait(handle: Any) -> None:
                    results.append(await handle.result(timeout=10))

                async with trio.open_nursery() as nursery:
                    for handle in handles:
                        nursery.start_soon(wait, handle)
                    nursery.start_soon(finish)
            else:
                *results, _ = await asyncio.gather(*(handle.result(timeout=10) for handle in handles), finish())
            assert sorted(results) == sorted(handle.id for handle in handles)
            assert counts == [before]

    run(main)


@LIBRARIES
def test_cancelling_a_call_cancels_it_on_the_executors_thread(served: Served, run: Callable[[Main], Any]) -> None:
    async def main() -> None:
        async with _platform("embedded", served) as platform:
            handle = await (await platform.tenant("acme")).start("Waiter")
            gate = served.on_trio(trio.Event)
            served.service.gate = gate

            def is_there() -> bool:
                return bool(served.on_trio(lambda: gate.statistics().tasks_waiting))

            if run is trio.run:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(handle.status)
                    while not is_there():
                        await trio.sleep(0.001)
                    nursery.cancel_scope.cancel()
            else:
                asking = asyncio.ensure_future(handle.status())
                while not is_there():
                    await asyncio.sleep(0.001)
                asking.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asking
        deadline = time.monotonic() + 10
        while served.service.cancelled_calls == 0:
            assert time.monotonic() < deadline
            served.on_trio(lambda: None)

    run(main)


@contextmanager
def _made(tmp_path: Any) -> Iterator[tuple[Host, list[FakeService]]]:
    made: list[FakeService] = []
    yield Host(load({"data_dir": tmp_path}, environment={}), running=fake_running(made)), made


@LIBRARIES
def test_opening_and_closing_are_awaited(tmp_path: Any, run: Callable[[Main], Any]) -> None:
    async def main() -> None:
        with _made(tmp_path) as (host, _):
            async with AsyncPlatform(AsyncEmbedded(host)) as platform:
                acme = await platform.create_tenant("acme")
                await acme.deploy({"workflows.py": WORKFLOWS})
                assert await (await acme.start("Echo", 1)).result() == 1
            with pytest.raises(Unavailable) as closed:
                await acme.instances()
            assert closed.value.code == "shutting_down"

    run(main)
