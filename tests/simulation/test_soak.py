"""A soak: a real server at 70 % of the peak that it has just shown, for half an hour. Nothing may grow.

`PERDURE_SOAK_S` sets the length in seconds. Each client starts an instance, waits for its result and deletes it, so that
what the platform keeps is always the same. Sampled are the memory of all processes of the server, their descriptors, the
disk, CPU time per instance and the latency; a line is fitted to each, without the first fifth. What it gains over the rest
must stay below:

    memory         8 % of its mean, and 24 MiB more: allocators and caches settle
    descriptors    6: sandboxes come and go
    disk           10 % of its mean, and 48 MiB more: the log is trimmed by some MiB
    CPU            15 % of its mean per instance
    latency, p50   30 % of its mean, and 2 ms more; told, but not judged, on a machine that does other work beside this
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, linear_regression, median

import pytest

from executor import Platform
from executor.platform import Tenant
from tools.bench.common import TENANT, cpu_s, disk_bytes, machine_cpu, memory_bytes, other_load, processes
from tools.bench.server import Server, deployed, served

SOAK_S = float(os.environ.get("PERDURE_SOAK_S", "1800"))
CLIENTS = 16
SHARE = 0.7
SAMPLES = 60
OTHERS_MAX = 0.05
MIB = 1024 * 1024


@dataclass
class Load:
    """Clients in threads. `rate` None: as fast as they can; else so many a second together, whatever they take."""

    server: Server
    rate: float | None
    until: float
    begun: float = field(default_factory=time.monotonic)
    done: int = 0
    taken: int = 0
    latencies: list[float] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> float:
        """Return when time is up; how many a second were done."""
        threads = [threading.Thread(target=self._client, daemon=True) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.errors:
            raise self.errors[0]
        return self.done / (time.monotonic() - self.begun)

    def _client(self) -> None:
        try:
            with Platform.connect(self.server.url, token=self.server.token) as platform:
                tenant = platform.tenant(TENANT)
                while self._wait_for_turn():
                    self._work(tenant)
        except BaseException as error:
            self.errors.append(error)

    def _wait_for_turn(self) -> bool:
        with self.lock:
            number = self.taken
            self.taken += 1
        now = time.monotonic()
        if self.rate is not None:
            now = max(now, self.begun + number / self.rate)
        if now >= self.until or self.errors:
            return False
        time.sleep(max(0.0, now - time.monotonic()))
        return True

    def _work(self, tenant: Tenant) -> None:
        begun = time.perf_counter()
        instance = tenant.start("Three", {"number": 1})
        instance.result(timeout=60)
        self.latencies.append(time.perf_counter() - begun)
        instance.delete()
        with self.lock:
            self.done += 1


@dataclass
class Sample:
    at_s: float
    memory: float
    descriptors: float
    disk: float
    latency_ms: float
    cpu_ms: float


class Sampler:
    """`others`: share of the machine that others have used, over all samples."""

    def __init__(self, load: Load, data_dir: Path) -> None:
        self._load = load
        self._data_dir = data_dir
        self._done = 0
        self._cpu_s = cpu_s(load.server.process.pid)
        self._machine = machine_cpu()
        self._own_s = cpu_s()  # the server is a child of this process

    @property
    def others(self) -> float:
        return other_load(self._machine, machine_cpu(), cpu_s() - self._own_s)

    def sample(self) -> Sample:
        load = self._load
        recent, load.latencies = load.latencies, []
        found = processes(load.server.process.pid)
        done, used = load.done, cpu_s(load.server.process.pid)
        per_instance = (used - self._cpu_s) / max(1, done - self._done) * 1000
        self._done, self._cpu_s = done, used
        return Sample(
            time.monotonic() - load.begun,
            memory_bytes(*found),
            sum(map(descriptors_of, found)),
            disk_bytes(self._data_dir),
            median(recent) * 1000 if recent else 0.0,
            per_instance,
        )


def descriptors_of(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0  # it has ended


def gain(samples: Sequence[Sample], what: str) -> tuple[float, float]:
    """By how much it grew from the first sample to the last, by the fitted line; and its mean."""
    values = [float(getattr(one, what)) for one in samples]
    slope, _ = linear_regression([one.at_s for one in samples], values)
    return slope * (samples[-1].at_s - samples[0].at_s), fmean(values)


@pytest.mark.deep
def test_nothing_grows_under_a_long_steady_load(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with served(data_dir) as server:
        with Platform.connect(server.url, token=server.token) as platform:
            deployed(platform)
        warm = min(20.0, SOAK_S / 8)
        Load(server, None, time.monotonic() + warm / 2).run()
        peak = Load(server, None, time.monotonic() + warm).run()
        load = Load(server, SHARE * peak, time.monotonic() + SOAK_S)
        runner = threading.Thread(target=load.run, daemon=True)
        runner.start()
        samples: list[Sample] = []
        sampler = Sampler(load, data_dir)
        while runner.is_alive():
            runner.join(SOAK_S / SAMPLES)
            if runner.is_alive():
                samples.append(sampler.sample())
        assert load.errors == []
        others = sampler.others
        reached = load.done / SOAK_S
    steady = samples[len(samples) // 5 :]
    gains = {what: gain(steady, what) for what in ("memory", "descriptors", "disk", "cpu_ms", "latency_ms")}
    print(f"others used {others:.0%} of the machine")
    print(f"peak {peak:.0f}/s, then {reached:.0f}/s for {SOAK_S:.0f} s, {load.done} instances")
    for what, (grown, mean) in gains.items():
        unit = MIB if what in ("memory", "disk") else 1
        print(f"  {what}: mean {mean / unit:.1f}, gained {grown / unit:+.1f}")
    assert reached >= 0.6 * SHARE * peak, "the load was not carried"
    allowed = {"memory": (0.08, 24 * MIB), "descriptors": (0, 6), "disk": (0.1, 48 * MIB), "cpu_ms": (0.15, 0)}
    if others < OTHERS_MAX:
        allowed["latency_ms"] = (0.3, 2)
    for what, (share, more) in allowed.items():
        grown, mean = gains[what]
        assert grown <= share * mean + more, f"{what} grew by {grown:.0f} of {mean:.0f}"
