"""How fast do three trivial steps go: many at once, one at a time, and what do they cost in CPU?"""

from __future__ import annotations

import hashlib
import inspect
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from executor.config import Config
from executor.main import running
from executor.service import ADMINISTRATOR, Service
from tools.bench.common import TENANT, WORKFLOWS, cpu_s, main, percentile


@asynccontextmanager
async def embedded(**settings: Any) -> AsyncGenerator[tuple[Service, Path]]:
    """A running platform with one tenant and WORKFLOWS deployed; its folder is removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="perdure-bench-"))
    try:
        async with running(Config(data_dir=folder, **settings)) as service:
            await service.create_tenant(ADMINISTRATOR, TENANT)
            await service.deploy(ADMINISTRATOR, TENANT, {"workflows.py": WORKFLOWS}, message="bench")
            yield service, folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _run_one(service: Service, number: int) -> tuple[float, Any]:
    begun = time.perf_counter()
    status = await service.start(ADMINISTRATOR, TENANT, "Three", {"number": number})
    output = await service.result(ADMINISTRATOR, TENANT, status.id, timeout_s=60)
    return time.perf_counter() - begun, output


async def run(*, count: int = 2000, in_flight: int = 64, one_by_one: int = 300) -> dict[str, Any]:
    """`count` workflows with `in_flight` at a time, then `one_by_one` alone; start and result through the service."""
    checksum = hashlib.sha256()
    async with embedded() as (service, _):
        for number in range(20):
            await _run_one(service, number)
        numbers = iter(range(count))
        crowd: list[float] = []

        async def worker() -> None:
            for number in numbers:
                seconds, output = await _run_one(service, number)
                crowd.append(seconds)
                checksum.update(repr(output).encode())

        begun, cpu_before = time.perf_counter(), cpu_s()
        async with trio.open_nursery() as nursery:
            for _ in range(in_flight):
                nursery.start_soon(worker)
        seconds, cpu = time.perf_counter() - begun, cpu_s() - cpu_before
        alone = [(await _run_one(service, number))[0] for number in range(one_by_one)]
    return {
        "workflows_per_s": round(count / seconds, 1),
        "cpu_ms_per_workflow": round(cpu / count * 1000, 3),
        "latency_in_crowd_p50_ms": round(percentile(crowd, 0.5) * 1000, 2),
        "latency_in_crowd_p99_ms": round(percentile(crowd, 0.99) * 1000, 2),
        "latency_alone_p50_ms": round(percentile(alone, 0.5) * 1000, 2),
        "latency_alone_p99_ms": round(percentile(alone, 0.99) * 1000, 2),
        "checksum": checksum.hexdigest()[:16],
    }


def in_trio(**sizes: Any) -> dict[str, Any]:
    return trio.run(partial(run, **sizes))


if __name__ == "__main__":
    in_trio.__signature__ = inspect.signature(run)  # type: ignore[attr-defined]
    main(in_trio)
