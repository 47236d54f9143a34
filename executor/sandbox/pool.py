"""SandboxHost: opens sandboxes, watches over them, ends them. The trio side of the boundary.

Invariants:
- A byte from a sandbox is bounded before it is kept and decoded against the protocol's schema before it is looked at;
  what either side holds for the other is bounded: `control.py` says how.
- A kill goes through the pidfd, so it can never hit another process. The first reason given stays.
- A sandbox that takes nothing of what is sent to it, for as long as it may be silent, is ended like one that hangs.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import trio

from executor.sandbox import protocol
from executor.sandbox.cell import LEVELS, CellOptions, Isolation
from executor.sandbox.limits import SandboxLimits
from executor.sandbox.opening import Opener, closed
from executor.sandbox.sandbox import Sandbox
from executor.sandbox.spec import SandboxFailed, SandboxSpec

_log = logging.getLogger(__name__)

_TICK_S = 0.1
_MEMORY_EVERY_TICKS = 5


class SandboxHost:
    """Opens sandboxes. Use `async with sandbox_host(...) as host`, or start `host.run` in a nursery."""

    def __init__(self, options: CellOptions | None = None, limits: SandboxLimits | None = None) -> None:
        self.options = options or CellOptions()
        self.limits = limits or SandboxLimits()
        self.opener = Opener(self.options, self.limits, exited=self._exited, ended=self._bury)
        self.sandboxes: dict[int, Sandbox] = {}
        self._work = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._closed = trio.Event()

    @property
    def isolation(self) -> Isolation:
        """How tenant code is held here."""
        return self.options.isolation

    @property
    def isolation_level(self) -> int:
        """0 (none) to 3; see `executor.sandbox.probe`."""
        return LEVELS[self.options.isolation]

    @property
    def count(self) -> int:
        """Sandboxes that live."""
        return len(self.sandboxes)

    @property
    def restarts(self) -> int:
        """How often the zygote ended by itself."""
        return self.opener.restarts

    async def run(self, *, task_status: trio.TaskStatus[SandboxHost] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the host's tasks until `aclose`. Started once the zygote answers.

        Raises IsolationUnavailable if tenant code cannot be confined as asked: nothing runs then.
        """
        await self.prepare()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await self.opener.start(nursery)
                nursery.start_soon(self._look_after)
                task_status.started(self)
                await self._closed.wait()
                for sandbox in list(self.sandboxes.values()):
                    sandbox.kill("killed", "the host was closed")
                nursery.cancel_scope.cancel()
        finally:
            self._nursery = None
            self.opener.stop()
            await self.opener.close()

    async def prepare(self) -> None:
        """Start the zygote, so that a machine that cannot confine tenant code is told so before anything else starts.

        Raises IsolationUnavailable. Optional: `run` does it too, but its errors come in a nursery's group.
        """
        if self.options.isolation is not Isolation.CELL:
            _log.warning(
                "tenant code is not isolated in a cell: for trusted tenants only",
                extra={"isolation": self.options.isolation.value, "level": self.isolation_level},
            )
        await self.opener.prepare()

    async def aclose(self) -> None:
        """Kill every sandbox and end the zygote. `run` returns then."""
        self._closed.set()
        self.opener.stop()
        await trio.lowlevel.checkpoint()

    async def open(self, spec: SandboxSpec, *, limits: SandboxLimits | None = None) -> Sandbox:
        """A new sandbox with the spec's code imported, ready for Activate.

        Raises SandboxFailed (the code cannot be imported), SandboxDied (it ended while starting; after
        `boot_timeout_s` with reason "time"), Unavailable (no process could be made; code `sandbox_unavailable`).
        """
        limits = limits or self.limits
        deadline_s = trio.current_time() + limits.boot_timeout_s
        opened = await self.opener.request(spec, limits)
        nursery = self._nursery
        if nursery is None:
            opened.discard()
            raise closed()
        sandbox = Sandbox(self, spec, limits, opened)
        self.sandboxes[opened.number] = sandbox
        if opened.exit is not None:
            sandbox.exited(opened.exit)
        nursery.start_soon(sandbox.run)
        self.wake()
        frames: list[protocol.FromSandbox] = []
        try:
            with trio.move_on_at(deadline_s):
                frames = await sandbox.receive()
            if not frames:
                sandbox.kill("time", f"it was not ready within {limits.boot_timeout_s:g} s")
                raise await sandbox.wait_dead()
        except trio.Cancelled:
            sandbox.kill()
            raise
        first = frames[0]
        if isinstance(first, protocol.BootFailed):
            sandbox.kill()
            raise SandboxFailed(spec, first.error.bounded())
        if len(frames) > 1 or not isinstance(first, protocol.Ready):
            sandbox.kill("protocol", "it spoke before it was asked")
            raise await sandbox.wait_dead()
        sandbox.workflows = tuple(first.workflows)
        return sandbox

    def wake(self) -> None:
        """There is a sandbox to watch over."""
        self._work.set()

    def forget(self, number: int) -> None:
        """A sandbox has ended."""
        self.sandboxes.pop(number, None)
        self.opener.forget(number)

    # --- what the zygote says

    def _exited(self, number: int, notice: dict[str, Any]) -> bool:
        sandbox = self.sandboxes.get(number)
        if sandbox is not None:
            sandbox.exited(notice)
        return sandbox is not None

    def _bury(self) -> None:
        """The zygote is gone and its sandboxes with it."""
        for sandbox in list(self.sandboxes.values()):
            sandbox.kill("crashed", "the cell that held it ended")
            sandbox.exited({})

    # --- watching

    async def _look_after(self) -> None:
        """Watch-dog of all sandboxes: one task, asleep while nothing is at work."""
        ticks = 0
        while True:
            await self._work.wait()
            busy = [sandbox for sandbox in self.sandboxes.values() if sandbox.is_busy]
            if not busy:
                self._work = trio.Event()
                continue
            ticks += 1
            for sandbox in busy:
                task = sandbox.tick(trio.current_time(), sample_memory=ticks % _MEMORY_EVERY_TICKS == 0)
                if task is not None and self._nursery is not None:
                    self._nursery.start_soon(task)
            await trio.sleep(_TICK_S)


@contextlib.asynccontextmanager
async def sandbox_host(
    options: CellOptions | None = None, limits: SandboxLimits | None = None
) -> AsyncIterator[SandboxHost]:
    """A running SandboxHost; every sandbox is dead when the block is left.

    Raises IsolationUnavailable (family Refused, code `not_confined`) if tenant code cannot be confined as asked.
    """
    host = SandboxHost(options, limits)
    await host.prepare()
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        try:
            yield host
        finally:
            await host.aclose()
