"""Benches at small sizes, so that they cannot rot; what they print is JSON with the figures that the documents quote."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "throughput": (
        ["--count", "40", "--in-flight", "8", "--repeats", "2"],
        {"workflows_per_s", "cpu_ms_per_workflow"},
    ),
    "latency": (
        ["--count", "5", "--events", "3", "--repeats", "2"],
        {"start_to_result_p50_ms", "start_to_result_p99_ms", "event_to_step_p50_ms", "event_to_step_p99_ms"},
    ),
    "starts": (
        ["--count", "40", "--clients", "8", "--threads", "4", "--batch", "10", "--repeats", "1"],
        {"http_starts_per_s", "http_server_cpu_ms_per_start", "thread_starts_per_s", "start_many_per_s"},
    ),
    "sleepers": (
        ["--n", "100", "--due-s", "0.5"],
        {"memory_bytes_all_processes", "created_per_s", "restart_to_first_due_s"},
    ),
    "wake": (
        ["--n", "50", "--lead-s", "5", "--active", "50", "--hold-s", "2"],
        {"due_all_stepped_s", "active_memory_bytes_each", "active_all_complete_s"},
    ),
    "crash": (
        ["--n", "30", "--unconfined", "1", "--repeats", "1", "--step-s", "0.3", "--kill-after-s", "0.1"],
        {"up_to_all_complete_s", "executed_before", "in_flight"},
    ),
    "facet_paged": (
        ["--mib", "6", "--looks", "5", "--steps", "80"],
        {"first_query_ms", "look_p50_ms", "change_p50_ms", "scan_mib_per_s", "sandbox_mib", "chunk_bytes_of_a_read"},
    ),
    "activation": (["--steps", "40", "--pairs", "1"], {"long_platform_cpu_ms", "long_sandbox_cpu_ms", "ratio"}),
    "cold": (["--commits", "3"], {"cold_start_p50_ms", "cold_start_p99_ms"}),
}


def run_bench(name, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", f"tools.bench.{name}", *arguments, "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().rpartition("\n")[2])


@pytest.mark.parametrize("name", SMALL)
def test_bench_runs_small_and_prints_one_json_object(name):
    arguments, figures = SMALL[name]
    result = run_bench(name, *arguments)
    assert figures <= result.keys()
    assert result["bench"] == name
    assert all(result[figure] > 0 for figure in figures)
    assert 0 <= result["other_load"] <= 1
    if name == "sleepers":
        assert result["sandboxes_left"] == result["runs_left"] == 0
        assert result["disk_bytes_each_stopped"] <= 16 * 1024  # of so few it may be less than nothing: logs are trimmed
    if name == "wake":
        assert result["due_woken_early"] == 0
        assert result["active"] == 50
    if name == "crash":
        assert result["complete"] == 30
        assert 0 <= result["repeats"] <= result["in_flight"] <= 30


def test_peers_cannot_be_skipped_in_silence(tmp_path, monkeypatch):
    """Weakness: a peer that is missing makes us the best by default. The reason is in the result, and no ratio."""
    from tools.bench import peers
    from tools.bench.peering import systems
    from tools.bench.peering.install import NotInstalled

    def missing(_cache, _folder):
        raise NotInstalled("nowhere to be had")

    monkeypatch.setitem(systems.SYSTEMS, "absurd", missing)
    found = peers.run(systems="absurd", cache=str(tmp_path / "cache"), repeats=1)
    assert found["failed"] == {"absurd": "not installed: nowhere to be had"}
    assert found["systems"] == {}
    assert not [name for name in found if name.startswith("times_best")]


def test_ratio_above_one_means_that_ours_is_better():
    from tools.bench import peers

    mine = {"workflows_per_s": 200, "cpu_ms_per_workflow": 1, "start_to_result_p50_ms": 5, "start_to_result_p99_ms": 10}
    slow = {"workflows_per_s": 50, "cpu_ms_per_workflow": 4, "start_to_result_p50_ms": 20, "start_to_result_p99_ms": 80}
    fast = slow | {"workflows_per_s": 100, "start_to_result_p50_ms": 2.5}
    found = peers._ratios({"perdure": mine, "slow": slow, "fast": fast})
    assert found["times_best_workflows_per_s"] == 2 and found["best_workflows_per_s"] == "fast"
    assert found["times_best_cpu_ms_per_workflow"] == 4
    assert found["times_best_start_to_result_p50_ms"] == 0.5


def test_report_writes_a_table_whose_results_are_there_and_leaves_the_others():
    from tools.bench.report import TARGETS, written

    text = "a\n<!-- bench: targets -->\nold\n<!-- end -->\nb\n<!-- bench: peers -->\nold\n<!-- end -->\n"
    found = {"throughput": {"workflows_per_s": 1234.5, "cpu_ms_per_workflow": 0.8, "other_load": 0.1}}
    lines = written(text, found).splitlines()
    assert lines[0] == "a"
    assert "| W3 a second, 256 in flight | ≥ 2,000 | 1,234 | 0.10 | `throughput` |" in lines
    assert sum("not measured" in line for line in lines) == len(TARGETS) - 2
    assert lines[-4:] == ["b", "<!-- bench: peers -->", "old", "<!-- end -->"]
