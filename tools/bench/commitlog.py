"""What does durability cost: an append, a fold, a sleeping instance, a due timer, a restart?

    python tools/bench/commitlog.py [--instances N] [--records N] [--w3 N] [--queries N] [--json]

Three parts. *Appends*: records of 120 bytes in batches of 1, 64 and 256, five of each instance one after the other, as
steps do; CPU of the append alone, for nothing is folded meanwhile. *Runs*: instances that begin and end at once, five
records each; CPU of their fold alone. *Sleepers*: `instances` that start (150 B), have one step (120 B) and sleep
(90 B, and a summary of 60 B), all of noise; then the disk they take, the opening of the store, and what is asked of it.
Prints a table and, with `--json`, one JSON object as the last line. `run(SMALL, directory)` is the same for tests.

`--instances 1000000` takes some minutes and 2 GB of disk.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from facets import Query, Record, RowUpdate, StateStore


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much to do. The defaults take about fifteen seconds on a core."""

    instances: int = 20_000
    records: int = 50_000
    w3: int = 4_000
    queries: int = 300


SMALL = Sizes(instances=300, records=320, w3=100, queries=10)
BATCHES = (1, 64, 256)
SINGLES_MAX = 2_000
ENTRIES = 5
SLEEPERS_BATCH = 300
COMMIT = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
NOW_MS = 1_700_000_000_000
SLEEPER = (150, 120, 90)
SUMMARY_BYTES = 60


def record(name: str, sequence: int, entry: bytes, state: str = "running", wake_at_ms: int | None = None) -> Record:
    row = RowUpdate(state, wake_at_ms, "Onboarding", COMMIT, NOW_MS, NOW_MS + sequence, entry[:SUMMARY_BYTES])
    return Record("acme", name, sequence, entry, None, row)


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def cpu_us(work: Callable[[], object], number: int) -> float:
    """CPU of this process, for each of `number` things that `work` does."""
    started = time.process_time()
    work()
    return round((time.process_time() - started) / number * 1e6, 1)


def percentile(times: list[float], share: float) -> float:
    return round(sorted(times)[min(len(times) - 1, int(len(times) * share))] * 1000, 3)


def resident_mib() -> float:
    """What the process has in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * 4096 / 2**20, 1)


def of_runs(prefix: str, number: int, batch: int, noise: random.Random) -> Iterator[list[Record]]:
    """Batches of instances that go on at the same pace, so that an instance has one record in a batch."""
    for first in range(0, number, batch):
        names = [f"{prefix}-{identifier:08d}" for identifier in range(first, min(first + batch, number))]
        for sequence in range(1, ENTRIES + 1):
            state = "complete" if sequence == ENTRIES else "running"
            yield [record(name, sequence, noise.randbytes(120), state) for name in names]


def appends(sizes: Sizes, directory: Path, noise: random.Random) -> dict[str, object]:
    result: dict[str, object] = {}
    with StateStore.open(directory, fold="manual") as store:
        for size in BATCHES:
            number = min(sizes.records, SINGLES_MAX) if size == 1 else sizes.records
            batches = list(of_runs(f"batch{size}", number // ENTRIES, size, noise))
            count = sum(map(len, batches))
            times: list[float] = []
            result[f"append_{size}_cpu_us_per_record"] = cpu_us(partial(append_all, store, batches, times), count)
            result[f"append_{size}_records_per_s"] = round(count / sum(times))
            result[f"append_{size}_p50_ms"] = percentile(times, 0.5)
            result[f"append_{size}_p99_ms"] = percentile(times, 0.99)
            store.fold()
        for batch in of_runs("fold", sizes.w3, 64, noise):
            store.append(batch)
        cpu = cpu_us(store.fold, sizes.w3)
        result["fold_cpu_us_per_run"] = cpu
        result["fold_cpu_us_per_record"] = round(cpu / ENTRIES, 1)
    return result


def append_all(store: StateStore, batches: list[list[Record]], times: list[float]) -> None:
    times.extend(timed(partial(store.append, batch)) for batch in batches)


def fall_asleep(store: StateStore, instances: int, noise: random.Random) -> None:
    for first in range(0, instances, SLEEPERS_BATCH):
        numbers = range(first, min(first + SLEEPERS_BATCH, instances))
        for sequence, size in enumerate(SLEEPER, 1):
            is_last = sequence == len(SLEEPER)
            store.append(
                [
                    record(
                        f"customer-{number:08d}",
                        sequence,
                        noise.randbytes(size),
                        "waiting" if is_last else "running",
                        # Due times are not in the order of the starts.
                        NOW_MS + number * 7919 % instances if is_last else None,
                    )
                    for number in numbers
                ]
            )


def sleepers(sizes: Sizes, directory: Path, noise: random.Random) -> dict[str, object]:
    instances = sizes.instances
    result: dict[str, object] = {}
    with StateStore.open(directory) as store:
        result["sleepers_cpu_us_each"] = cpu_us(partial(fall_asleep, store, instances, noise), instances)
        store.fold()
    disk = {path.name: path.stat().st_size for path in directory.iterdir()}
    result["sleeper_disk_bytes"] = round(sum(disk.values()) / instances)
    result["log_bytes"] = sum(size for name, size in disk.items() if name.startswith("log.db"))

    opened: list[StateStore] = []
    first_s = timed(lambda: opened.append(StateStore.open(directory, fold="manual")))
    store = opened[0]
    first_s += timed(store.next_wake_ms) + timed(lambda: store.due(NOW_MS + instances, limit=256))
    result["open_and_first_due_ms"] = round(first_s * 1000, 1)
    names = [f"customer-{noise.randrange(instances):08d}" for _ in range(sizes.queries)]
    journals: list[object] = []
    questions: dict[str, Callable[[], object]] = {
        "next_wake_us": store.next_wake_ms,
        "due_10_us": lambda: store.due(NOW_MS + instances // 2, limit=10),
        "active_us": lambda: store.in_states(["queued", "running"], limit=256),
        "list_20_us": lambda: store.list("acme", limit=20),
        "list_20_by_state_us": lambda: store.list("acme", Query(states=("waiting",)), limit=20),
        "list_20_by_commit_us": lambda: store.list("acme", Query(commit=COMMIT), limit=20),
        "list_none_us": lambda: store.list("acme", Query(workflow="Other"), limit=20),
        "count_us": lambda: store.count("acme"),
        "commits_us": lambda: store.commits("acme"),
    }
    for name, ask in questions.items():
        result[name] = round(timed(lambda ask=ask: [ask() for _ in names]) / len(names) * 1e6, 1)  # type: ignore[misc]
    journal_s = timed(lambda: journals.extend(store.journal("acme", name) for name in names))
    result["journal_us"] = round(journal_s / len(names) * 1e6, 1)
    result["resident_mib"] = resident_mib()
    backup_s = timed(lambda: store.backup(directory.with_name(directory.name + "-backup")))
    result["backup_ms"] = round(backup_s * 1000, 1)
    problems: list[str] = []
    result["check_ms"] = round(timed(lambda: problems.extend(store.check())) * 1000, 1)
    store.close()
    assert problems == []
    result["checksum"] = f"{zlib.crc32(repr(journals).encode()):08x}"
    return result


def run(sizes: Sizes, directory: Path) -> dict[str, object]:
    """All measurements; stores are made in `directory`, which must be empty, and stay there."""
    directory.mkdir(exist_ok=True)
    noise = random.Random(1)
    result: dict[str, object] = {"sizes": dataclasses.asdict(sizes)}
    result |= appends(sizes, directory / "appends", noise)
    result |= sleepers(sizes, directory / "sleepers", noise)
    return result


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
        print(f"{name:32} {value}")
    if as_json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
