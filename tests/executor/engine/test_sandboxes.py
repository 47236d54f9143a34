"""Warm sandboxes: one opening for all who want it, more than one when one is full, and which goes first."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from executor.engine.outbox import POSTED_BYTES_MAX
from executor.engine.sandboxes import USE_HALF_LIFE_S, WarmSandboxes
from executor.sandbox.protocol import Attempt, Drop, FacetImage, Turn
from executor.sandbox.spec import SandboxDied, SandboxFailed

COMMIT = "c" * 40


class OpenedSandbox:
    def __init__(self, spec) -> None:
        self.spec = spec
        self.sent = []
        self.received = 0
        self.takes = trio.Event()
        self.takes.set()
        self.death = None
        self._died = trio.Event()

    async def send(self, frames) -> None:
        await self.takes.wait()
        self.sent.append(list(frames))

    async def receive(self):
        await trio.lowlevel.checkpoint()
        if self.received < 10_000 and self.death is None:
            self.received += 1
            return [Turn(1, 0, [], idle=False)]
        await self._died.wait()
        raise self.death

    def kill(self, reason="killed", detail="") -> None:
        self.death = SandboxDied(reason, detail)
        self._died.set()
        self.takes.set()


class OpeningHost:
    """`may_open` is a gate that the test holds; `error` is raised by each opening."""

    def __init__(self) -> None:
        self.opened = []
        self.may_open = trio.Event()
        self.may_open.set()
        self.error = None

    async def open(self, spec):
        sandbox = OpenedSandbox(spec)
        self.opened.append(sandbox)
        await self.may_open.wait()
        if self.error is not None:
            raise self.error
        return sandbox

    def bundle(self, tenant, commit):
        return Path("/nowhere")


@asynccontextmanager
async def warm_sandboxes(host, **options):
    values = {"count_max": 8, "idle_s": 1000.0, "on_frames": lambda *_: [], "on_death": lambda *_: None} | options
    disk = SimpleNamespace(is_behind=False)
    sandboxes = WarmSandboxes(host, host, on_short=lambda: None, disk=disk, **values)
    async with trio.open_nursery() as nursery:
        await nursery.start(sandboxes.run)
        yield sandboxes
        sandboxes.stop()
        nursery.cancel_scope.cancel()


def play(scenario, **options) -> None:
    async def main() -> None:
        host = OpeningHost()
        with trio.fail_after(1e6):  # of the virtual clock
            async with warm_sandboxes(host, **options) as sandboxes:
                await scenario(sandboxes, host)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0.5))


def test_hundreds_that_want_one_sandbox_wait_for_one_opening() -> None:
    async def scenario(sandboxes, host) -> None:
        host.may_open = trio.Event()
        got = []

        async def want(number: int) -> None:
            got.append(await sandboxes.reserve(("acme", f"i{number}"), COMMIT, alone=False))

        async with trio.open_nursery() as nursery:
            for number in range(500):
                nursery.start_soon(want, number)
            await trio.testing.wait_all_tasks_blocked()
            host.may_open.set()
        assert len(host.opened) == 1
        assert len(set(map(id, got))) == 1
        assert got[0].reserved == 500

    play(scenario)


@pytest.mark.parametrize("kind", [SandboxFailed, SandboxDied])
def test_all_who_waited_for_an_opening_get_its_error(kind) -> None:
    async def scenario(sandboxes, host) -> None:
        host.may_open = trio.Event()
        host.error = SandboxDied("crashed", "at once") if kind is SandboxDied else SandboxFailed.__new__(SandboxFailed)
        errors = []

        async def want(number: int) -> None:
            try:
                await sandboxes.reserve(("acme", f"i{number}"), COMMIT, alone=False)
            except kind as error:
                errors.append(error)

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(want, number)
            await trio.testing.wait_all_tasks_blocked()
            host.may_open.set()
        assert (len(host.opened), len(errors)) == (1, 100)

    play(scenario)


def test_cancelled_opening_is_taken_up_by_another() -> None:
    async def scenario(sandboxes, host) -> None:
        host.may_open = trio.Event()
        got = []

        async def want(name: str, scope: trio.CancelScope) -> None:
            with scope:
                got.append((name, await sandboxes.reserve(("acme", name), COMMIT, alone=False)))

        first = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(want, "first", first)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(want, "second", trio.CancelScope())
            await trio.testing.wait_all_tasks_blocked()
            first.cancel()
            await trio.testing.wait_all_tasks_blocked()
            host.may_open.set()
        assert [name for name, _ in got] == ["second"]
        assert len(host.opened) == 2

    play(scenario)


def test_a_full_sandbox_gets_another_beside_it_and_the_first_is_filled_first() -> None:
    async def scenario(sandboxes, host) -> None:
        got = [await sandboxes.reserve(("acme", f"i{number}"), COMMIT, alone=False) for number in range(7)]
        assert [host.opened.index(warm.sandbox) for warm in got] == [0, 0, 0, 1, 1, 1, 2]
        assert len(sandboxes) == len(sandboxes.all()) == 3
        sandboxes.release(got[1])
        assert sandboxes.warm("acme", COMMIT) is got[0]
        assert (await sandboxes.reserve(("acme", "next"), COMMIT, alone=False)) is got[0]
        assert sandboxes.warm("acme", COMMIT) is got[6]

    play(scenario, runs_max=3)


def test_one_under_suspicion_is_alone() -> None:
    async def scenario(sandboxes, host) -> None:
        shared = await sandboxes.reserve(("acme", "a"), COMMIT, alone=False)
        alone = await sandboxes.reserve(("acme", "b"), COMMIT, alone=True)
        assert alone is not shared
        sandboxes.release(alone)
        assert alone.is_dead
        assert not shared.is_dead

    play(scenario)


def test_the_idle_one_used_least_lately_goes_first() -> None:
    async def scenario(sandboxes, host) -> None:
        async def use(tenant: str) -> None:
            sandboxes.release(await sandboxes.reserve((tenant, "i"), COMMIT, alone=False))

        for _ in range(5):
            await use("often")
        await use("once")
        await use("another")
        assert [warm.place[0] for warm in sandboxes.all()] == ["often", "once", "another"]
        await use("new")
        assert [warm.place[0] for warm in sandboxes.all()] == ["often", "another", "new"]
        await trio.sleep(20 * USE_HALF_LIFE_S)  # what was used often long ago is no better than others
        await use("another")
        await use("new")
        await use("last")
        assert [warm.place[0] for warm in sandboxes.all()] == ["another", "new", "last"]

    play(scenario, count_max=3, idle_s=1e6)


def test_sandbox_that_takes_nothing_of_what_it_asked_for_is_not_read_any_more() -> None:
    """Weakness: memory of the host. Attack: ask for the facet again and again, and read nothing."""
    posted = []

    def on_frames(warm, frames, _until_s):
        for _ in frames:
            posted.append(warm)
            warm.post(FacetImage(1, 0, 1, bytes(100_000)))
        return []

    async def scenario(sandboxes, host) -> None:
        host.may_open = trio.Event()
        host.may_open.set()
        warm = await sandboxes.reserve(("acme", "a"), COMMIT, alone=False)
        warm.sandbox.takes = trio.Event()
        await trio.testing.wait_all_tasks_blocked()
        assert warm.outbox.posted_bytes < POSTED_BYTES_MAX + 200_000
        assert warm.sandbox.received < 100
        warm.sandbox.takes.set()
        await trio.testing.wait_all_tasks_blocked()
        assert warm.sandbox.received > 100  # it took what there was: it is read again
        warm.sandbox.takes = trio.Event()

    play(scenario, on_frames=on_frames)


def test_frames_posted_in_one_moment_are_one_message() -> None:
    async def scenario(sandboxes, host) -> None:
        warm = await sandboxes.reserve(("acme", "a"), COMMIT, alone=False)
        await trio.testing.wait_all_tasks_blocked()
        frames = [Attempt(1, "a#1", 2), Drop(1), Drop(2)]
        for frame in frames:
            warm.post(frame)
        await trio.testing.wait_all_tasks_blocked()
        assert warm.sandbox.sent == [frames]

    play(scenario)
