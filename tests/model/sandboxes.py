"""Sandboxes of the model: the real program of a sandbox process, in this one, on an event loop that is turned by hand.

Its loop's clock is trio's, and nothing in it takes time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import trio

from executor.sandbox.child_limits import ChildLimits
from executor.sandbox.protocol import FacetImage, FromSandbox, NeedFacet, Query, ToSandbox
from executor.sandbox.runs import Child
from executor.sandbox.spec import DeathReason, SandboxDied, SandboxSpec
from executor.sandbox.threads import StepPool
from executor.testing import inside
from executor.testing.tree import WorkingTree
from tests.model.programs import Job, held

TURNS_MAX = 10_000
Delay = Callable[[], Awaitable[None]]


class Sandbox:
    """See the port. What it says to a message comes after a drawn delay."""

    def __init__(self, spec: SandboxSpec, delay: Delay) -> None:
        self.spec = spec
        self._delay = delay
        self._loop = asyncio.new_event_loop()
        self._loop.time = trio.current_time  # type: ignore[method-assign]
        tree = cast("Any", WorkingTree(Job))
        self._child = Child(self._loop, StepPool(0), tree, ChildLimits(), self._say, self._bring_facet)
        self._child.steps.now_s = trio.current_time
        self._to_engine, self._frames = trio.open_memory_channel[list[FromSandbox]](10_000)
        self._death: SandboxDied | None = None
        self._question: Query | None = None
        self._facet: list[FacetImage] = []

    async def send(self, frames: Sequence[ToSandbox]) -> None:
        """See the port."""
        await self._delay()
        if self._death is not None:
            raise self._death
        for frame in frames:
            if isinstance(frame, Query):
                # It would block for its facet, and nothing can in one thread: it is asked when that is there.
                self._question = frame
                self._to_engine.send_nowait([NeedFacet(frame.run)])
            elif self._question is not None and isinstance(frame, FacetImage):
                self._facet.append(frame)
                if frame.offset + len(frame.data) >= frame.total:
                    self.turn(self._question)
        if self._question is None:
            self.turn(*frames)

    def turn(self, *frames: ToSandbox) -> None:
        """Let everything inside go as far as it can without time."""
        if self._death is not None:
            return
        with inside.driving(lambda _error, _fact: None):
            if frames:
                self._child.handle(list(frames))
            for _ in range(TURNS_MAX):
                self._loop.call_soon(self._loop.stop)
                self._loop.run_forever()
                if not cast("Any", self._loop)._ready:
                    return
        raise AssertionError("a sandbox does not come to rest")

    def _bring_facet(self) -> None:
        self._child.handle(list(self._facet))

    def _say(self, frames: list[FromSandbox]) -> None:
        told = frames if self._question is None else [each for each in frames if not isinstance(each, NeedFacet)]
        if self._death is None and told:
            self._to_engine.send_nowait(told)

    async def receive(self) -> list[FromSandbox]:
        """See the port."""
        try:
            frames = await self._frames.receive()
        except trio.EndOfChannel:
            assert self._death is not None
            raise self._death from None
        await self._delay()
        return frames

    def kill(self, reason: DeathReason = "killed", detail: str = "") -> None:
        """See the port."""
        if self._death is None:
            self._death = SandboxDied(reason, detail or "by the model")
            self._to_engine.close()
            with inside.driving(lambda _error, _fact: None):
                for number in list(self._child._runs):
                    self._child._drop(number)
                self._loop.call_soon(self._loop.stop)
                self._loop.run_forever()
            self._loop.close()


class Host:
    """The SandboxHost port."""

    def __init__(self, delay: Delay) -> None:
        self._delay = delay
        self.sandboxes: list[Sandbox] = []

    async def open(self, spec: SandboxSpec) -> Sandbox:
        """See the port."""
        await self._delay()
        self.sandboxes.append(Sandbox(spec, self._delay))
        return self.sandboxes[-1]

    def turn(self) -> None:
        """What is due inside by the clock happens."""
        for sandbox in self.sandboxes:
            sandbox.turn()

    def release(self, instance: str) -> bool:
        """Say the word that steps of the instance wait for. False: none does."""
        words = [word for word in held.pop(instance, []) if not word.done()]
        for word in words:
            word.set_result(None)
        self.turn()
        return bool(words)

    def kill(self) -> None:
        for sandbox in self.sandboxes:
            sandbox.kill()
        held.clear()
