"""The platform of the model: real service, engine, store and runs of tenant code; a clock that stands until told.

One process and one thread: what is in threads otherwise is in line, sandboxes are the real program of one on an event
loop that is turned by hand. The seed draws the order in which trio runs its tasks, and every delay. Below the store is
the simulation's disk, so that lives can end by a kill or by loss of power.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, cast

import trio
from trio.testing import MockClock

import facets
from executor.adapters.state import FacetsStateStore, public_error
from executor.core import codec
from executor.core.entries import Trace
from executor.core.errors import PerdureError
from executor.engine.engine import Engine, EngineLimits
from executor.engine.local import LocalInstances
from executor.engine.peers import PeersOver
from executor.sandbox.child import Child
from executor.sandbox.child_limits import ChildLimits
from executor.sandbox.protocol import FromSandbox, ToSandbox
from executor.sandbox.spec import DeathReason, SandboxDied, SandboxSpec
from executor.sandbox.threads import StepPool
from executor.service import ADMINISTRATOR, Service, ServiceOptions
from executor.testing import inside
from executor.testing.tree import WorkingTree
from tests.executor.engine.world import BASE_MS, COMMIT, StandingClock
from tests.model.programs import Job
from tests.simulation.determinism import deterministic
from tests.simulation.disk import Disk, Loss
from tests.simulation.vfs import DiskVFS

SETTLED_S = 5.0
"""Of trio's clock, which is not the platform's: after so long everything has gone as far as it can."""
LIFE_S = 100_000.0
TENANT = "acme"


class Sandbox:
    """The program of a sandbox process, in this one. What it says to a message comes after a drawn delay."""

    def __init__(self, spec: SandboxSpec, delay: Callable[[], Awaitable[None]]) -> None:
        self.spec = spec
        self._delay = delay
        self._loop = asyncio.new_event_loop()
        tree = cast("Any", WorkingTree(Job))
        self._child = Child(self._loop, StepPool(0), tree, ChildLimits(), self._say, lambda: None)
        self._to_engine, self._frames = trio.open_memory_channel[list[FromSandbox]](10_000)
        self._death: SandboxDied | None = None

    async def send(self, frames: Sequence[ToSandbox]) -> None:
        """See the port."""
        await self._delay()
        if self._death is not None:
            raise self._death
        with inside.driving(lambda _error, _fact: None):
            self._child.handle(list(frames))
            while cast("Any", self._loop)._ready:
                self._loop.call_soon(self._loop.stop)
                self._loop.run_forever()

    def _say(self, frames: list[FromSandbox]) -> None:
        if self._death is None:
            self._to_engine.send_nowait(frames)

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
            self._loop.close()


class Host:
    """The SandboxHost port."""

    def __init__(self, delay: Callable[[], Awaitable[None]]) -> None:
        self._delay = delay
        self.sandboxes: list[Sandbox] = []

    async def open(self, spec: SandboxSpec) -> Sandbox:
        """See the port."""
        await self._delay()
        self.sandboxes.append(Sandbox(spec, self._delay))
        return self.sandboxes[-1]


class Code:
    """A CodeSource with one version of one workflow."""

    def startable(self, _tenant: str, *, channel: str, commit: str | None) -> tuple[str, Mapping[str, str]]:
        return commit or COMMIT, {"Job": ""}

    def keep_for_instances(self, _tenant: str, _commit: str) -> None: ...
    def tenant(self, name: str) -> None: ...

    def bundle(self, _tenant: str, _commit: str) -> Path:
        return Path("/nowhere")


class Platform:
    """One data directory, over any number of lives."""

    def __init__(self, seed: int) -> None:
        folder = "/dev/shm" if Path("/dev/shm").is_dir() else None
        self.root = Path(tempfile.mkdtemp(prefix="model-", dir=folder)).resolve()
        self.disk = Disk(self.root, Random(f"disk {seed}"), sector_bytes=512)
        self._vfs = DiskVFS(self.disk)
        self._random = Random(f"platform {seed}")
        self.now_ms = BASE_MS
        self.limits = EngineLimits(stop_grace_s=1.0, unloads_at_every_wait=bool(seed % 2))

    def close(self) -> None:
        self.disk.turn_off()
        self._vfs.unregister()
        shutil.rmtree(self.root)

    def live(self, story: Callable[[Life], Awaitable[Loss | None]]) -> None:
        """One life. It ends in order (None), or as the story says."""
        loss: list[Loss | None] = [None]
        store = self._open()
        try:
            with deterministic(self._random) as threads:

                async def main() -> None:
                    clock = StandingClock()
                    clock.advance(self.now_ms - BASE_MS)
                    host = Host(threads.delay)
                    engine = Engine(store, cast("Any", Code()), host, clock, self.limits, threads.worker)  # type: ignore[arg-type]
                    instances = LocalInstances(engine, store)
                    engine.peers = PeersOver(instances, cast("Any", Code()))
                    options = ServiceOptions(admin_token="pda_model", version="1", isolation_level=0)
                    service = Service(instances, cast("Any", Code()), clock, options)
                    try:
                        with trio.fail_after(LIFE_S):
                            async with engine.running():
                                loss[0] = await story(Life(service, instances, clock))
                                self.now_ms = clock.now_ms()
                                if loss[0] is not None:
                                    self.disk.turn_off()
                    finally:
                        for sandbox in host.sandboxes:
                            sandbox.kill()

                try:
                    trio.run(main, clock=MockClock(autojump_threshold=0))
                except BaseExceptionGroup as group:
                    # Whoever writes to a dead disk ends.
                    _, other = group.split(PerdureError)
                    if other is not None or not self.disk.is_off:
                        raise
                except PerdureError:
                    if not self.disk.is_off:
                        raise
        finally:
            with suppress(PerdureError):
                store.close()
        if self.disk.is_off:
            self.disk.calm_down()
            self.disk.turn_on(loss[0] or "kept")

    def _open(self) -> FacetsStateStore:
        try:
            return FacetsStateStore(facets.StateStore.open(self.root / "state", fold="manual", vfs=self._vfs.name))
        except facets.FacetError as error:
            raise public_error(error) from error


class Life:
    """What a story has: the service, and time."""

    def __init__(self, service: Service, instances: LocalInstances, clock: StandingClock) -> None:
        self.service = service
        self._instances = instances
        self._clock = clock

    async def settle(self) -> None:
        """Until everything has gone as far as it can."""
        await trio.sleep(SETTLED_S)

    def advance(self, ms: int) -> None:
        self._clock.advance(ms)

    async def kinds(self, id: str) -> list[str]:
        """Of its journal, without traces."""
        stored = await self._instances.journal(TENANT, id, after=0, limit=1000, wait_s=0)
        entries = [codec.decode(data)[0] for data in stored]
        return [type(entry).__name__ for entry in entries if not isinstance(entry, Trace)]


__all__ = ["ADMINISTRATOR", "TENANT", "Life", "Platform"]
