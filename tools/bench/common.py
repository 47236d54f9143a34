"""What the benches share: an embedded platform in a temporary folder, CPU and memory of all its processes, percentiles,
printing.

A bench answers one question: `run(**sizes) -> dict`, called by a test at small sizes and by
`python -m tools.bench.NAME` at full ones. With `--json` the last line printed is one JSON object. Benches use the
public API only, so that what they measure is what a user gets.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from executor import AsyncPlatform, Unavailable
from executor.platform import AsyncTenant

TENANT = "bench"
WORKFLOWS = b'''
"""W3: three trivial steps; one that sleeps; one that waits for an event; one that takes its time inside a step."""

import asyncio
from datetime import datetime, timezone

from executor.workflow import Workflow


async def one(number):
    return {"number": number}


async def linger(seconds, tell):
    if tell:
        with open(tell, "a") as file:
            file.write(".")
    await asyncio.sleep(seconds)
    return {"seconds": seconds}


class Three(Workflow):
    async def run(self, event, step):
        for number in range(3):
            last = await step.do(f"step {number}", one, number)
        return last


class One(Workflow):
    async def run(self, event, step):
        return await step.do("only", one, 1)


class Sleeper(Workflow):
    """`until_s`: Unix time at which it wakes and does a second step; none: it sleeps for ten hours."""

    async def run(self, event, step):
        await step.do("before", one, 1)
        until_s = event.payload.get("until_s")
        if until_s is None:
            await step.sleep("long", "10 hours")
        else:
            await step.sleep_until("due", datetime.fromtimestamp(until_s, timezone.utc))
        await step.do("after", one, 2)


class Waiter(Workflow):
    async def run(self, event, step):
        got = await step.wait_for_event("signal", type="go", timeout="1 hour")
        return await step.do("after", one, got.payload["number"])


class Slow(Workflow):
    """Steps that each take `seconds`; with `tell`, a path, each execution adds a byte there (unconfined only)."""

    async def run(self, event, step):
        for number in range(event.payload.get("steps", 3)):
            last = await step.do(f"step {number}", linger, event.payload["seconds"], event.payload.get("tell"))
        return last
'''


@contextmanager
def folder() -> Generator[Path]:
    """A folder on disk that is removed afterwards. `PERDURE_BENCH_DIR` says where; else the system's place."""
    made = Path(tempfile.mkdtemp(prefix="perdure-bench-", dir=os.environ.get("PERDURE_BENCH_DIR")))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


@asynccontextmanager
async def embedded(data_dir: Path, **settings: Any) -> AsyncGenerator[AsyncTenant]:
    """An embedded platform over `data_dir` with one tenant and WORKFLOWS deployed. Settings that are 0 or None were not
    given."""
    given = {name: value for name, value in settings.items() if value}
    async with AsyncPlatform.local(data_dir, log_level="warning", **given) as opened:
        known = {tenant.name: tenant for tenant in await opened.tenants()}
        tenant = known.get(TENANT)
        if tenant is None:
            tenant = await opened.create_tenant(TENANT)
            await tenant.deploy({"workflows.py": WORKFLOWS}, message="bench")
        yield tenant


async def crowd(work: Callable[[int], Any], *, count: int, in_flight: int) -> None:
    """Await `work(number)` for each number below `count`, `in_flight` at a time."""
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            await work(number)

    async with anyio.create_task_group() as group:
        for _ in range(min(in_flight, count)):
            group.start_soon(worker)


async def start_all(tenant: AsyncTenant, requests: Iterable[dict[str, Any]], *, batch: int = 500) -> None:
    """Start every one of `requests`, `batch` at a time and two calls beside each other, as fast as the platform takes
    them: what it refuses as busy is asked again after the time that it names."""
    waiting = iter(requests)

    async def worker() -> None:
        while wanted := list(itertools.islice(waiting, batch)):
            while wanted:
                found = await tenant.start_many(wanted, return_exceptions=True)
                refused = [(one, item) for one, item in zip(wanted, found, strict=True) if isinstance(item, Exception)]
                for _, error in refused:
                    if not isinstance(error, Unavailable):
                        raise error
                wanted = [one for one, _ in refused]
                if refused:
                    await anyio.sleep(max(0.01, float(refused[0][1].details.get("retry_after_s", 0.1))))

    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(worker)


async def all_rest(tenant: AsyncTenant, *states: str) -> None:
    """Return once no instance is in one of `states` (default: queued, running), given in the order in which instances
    go through them. Asks only for the newest of each: cheap at any size."""
    for state in states or ("queued", "running"):
        while await tenant.instances(state=state, limit=1):
            await anyio.sleep(0.02)


def cpu_s(pid: int | None = None) -> float:
    """CPU seconds used so far by process `pid` (None: this one), its living descendants and its reaped children."""
    return sum(cpu_alone_s(found) for found in processes(pid))


def processes(pid: int | None = None) -> list[int]:
    """Process `pid` (None: this one) and all that descend from it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    found = [os.getpid() if pid is None else pid]
    for known in found:
        found.extend(child for child, parent in parents.items() if parent == known)
    return found


def cpu_alone_s(pid: int) -> float:
    """CPU seconds of one process, without its living descendants. 0: it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(ticks) for ticks in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def memory_bytes(*pids: int) -> int:
    """Memory of these processes; what several share is counted once (PSS). One that ended meanwhile counts nothing."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def disk_bytes(folder: Path) -> int:
    """Blocks that the files in `folder` take."""
    total = 0
    for path in folder.rglob("*"):
        try:
            if path.is_file():
                total += path.lstat().st_blocks * 512
        except OSError:  # a temporary file that went away
            continue
    return total


def percentile(values: Sequence[float], share: float) -> float:
    """By nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median of each figure over the rounds."""
    return {name: round(statistics.median(found[name] for found in rounds), 3) for name in rounds[0]}


def latency_ms(seconds: Sequence[float], name: str) -> dict[str, float]:
    """`{NAME_p50_ms, NAME_p99_ms}`."""
    return {f"{name}_{label}_ms": round(percentile(seconds, share) * 1000, 2) for label, share in _SHARES}


_SHARES = (("p50", 0.5), ("p99", 0.99))


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
    """Run a bench from the command line: each argument of `run` is a flag; async ones run on the loop of `--loop`."""
    parser = argparse.ArgumentParser(description=inspect.getdoc(inspect.getmodule(run)))
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    is_async = inspect.iscoroutinefunction(run)
    if is_async:
        parser.add_argument("--loop", choices=("trio", "asyncio"), default="trio", help="of the caller")
    for name, parameter in inspect.signature(run).parameters.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(parameter.default), default=parameter.default)
    arguments = vars(parser.parse_args())
    as_json = arguments.pop("json")
    loop = arguments.pop("loop", None)
    begun, before, own = time.monotonic(), machine_cpu(), cpu_s()
    result = anyio.run(partial(run, **arguments), backend=loop) if is_async else run(**arguments)
    result |= {
        "bench": Path(inspect.getfile(run)).stem,
        "sizes": arguments,
        **({"loop": loop} if loop else {}),
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
