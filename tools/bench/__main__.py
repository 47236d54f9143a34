"""Every bench at its full size, one after the other, each in a process of its own; prints their JSON lines."""

from __future__ import annotations

import subprocess
import sys

BENCHES = ("w3", "starts", "cold", "sleepers", "commitlog", "facet", "sandbox_boot")


def main() -> int:
    """Return the number of benches that failed."""
    failed = 0
    for name in BENCHES:
        done = subprocess.run(
            [sys.executable, "-m", f"tools.bench.{name}", "--json"], stdout=subprocess.PIPE, text=True, check=False
        )
        print(done.stdout.strip().rpartition("\n")[2], flush=True)
        failed += done.returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
