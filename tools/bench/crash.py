"""SIGKILL to a server with many instances in flight: how soon has the next one finished them, and what ran twice?

Each instance does three steps that take `step_s`. With `--unconfined` the steps themselves count their executions, in a
file; in the default sandbox they cannot, and only the time is measured.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

from executor import Platform
from executor.platform import Tenant
from tools.bench.common import TENANT, folder, main
from tools.bench.server import Server, deployed, served

STEPS = 3
COMPLETE_S_MAX = 120.0


def run(
    *,
    n: int = 500,
    step_s: float = 0.05,
    kill_after_s: float = 0.2,
    unconfined: int = 0,
    repeats: int = 5,
    processes: int = 0,
) -> dict[str, Any]:
    """Medians of `repeats` crashes, each in a data directory of its own. `kill_after_s` counts from the answer to the
    start of all `n`."""
    settings = {"processes": processes, "active_runs_max": 2 * n, "unconfined": "yes" if unconfined else None}
    rounds = [_crash(n, step_s, kill_after_s, settings) for _ in range(repeats)]
    assert all(found["complete"] == n for found in rounds), rounds
    assert all(found.get("repeats", 0) <= found["in_flight"] for found in rounds), rounds
    return {name: statistics.median(found[name] for found in rounds) for name in rounds[0]} | {"rounds": rounds}


def _crash(n: int, step_s: float, kill_after_s: float, settings: dict[str, Any]) -> dict[str, float]:
    with folder() as data_dir:
        executions = data_dir / "executions" if settings["unconfined"] else None
        payload = {"seconds": step_s, "steps": STEPS, "tell": str(executions) if executions else None}
        with served(data_dir / "data", **settings) as server, _connected(server) as platform:
            tenant = deployed(platform)
            tenant.start("One", {}).result(timeout=60)  # a warm sandbox, as in a server that has run for a while
            tenant.start_many([{"workflow": "Slow", "payload": payload} for _ in range(n)])
            time.sleep(kill_after_s)
            server.kill()
        killed_at_ms = int(time.time() * 1000)
        before = _executed(executions)
        with served(data_dir / "data", **settings) as server, _connected(server) as platform:
            up = time.perf_counter()
            tenant = platform.tenant(TENANT)
            _wait_final(tenant)
            seconds = time.perf_counter() - up
            complete = tenant.instances(state="complete", workflow="Slow", limit=None)
            recorded, in_flight = _at_the_kill(tenant, [view.id for view in complete], killed_at_ms)
        found = {
            "up_to_all_complete_s": round(seconds, 3),
            "restart_s": round(server.ready_s, 3),
            "complete": len(complete),
            "steps_recorded_before": recorded,
            "in_flight": in_flight,
        }
        if executions:
            found |= {"executed_before": before, "repeats": _executed(executions) - STEPS * n}
        return found


def _connected(server: Server) -> Platform:
    return Platform.connect(server.url, token=server.token)


def _wait_final(tenant: Tenant) -> None:
    """Return once no instance is queued, running or waiting."""
    until = time.monotonic() + COMPLETE_S_MAX
    for state in ("queued", "running", "waiting"):
        while tenant.instances(state=state, limit=1):
            assert time.monotonic() < until, f"an instance is still {state}"
            time.sleep(0.01)


def _at_the_kill(tenant: Tenant, ids: list[str], killed_at_ms: int) -> tuple[int, int]:
    """Steps recorded before the kill, and instances that had not ended by then: each had at most one step under way."""
    recorded = in_flight = 0
    for name in ids:
        items = [item for item in tenant.instance(name).journal() if item.at_ms <= killed_at_ms]
        recorded += sum(item.kind == "step_succeeded" for item in items)
        in_flight += items[-1].kind != "completed"
    return recorded, in_flight


def _executed(executions: Path | None) -> int:
    return executions.stat().st_size if executions else 0


if __name__ == "__main__":
    main(run)
