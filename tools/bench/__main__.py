"""Every bench at its full size, one after the other, each in a process of its own; prints their JSON lines.

    python -m tools.bench [--save DIR] [--only NAME,NAME]

`--save` also keeps each line as DIR/NAME.json: `tools.bench.report` writes them into the documents, `tools.bench.plots`
draws them. Those of WIDER are run only when they are named: they need the peers, py-spy, or some minutes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

RUNS = {
    "throughput": ("throughput",),
    "throughput-2": ("throughput", "--processes", "2"),
    "latency": ("latency",),
    "starts": ("starts",),
    "cold": ("cold",),
    "sleepers": ("sleepers", "--n", "20000"),
    "wake": ("wake",),
    "crash": ("crash",),
    "crash-unconfined": ("crash", "--unconfined", "1"),
    "replay": ("replay",),
    "activation": ("activation",),
    "path": ("path",),
    "commitlog": ("commitlog",),
    "facet": ("facet",),
    "facet_paged": ("facet_paged",),
    "sandbox_boot": ("sandbox_boot",),
}
WIDER = {
    "peers": ("peers",),
    "where": ("where",),
    "sleepers-1m": ("sleepers", "--n", "1000000", "--processes", "2"),
}


def main() -> int:
    """Return the number of benches that failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--only", default=",".join(RUNS), help=f"of {', '.join(RUNS | WIDER)}")
    asked = parser.parse_args()
    failed = 0
    for name in asked.only.split(","):
        module, *flags = (RUNS | WIDER)[name]
        command = [sys.executable, "-m", f"tools.bench.{module}", *flags, "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        line = done.stdout.strip().rpartition("\n")[2]
        print(line, flush=True)
        failed += done.returncode != 0
        if asked.save and done.returncode == 0:
            asked.save.mkdir(parents=True, exist_ok=True)
            (asked.save / f"{name}.json").write_text(line + "\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
