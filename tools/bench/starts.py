"""How many durable starts a second: over HTTP, by calls from threads, and by start_many? Instances stay queued, so what
is measured is the way from the call to the answer after the fsync."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from executor import Platform
from executor.operations import API_PREFIX
from executor.platform import Tenant
from tools.bench.common import TENANT, cpu_s, folder, main, medians
from tools.bench.server import deployed, served

ONE_RUN = {"active_runs_max": 1}
"""One place for runs in each process, held by an instance that stays in its step: nothing runs beside the starts."""
HELD = 16
"""As many such instances, so that each process has one: more than there are cores to have a process each here."""


def run(
    *,
    count: int = 3000,
    clients: int = 64,
    threads: int = 8,
    batch: int = 100,
    repeats: int = 5,
    processes: int = 0,
) -> dict[str, Any]:
    """`count` starts each way: single requests of `clients` keep-alive connections from another process; single calls
    of `threads` threads; `start_many` of `batch`, one call after the other. Medians of `repeats` rounds."""
    with folder() as data_dir:
        over_http = _over_http(data_dir / "http", count, clients, repeats, processes)
        embedded = _embedded(data_dir / "embedded", count, threads, batch, repeats, processes)
    return medians(over_http) | medians(embedded)


def _over_http(data_dir: Path, count: int, clients: int, repeats: int, processes: int) -> list[dict[str, float]]:
    with (
        served(data_dir, processes=processes, **ONE_RUN) as server,
        Platform.connect(server.url, token=server.token) as platform,
        _places_filled(platform),
    ):
        return [_http_round(server, count, clients) for _ in range(repeats)]


def _http_round(server: Any, count: int, clients: int) -> dict[str, float]:
    host, port = server.address
    command = [
        sys.executable,
        "-m",
        "tools.bench.http_load",
        host,
        str(port),
        f"{API_PREFIX}/tenants/{TENANT}/instances",
    ]
    options = ["--token", server.token, "--connections", str(clients), "--count", str(count)]
    body = json.dumps({"workflow": "Sleeper", "payload": {}})
    before = cpu_s(server.process.pid)
    done = subprocess.run([*command, *options, "--body", body], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["statuses"] == {"200": count}, found
    return {
        "http_starts_per_s": round(count / found["seconds"], 1),
        "http_server_cpu_ms_per_start": round((cpu_s(server.process.pid) - before) / count * 1000, 3),
        "http_client_cpu_ms_per_start": round(found["client_cpu_s"] / count * 1000, 3),
        "http_answer_p50_ms": found["answer_p50_ms"],
        "http_answer_p99_ms": found["answer_p99_ms"],
    }


def _embedded(  # noqa: PLR0917
    data_dir: Path, count: int, threads: int, batch: int, repeats: int, processes: int
) -> list[dict[str, float]]:
    more = {"processes": processes} if processes else {}
    with (
        Platform.local(data_dir, log_level="warning", **ONE_RUN, **more) as platform,
        _places_filled(platform) as tenant,
    ):
        return [_embedded_round(tenant, count, threads, batch) for _ in range(repeats)]


def _embedded_round(tenant: Tenant, count: int, threads: int, batch: int) -> dict[str, float]:
    begun, before = time.perf_counter(), cpu_s()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda _: [tenant.start("Sleeper", {}) for _ in range(count // threads)], range(threads)))
    single_s, single_cpu_s, singles = time.perf_counter() - begun, cpu_s() - before, count // threads * threads
    begun, before = time.perf_counter(), cpu_s()
    request = {"workflow": "Sleeper", "payload": {}}
    calls = max(1, count // batch)
    for _ in range(calls):
        tenant.start_many([request] * batch)
    many_s, many_cpu_s = time.perf_counter() - begun, cpu_s() - before
    return {
        "thread_starts_per_s": round(singles / single_s, 1),
        "thread_cpu_ms_per_start": round(single_cpu_s / singles * 1000, 3),
        "start_many_per_s": round(calls * batch / many_s, 1),
        "start_many_cpu_ms_per_start": round(many_cpu_s / (calls * batch) * 1000, 3),
    }


@contextmanager
def _places_filled(platform: Platform) -> Generator[Tenant]:
    """Keep every place for runs (one in each process) busy with a step that outlasts the bench; in the end, let go."""
    tenant = deployed(platform)
    held = [tenant.start("Slow", {"seconds": 3600}) for _ in range(HELD)]
    runs, unchanged_since = 0, time.monotonic()
    until = unchanged_since + 30
    while not runs or time.monotonic() < unchanged_since + 0.5:
        assert time.monotonic() < until, "places for runs are taken"
        now = platform.health().active_runs
        if now != runs:
            runs, unchanged_since = now, time.monotonic()
        time.sleep(0.01)
    yield tenant
    for run in held:
        run.terminate()


if __name__ == "__main__":
    main(run)
