"""What does durability cost: an append, a fold, a sleeping instance, a due timer, a restart?

    python tools/bench/commitlog.py [--instances N] [--batch N] [--singles N] [--queries N] [--json]

Each instance lives a start and a sleep: two records, each of `payload` bytes of noise, the second with a wake time,
appended in batches while the background fold runs, as the engine does. Prints a table and, with `--json`, one JSON
object as the last line. `run(SMALL, directory)` is the same for tests.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import resource
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from facets import Record, RowUpdate, StateStore


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much to do. The defaults take about twenty seconds on two cores."""

    instances: int = 50_000
    batch: int = 256
    singles: int = 500
    queries: int = 500
    payload: int = 120


SMALL = Sizes(instances=300, batch=64, singles=10, queries=10)
COMMIT = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
NOW_MS = 1_700_000_000_000


def record(number: int, sequence: int, payload: bytes, *, wake_at_ms: int | None) -> Record:
    row = RowUpdate("waiting", wake_at_ms, "Onboarding", COMMIT, NOW_MS, NOW_MS + sequence, b"sleep: cool off")
    return Record("acme", f"customer-{number:08d}", sequence, payload, None, row)


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def percentile(times: list[float], share: float) -> float:
    return round(sorted(times)[min(len(times) - 1, int(len(times) * share))] * 1000, 3)


def run(sizes: Sizes, directory: Path) -> dict[str, object]:
    """All measurements; `directory` must be empty. Files stay there."""
    noise = random.Random(1)
    batches = [
        [
            record(
                number, sequence, noise.randbytes(sizes.payload), wake_at_ms=NOW_MS + number if sequence == 2 else None
            )
            for number in range(first, min(first + sizes.batch, sizes.instances))
        ]
        for sequence in (1, 2)
        for first in range(0, sizes.instances, sizes.batch)
    ]
    store = StateStore.open(directory)
    times: list[float] = []
    cpu_before = time.process_time()
    total_s = timed(lambda: times.extend(timed(partial(store.append, batch)) for batch in batches))
    cpu_s = time.process_time() - cpu_before
    backlog = store._tail.size
    fold_s = timed(store.fold)
    store.close()
    disk = sum(path.stat().st_size for path in directory.iterdir())

    opened: list[StateStore] = []
    open_s = timed(lambda: opened.append(StateStore.open(directory, fold="manual")))
    store = opened[0]
    middle = NOW_MS + sizes.instances // 2
    singles = [
        timed(partial(store.append, [record(number, 3, b"woken", wake_at_ms=None)])) for number in range(sizes.singles)
    ]
    store.fold()
    due_s = timed(lambda: [store.due(middle, limit=10) for _ in range(sizes.queries)])
    wake_s = timed(lambda: [store.next_wake_ms() for _ in range(sizes.queries)])
    picks = [f"customer-{noise.randrange(sizes.instances):08d}" for _ in range(sizes.queries)]
    journals: list[object] = []
    journal_s = timed(lambda: journals.extend(store.journal("acme", name) for name in picks))
    list_s = timed(lambda: [store.list("acme", state="waiting", limit=20) for _ in range(sizes.queries)])
    count_s = timed(lambda: store.count("acme"))
    backup_s = timed(lambda: store.backup(directory.with_name(directory.name + "-backup")))
    problems: list[str] = []
    check_s = timed(lambda: problems.extend(store.check()))
    store.close()
    assert problems == []
    per_query = 1e6 / sizes.queries
    return {
        "sizes": dataclasses.asdict(sizes),
        "records_per_s": round(2 * sizes.instances / total_s),
        "append_batch_p50_ms": percentile(times, 0.5),
        "append_batch_p99_ms": percentile(times, 0.99),
        "cpu_us_per_record": round(cpu_s / (2 * sizes.instances) * 1e6, 1),
        "backlog_bytes": backlog,
        "last_fold_ms": round(fold_s * 1000, 1),
        "disk_bytes_per_instance": round(disk / sizes.instances),
        "open_ms": round(open_s * 1000, 1),
        "append_one_p50_ms": percentile(singles, 0.5),
        "append_one_p99_ms": percentile(singles, 0.99),
        "due_us": round(due_s * per_query, 1),
        "next_wake_us": round(wake_s * per_query, 1),
        "journal_us": round(journal_s * per_query, 1),
        "list_20_us": round(list_s * per_query, 1),
        "count_ms": round(count_s * 1000, 2),
        "backup_ms": round(backup_s * 1000, 1),
        "check_ms": round(check_s * 1000, 1),
        "memory_peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "checksum": f"{zlib.crc32(repr(journals).encode()):08x}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="What does durability cost?")
    for name, default in dataclasses.asdict(Sizes()).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    arguments = vars(parser.parse_args())
    as_json = arguments.pop("json")
    with tempfile.TemporaryDirectory(prefix="commitlog-") as root:
        result = run(Sizes(**arguments), Path(root) / "state")
    for name, value in result.items():
        print(f"{name:24} {value}")
    if as_json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
