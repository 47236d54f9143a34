"""The bench runs at a small size, so that it cannot rot. It measures; it judges nothing."""

from __future__ import annotations

import importlib.util
import sys
import zlib
from pathlib import Path

import pytest

from executor.core import values
from tools.bench import replay


@pytest.mark.skipif(sys.platform != "linux", reason="confinement is a matter of the Linux kernel")
def test_sandbox_boot_bench_counts_its_work():
    path = Path(__file__).resolve().parents[3] / "tools" / "bench" / "sandbox_boot.py"
    spec = importlib.util.spec_from_file_location("sandbox_boot", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    result = module.run(count=3, threads=1)
    assert result["checksum"] == 3
    assert 0 < result["open_ms_p50"] <= result["open_ms_p99"]


def test_replay_bench_counts_its_work():
    result = replay.run(steps=100, pairs=2, workflows=20, in_flight=5, waiting_runs=20)
    assert result["checksum"] == f"{20 * zlib.crc32(values.encode({'number': 2})):x}"
    assert 0 < result["replay_short_cpu_ms"] < result["replay_long_cpu_ms"]
    assert len(result["replay_ratios"]) == 2
