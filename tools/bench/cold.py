"""How long from a start on a commit that no sandbox has seen to its result, after one step? Deploys are not counted."""

from __future__ import annotations

import time
from typing import Any

from tools.bench.common import WORKFLOWS, embedded, folder, latency_ms, main


async def run(*, commits: int = 60) -> dict[str, Any]:
    """One start on each of `commits` versions. `warm_start` is the same again on the same version, for comparison."""
    cold: list[float] = []
    warm: list[float] = []
    with folder() as data_dir:
        async with embedded(data_dir, sandboxes_max=16) as tenant:

            async def start_to_result(commit: str) -> float:
                begun = time.perf_counter()
                started = await tenant.start("One", {}, commit=commit)
                assert await started.result(timeout=60) == {"number": 1}
                return time.perf_counter() - begun

            for number in range(commits):
                source = WORKFLOWS + f"\nVERSION = {number}\n".encode()
                deployed = await tenant.deploy({"workflows.py": source})
                cold.append(await start_to_result(deployed.commit))
                warm.append(await start_to_result(deployed.commit))
    return latency_ms(cold, "cold_start") | latency_ms(warm, "warm_start")


if __name__ == "__main__":
    main(run)
