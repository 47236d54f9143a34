"""Draw what benches printed: `python -m tools.bench.plots FILE.json… [--into docs/plots]`.

From a line of `peers`: workflows a second, CPU of one and latency, ours beside theirs. From lines of `replay` at
several sizes: time over steps. From lines of `sleepers` at several sizes: time and disk over instances. Needs
matplotlib (`pip install --group bench`); the benches do not.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams |= {"svg.hashsalt": "perdure", "svg.fonttype": "none", "font.size": 9, "axes.spines.right": False}
mpl.rcParams |= {"axes.spines.top": False, "figure.constrained_layout.use": True}

from matplotlib import pyplot as plt  # noqa: E402 - the backend must be chosen first

OURS, THEIRS, SECOND = "#1b6ca8", "#9aa5b1", "#d1d7de"
NAMES = {
    "perdure": "Perdure",
    "restate": "Restate",
    "absurd": "Absurd",
    "dbos-postgres": "DBOS\nPostgreSQL",
    "dbos-sqlite": "DBOS\nSQLite",
}
Found = dict[str, Any]


def draw(results: list[Found], into: Path) -> list[Path]:
    """Write every picture that `results` have figures for; the files."""
    into.mkdir(parents=True, exist_ok=True)
    by_bench: dict[str, list[Found]] = {}
    for result in results:
        by_bench.setdefault(result.get("bench", ""), []).append(result)
    drawn: list[Path] = []
    for result in by_bench.get("peers", [])[-1:]:
        drawn += _peers(result, into)
    if len(by_bench.get("replay", [])) > 1:
        points = sorted((found["sizes"]["steps"], found["replay_long_cpu_ms"]) for found in by_bench["replay"])
        drawn.append(_curves(into / "replay.svg", "Replay of a journal", "steps", {"milliseconds of CPU": points}))
    if len(by_bench.get("sleepers", [])) > 1:
        for figure, label in _SLEEPERS.items():
            points = sorted((found["sizes"]["n"], found[figure]) for found in by_bench["sleepers"])
            path = into / f"sleepers-{figure.replace('_', '-')}.svg"
            drawn.append(_curves(path, "Instances asleep", "instances", {label: points}))
    return drawn


_SLEEPERS = {
    "all_asleep_s": "seconds until all sleep",
    "disk_bytes_each": "bytes of disk each",
    "memory_bytes_all_processes": "bytes of memory, all processes",
}


def _peers(result: Found, into: Path) -> list[Path]:
    systems = {name: result["systems"][name] for name in NAMES if name in result["systems"]}
    return [
        _bars(into / "throughput.svg", "W3 a second (higher is better)", systems, {"": "workflows_per_s"}),
        _bars(into / "cpu.svg", "CPU of one W3, all processes, ms (lower is better)", systems, _CPU),
        _bars(into / "latency.svg", "Start to result, one at a time, ms (lower is better)", systems, _LATENCY),
    ]


_CPU = {"": "cpu_ms_per_workflow"}
_LATENCY = {"p50": "start_to_result_p50_ms", "p99": "start_to_result_p99_ms"}


def _bars(path: Path, title: str, systems: dict[str, Found], figures: dict[str, str]) -> Path:
    """A group of bars for each system, one for each of `figures` (its label: its name in the result)."""
    figure, axes = plt.subplots(figsize=(6.4, 3.0))
    width = 0.8 / len(figures)
    for place, (label, name) in enumerate(figures.items()):
        at = [number + (place - (len(figures) - 1) / 2) * width for number in range(len(systems))]
        first, second = (OURS, THEIRS) if place == 0 else ("#7fb2da", SECOND)
        colours = [first if system == "perdure" else second for system in systems]
        bars = axes.bar(at, [found[name] for found in systems.values()], width * 0.94, color=colours)
        axes.bar_label(bars, fmt=lambda value: f"{value:,.3g}" if value < 1000 else f"{value:,.0f}", fontsize=8)
        if label:
            axes.bar_label(bars, labels=[label] * len(systems), label_type="center", fontsize=7)
    axes.set_xticks(range(len(systems)), [NAMES[name] for name in systems])
    axes.set_title(title, loc="left")
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    return _saved(figure, path)


def _curves(path: Path, title: str, unit: str, curves: dict[str, list[tuple[float, float]]]) -> Path:
    """Lines over a common horizontal axis from zero, so that what is not linear shows as a bend."""
    figure, axes = plt.subplots(figsize=(4.8, 3.0))
    for label, points in curves.items():
        axes.plot(*zip(*points, strict=True), marker="o", color=OURS)
        axes.set_ylabel(label)
    axes.set_xlabel(unit)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_title(title, loc="left")
    return _saved(figure, path)


def _saved(figure: Any, path: Path) -> Path:
    """Without the date of drawing: the same figures give the same file."""
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="each line of each is what a bench printed")
    parser.add_argument("--into", type=Path, default=Path("docs/plots"))
    asked = parser.parse_args()
    lines = [line for file in asked.files for line in file.read_text().splitlines() if line.startswith("{")]
    for path in draw([json.loads(line) for line in lines], asked.into):
        print(path)


if __name__ == "__main__":
    main()
