"""Intake: what sandboxes say is worked on in slices of time, so that nobody's message holds up the others for long.

A frame of some bytes can be much work, and a message has room for a million of them. So a message is worked on for
FIRST_S, which is enough for most; what is left waits for its turn, and gets SLICE_S whenever everybody else has had
theirs: one slice of one sandbox between two turns of the loop, tenants in turn. A single command is never parted.

Nothing is taken in while more waits to be written than should: a sandbox that asks for entries faster than
the disk takes them is not read.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Generic, Protocol, TypeVar

import trio

from executor.sandbox.protocol import FromSandbox

FIRST_S = 0.002
SLICE_S = 0.01

S = TypeVar("S")


OnFrames = Callable[[S, list[FromSandbox], float], list[FromSandbox]]
"""Works on frames of a sandbox, in order, until they are done or (at least one command later) it is the time given, of
`perf_counter`. What is left is the answer."""


class Disk(Protocol):
    """What entries are written to."""

    @property
    def is_behind(self) -> bool:
        """More waits to be written than should."""
        ...

    async def caught_up(self) -> None:
        """Return when that is no longer so."""
        ...


class Intake(Generic[S]):
    """Of all sandboxes of an engine."""

    def __init__(self, on_frames: OnFrames[S], disk: Disk) -> None:
        self._on_frames = on_frames
        self._disk = disk
        self._turn = trio.StrictFIFOLock()
        self._turns: dict[str, tuple[trio.StrictFIFOLock, int]] = {}
        """Of tenants with something left: the turns of their sandboxes, and how many these are."""

    async def take(self, tenant: str, sandbox: S, frames: list[FromSandbox]) -> None:
        """Work on frames to the end. A checkpoint only if that takes long, or the disk is behind."""
        if self._disk.is_behind:
            await self._disk.caught_up()
        left = self._on_frames(sandbox, frames, perf_counter() + FIRST_S)
        if left:
            own, count = self._turns.get(tenant, (trio.StrictFIFOLock(), 0))
            self._turns[tenant] = (own, count + 1)
            try:
                while left:
                    await self._disk.caught_up()
                    async with own, self._turn:
                        left = self._on_frames(sandbox, left, perf_counter() + SLICE_S)
                        await trio.lowlevel.checkpoint()
            finally:
                own, count = self._turns.pop(tenant)
                if count > 1:
                    self._turns[tenant] = (own, count - 1)
