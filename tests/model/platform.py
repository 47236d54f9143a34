"""The platform of the model: real service, engine, store and runs of tenant code; a clock that stands until told.

One process and one thread: what is in threads otherwise is in line, and sandboxes are in this process. The seed draws
the order in which trio runs its tasks, and every delay. Below the store is the simulation's disk, so that lives can end
by a kill or by loss of power.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import trio
from trio.testing import MockClock

import facets
from executor.adapters.state import FacetsStateStore, public_error
from executor.core import codec
from executor.core.entries import Trace
from executor.core.errors import NotFound, PerdureError
from executor.engine.engine import Engine, EngineLimits
from executor.engine.local import LocalInstances
from executor.engine.peers import PeersOver
from executor.schedules.store import SqliteScheduleStore
from executor.service import ADMINISTRATOR, Service, ServiceOptions
from tests.executor.engine.world import BASE_MS, StandingClock
from tests.model.programs import WORKFLOWS
from tests.model.sandboxes import Host
from tests.simulation.determinism import deterministic
from tests.simulation.disk import Disk, Loss
from tests.simulation.vfs import DiskVFS

COMMITS = ("a" * 40, "b" * 40)
DECLARED = {name: json.dumps({"flow": flow}) if flow else "" for name, flow in WORKFLOWS.items()}
SETTLED_S = 1.0
SETTLES = 3
"""Of trio's clock, which is not the platform's: after so long, and so often, everything has gone as far as it can."""
LIFE_S = 100_000.0
TENANT = "acme"


class Code:
    """A CodeSource with two versions of the same workflows, one of which is live."""

    live = 0

    def startable(self, _tenant: str, *, channel: str, commit: str | None) -> tuple[str, Mapping[str, str]]:
        if channel and channel != "live":
            raise NotFound(f"no channel {channel}", code="channel_not_found")
        return commit or COMMITS[self.live], DECLARED

    def keep_for_instances(self, _tenant: str, _commit: str) -> None: ...
    def tenant(self, name: str) -> None: ...

    def tenants(self) -> list[Any]:
        return [SimpleNamespace(name=TENANT)]

    def version(self, _tenant: str, commit: str) -> Any:
        """It declares no schedules."""
        return SimpleNamespace(commit=commit, workflows=[])

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
        self.code = Code()
        self.limits = EngineLimits(stop_grace_s=1.0, unloads_at_every_wait=bool(seed % 2))

    def close(self) -> None:
        self.disk.turn_off()
        self._vfs.unregister()
        shutil.rmtree(self.root)

    def live(self, story: Callable[[Life], Awaitable[Loss | None]]) -> None:
        """One life. It ends in order (None), or as the story says."""
        loss: list[Loss | None] = [None]
        store = self._open()
        schedules = SqliteScheduleStore.open(self.root / "schedules.db", vfs=self._vfs.name)
        try:
            with deterministic(self._random) as threads:

                async def main() -> None:
                    clock = StandingClock()
                    clock.advance(self.now_ms - BASE_MS)
                    host = Host(threads.delay)
                    engine = Engine(store, cast("Any", self.code), host, clock, self.limits, threads.worker)  # type: ignore[arg-type]
                    instances = LocalInstances(engine, store)
                    engine.peers = PeersOver(instances, cast("Any", self.code))
                    options = ServiceOptions(admin_token="pda_model", version="1", isolation_level=0)
                    service = Service(instances, cast("Any", self.code), clock, options, schedules=schedules)
                    try:
                        with trio.fail_after(LIFE_S):
                            async with engine.running(), trio.open_nursery() as nursery:
                                await nursery.start(service.run_schedules)
                                loss[0] = await story(Life(service, instances, clock, host, self.code))
                                self.now_ms = clock.now_ms()
                                if loss[0] is not None:
                                    self.disk.turn_off()
                                nursery.cancel_scope.cancel()
                    finally:
                        host.kill()

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
            for each in (schedules, store):
                with suppress(PerdureError):
                    each.close()
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

    def __init__(
        self, service: Service, instances: LocalInstances, clock: StandingClock, host: Host, code: Code
    ) -> None:
        self.service = service
        self._code = code
        self._instances = instances
        self._clock = clock
        self._host = host

    async def settle(self) -> None:
        """Until everything has gone as far as it can."""
        for _ in range(SETTLES):
            await trio.sleep(SETTLED_S)
            self._host.turn()

    async def release(self, id: str) -> bool:
        """See Host. Raises NotFound."""
        await self.service.status(ADMINISTRATOR, TENANT, id)
        return self._host.release(id)

    def move(self, number: int) -> None:
        """Channel `live` is on that commit."""
        self._code.live = number
        self.service._moved(TENANT)

    def advance(self, ms: int) -> None:
        self._clock.advance(ms)

    async def look_at_schedules(self) -> dict[str, dict[str, Any]]:
        """What can be seen of each schedule."""
        found = {}
        for listed in await self.service.schedules(ADMINISTRATOR, TENANT):
            view = await self.service.schedule(ADMINISTRATOR, TENANT, listed.name)
            found[view.name] = {
                "paused": view.paused,
                "next": view.next_ms[:1],
                "running": view.running,
                "waiting": view.waiting,
                "firings": [(firing.scheduled_ms, firing.outcome, firing.instance) for firing in view.firings],
            }
        return found

    async def look(self, id: str) -> dict[str, Any]:
        """What can be seen of an instance; its journal without traces."""
        status = await self.service.status(ADMINISTRATOR, TENANT, id)
        stream = await self.service.stream(ADMINISTRATOR, TENANT, id, "out")
        stored = await self._instances.journal(TENANT, id, after=0, limit=1000, wait_s=0)
        entries = [codec.decode(data)[0] for _, data in stored]
        return {
            "kinds": [type(entry).__name__ for entry in entries if not isinstance(entry, Trace)],
            "state": status.state,
            "waiting for": sorted(wait.kind for wait in status.waits),
            "output": status.output,
            "status": status.status,
            "attributes": status.attributes,
            "stream": [item.item for item in stream],
            "parent": (status.parent.id, status.parent.path) if status.parent is not None else None,
            "commit": status.commit,
        }


__all__ = ["ADMINISTRATOR", "COMMITS", "TENANT", "Life", "Platform"]
