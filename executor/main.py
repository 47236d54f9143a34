"""Composition root: opens the stores, the sandboxes and the engine, and hands the service to whoever serves it.

Only this module names adapters. Order of opening: state (its lock makes this process the owner of the data), code,
sandboxes, engine; closed in reverse.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib import metadata
from pathlib import Path

import trio

from executor.adapters.clock import SystemClock
from executor.adapters.code import GitCodeSource
from executor.adapters.state import FacetsStateStore
from executor.config import Config, with_admin_token
from executor.core.errors import PerdureError, Refused
from executor.engine.engine import Engine, EngineLimits
from executor.engine.local import LocalInstances
from executor.sandbox.cell import CellOptions, Isolation
from executor.sandbox.pool import sandbox_host
from executor.service import Service, ServiceOptions

ISOLATION_LEVELS = {Isolation.CELL: 2, Isolation.LANDLOCK: 1, Isolation.NONE: 0}
HASH_SEED_FILE = "hash-seed"


@asynccontextmanager
async def running(config: Config) -> AsyncGenerator[Service]:
    """A running executor over `config.data_dir`; on leaving, steps that execute may finish before it stops.

    Raises Refused (`data_in_use`, `not_confined`, `schema_too_new`), Corrupt, Unavailable.
    """
    if not sys.platform.startswith("linux"):
        raise Refused("the executor runs on Linux only", code="not_confined")
    config = with_admin_token(config)
    assert config.admin_token is not None
    async with _one_error(), _opened(config) as (store, code):
        isolation = Isolation.NONE if config.unconfined else Isolation.CELL
        seed = await trio.to_thread.run_sync(hash_seed, config.data_dir)
        async with sandbox_host(CellOptions(isolation=isolation, hash_seed=seed)) as host:
            clock = SystemClock()
            limits = EngineLimits(
                active_runs_max=config.active_runs_max,
                sandboxes_max=config.sandboxes_max,
                sandbox_idle_s=config.sandbox_idle_s,
            )
            engine = Engine(store, code, host, clock, limits)
            options = ServiceOptions(
                admin_token=config.admin_token,
                version=metadata.version("perdure"),
                isolation_level=ISOLATION_LEVELS[isolation],
                payload_bytes_max=config.payload_bytes_max,
                kept_files=(config.data_dir / HASH_SEED_FILE,),
            )
            async with engine.running():
                yield Service(LocalInstances(engine, store), code, clock, options)


@asynccontextmanager
async def _opened(config: Config) -> AsyncGenerator[tuple[FacetsStateStore, GitCodeSource]]:
    path = config.data_dir
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    store = await trio.to_thread.run_sync(FacetsStateStore.open, path / "state")
    try:
        code = await trio.to_thread.run_sync(
            lambda: GitCodeSource.open(path / "git", pack_bytes_max=config.push_bytes_max)
        )
        try:
            yield store, code
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(code.close)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(store.close)


@asynccontextmanager
async def _one_error() -> AsyncGenerator[None]:
    """An error that nurseries wrapped in groups comes out as itself if it is the only one."""
    try:
        yield
    except BaseExceptionGroup as group:
        found: list[BaseException] = [group]
        while len(found) == 1 and isinstance(found[0], BaseExceptionGroup):
            found = list(found[0].exceptions)
        if len(found) == 1 and isinstance(found[0], PerdureError):
            raise found[0] from None
        raise


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
