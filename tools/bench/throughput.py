"""How many W3 workflows a second, many at once, and what CPU does one cost over all processes? Start to result."""

from __future__ import annotations

import hashlib
import time
from typing import Any

from executor.platform import AsyncTenant
from tools.bench.common import cpu_s, crowd, embedded, folder, latency_ms, main, medians


async def run(*, count: int = 3000, in_flight: int = 256, repeats: int = 5, processes: int = 0) -> dict[str, Any]:
    """`repeats` rounds of `count` workflows with `in_flight` at a time; the median of each figure over the rounds."""
    with folder() as data_dir:
        async with embedded(data_dir, processes=processes) as tenant:
            await one_round(tenant, count=min(count, 2 * in_flight), in_flight=in_flight)
            rounds = [await one_round(tenant, count=count, in_flight=in_flight) for _ in range(repeats)]
    checksums = {found.pop("checksum") for found in rounds}
    assert len(checksums) == 1, "every round did the same work"
    return medians(rounds) | {
        "rounds_workflows_per_s": [found["workflows_per_s"] for found in rounds],
        "rounds_cpu_ms_per_workflow": [found["cpu_ms_per_workflow"] for found in rounds],
        "checksum": checksums.pop(),
    }


async def one_round(tenant: AsyncTenant, *, count: int, in_flight: int) -> dict[str, Any]:
    """One measurement on a warm platform. `checksum` is of all results, in order of their number."""
    took: list[float] = []
    outputs: dict[int, Any] = {}

    async def work(number: int) -> None:
        begun = time.perf_counter()
        started = await tenant.start("Three", {"number": number})
        outputs[number] = await started.result(timeout=120)
        took.append(time.perf_counter() - begun)

    begun, cpu_before = time.perf_counter(), cpu_s()
    await crowd(work, count=count, in_flight=in_flight)
    seconds, cpu = time.perf_counter() - begun, cpu_s() - cpu_before
    return {
        "workflows_per_s": round(count / seconds, 1),
        "cpu_ms_per_workflow": round(cpu / count * 1000, 3),
        **latency_ms(took, "latency_in_crowd"),
        "checksum": hashlib.sha256(repr(sorted(outputs.items())).encode()).hexdigest()[:16],
    }


if __name__ == "__main__":
    main(run)
