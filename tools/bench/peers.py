"""The same W3 on Perdure and on what a user would pick instead, in one run: workflows a second, CPU of one over all
processes (servers and databases included), latency one at a time, and our ratio to the best of them.

Systems take turns, round after round, each started anew and alone on the machine. A peer is given its best of several
crowds; a peer that cannot be installed or does not run is reported with the reason.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tools.bench.common import folder, latency_ms, machine_cpu, main, medians, other_load
from tools.bench.peering.install import NotInstalled
from tools.bench.peering.systems import SYSTEMS, Running

CROWDS = (16, 64, 256)
OURS = "perdure"
HIGHER_IS_BETTER = "workflows_per_s"


def run(
    *,
    count: int = 3000,
    peer_count: int = 500,
    alone: int = 200,
    repeats: int = 3,
    processes: int = 0,
    systems: str = ",".join(SYSTEMS),
    cache: str = "",
) -> dict[str, Any]:
    """`count` W3 of ours with 256 in flight, `peer_count` of each peer's, and `alone` one at a time: medians of
    `repeats` rounds. `cache`: where peers are installed (default: perdure-bench in the user's cache folder)."""
    home = Path(cache or os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    place = home if cache else home / "perdure-bench"
    place.mkdir(parents=True, exist_ok=True)
    names = systems.split(",")
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    failed: dict[str, str] = {}
    crowds: dict[str, int] = {}
    for _ in range(repeats):
        for name in names:
            if name in failed:
                continue
            size = count if name == OURS else peer_count
            given = {"processes": processes} if name == OURS else {}
            try:
                with folder() as data_dir, SYSTEMS[name](place, data_dir, **given) as running:
                    if name not in crowds:
                        crowds[name] = 256 if name == OURS else _best_crowd(running, peer_count)
                    rounds[name].append(_measure(running, size, crowds[name], alone))
            except NotInstalled as error:
                failed[name] = f"not installed: {error}"
            except Exception as error:  # whatever a peer does, the others are measured, and it is told
                failed[name] = f"did not run: {type(error).__name__}: {error}"
    found = {name: medians(done) | {"in_flight": crowds[name]} for name, done in rounds.items() if done}
    return {"systems": found, "failed": failed, "rounds": rounds, **_ratios(found)}


def _best_crowd(running: Running, count: int) -> int:
    """The number in flight at which this peer is fastest; it is warm afterwards."""
    running.ask(op="crowd", count=max(20, count // 10), in_flight=16)
    rates = {crowd: count / running.ask(op="crowd", count=count, in_flight=crowd)["seconds"] for crowd in CROWDS}
    return max(rates, key=lambda crowd: rates[crowd])


def _measure(running: Running, count: int, in_flight: int, alone: int) -> dict[str, float]:
    running.ask(op="crowd", count=max(20, count // 10), in_flight=in_flight)
    before, own = machine_cpu(), running.cpu_s()
    many = running.ask(op="crowd", count=count, in_flight=in_flight)
    running.ask(op="alone", count=min(10, alone))
    single = running.ask(op="alone", count=alone)
    return {
        "workflows_per_s": round(count / many["seconds"], 1),
        "cpu_ms_per_workflow": round(many["cpu_s"] / count * 1000, 3),
        **latency_ms(single["took_s"], "start_to_result"),
        "cpu_ms_per_workflow_alone": round(single["cpu_s"] / alone * 1000, 3),
        "other_load": round(other_load(before, machine_cpu(), running.cpu_s() - own), 3),
    }


def _ratios(found: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Ours against the best peer for each figure: above 1 means that ours is better by that factor."""
    peers = {name: figures for name, figures in found.items() if name != OURS}
    ratios: dict[str, Any] = {}
    if OURS in found and peers:
        for figure in ("workflows_per_s", "cpu_ms_per_workflow", "start_to_result_p50_ms", "start_to_result_p99_ms"):
            is_rate = figure == HIGHER_IS_BETTER
            best = (max if is_rate else min)(peers, key=lambda name, figure=figure: peers[name][figure])
            mine, theirs = found[OURS][figure], peers[best][figure]
            ratios[f"times_best_{figure}"] = round(mine / theirs if is_rate else theirs / mine, 2)
            ratios[f"best_{figure}"] = best
    return ratios


if __name__ == "__main__":
    main(run)
