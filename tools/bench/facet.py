"""What does a facet cost: a step, its delta, opening, rebuilding?

    python tools/bench/facet.py [--steps N] [--opens N] [--facets N] [--rows N] [--json]

Prints a table and, with `--json`, one JSON object as the last line. `run(SMALL)` is the same for tests.
A step: read a row by its index, insert one of about 100 bytes into an indexed table, update a counter; begin to delta.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from facets import delta
from facets.facet import Facet, prepare_process
from facets.limits import Limits


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much to do. The defaults take about ten seconds on two cores."""

    steps: int = 5_000
    opens: int = 1_000
    facets: int = 300
    rows: int = 500


SMALL = Sizes(steps=50, opens=5, facets=5, rows=20)
SCHEMA = """
create table note(id integer primary key, name text unique, body text);
create table counter(name text primary key, value integer) without rowid;
insert into counter values ('notes', 0)
"""


def filled(rows: int) -> bytes:
    """An image with `rows` rows."""
    facet = Facet()
    facet.begin_step()
    facet.execute(SCHEMA)
    facet.executemany(
        "insert into note(name, body) values (?, ?)", [(f"first {number}", body(number)) for number in range(rows)]
    )
    facet.commit_step()
    return facet.image()


def body(number: int) -> str:
    return f"note {number}: " + "".join(chr(97 + (number * 31 + place * place) % 26) for place in range(90))


BODIES = [body(number) for number in range(1_000)]


def one_step(facet: Facet, number: int) -> bytes:
    facet.begin_step()
    facet.execute("select body from note where name = ?", (f"first {number % 20}",))
    facet.execute(
        "insert into note(name, body) values (?, ?)", (f"{number * 7919 % 10_007} {number}", BODIES[number % 1_000])
    )
    facet.execute("update counter set value = value + 1 where name = 'notes'")
    return facet.commit_step()


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def resident_kib() -> int:
    with open("/proc/self/statm") as status:
        return int(status.read().split()[1]) * 4


def run(sizes: Sizes) -> dict[str, object]:
    """All measurements; times in microseconds unless the name says otherwise."""
    base = filled(sizes.rows)
    hot = Facet(base)
    deltas: list[bytes] = []
    steps_s = timed(lambda: deltas.extend([one_step(hot, number) for number in range(sizes.steps)]))
    rebuilt: list[bytes] = []
    bytes_max = Limits().facet_bytes_max
    rebuild_s = timed(lambda: rebuilt.append(delta.apply_all(base, deltas, bytes_max=bytes_max)))
    assert rebuilt[0] == hot.image()
    rows = Facet.read_only(rebuilt[0]).execute("select name, body from note order by id")

    def empty_steps() -> None:
        for _ in range(sizes.steps):
            hot.begin_step()
            hot.commit_step()

    def cold_steps() -> None:
        for number in range(sizes.opens):
            facet = Facet(base)
            one_step(facet, number)
            facet.close()

    def cold_reads() -> None:
        for _ in range(sizes.opens):
            facet = Facet.read_only(base)
            facet.execute("select count(*) from counter")
            facet.close()

    before_kib = resident_kib()
    held = [Facet(base) for _ in range(sizes.facets)]
    for number, facet in enumerate(held):
        one_step(facet, number)
    memory_kib = (resident_kib() - before_kib) / sizes.facets
    return {
        "sizes": dataclasses.asdict(sizes),
        "image_bytes": len(base),
        "image_bytes_after": len(rebuilt[0]),
        "steps_per_s": round(sizes.steps / steps_s),
        "step_us": round(steps_s / sizes.steps * 1e6, 1),
        "untouched_step_us": round(timed(empty_steps) / sizes.steps * 1e6, 2),
        "delta_bytes": round(sum(map(len, deltas)) / len(deltas), 1),
        "composed_bytes": len(delta.compose(deltas, bytes_max=bytes_max)),
        "apply_us": round(rebuild_s / sizes.steps * 1e6, 1),
        "open_step_close_us": round(timed(cold_steps) / sizes.opens * 1e6, 1),
        "open_read_close_us": round(timed(cold_reads) / sizes.opens * 1e6, 1),
        "open_facet_kib": round(memory_kib, 1),
        "stamp_us_per_mib": round(timed(lambda: delta.stamp_of(rebuilt[0])) / len(rebuilt[0]) * 2**20 * 1e6, 1),
        "checksum": f"{zlib.crc32(repr(rows).encode()):08x}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="What does a facet cost?")
    for name, default in dataclasses.asdict(Sizes()).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--plain", action="store_true", help="do not prepare the process as the sandbox's zygote does")
    arguments = vars(parser.parse_args())
    as_json, is_plain = arguments.pop("json"), arguments.pop("plain")
    if not is_plain:
        prepare_process()
    result = run(Sizes(**arguments))
    for name, value in result.items():
        print(f"{name:20} {value}")
    if as_json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
