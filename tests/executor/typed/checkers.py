"""What type checkers say of files of this tree, and which of its lines are marked WRONG."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def marked(source: Path) -> set[int]:
    """The numbers of the lines that are to be errors."""
    return {number for number, line in enumerate(source.read_text().splitlines(), 1) if "# WRONG" in line}


def found_by_mypy(sources: list[Path]) -> dict[str, set[int]]:
    """The lines with errors, by name of the file."""
    report = _told("mypy", "--strict", "--allow-any-generics", "--no-error-summary", *sources)
    return {
        source.name: {int(number) for number in re.findall(rf"{re.escape(source.name)}:(\d+): error", report)}
        for source in sources
    }


def found_by_pyright(sources: list[Path]) -> dict[str, set[int]]:
    """As `found_by_mypy`."""
    found = json.loads(_told("pyright", "--outputjson", *sources))["generalDiagnostics"]
    lines: dict[str, set[int]] = {source.name: set() for source in sources}
    for item in found:
        if item["severity"] == "error":
            lines[Path(item["file"]).name].add(item["range"]["start"]["line"] + 1)
    return lines


def _told(checker: str, *arguments: str | Path) -> str:
    report = subprocess.run(
        [sys.executable, "-m", checker, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout
    print(report)  # shown if the test fails
    return report
