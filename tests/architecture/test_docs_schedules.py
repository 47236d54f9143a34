"""docs/schedules.md is true: its examples run, and the tests that it names are there."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

from executor.platform import Platform

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "schedules.md").read_text(encoding="utf-8")


def test_the_examples_run_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    module = types.ModuleType("docs_schedules")
    monkeypatch.setitem(sys.modules, "docs_schedules", module)
    try:
        for block in blocks:
            exec(compile(block, "docs/schedules.md", "exec", dont_inherit=True), vars(module))
    finally:
        platform = vars(module).get("platform")
        if isinstance(platform, Platform):
            platform.close()


def test_every_test_that_is_named_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) >= 20
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "executor").rglob("test_*schedul*.py")]
    sources += [path.read_text(encoding="utf-8") for path in (ROOT / "tests/executor/schedules").glob("test_*.py")]
    there = {name for source in sources for name in re.findall(r"def (test_\w+)\(", source)}
    assert named - there == set()
