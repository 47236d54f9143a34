"""What does one W3 go through, from start to result? CPU by thread and process, trio tasks, switches, system calls.

Measured inside an embedded platform with one process, many in flight and one at a time. System calls need `strace`;
they are counted in a round of their own, because that makes everything slow.
"""

from __future__ import annotations

import collections
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import trio

from executor.platform import AsyncTenant
from tools.bench.common import cpu_s, crowd, embedded, folder, main, processes

TOLD = ("fsync", "fdatasync", "pwrite64", "sendto", "recvfrom", "sendmsg", "recvmsg", "epoll_wait", "futex", "write")


class Counter(trio.abc.Instrument):
    """What trio did: tasks made, turns given to tasks, and waits for something to happen."""

    def __init__(self) -> None:
        self.tasks = self.turns = self.waits = 0

    def task_spawned(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002
        self.tasks += 1

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002
        self.turns += 1

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002
        self.waits += 1


async def run(*, count: int = 4000, in_flight: int = 256, alone: int = 500, traced: int = 500) -> dict[str, Any]:
    """Figures of one W3, first of `count` with `in_flight` at a time, then of `alone` one at a time. Times are CPU in
    microseconds. `traced`: how many the system calls are counted over (0, or no strace: not counted)."""
    with folder() as data_dir:
        async with embedded(data_dir, processes=1) as tenant:
            await _w3(tenant, in_flight, in_flight)
            found: dict[str, Any] = {}
            for name, number, together in (("crowd", count, in_flight), ("alone", alone, 1)):
                found[name] = await _measured(tenant, number, together)
                if traced and shutil.which("strace"):
                    found[name]["system_calls"] = await _traced(tenant, traced, together, data_dir)
    return found


async def _w3(tenant: AsyncTenant, count: int, in_flight: int) -> None:
    async def work(number: int) -> None:
        started = await tenant.start("Three", {"number": number})
        assert await started.result(timeout=120) == {"number": 2}

    await crowd(work, count=count, in_flight=in_flight)


async def _measured(tenant: AsyncTenant, count: int, in_flight: int) -> dict[str, Any]:
    counter = Counter()
    await _on_the_host(tenant, lambda: trio.lowlevel.add_instrument(counter))
    before, children, switched = _threads(), _children_s(), _switches()
    tasks, turns, waits = counter.tasks, counter.turns, counter.waits
    await _w3(tenant, count, in_flight)
    tasks, turns, waits = counter.tasks - tasks, counter.turns - turns, counter.waits - waits
    threads = _threads() - before
    await _on_the_host(tenant, lambda: trio.lowlevel.remove_instrument(counter))
    return {
        "cpu_us_by_thread": {name: round(s / count * 1e6, 1) for name, s in threads.most_common() if s > 0},
        "cpu_us_other_processes": round((_children_s() - children) / count * 1e6, 1),
        "switches_by_thread": {
            name: round(number / count, 2) for name, number in (_switches() - switched).most_common(8)
        },
        "trio_tasks": round(tasks / count, 2),
        "trio_turns": round(turns / count, 2),
        "trio_waits": round(waits / count, 2),
    }


async def _on_the_host(tenant: AsyncTenant, call: Callable[[], None]) -> None:
    """Call it on the platform's own thread. A tool that looks inside may do what programs have no need of."""

    async def there(_service: Any, _caller: Any) -> None:
        call()

    answer: Callable[[Any, Any], Coroutine[Any, Any, None]] = there
    await anyio.to_thread.run_sync(tenant._caller._transport._host.submit(answer).result)  # type: ignore[attr-defined]


def _threads() -> collections.Counter[str]:
    """CPU seconds of this process by thread; threads that Python does not know are one."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    found: collections.Counter[str] = collections.Counter()
    for task in Path("/proc/self/task").iterdir():
        runtime_ns = int((task / "schedstat").read_text().split()[0])
        found[names.get(int(task.name), "other")] += runtime_ns / 1e9  # type: ignore[assignment]
    return found


def _switches() -> collections.Counter[str]:
    """Voluntary context switches: how often a thread went to wait."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    found: collections.Counter[str] = collections.Counter()
    for pid in processes():
        for task in Path(f"/proc/{pid}/task").iterdir():
            waited = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", (task / "status").read_text(), re.MULTILINE)
            name = names.get(int(task.name), "other") if pid == os.getpid() else "other processes"
            found[name] += int(waited[1]) if waited else 0
    return found


def _children_s() -> float:
    return sum(cpu_s(pid) for pid in _children())


def _children() -> list[int]:
    """Direct children of this process."""
    return [pid for pid in processes() if f"PPid:\t{os.getpid()}\n" in Path(f"/proc/{pid}/status").read_text()]


async def _traced(tenant: AsyncTenant, count: int, in_flight: int, place: Path) -> dict[str, dict[str, float]]:
    """System calls of one W3 by name, of this process and of all others."""
    others = [pid for pid in processes() if pid != os.getpid()]
    groups = {"platform": [os.getpid()], "sandboxes": others}
    tracers = {}
    for name, pids in groups.items():
        command = ["strace", "-f", "-c", "-o", str(place / name), *(f"-p{pid}" for pid in pids)]
        tracers[name] = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    await anyio.sleep(2)  # they attach
    await _w3(tenant, count, in_flight)
    found = {}
    for name, tracer in tracers.items():
        tracer.send_signal(signal.SIGINT)
        await anyio.to_thread.run_sync(tracer.wait, 60)
        found[name] = _calls(place / name, count)
    return found


def _calls(summary: Path, count: int) -> dict[str, float]:
    """Calls of one W3 from strace's summary: the total, the named ones, and others that come once in two or more."""
    found: dict[str, float] = {}
    for line in summary.read_text().splitlines():
        fields = line.split()
        if len(fields) >= 5 and fields[0].replace(".", "").isdigit():
            name, each = fields[-1], int(fields[3]) / count
            if name == "total" or name in TOLD or each >= 0.5:
                found[name] = round(each, 2)
    return dict(sorted(found.items(), key=lambda item: -item[1]))


if __name__ == "__main__":
    main(run)
