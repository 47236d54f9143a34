"""What does it cost to bring back an instance with a long history: read, decode, fold and send it, and replay it?

    python -m tools.bench.activation [--steps N] [--pairs N] [--json]

Instances with a tenth of `steps` and with `steps` are asked a question in turns; each answer activates the instance,
replays it and lets it go again, without writing anything. CPU is of the platform's process and of its sandboxes, apart;
between the long one's turns go ten of the short one, so that a change in the machine's speed meets both alike.
"""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import Any

import anyio

from tools.bench.common import TENANT, embedded, folder, main, processes

SOURCE = b"""
from executor.workflow import Workflow

async def one(number):
    return {"number": number}

class Long(Workflow):
    total = 0

    async def run(self, event, step):
        for number in range(event.payload):
            self.total += (await step.do("step", one, number))["number"]
        await step.wait_for_event("end", type="end")

    @Workflow.query
    def sum(self, payload):
        return self.total
"""
SHORT_PER_LONG = 10


def cpu_ns(pid: int) -> int:
    """Of all living threads of a process."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir())


def _cpu_ms() -> tuple[float, float]:
    own = os.getpid()
    others = [pid for pid in processes() if pid != own]
    return cpu_ns(own) / 1e6, sum(cpu_ns(pid) for pid in others) / 1e6


async def run(*, steps: int = 10_000, pairs: int = 5) -> dict[str, Any]:
    """The medians over `pairs`: CPU in ms of one activation, of the platform and of the sandbox, and their ratios."""
    sizes = {"short": steps // SHORT_PER_LONG, "long": steps}
    with folder() as data_dir:
        async with embedded(data_dir, steps_max=max(25_000, steps)) as tenant:
            assert tenant.name == TENANT
            await tenant.deploy({"workflows.py": SOURCE}, message="long")
            runs = {name: await tenant.start("Long", size, unload="every-wait") for name, size in sizes.items()}
            for begun in runs.values():
                while (await begun.status()).state != "waiting":
                    await anyio.sleep(0.05)

            async def ask(name: str, times: int) -> tuple[float, float, float]:
                before, wall = _cpu_ms(), time.perf_counter()
                for _ in range(times):
                    assert await runs[name].ask("sum") == sizes[name] * (sizes[name] - 1) // 2
                wall, after = (time.perf_counter() - wall) * 1e3, _cpu_ms()
                return after[0] - before[0], after[1] - before[1], wall

            for name in sizes:
                await ask(name, 1)
            found: dict[str, list[float]] = {}
            for _ in range(pairs):
                halves = await ask("short", SHORT_PER_LONG // 2)
                long = await ask("long", 1)
                rest = await ask("short", SHORT_PER_LONG - SHORT_PER_LONG // 2)
                short = tuple((one + two) / SHORT_PER_LONG for one, two in zip(halves, rest, strict=True))
                for name, (host, sandbox, wall) in {"short": short, "long": long}.items():
                    found.setdefault(f"{name}_platform_cpu_ms", []).append(host)
                    found.setdefault(f"{name}_sandbox_cpu_ms", []).append(sandbox)
                    found.setdefault(f"{name}_wall_ms", []).append(wall)
                found.setdefault("ratio_platform", []).append(long[0] / short[0])
                found.setdefault("ratio_sandbox", []).append(long[1] / short[1])
                found.setdefault("ratio", []).append((long[0] + long[1]) / (short[0] + short[1]))
    return {name: round(statistics.median(values), 2) for name, values in found.items()} | {
        "ratios": [round(value, 2) for value in found["ratio"]],
        "checksum": sum(sizes.values()),
    }


if __name__ == "__main__":
    main(run)
