"""Format, lint, types and import rules: what `make check` and CI run. `--fix` mends format and simple lint."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent

CHECKS: list[tuple[str, list[str]]] = [
    ("format", ["ruff", "format", "--check", "."]),
    ("lint", ["ruff", "check", "."]),
    ("types, mypy strict", ["mypy"]),
    ("types, pyright", ["pyright"]),
    ("import rules", ["lint-imports"]),
]
FIXES: list[tuple[str, list[str]]] = [
    ("format", ["ruff", "format", "."]),
    ("lint", ["ruff", "check", "--fix", "."]),
]


def main() -> int:
    """Run all checks, print a line for each, and return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fix", action="store_true", help="mend what the tools can mend")
    failed = []
    for name, command in FIXES if parser.parse_args().fix else CHECKS:
        begun = time.monotonic()
        done = subprocess.run(
            [str(BIN / command[0]), *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False
        )
        verdict = "ok" if done.returncode == 0 else "FAILED"
        print(f"{name:20} {verdict:6} {time.monotonic() - begun:5.1f} s", flush=True)
        if done.returncode:
            failed.append(name)
            print(done.stdout + done.stderr, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
