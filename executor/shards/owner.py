"""What owns instances in one process: a store, sandboxes and an engine over them, as the Instances port."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from executor.adapters.clock import SystemClock
from executor.adapters.state import FacetsStateStore
from executor.engine.engine import Engine, EngineLimits
from executor.engine.local import LocalInstances
from executor.engine.peers import Gate, PeersOver
from executor.ports import CodeSource, Peers, Slots
from executor.sandbox.cell import CellOptions, Isolation
from executor.sandbox.limits import SandboxLimits
from executor.sandbox.pool import sandbox_host


@asynccontextmanager
async def owning(
    path: Path,
    place: str,
    code: CodeSource,
    *,
    isolation: Isolation,
    hash_seed: int,
    limits: EngineLimits,
    facet_bytes_max: int,
    peers: Peers | None = None,
    slots: Slots | None = None,
    gate: Gate | None = None,
) -> AsyncGenerator[LocalInstances]:
    """The instances of the store in `path`, going on from where they were; on leaving, steps that execute may finish.

    `place`: where a backup keeps the store. `peers` and `slots` None: there are no other processes; then `gate` is
    what keeps collections of garbage away from the start of a child. Raises Refused (`data_in_use`, `not_confined`,
    `schema_too_new`), Corrupt, Unavailable.
    """
    store = await trio.to_thread.run_sync(lambda: FacetsStateStore.open(path, facet_bytes_max=facet_bytes_max))
    try:
        options = CellOptions(isolation=isolation, hash_seed=hash_seed)
        async with sandbox_host(options, SandboxLimits(facet_bytes_max=facet_bytes_max)) as host:
            engine = Engine(store, code, host, SystemClock(), limits)
            instances = LocalInstances(engine, store, place=place)
            engine.peers = PeersOver(instances, code, gate) if peers is None else peers
            if slots is not None:
                engine.places.slots = slots
            async with engine.running():
                yield instances
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(store.close)
