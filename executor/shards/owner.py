"""What owns instances in one process: a store, sandboxes and an engine over them, as the Instances port."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from executor.adapters.clock import SystemClock
from executor.adapters.state import FacetsStateStore
from executor.engine.engine import Engine, EngineLimits
from executor.engine.local import LocalInstances
from executor.ports import CodeSource, Instances, Peers, Slots
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
    blobs_bytes_max: int,
    peers: Callable[[Instances], Peers],
    slots: Slots | None = None,
) -> AsyncGenerator[LocalInstances]:
    """The instances of the store in `path`, going on from where they were; on leaving, steps that execute may finish.

    `place`: where a backup keeps the store. `peers`: how instances ask each other, made over the instances here.
    `slots` None: there are no other processes. Raises Refused (`data_in_use`, `not_confined`, `schema_too_new`),
    Corrupt, Unavailable.
    """
    store = await trio.to_thread.run_sync(
        lambda: FacetsStateStore.open(path, facet_bytes_max=facet_bytes_max, blobs_bytes_max=blobs_bytes_max)
    )
    try:
        options = CellOptions(isolation=isolation, hash_seed=hash_seed)
        async with sandbox_host(options, SandboxLimits(facet_bytes_max=facet_bytes_max)) as host:
            engine = Engine(store, code, host, SystemClock(), limits)
            instances = LocalInstances(engine, store, place=place)
            engine.peers = peers(instances)
            if slots is not None:
                engine.places.slots = slots
            async with engine.running():
                yield instances
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(store.close)
