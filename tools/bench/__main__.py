"""Every bench at its full size, one after the other, each in a process of its own; prints their JSON lines.

    python -m tools.bench [--save DIR] [--only NAME,NAME] [--peers]

`--save` also keeps each line as DIR/NAME.json, which `tools.bench.plots` draws. `--peers` installs and measures the
peers as well.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

BENCHES = (
    "throughput",
    "latency",
    "starts",
    "cold",
    "sleepers",
    "wake",
    "crash",
    "replay",
    "commitlog",
    "facet",
    "sandbox_boot",
)


def main() -> int:
    """Return the number of benches that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--only", default=",".join(BENCHES))
    parser.add_argument("--peers", action="store_true")
    asked = parser.parse_args()
    names = [*asked.only.split(","), *(["peers"] if asked.peers else [])]
    failed = 0
    for name in names:
        done = subprocess.run(
            [sys.executable, "-m", f"tools.bench.{name}", "--json"], stdout=subprocess.PIPE, text=True, check=False
        )
        line = done.stdout.strip().rpartition("\n")[2]
        print(line, flush=True)
        failed += done.returncode != 0
        if asked.save and done.returncode == 0:
            asked.save.mkdir(parents=True, exist_ok=True)
            (asked.save / f"{name}.json").write_text(line + "\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
