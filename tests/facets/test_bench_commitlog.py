"""The bench runs at a small size, so that it cannot rot."""

from __future__ import annotations

from pathlib import Path

from tools.bench import commitlog


def test_bench_measures_and_its_work_is_the_same_each_time(tmp_path: Path) -> None:
    first, second = (commitlog.run(commitlog.SMALL, tmp_path / name) for name in ("one", "two"))
    assert first["checksum"] == second["checksum"]
    assert first.keys() == second.keys()
    assert all(value is not None for value in first.values())
