"""docs/testing.md is true: its workflow and all its tests run, by pytest, in a project of their own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from executor import testing
from executor.testing import WorkflowRun, WorkflowTest, hosted, world

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "testing.md"


def test_every_example_of_the_page_passes(tmp_path) -> None:
    text = PAGE.read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "workflows.py").write_text(blocks[0])
    for number, block in enumerate(blocks[1:]):
        (tmp_path / f"test_example_{number}.py").write_text(block)
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    count = len(re.findall(r"^def test_", text, flags=re.MULTILINE))
    assert f"{count} passed" in done.stdout, done.stdout + done.stderr


def test_what_the_tables_name_is_there() -> None:
    text = PAGE.read_text()
    named = {
        name for row in re.findall(r"^\| (`.*?) \|", text, flags=re.MULTILINE) for name in re.findall(r"`(\w+)", row)
    }
    assert named >= {"state", "steps", "mock_step", "force_timeout", "facet"}
    assert {name for name in named if not hasattr(WorkflowRun, name) and not hasattr(WorkflowTest, name)} == set()


def test_the_numbers_on_the_page_are_those_of_the_code() -> None:
    text = PAGE.read_text()
    assert f"within {world.ORDER_S * 1000:g} ms of each other" in text
    assert "`patience_s` (60 s)" in text
    assert f"after {world.JUMPS_MAX:,} jumps" in text
    assert f"more than {hosted.EVERY_WAIT_ENTRIES} entries" in text
    assert set(testing.__all__) == {name for name in dir(testing) if name in testing.__all__}
