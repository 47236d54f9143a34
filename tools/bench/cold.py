"""How long from a start on a commit that no sandbox has seen to its first step, durable? Deploys are not counted."""

from __future__ import annotations

import time
from typing import Any

from executor.service import ADMINISTRATOR
from tools.bench.common import TENANT, WORKFLOWS, embedded, main, percentile


async def run(*, commits: int = 60) -> dict[str, Any]:
    """One start on each of `commits` versions. `cold_start` is until the first step's record is there to see;
    `warm_start` is the same again on the same version, for comparison."""
    cold: list[float] = []
    warm: list[float] = []
    async with embedded(sandboxes_max=16) as (service, _):

        async def first_step(commit: str) -> float:
            begun = time.perf_counter()
            status = await service.start(ADMINISTRATOR, TENANT, "Sleeper", {}, commit=commit)
            async with service.watching(TENANT, status.id) as watch:
                while (await service.status(ADMINISTRATOR, TENANT, status.id)).sequence < 2:
                    await watch.wait()
            return time.perf_counter() - begun

        for number in range(commits):
            source = WORKFLOWS + f"\nVERSION = {number}\n".encode()
            deployed = await service.deploy(ADMINISTRATOR, TENANT, {"workflows.py": source})
            cold.append(await first_step(deployed.commit))
            warm.append(await first_step(deployed.commit))
    return {
        "cold_start_p50_ms": round(percentile(cold, 0.5) * 1000, 2),
        "cold_start_p99_ms": round(percentile(cold, 0.99) * 1000, 2),
        "warm_start_p50_ms": round(percentile(warm, 0.5) * 1000, 2),
        "warm_start_p99_ms": round(percentile(warm, 0.99) * 1000, 2),
    }


if __name__ == "__main__":
    main(run)
