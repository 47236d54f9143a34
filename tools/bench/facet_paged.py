"""What does a large facet cost? The first query, a row read, a row written, and memory, on a facet of `mib` MiB.

The facet is filled by steps of one instance. Then the platform starts anew, and an event lets the instance go on: its
steps time themselves. `chunk_bytes_*`: what was fetched for it, from the same store without the platform.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import anyio

from facets import Facet, Limits, StateStore
from facets.pages import PageCache
from tools.bench.common import cpu_s, disk_bytes, embedded, folder, main, memory_bytes, processes

MIB = 1024 * 1024
ROW_BYTES = 900
ROWS_PER_STEP = 5_000
CODE = b"""
import time
from executor.workflow import Workflow

def timed(facet, sql, *values):
    begun = time.perf_counter()
    rows = facet.execute(sql, values)
    return (time.perf_counter() - begun) * 1000, rows[0][0] if rows else None

class Large(Workflow):
    async def run(self, event, step):
        def fill(number, rows):
            self.facet.execute("create table if not exists note(id integer primary key, key integer unique, body blob)")
            first = number * rows
            for begin in range(first, first + rows, 500):  # a statement may take five seconds, however busy the machine
                self.facet.executemany(
                    "insert into note values (?, ?, randomblob(900))",
                    [(at, at * 7919 % 1_000_003) for at in range(begin, begin + 500)],
                )

        def first(total):
            return timed(self.facet, "select length(body) from note where id = ?", total // 2)

        async def look(total, looks):
            keys = [at * 99_991 % total * 7919 % 1_000_003 for at in range(looks)]
            took = [timed(self.facet, "select length(body) from note where key = ?", key) for key in keys]
            assert all(found == 900 for _, found in took)
            return sorted(ms for ms, _ in took)

        async def change(number, total):
            return timed(self.facet, "update note set body = randomblob(900) where id = ?", number * 99_991 % total)[0]

        def scan(total):
            return timed(self.facet, "select sum(length(body)) from note where id < ?", total)

        steps, rows, looks = event.payload["steps"], event.payload["rows"], event.payload["looks"]
        for number in range(steps):
            await step.do(f"fill {number}", fill, number, rows)
        await step.wait_for_event("go", type="go", timeout="1 hour")
        total = steps * rows
        opened, length = await step.do("first", first, total)
        assert length == 900
        found = await step.do("look", look, total, looks)
        changed = [await step.do(f"change {number}", change, number, total) for number in range(looks)]
        scanned, length = await step.do("scan", scan, min(total, 30_000))
        return {"first_ms": opened, "look": found, "change": sorted(changed), "scan_ms": scanned, "scanned": length}
"""


async def run(*, mib: int = 256, looks: int = 200) -> dict[str, Any]:
    """Times in milliseconds; memory is the share that is a process's own, after all of it."""
    steps = max(1, mib * MIB // (ROWS_PER_STEP * (ROW_BYTES + 60)))
    settings = {"facet_bytes_max": 2 * mib * MIB if mib <= 512 else 1024 * MIB, "processes": 1}
    with folder() as data_dir:
        begun, cpu = time.monotonic(), cpu_s()
        async with embedded(data_dir, **settings) as tenant:
            await tenant.deploy({"workflows.py": CODE})
            payload = {"steps": steps, "rows": ROWS_PER_STEP, "looks": looks}
            instance = await tenant.start("Large", payload, id="large")
            while (await instance.status()).state != "waiting":
                await anyio.sleep(0.05)
            filled_s, filled_cpu_s = time.monotonic() - begun, cpu_s() - cpu
            filling = memory_bytes(os.getpid())
        figures = _without_platform(data_dir, steps)
        async with embedded(data_dir, **settings) as tenant:
            before = memory_bytes(os.getpid())
            instance = await tenant.instance("large")
            await instance.send_event("go", id="go")
            result = await instance.result(timeout=100)
            host = memory_bytes(os.getpid())
            sandboxes = max(memory_bytes(pid) for pid in processes() if pid != os.getpid())
        return figures | {
            "fill_s": round(filled_s, 2),
            "fill_cpu_s_per_mib": round(filled_cpu_s / mib, 4),
            "first_query_ms": round(result["first_ms"], 2),
            "look_p50_ms": round(result["look"][looks // 2], 3),
            "look_p99_ms": round(result["look"][looks * 99 // 100], 3),
            "change_p50_ms": round(result["change"][looks // 2], 3),
            "scan_mib_per_s": round(result["scanned"] / MIB / result["scan_ms"] * 1000, 1),
            "host_filling_mib": round(filling / MIB, 1),
            "host_before_mib": round(before / MIB, 1),
            "host_after_mib": round(host / MIB, 1),
            "sandbox_mib": round(sandboxes / MIB, 1),
            "disk_bytes": disk_bytes(data_dir),
        }


def _without_platform(data_dir: Path, steps: int) -> dict[str, Any]:
    """Bytes that one row read and one row written take, and what they cost without processes between."""
    limits = Limits(facet_bytes_max=1024 * MIB)
    name = ("bench", "large")
    with StateStore.open(data_dir / "state", limits=limits, fold="manual") as store:
        row = store.row(*name)
        assert row is not None
        begun = time.perf_counter()
        opening = store.facet(*name)
        if isinstance(opening, bytes):
            return {"image_bytes": len(opening)}
        facet = Facet(opening, limits, fetch=lambda *asked: store.pages(*name, *asked), cache=PageCache(16 * MIB))
        pages = facet._image.pages
        assert pages is not None
        facet.begin_step()
        facet.execute("select body from note where id = ?", (steps * ROWS_PER_STEP // 3,))
        read_s, read = time.perf_counter() - begun, pages.fetched_bytes
        facet.execute("update note set body = randomblob(900) where id = ?", (steps * ROWS_PER_STEP // 3,))
        change = facet.commit_step()
        return {
            "image_bytes": row.facet_bytes,
            "open_and_read_ms": round(read_s * 1000, 2),
            "chunk_bytes_read": read,
            "chunk_bytes_written": pages.fetched_bytes - read,
            "delta_bytes": len(change),
        }


if __name__ == "__main__":
    main(run)
