"""Where does the CPU of a W3 go, by thread and part of the code? Samples of `py-spy` (to be installed) while many are
in flight; a sample counts for the innermost frame that belongs to a part. Only threads that hold the interpreter's lock
are sampled: waiting for the disk or the kernel is not in them.
"""

from __future__ import annotations

import collections
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from tools.bench.common import cpu_alone_s, crowd, embedded, folder, main, processes

PARTS = (
    ("executor/platform", "API: calls between threads"),
    ("tools/bench", "the bench itself"),
    ("executor/service", "service: checks, limits, pins"),
    ("executor/rendering", "service: views"),
    ("executor/operations", "API: arguments"),
    ("executor/adapters", "adapters"),
    ("executor/core/codec", "codec of entries"),
    ("executor/core/values", "codec of values"),
    ("executor/core", "core: decide, apply"),
    ("executor/engine/committer", "engine: batches"),
    ("executor/engine/worker", "engine: hops to threads"),
    ("executor/engine/local", "engine: instances, watchers"),
    ("executor/engine/watchers", "engine: instances, watchers"),
    ("executor/engine/runner", "engine: runs"),
    ("executor/engine/sandboxes", "engine: runs"),
    ("executor/engine/outbox", "engine: runs"),
    ("executor/engine", "engine: commit and the rest"),
    ("executor/sandbox/protocol", "frames"),
    ("executor/sandbox/pool", "channel to the sandbox"),
    ("executor/sandbox/sandbox", "channel to the sandbox"),
    ("executor/sandbox/detloop", "sandbox: loop of run()"),
    ("executor/sandbox/runs", "sandbox: messages"),
    ("executor/sandbox/run", "sandbox: run"),
    ("executor/sandbox/steps", "sandbox: steps"),
    ("executor/sandbox/attempts", "sandbox: steps"),
    ("executor/sandbox/child", "sandbox: messages"),
    ("executor/sandbox/channel", "sandbox: messages"),
    ("executor/sandbox/messages", "sandbox: messages"),
    ("executor/sandbox/control", "channel to the sandbox"),
    ("executor/sandbox", "sandbox: the rest"),
    ("executor/workflow", "sandbox: workflow API"),
    ("facets/log", "log: append and fsync"),
    ("facets/fold", "fold"),
    ("facets", "store: the rest"),
    ("trio/", "trio"),
    ("asyncio/", "asyncio"),
)
RATE = 500


async def run(*, count: int = 6000, in_flight: int = 256) -> dict[str, Any]:
    """`parts`: by thread (of this process) or `sandbox`, then by part, the largest first."""
    spy = shutil.which("py-spy") or str(Path(sys.executable).with_name("py-spy"))
    with folder() as data_dir:
        async with embedded(data_dir, processes=1) as tenant:

            async def work(number: int) -> None:
                started = await tenant.start("Three", {"number": number})
                await started.result(timeout=120)

            await crowd(work, count=100, in_flight=in_flight)
            others = {pid: cpu_alone_s(pid) for pid in processes() if pid != os.getpid()}
            await crowd(work, count=500, in_flight=in_flight)
            busiest = max(others, key=lambda pid: cpu_alone_s(pid) - others[pid])
            watched = {"platform": os.getpid(), "sandbox": busiest}
            command = [
                spy,
                "record",
                "--format",
                "raw",
                "--threads",
                "--full-filenames",
                "--rate",
                str(RATE),
                "--nonblocking",
                "--gil",
            ]
            spies = {}
            for name, pid in watched.items():
                options = ["--duration", "3600", "--output", str(data_dir / name), "--pid", str(pid)]
                spies[name] = subprocess.Popen(
                    [*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
            await anyio.sleep(2)
            before = {name: cpu_alone_s(pid) for name, pid in watched.items()}
            await crowd(work, count=count, in_flight=in_flight)
            used = {name: cpu_alone_s(pid) - before[name] for name, pid in watched.items()}
            for process in spies.values():
                process.send_signal(2)
                await anyio.to_thread.run_sync(process.wait)
            parts = {}
            for name in watched:
                if (data_dir / name).exists():
                    parts |= _by_thread((data_dir / name).read_text(), name)
    return {"cpu_us": {name: round(s / count * 1e6, 1) for name, s in used.items()}, "share_of_samples": parts}


def _by_thread(stacks: str, process: str) -> dict[str, dict[str, float]]:
    """Shares of all samples of the process, by thread and part."""
    found: dict[str, collections.Counter[str]] = {}
    total = 0
    for line in stacks.splitlines():
        stack, _, number = line.rpartition(" ")
        frames = stack.split(";")
        named = re.search(r"thread \(\w+\)(?:: )?(.*)", frames[0])
        thread = (named[1] if named else "") or "main"
        total += int(number)
        found.setdefault(f"{process}, {thread}", collections.Counter())[_part(frames)] += int(number)
    return {
        thread: {part: round(number / total, 4) for part, number in parts.most_common(14)}
        for thread, parts in sorted(found.items(), key=lambda item: -item[1].total())
    }


def _part(frames: list[str]) -> str:
    for frame in reversed(frames):
        for prefix, part in PARTS:
            if prefix in frame:
                return part
    return "other"


if __name__ == "__main__":
    main(run)
