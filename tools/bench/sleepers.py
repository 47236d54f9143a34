"""What does a sleeping instance cost: time, disk, memory, processes? And how soon does one wake after a restart?"""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import anyio

from executor import AsyncPlatform
from executor.platform import AsyncTenant
from tools.bench.common import (
    TENANT,
    all_rest,
    cpu_s,
    disk_bytes,
    embedded,
    folder,
    main,
    memory_bytes,
    processes,
    start_all,
)
from tools.bench.server import served

WARM = 50
DOWN_S = 1.0


async def run(*, n: int = 10_000, due_s: float = 3.0, processes: int = 0) -> dict[str, Any]:
    """Start `n` instances that do one step and sleep for hours; measure when all rest and no sandbox is left.

    Then one more that is due while the platform is stopped: `restart_to_first_due_s` is from the start of a new server
    process to that instance's result, read over HTTP (imports, opening, activation and a step included).
    """
    with folder() as data_dir:
        async with embedded(data_dir, processes=processes, sandbox_idle_s=0.5) as tenant:
            found = await _create(tenant, data_dir, n)
            found |= await _at_rest(tenant, data_dir, n, found)
            due_at_s = time.time() + due_s
            due = await tenant.start("Sleeper", {"until_s": due_at_s})
            await all_rest(tenant)
        found["disk_bytes_each_stopped"] = round((disk_bytes(data_dir) - found.pop("disk_before")) / n, 1)
        await anyio.sleep(max(0.0, due_at_s + DOWN_S - time.time()))
        found |= await _restart(data_dir, due.id, processes)
    return found


async def _create(tenant: AsyncTenant, data_dir: Path, n: int) -> dict[str, Any]:
    request = {"workflow": "Sleeper", "payload": {}}
    await start_all(tenant, itertools.repeat(request, WARM))
    await all_rest(tenant)
    before = {"memory_before": memory_bytes(*processes()), "disk_before": disk_bytes(data_dir)}
    begun, cpu = time.perf_counter(), cpu_s()
    await start_all(tenant, itertools.repeat(request, n))
    started_s = time.perf_counter() - begun
    await all_rest(tenant)
    seconds = time.perf_counter() - begun
    return before | {
        "started_s": round(started_s, 2),
        "all_asleep_s": round(seconds, 2),
        "created_per_s": round(n / seconds, 1),
        "cpu_ms_each": round((cpu_s() - cpu) / n * 1000, 3),
    }


async def _at_rest(tenant: AsyncTenant, data_dir: Path, n: int, found: dict[str, Any]) -> dict[str, Any]:
    health = await tenant._platform.health()
    while health.sandboxes:
        await anyio.sleep(0.1)
        health = await tenant._platform.health()
    memory = memory_bytes(*processes())
    return {
        "sandboxes_left": health.sandboxes,
        "runs_left": health.active_runs,
        "processes": len(processes()),
        "memory_bytes_all_processes": memory,
        "memory_bytes_each": round((memory - found.pop("memory_before")) / n, 1),
        "disk_bytes_each": round((await _settled(data_dir) - found["disk_before"]) / n, 1),
    }


async def _settled(data_dir: Path) -> int:
    """Disk taken once the background has folded and trimmed: unchanged for a second, or after half a minute."""
    last, unchanged_since = disk_bytes(data_dir), time.monotonic()
    until = unchanged_since + 30
    while time.monotonic() < min(until, unchanged_since + 1):
        await anyio.sleep(0.1)
        now = disk_bytes(data_dir)
        if now != last:
            last, unchanged_since = now, time.monotonic()
    return last


async def _restart(data_dir: Path, due: str, processes_: int) -> dict[str, Any]:
    begun = time.perf_counter()
    with served(data_dir, processes=processes_) as server:
        async with AsyncPlatform.connect(server.url, token=server.token) as platform:
            run = await (await platform.tenant(TENANT)).instance(due)
            await run.result(timeout=60)
            seconds = time.perf_counter() - begun
        memory = memory_bytes(*processes(server.process.pid))
    return {
        "restart_to_ready_s": round(server.ready_s, 3),
        "restart_to_first_due_s": round(seconds, 3),
        "memory_bytes_after_restart": memory,
    }


if __name__ == "__main__":
    main(run)
