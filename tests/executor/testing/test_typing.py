"""Type checkers infer results of runs under test, and reject what is wrong: exactly the lines marked WRONG are errors."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("typed_use.py")
ROOT = Path(__file__).resolve().parents[3]
WRONG = {number for number, line in enumerate(SOURCE.read_text().splitlines(), 1) if "# WRONG" in line}


def test_mypy_finds_exactly_the_wrong_lines() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--allow-any-generics", "--no-error-summary", SOURCE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert {int(found) for found in re.findall(r"typed_use\.py:(\d+): error", done.stdout)} == WRONG, done.stdout


def test_pyright_finds_exactly_the_wrong_lines() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", SOURCE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(done.stdout)["generalDiagnostics"]
    assert {item["range"]["start"]["line"] + 1 for item in found if item["severity"] == "error"} == WRONG, done.stdout
