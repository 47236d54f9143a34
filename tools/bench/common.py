"""What the benches share: an embedded platform in a temporary folder, CPU of all its processes, percentiles, printing.

A bench answers one question: `run(**sizes) -> dict`, called by a test at small sizes and by
`python -m tools.bench.NAME` at full ones. With `--json` the last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from executor.config import Config
from executor.main import running
from executor.service import ADMINISTRATOR, Service

TENANT = "bench"
WORKFLOWS = b'''
"""W3: three trivial steps; and one that sleeps."""

from executor.workflow import Workflow


async def one(number):
    return {"number": number}


class Three(Workflow):
    async def run(self, event, step):
        for number in range(3):
            last = await step.do(f"step {number}", one, number)
        return last


class Sleeper(Workflow):
    async def run(self, event, step):
        await step.do("before", one, 1)
        await step.sleep("long", "10 hours")
'''


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


def cpu_s() -> float:
    """CPU seconds used so far by this process, its living descendants and its reaped children."""
    return sum(_cpu_of(pid) for pid in processes())


def processes() -> list[int]:
    """This process and all that descend from it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    found = [os.getpid()]
    for pid in found:
        found.extend(child for child, parent in parents.items() if parent == pid)
    return found


def _cpu_of(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(ticks) for ticks in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def memory_bytes(pid: int) -> int:
    """Memory of a process that is not shared with others (PSS)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def disk_bytes(folder: Path) -> int:
    """Blocks that the files in `folder` take."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def percentile(values: list[float], share: float) -> float:
    """By nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def other_load(before: tuple[float, float], after: tuple[float, float], own_s: float) -> float:
    """Share of the machine that others used meanwhile."""
    busy, total = after[0] - before[0], after[1] - before[1]
    return max(0.0, (busy - own_s) / total) if total else 0.0


def machine_cpu() -> tuple[float, float]:
    """Busy and total CPU seconds of the machine so far."""
    fields = [int(ticks) for ticks in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    hertz = os.sysconf("SC_CLK_TCK")
    return (sum(fields) - fields[3] - fields[4]) / hertz, sum(fields) / hertz


def main(run: Callable[..., Any]) -> None:
    """Run a bench from the command line: each argument of `run` is a flag; async ones run under trio."""
    parser = argparse.ArgumentParser(description=inspect.getdoc(inspect.getmodule(run)))
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    for name, parameter in inspect.signature(run).parameters.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(parameter.default), default=parameter.default)
    arguments = vars(parser.parse_args())
    as_json = arguments.pop("json")
    begun, before, own = time.monotonic(), machine_cpu(), cpu_s()
    result = trio.run(lambda: run(**arguments)) if inspect.iscoroutinefunction(run) else run(**arguments)
    result |= {
        "bench": Path(inspect.getfile(run)).stem,
        "sizes": arguments,
        "seconds": round(time.monotonic() - begun, 2),
        "other_load": round(other_load(before, machine_cpu(), cpu_s() - own), 3),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }
    if as_json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:40} {value}")
