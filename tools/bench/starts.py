"""How many durable starts a second? Instances stay queued: what runs is the way from the call to the fsync."""

from __future__ import annotations

import time
from typing import Any

import trio

from executor.service import ADMINISTRATOR
from executor.views import StartRequest
from tools.bench.common import TENANT, cpu_s, embedded, main


async def run(*, count: int = 3000, clients: int = 64, batch: int = 100) -> dict[str, Any]:
    """`count` single starts by `clients` at a time, then as many by `start_many` of `batch`.

    One activation at a time is allowed, so that the figure is of starts and not of steps.
    """
    async with embedded(active_runs_max=1) as (service, _):
        numbers = iter(range(count))

        async def client() -> None:
            for number in numbers:
                await service.start(ADMINISTRATOR, TENANT, "Sleeper", {"number": number})

        begun, cpu_before = time.perf_counter(), cpu_s()
        async with trio.open_nursery() as nursery:
            for _ in range(clients):
                nursery.start_soon(client)
        single_s, single_cpu = time.perf_counter() - begun, cpu_s() - cpu_before
        begun = time.perf_counter()
        for _ in range(max(1, count // batch)):
            requests = [StartRequest(workflow="Sleeper", payload={}) for _ in range(batch)]
            outcomes = await service.start_many(ADMINISTRATOR, TENANT, requests)
            assert all(outcome.status for outcome in outcomes)
        many_s = time.perf_counter() - begun
    return {
        "starts_per_s": round(count / single_s, 1),
        "cpu_ms_per_start": round(single_cpu / count * 1000, 3),
        "start_many_per_s": round(max(1, count // batch) * batch / many_s, 1),
    }


if __name__ == "__main__":
    main(run)
