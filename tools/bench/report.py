"""Write saved results into the documents: `python -m tools.bench.report DIR`.

DIR is what `python -m tools.bench --save DIR` filled. Each table stands between `<!-- bench: NAME -->` and
`<!-- end -->` in docs/benchmarks.md or docs/performance.md; a table is left as it is while its results are missing.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = (ROOT / "docs/benchmarks.md", ROOT / "docs/performance.md")
Results = dict[str, dict[str, Any]]

# What, the target, the figure as a format over the result, and which result.
TARGETS = (
    ("W3 a second, 256 in flight", "≥ 2,000", "{workflows_per_s:,.0f}", "throughput"),
    ("the same, two processes", "≥ 2,000", "{workflows_per_s:,.0f}", "throughput-2"),
    ("CPU of one W3, all processes", "≤ 0.9 ms", "{cpu_ms_per_workflow:.2f} ms", "throughput"),
    ("the same, two processes and the front", "≤ 0.9 ms", "{cpu_ms_per_workflow:.2f} ms", "throughput-2"),
    (
        "start → result, one at a time, p50 / p99",
        "≤ 5 / 12 ms",
        "{start_to_result_p50_ms:.1f} / {start_to_result_p99_ms:.1f} ms",
        "latency",
    ),
    (
        "event sent → next step durable, p50 / p99",
        "≤ 6 / 25 ms",
        "{event_to_step_p50_ms:.1f} / {event_to_step_p99_ms:.1f} ms",
        "latency",
    ),
    (
        "durable starts a second, 64 clients over HTTP",
        "≥ 1,500",
        "{http_starts_per_s:,.0f} (server: {http_server_cpu_ms_per_start:.2f} ms of CPU each)",
        "starts",
    ),
    (
        "… `Platform.local` from 8 threads",
        "≥ 4,000",
        "{thread_starts_per_s:,.0f} ({thread_cpu_ms_per_start:.2f} ms of CPU each)",
        "starts",
    ),
    (
        "… `start_many` of 100",
        "≥ 10,000",
        "{start_many_per_s:,.0f} ({start_many_cpu_ms_per_start:.3f} ms of CPU each)",
        "starts",
    ),
    (
        "20,000 instances, one step each, asleep",
        "",
        "{all_asleep_s:.0f} s ({cpu_ms_each:.2f} ms of CPU each)",
        "sleepers",
    ),
    ("… disk of each, platform stopped", "≤ 1 KiB", "{disk_bytes_each_stopped:.0f} B", "sleepers"),
    ("1,000,000 instances, one step each, asleep", "≤ 300 s", "{all_asleep_s:.0f} s", "sleepers-1m"),
    ("… disk of each, platform stopped", "≤ 1 KiB", "{disk_bytes_each_stopped:.0f} B", "sleepers-1m"),
    ("… memory of all processes (PSS)", "≤ 400 MB", "{memory_bytes_all_processes:,} B", "sleepers-1m"),
    ("… sandboxes left", "0", "{sandboxes_left}", "sleepers-1m"),
    (
        "… new process → first due one has its result",
        "≤ 3 s",
        "{restart_to_first_due_s:.1f} s ({restart_to_ready_s:.1f} s until calls are accepted)",
        "sleepers-1m",
    ),
    (
        "50,000 active at once, each inside a step",
        "≤ 8 KiB each",
        "{active:,}; {active_memory_bytes_each:,.0f} B each ({active_memory_bytes_each_here:,.0f} in the executor)",
        "wake",
    ),
    ("10,000 due in one second, all through one step", "≤ 8 s", "{due_all_stepped_s:.1f} s", "wake"),
    (
        "… woken early; overtaken by one that was due later",
        "0; never",
        "{due_woken_early}; by {due_overtaken_by_ms_max} ms at most",
        "wake",
    ),
    ("kill -9 with 500 in flight: up again → all complete", "≤ 1.5 s", "{up_to_all_complete_s:.2f} s", "crash"),
    (
        "… steps that ran twice, of those in flight",
        "≤ in flight",
        "{repeats:.0f} of {in_flight:.0f}",
        "crash-unconfined",
    ),
    (
        "replay of 10,000 steps; ratio to 1,000",
        "≤ 200 ms; ≤ 12",
        "{replay_long_wall_ms:.0f} ms ({replay_long_cpu_ms:.0f} ms of CPU); {replay_ratio:.1f}",
        "replay",
    ),
    (
        "cold start, never-seen commit → result of one step, p50 / p99",
        "",
        "{cold_start_p50_ms:.1f} / {cold_start_p99_ms:.1f} ms",
        "cold",
    ),
    ("… the same with a warm sandbox", "", "{warm_start_p50_ms:.1f} / {warm_start_p99_ms:.1f} ms", "cold"),
)
SYSTEMS = {
    "perdure": "**Perdure**, sandboxed",
    "restate": "Restate 1.7.12, Python SDK 1.3.0",
    "absurd": "Absurd 0.5.1, PostgreSQL 15",
    "dbos-postgres": "DBOS 3.4.0, PostgreSQL 15",
    "dbos-sqlite": "DBOS 3.4.0, SQLite",
}
THREADS = {
    "perdure": "the platform's loop",
    "engine-writer": "writer",
    "facets-fold": "fold",
    "MainThread": "the caller's loop",
}


def targets(results: Results) -> list[str]:
    rows = ["| what | target | figure | others' load | bench |", "|---|---|---|---|---|"]
    for what, target, figure, name in TARGETS:
        result = results.get(name)
        shown = figure.format(**result) if result else "not measured"
        load = f"{result['other_load']:.2f}" if result and "other_load" in result else ""
        rows.append(f"| {what} | {target} | {shown} | {load} | `{name}` |")
    return rows


def peers(results: Results) -> list[str]:
    found = results["peers"]
    rows = [
        "| | in flight | W3 a second | CPU of one W3 | one at a time, p50 / p99 | CPU of one, alone | others' load |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, label in SYSTEMS.items():
        if name in found["failed"]:
            rows.append(f"| {label} | {found['failed'][name]} | | | | | |")
        elif name in found["systems"]:
            one = found["systems"][name]
            rows.append(
                f"| {label} | {one['in_flight']} | {one['workflows_per_s']:,.0f} | {one['cpu_ms_per_workflow']:.2f} ms "
                f"| {one['start_to_result_p50_ms']:.1f} / {one['start_to_result_p99_ms']:.1f} ms "
                f"| {one['cpu_ms_per_workflow_alone']:.1f} ms | {one['other_load']:.2f} |"
            )
    ratios = [
        f"{figure} × {found[f'times_best_{name}']} (best: {SYSTEMS[found[f'best_{name}']]})"
        for name, figure in _RATIOS.items()
        if f"times_best_{name}" in found
    ]
    return [*rows, "", f"Ours against the best peer of the same run: {'; '.join(ratios)}."]


_RATIOS = {
    "workflows_per_s": "W3 a second",
    "cpu_ms_per_workflow": "CPU of one",
    "start_to_result_p50_ms": "p50",
    "start_to_result_p99_ms": "p99",
}


def parts(results: Results) -> list[str]:
    log, facet, boot = results["commitlog"], results["facet"], results["sandbox_boot"]
    named = (
        ("append alone: CPU of a record; p50", f"{log['append_1_cpu_us_per_record']} µs; {log['append_1_p50_ms']} ms"),
        ("append in batches of 64: CPU of a record", f"{log['append_64_cpu_us_per_record']} µs"),
        ("append in batches of 256: CPU of a record", f"{log['append_256_cpu_us_per_record']} µs"),
        ("fold: CPU of an instance that began and ended", f"{log['fold_cpu_us_per_run']} µs"),
        ("disk of a sleeper, the store alone", f"{log['sleeper_disk_bytes']} B"),
        ("a step on a facet: three statements and the delta", f"{facet['step_us']} µs"),
        ("delta of such a step", f"{facet['delta_bytes']} B"),
        ("facet opened cold, one step, closed", f"{facet['open_step_close_us']} µs"),
        ("sandbox opened, without tenant code, p50 / p99", f"{boot['open_ms_p50']} / {boot['open_ms_p99']} ms"),
    )  # fmt: skip
    return ["| part | figure |", "|---|---|", *(f"| {what} | {figure} |" for what, figure in named)]


def counts(results: Results) -> list[str]:
    both = [results["path"]["crowd"], results["path"]["alone"]]
    rows = ["| of one W3 | 256 in flight | one at a time |", "|---|---|---|"]
    for what, name in (("tasks made on the platform's loop", "trio_tasks"), ("turns given to tasks", "trio_turns")):
        rows.append(_row(what, [found[name] for found in both]))
    rows.append(_row("waits of the platform's loop for anything", [found["trio_waits"] for found in both]))
    for name, label in {**THREADS, "other processes": "sandbox"}.items():
        rows.append(_row(f"went to wait: {label}", [found["switches_by_thread"].get(name, 0) for found in both]))
    if "system_calls" in both[0]:
        for group in ("platform", "sandboxes"):
            calls = [found["system_calls"][group] for found in both]
            names = sorted(calls[0] | calls[1], key=lambda name: -max(found.get(name, 0) for found in calls))
            rows += [
                _row(f"system calls, {group}: `{name}`", [found.get(name, 0) for found in calls]) for name in names[:9]
            ]
    return rows


def cpu(results: Results) -> list[str]:
    both = [results["path"]["crowd"], results["path"]["alone"]]
    rows = ["| CPU of one W3, µs | 256 in flight | one at a time |", "|---|---|---|"]
    columns = [[found["cpu_us_by_thread"].get(name, 0) for found in both] for name in THREADS]
    columns.append([found["cpu_us_other_processes"] for found in both])
    for label, figures in zip([*THREADS.values(), "sandbox"], columns, strict=True):
        rows.append(_row(label, [round(figure) for figure in figures]))
    return [*rows, _row("all", [round(sum(figures)) for figures in zip(*columns, strict=True)])]


def where(results: Results) -> list[str]:
    found = results["where"]
    rows = ["| thread | part | µs of one W3 |", "|---|---|---|"]
    for thread, shares in found["share_of_samples"].items():
        process, _, name = thread.partition(", ")
        label = "sandbox" if process == "sandbox" else THREADS.get(name, name)
        for part, share in shares.items():
            if (us := share * found["cpu_us"][process]) >= 5:
                rows.append(f"| {label} | {part} | {us:.0f} |")
    return rows


TABLES: dict[str, tuple[Callable[[Results], list[str]], tuple[str, ...]]] = {
    "targets": (targets, ("throughput",)),
    "peers": (peers, ("peers",)),
    "parts": (parts, ("commitlog", "facet", "sandbox_boot")),
    "counts": (counts, ("path",)),
    "cpu": (cpu, ("path",)),
    "where": (where, ("where",)),
}
"""How each table is made, and the results without which it is not."""


def _row(what: str, figures: list[float]) -> str:
    return f"| {what} | {' | '.join(f'{figure:,}' for figure in figures)} |"


def written(text: str, results: Results) -> str:
    """`text` with its tables made anew."""

    def table(found: re.Match[str]) -> str:
        make, needed = TABLES[found[1]]
        if not all(name in results for name in needed):
            return found[0]
        return "\n".join([f"<!-- bench: {found[1]} -->", *make(results), "<!-- end -->"])

    return re.sub(r"<!-- bench: (\w+) -->.*?<!-- end -->", table, text, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    asked = parser.parse_args()
    results = {file.stem: json.loads(file.read_text().splitlines()[-1]) for file in asked.folder.glob("*.json")}
    for document in DOCUMENTS:
        document.write_text(written(document.read_text(), results))


if __name__ == "__main__":
    main()
