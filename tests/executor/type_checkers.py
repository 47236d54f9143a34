"""What type checkers say of a file of this tree, and which of its lines are marked WRONG."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def marked(source: Path) -> set[int]:
    """The numbers of the lines that are to be errors."""
    return {number for number, line in enumerate(source.read_text().splitlines(), 1) if "# WRONG" in line}


def found_by_mypy(source: Path) -> set[int]:
    report = _told("mypy", "--strict", "--allow-any-generics", "--no-error-summary", source)
    return {int(number) for number in re.findall(rf"{re.escape(source.name)}:(\d+): error", report)}


def found_by_pyright(source: Path) -> set[int]:
    found = json.loads(_told("pyright", "--outputjson", source))["generalDiagnostics"]
    return {item["range"]["start"]["line"] + 1 for item in found if item["severity"] == "error"}


def _told(checker: str, *arguments: str | Path) -> str:
    report = subprocess.run(
        [sys.executable, "-m", checker, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout
    print(report)  # shown if the test fails
    return report
