"""What does a sleeping instance cost: memory, disk, processes, objects?"""

from __future__ import annotations

import gc
import os
import time
from typing import Any

import trio

from executor.service import ADMINISTRATOR, Service
from executor.views import StartRequest
from tools.bench.common import TENANT, disk_bytes, embedded, main, memory_bytes, processes

BATCH = 500


async def run(*, count: int = 10_000) -> dict[str, Any]:
    """Start `count` instances that do one step and sleep for hours; measure when all rest and the sandbox is gone."""
    async with embedded(sandbox_idle_s=0.5) as (service, folder):
        await _start(service, 50)
        await _all_rest(service, 50)
        gc.collect()
        memory_before, objects_before = memory_bytes(os.getpid()), len(gc.get_objects())
        disk_before = disk_bytes(folder)
        begun = time.perf_counter()
        await _start(service, count)
        await _all_rest(service, count + 50)
        seconds = time.perf_counter() - begun
        while (await service.health()).sandboxes:
            await trio.sleep(0.1)
        await trio.to_thread.run_sync(service._store._store.fold)  # what rests is what is folded
        gc.collect()
        objects = len(gc.get_objects()) - objects_before
        memory = memory_bytes(os.getpid()) - memory_before
        disk = disk_bytes(folder) - disk_before
        health = await service.health()
        in_sandboxes = len(processes())
    return {
        "objects_per_sleeper": round(objects / count, 2),
        "memory_bytes_per_sleeper": round(memory / count, 1),
        "disk_bytes_per_sleeper": round(disk / count, 1),
        "sandboxes_left": health.sandboxes,
        "runs_left": health.active_runs,
        "processes_of_the_platform": in_sandboxes,
        "created_per_s": round(count / seconds, 1),
    }


async def _start(service: Service, count: int) -> None:
    for begin in range(0, count, BATCH):
        requests = [StartRequest(workflow="Sleeper", payload={}) for _ in range(min(BATCH, count - begin))]
        outcomes = await service.start_many(ADMINISTRATOR, TENANT, requests)
        assert all(outcome.status for outcome in outcomes)


async def _all_rest(service: Service, count: int) -> None:
    while (await service.counts(ADMINISTRATOR, TENANT)).get("waiting", 0) < count:
        await trio.sleep(0.02)


if __name__ == "__main__":
    main(run)
