"""How long does it take to open a sandbox? From open() to its first frame: fork, all layers, no tenant code.

    python tools/bench/sandbox_boot.py [--json] [--count N] [--isolation cell|landlock|none] [--threads N]

Prints p50 and p99 of one after another, the sustained rate of 8 at a time, the start of the zygote, and the memory of
a sandbox. The checksum is the number of frames received: the work was done.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from executor.sandbox.cell import CellOptions, Isolation, memory_bytes
from executor.sandbox.limits import SandboxLimits
from executor.sandbox.pool import SandboxHost, sandbox_host
from executor.sandbox.spec import SandboxSpec

ENTRY = """
from executor.sandbox.protocol import Ready, encode_message
import threading, time
def before_seccomp(limits):
    for _ in range(limits.step_threads):
        threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
def main(control, bundle, limits):
    control.sendall(encode_message([Ready(["W"])]))
    control.recv(1)
"""


def run(*, count: int = 200, isolation: str = "cell", threads: int = 0) -> dict[str, Any]:
    """Measure. Times in milliseconds, memory in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        entry = Path(folder) / "bench_entry.py"
        entry.write_text(ENTRY)
        bundle = Path(folder) / "empty.bundle"
        bundle.write_bytes(b"")
        options = CellOptions(isolation=Isolation(isolation), entry="bench_entry:main", extra={entry.name: entry})
        return trio.run(_measure, options, SandboxSpec("bench", "0" * 40, bundle), threads, count)


async def _measure(options: CellOptions, spec: SandboxSpec, threads: int, count: int) -> dict[str, Any]:
    limits = SandboxLimits(step_threads=threads)
    begin = time.perf_counter()
    async with sandbox_host(options, limits) as host:
        start_ms = (time.perf_counter() - begin) * 1000
        times: list[float] = []
        frames = 0
        private = 0
        for _ in range(count):
            begin = time.perf_counter()
            sandbox = await host.open(spec)
            times.append((time.perf_counter() - begin) * 1000)
            frames += len(sandbox.workflows)
            private = memory_bytes(sandbox.pid).private
            sandbox.kill()
            await sandbox.wait_dead()
        rate = await _rate(host, spec, count)
    times.sort()
    return {
        "count": count,
        "isolation": options.isolation.value,
        "threads": threads,
        "open_ms_p50": round(times[len(times) // 2], 2),
        "open_ms_p99": round(times[min(len(times) - 1, int(len(times) * 0.99))], 2),
        "open_per_s": round(rate, 1),
        "zygote_start_ms": round(start_ms, 1),
        "private_bytes": private,
        "checksum": frames,
    }


async def _rate(host: SandboxHost, spec: SandboxSpec, count: int) -> float:
    left = count

    async def worker() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            sandbox = await host.open(spec)
            sandbox.kill()
            await sandbox.wait_dead()

    begin = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(worker)
    return count / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--isolation", choices=[isolation.value for isolation in Isolation], default="cell")
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    result = run(count=arguments.count, isolation=arguments.isolation, threads=arguments.threads)
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:16} {value}")


if __name__ == "__main__":
    main()
