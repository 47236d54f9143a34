"""One seed fixes everything: the order in which trio runs its tasks, every delay, and the clock. No thread is started.

What the product runs in threads runs here in the event loop's own thread, between two drawn delays: before it begins,
and before its caller hears of it. One after the other where the product has one thread for it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Generator
from contextlib import contextmanager
from random import Random
from typing import Any
from unittest import mock

import trio
from trio._core import _run as trio_run

from executor.engine import hearing, intake

START_MS = 1_000_000
SLICE_ENDS = 0.05
"""How often a look at the time finds that a slice of work is over."""


RECHECK_S = 60.0
"""As the product's clock does, which somebody may set meanwhile."""


class VirtualClock:
    """The Clock port over trio's own clock, which the simulation jumps ahead. `base_ms`: when this life began."""

    def __init__(self, base_ms: int) -> None:
        self._base_ms = base_ms
        self.set_by_ms = 0

    def set_by(self, ms: int) -> None:
        """Somebody sets the clock, forward or back."""
        self._base_ms += ms
        self.set_by_ms += ms

    def now_ms(self) -> int:
        """Milliseconds of the simulated world."""
        return self._base_ms + int(trio.current_time() * 1000 + 1e-6)

    async def sleep_until_ms(self, at_ms: int) -> None:
        """See the port."""
        if at_ms - self._base_ms > 1 << 40:
            await trio.sleep_forever()  # the clock would jump there
        await trio.lowlevel.checkpoint()
        while self.now_ms() < at_ms:
            await trio.sleep(min((at_ms - self.now_ms()) / 1000, RECHECK_S))


class Threads:
    """Stands for the product's threads. Each worker does one thing after the other, between two drawn delays."""

    def __init__(self, random: Random) -> None:
        self._random = random

    async def delay(self) -> None:
        """What handing over takes: often nothing, else up to ten milliseconds."""
        drawn = self._random.random()
        await trio.sleep(0 if drawn < 0.6 else drawn * 0.01)

    async def call(self, function: Callable[..., Any], *args: Any, **_: Any) -> Any:
        """In place of `trio.to_thread.run_sync`."""
        with trio.CancelScope(shield=True):
            await self.delay()
            try:
                return function(*args)
            finally:
                await self.delay()

    def worker(self, _name: str) -> Worker:
        """In place of `executor.engine.worker.Worker`."""
        return Worker(self)


class Worker:
    """The Blocking port, in the event loop's own thread."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._turn = trio.StrictFIFOLock()

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """See the port."""
        with trio.CancelScope(shield=True):
            async with self._turn:
                return await self._threads.call(function, *args)

    def close(self) -> None:
        """See the port."""


def _stopwatch(random: Random) -> Callable[[], float]:
    """Stands for the time that work takes: now and then a slice of it (intake.py) is over."""
    drawn, now_s = Random(), 0.0
    drawn.setstate(random.getstate())

    def read() -> float:
        nonlocal now_s
        now_s += 0.02 * (drawn.random() < SLICE_ENDS)
        return now_s

    return read


@contextmanager
def deterministic(random: Random) -> Generator[Threads]:
    """Everything inside is fixed by `random`."""
    threads = Threads(random)
    state = trio_run._r.getstate()
    stopwatch = _stopwatch(random)
    trio_run._r.seed(random.getrandbits(64))
    with (
        mock.patch.object(trio_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True),
        mock.patch.object(trio.to_thread, "run_sync", threads.call),
        mock.patch.object(os, "urandom", random.randbytes),
        mock.patch.object(secrets, "token_bytes", random.randbytes),
        mock.patch.object(intake, "perf_counter", stopwatch),
        mock.patch.object(hearing, "perf_counter", stopwatch),
    ):
        try:
            yield threads
        finally:
            trio_run._r.setstate(state)
