"""Benches at small sizes, so that they cannot rot; what they print is JSON with the figures that the documents quote."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "w3": (["--count", "40", "--in-flight", "8", "--one-by-one", "5"], {"workflows_per_s", "cpu_ms_per_workflow"}),
    "starts": (["--count", "40", "--clients", "8", "--batch", "10"], {"starts_per_s", "start_many_per_s"}),
    "cold": (["--commits", "3"], {"cold_start_p50_ms", "cold_start_p99_ms"}),
    "sleepers": (["--count", "100"], {"memory_bytes_per_sleeper", "disk_bytes_per_sleeper", "sandboxes_left"}),
}


@pytest.mark.parametrize("name", SMALL)
def test_bench_runs_small_and_prints_one_json_object(name):
    arguments, figures = SMALL[name]
    done = subprocess.run(
        [sys.executable, "-m", f"tools.bench.{name}", *arguments, "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.strip().rpartition("\n")[2])
    assert figures <= result.keys()
    assert result["bench"] == name
    if name == "w3":
        assert result["checksum"], "the work was done"
    if name == "sleepers":
        assert result["sandboxes_left"] == result["runs_left"] == 0
        assert result["disk_bytes_per_sleeper"] <= 16 * 1024
