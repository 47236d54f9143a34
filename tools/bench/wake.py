"""How do many wake at once, and how many can be active at once?

Due: `n` sleepers due within the same second, each doing one step when it wakes: how long until the last step is
recorded, did one wake early, and by how much did one overtake another that was due before it? Active: `active`
instances each waiting inside a step at the same time: memory of each over all processes, and of that what is here: in
this process, which with one process of the platform is the executor.
"""

from __future__ import annotations

import itertools
import os
import time
from typing import Any

import anyio

from executor.platform import AsyncRun, AsyncTenant
from tools.bench.common import (
    all_rest,
    cpu_s,
    crowd,
    embedded,
    folder,
    main,
    memory_bytes,
    percentile,
    processes,
    start_all,
)

ACTIVE_S_MAX = 300.0


async def run(
    *, n: int = 10_000, lead_s: float = 0.0, active: int = 50_000, hold_s: float = 3600.0, processes: int = 0
) -> dict[str, Any]:
    """`lead_s`: from the first start until the first is due (0: five seconds and 2.5 ms for each). `hold_s`: how long
    each of the active ones stays in its step; shorter than the bench: all are waited for."""
    with folder() as data_dir:
        async with embedded(data_dir, processes=processes) as tenant:
            found = await _due(tenant, n, lead_s or 5 + n / 400)
    with folder() as data_dir:
        async with embedded(data_dir, processes=processes, active_runs_max=2 * active) as tenant:
            return found | await _active(tenant, active, hold_s)


async def _due(tenant: AsyncTenant, n: int, lead_s: float) -> dict[str, Any]:
    first_s = time.time() + lead_s
    requests = [
        {"workflow": "Sleeper", "payload": {"until_s": first_s + number / n}, "id": f"due-{number}"}
        for number in range(n)
    ]
    await start_all(tenant, requests)
    await all_rest(tenant)
    spare_s = first_s - time.time()
    assert spare_s > 0, f"all slept only {-spare_s:.1f} s after the first was due: give a longer --lead-s"
    cpu = cpu_s()
    await anyio.sleep(spare_s + 1)
    await all_rest(tenant, "waiting", "queued", "running")
    cpu = cpu_s() - cpu
    woken: list[tuple[int, int]] = []  # when it woke, when it was due; in milliseconds since the epoch
    stepped: list[int] = []

    async def look(number: int) -> None:
        run: AsyncRun[Any] = AsyncRun(tenant, f"due-{number}")
        items = {item.kind: item.at_ms for item in await run.journal()}  # of two steps, the last
        assert "completed" in items, items
        woken.append((items["sleep_ended"], int((first_s + number / n) * 1000)))
        stepped.append(items["step_succeeded"])

    await crowd(look, count=n, in_flight=16)
    woken.sort()
    latest_due = list(itertools.accumulate((due for _, due in woken), max))
    return {
        "due": n,
        "due_all_stepped_s": round(max(stepped) / 1000 - first_s, 3),
        "due_cpu_ms_each": round(cpu / n * 1000, 3),
        "due_woken_early": sum(at < due for at, due in woken),
        "due_late_p50_ms": percentile([at - due for at, due in woken], 0.5),
        "due_overtaken_by_ms_max": max(latest - due for latest, (_, due) in zip(latest_due, woken, strict=True)),
    }


async def _active(tenant: AsyncTenant, active: int, hold_s: float) -> dict[str, Any]:
    platform = tenant._platform
    await (await tenant.start("One", {})).result(timeout=60)
    before, own, cpu, begun = memory_bytes(*processes()), memory_bytes(os.getpid()), cpu_s(), time.perf_counter()
    await start_all(tenant, itertools.repeat({"workflow": "Slow", "payload": {"seconds": hold_s, "steps": 1}}, active))
    most = 0
    while most < active and time.perf_counter() - begun < ACTIVE_S_MAX:
        most = max(most, (await platform.health()).active_runs)
        await anyio.sleep(0.1)
    seconds = time.perf_counter() - begun
    await anyio.sleep(2)  # the last ones reach their step
    health = await platform.health()
    found = {
        "active": most,
        "active_reached_s": round(seconds, 2),
        "active_cpu_ms_each": round((cpu_s() - cpu) / active * 1000, 3),
        "active_memory_bytes_each": round((memory_bytes(*processes()) - before) / active, 1),
        "active_memory_bytes_each_here": round((memory_bytes(os.getpid()) - own) / active, 1),
        "active_sandboxes": health.sandboxes,
    }
    if hold_s < ACTIVE_S_MAX:
        await all_rest(tenant)
        failed = await tenant.instances(state="failed", limit=1)
        found["active_all_complete_s"] = round(time.perf_counter() - begun, 2)
        assert not failed, failed
    return found


if __name__ == "__main__":
    main(run)
