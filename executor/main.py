"""Composition root: takes the data directory, opens the stores, sandboxes and engines, and hands the service out.

With one process everything is here; with several this one is the front: it has the code store and routes each call to
the shard process that owns the instance (executor/shards). Only this module and `shards` name adapters. Order of
opening: the lock (it makes this process the owner of the data), layout, code, instances; closed in reverse.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from importlib import metadata
from pathlib import Path

import trio

from executor.adapters.clock import SystemClock
from executor.adapters.code import GitCodeSource
from executor.config import UNLOAD, Config, with_admin_token
from executor.core.errors import PerdureError, Refused
from executor.engine.engine import EngineLimits
from executor.engine.peers import PeersOver
from executor.ports import CodeSource, Instances, Peers, ScheduleStore
from executor.sandbox.cell import Isolation
from executor.schedules.store import SqliteScheduleStore
from executor.service import SCHEDULES_FILE, Service, ServiceOptions
from executor.service.flow import Flows
from executor.service.flow_state import FlowState
from executor.service.gate import Gate
from executor.shards.calls import Setup
from executor.shards.layout import MANIFEST, Layout, laid_out, owned
from executor.shards.owner import owning
from executor.shards.remote import RemoteInstances
from executor.shards.router import RoutedInstances
from executor.shards.slots import SlotLedger
from executor.shards.supervisor import ShardProcess

ISOLATION_LEVELS = {Isolation.CELL: 2, Isolation.LANDLOCK: 1, Isolation.NONE: 0}
HASH_SEED_FILE = "hash-seed"
DAY_S = 86_400


@asynccontextmanager
async def running(config: Config) -> AsyncGenerator[Service]:
    """A running executor over `config.data_dir`; on leaving, steps that execute may finish before it stops.

    Raises Refused (`data_in_use`, `not_confined`, `schema_too_new`), Corrupt, Unavailable.
    """
    if not sys.platform.startswith("linux"):
        raise Refused("the executor runs on Linux only", code="not_confined")
    config = with_admin_token(config)
    assert config.admin_token is not None
    isolation = Isolation.NONE if config.unconfined else Isolation.CELL
    async with _one_error(), _opened(config) as (layout, code):
        seed = await trio.to_thread.run_sync(hash_seed, config.data_dir)
        options = ServiceOptions(
            admin_token=config.admin_token,
            version=metadata.version("perdure"),
            isolation_level=ISOLATION_LEVELS[isolation],
            payload_bytes_max=config.payload_bytes_max,
            kept_files=(config.data_dir / HASH_SEED_FILE, config.data_dir / MANIFEST),
        )
        opening = _in_shard_processes if len(layout.places) > 1 else _in_this_process
        clock, gate, flow_state = SystemClock(), Gate(), FlowState()

        def peers(instances: Instances) -> Peers:
            return PeersOver(instances, code, gate, Flows(instances, clock, flow_state))

        async with (
            opening(config, layout, code, isolation, seed=seed, peers=peers) as instances,
            _scheduling(config.data_dir / SCHEDULES_FILE) as schedules,
            trio.open_nursery() as nursery,
        ):
            service = Service(instances, code, clock, options, schedules=schedules, gate=gate, flow_state=flow_state)
            await service.apply_settings()
            await nursery.start(service.run_schedules)
            yield service
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def _scheduling(path: Path) -> AsyncGenerator[ScheduleStore]:
    store = await trio.to_thread.run_sync(SqliteScheduleStore.open, path)
    try:
        yield store
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(store.close)


@asynccontextmanager
async def _in_this_process(
    config: Config,
    layout: Layout,
    code: CodeSource,
    isolation: Isolation,
    *,
    seed: int,
    peers: Callable[[Instances], Peers],
) -> AsyncGenerator[Instances]:
    [place] = layout.places
    limits = EngineLimits(
        active_runs_max=config.active_runs_max,
        sandboxes_max=config.sandboxes_max,
        sandbox_idle_s=config.sandbox_idle_s,
        retain_complete_s=config.retain_complete_days * DAY_S,
        retain_failed_s=config.retain_failed_days * DAY_S,
        unloads_at_every_wait=config.unload == UNLOAD,
        steps_max=config.steps_max,
        journal_bytes_max=config.journal_bytes_max,
        history_bytes_max=config.history_bytes_max,
        resident_bytes_max=config.resident_bytes_max,
    )
    async with owning(
        config.data_dir / place,
        place,
        code,
        isolation=isolation,
        hash_seed=seed,
        limits=limits,
        facet_bytes_max=config.facet_bytes_max,
        blobs_bytes_max=config.blobs_bytes_max,
        peers=peers,
    ) as instances:
        yield instances


@asynccontextmanager
async def _in_shard_processes(
    config: Config,
    layout: Layout,
    code: CodeSource,
    isolation: Isolation,
    *,
    seed: int,
    peers: Callable[[Instances], Peers],
) -> AsyncGenerator[Instances]:
    """One process for each store, all opened at the same time; limits of the platform are shared out among them."""
    count = len(layout.places)
    # An embedding program keeps its own logging: then the shard processes say only what is wrong.
    is_set_up = bool(logging.getLogger("executor").handlers)
    processes = [
        ShardProcess(
            Setup(
                number=number,
                path=str((config.data_dir / place).absolute()),
                place=place,
                is_confined=isolation is not Isolation.NONE,
                hash_seed=seed,
                active_runs_max=share(config.active_runs_max, count, number),
                sandboxes_max=share(config.sandboxes_max, count, number),
                sandbox_idle_s=config.sandbox_idle_s,
                retain_complete_s=config.retain_complete_days * DAY_S,
                retain_failed_s=config.retain_failed_days * DAY_S,
                unloads_at_every_wait=config.unload == UNLOAD,
                steps_max=config.steps_max,
                journal_bytes_max=config.journal_bytes_max,
                history_bytes_max=config.history_bytes_max,
                resident_bytes_max=share(config.resident_bytes_max, count, number),
                facet_bytes_max=config.facet_bytes_max,
                blobs_bytes_max=config.blobs_bytes_max,
                log_level=config.log_level if is_set_up else "warning",
                log_format=config.log_format,
            ),
            code,
        )
        for number, place in enumerate(layout.places)
    ]
    instances = RoutedInstances(
        [RemoteInstances(process) for process in processes], layout.owners, layout=layout.number
    )
    slots, through_here = SlotLedger(), peers(instances)
    for process in processes:
        process.peers = through_here
        process.slots = slots
    async with trio.open_nursery() as nursery:
        try:
            async with trio.open_nursery() as opening:
                for process in processes:
                    opening.start_soon(nursery.start, process.run)
            yield instances
        finally:
            with trio.CancelScope(shield=True):
                async with trio.open_nursery() as stopping:
                    for process in processes:
                        stopping.start_soon(process.stop)


def share(total: int, count: int, number: int) -> int:
    """Part `number` of `total`, divided among `count`; at least 1."""
    return max(1, total // count + (number < total % count))


@asynccontextmanager
async def _opened(config: Config) -> AsyncGenerator[tuple[Layout, GitCodeSource]]:
    path = config.data_dir
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = owned(path)
    try:
        layout = await trio.to_thread.run_sync(laid_out, path, config.processes)
        code = await trio.to_thread.run_sync(
            lambda: GitCodeSource.open(path / "git", pack_bytes_max=config.push_bytes_max)
        )
        try:
            yield layout, code
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(code.close)
    finally:
        lock.release()


@asynccontextmanager
async def _one_error() -> AsyncGenerator[None]:
    """An error that nurseries wrapped in groups comes out as itself; of several, as the first."""
    try:
        yield
    except BaseExceptionGroup as group:
        ours, others = group.split(PerdureError)
        if ours is None or others is not None:
            raise
        first: BaseException = ours
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None


def hash_seed(data_dir: Path) -> int:
    """The seed of `hash()` in all sandboxes of this data directory, 1 to 2**32-1; made once, durable on return.

    It must be the same after a restart: code that iterates over a set of texts would else replay in another order.
    """
    path = data_dir / HASH_SEED_FILE
    try:
        return int(path.read_text("ascii"))
    except FileNotFoundError:
        seed = secrets.randbelow(2**32 - 1) + 1
        unfinished = path.with_suffix(".new")
        with unfinished.open("w", encoding="ascii") as file:
            file.write(str(seed))
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
        return seed
