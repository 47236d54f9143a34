"""What does a large facet cost? The first query, a row read, a row written, the fold, and memory, at `mib` MiB.

An instance makes its table and waits for an event. Its facet is then made large in the stopped store, as chunks (steps
would take a second of processor for each 5 MiB), the platform starts anew, and the instance's steps time themselves.
"""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import Any

import anyio

from facets import Facet, Limits, StateStore, delta
from facets.pages import CHUNK_BLOCKS, CHUNK_BYTES, PageCache, pack_chunk
from facets.records import Record, RowUpdate
from tools.bench.common import disk_bytes, embedded, folder, main, memory_bytes, processes

MIB = 1024 * 1024
ROW_BYTES = 900
SCAN_ROWS = 20_000
NAME = ("bench", "large")
CODE = b"""
import time
from executor.workflow import Workflow

def timed(facet, sql, *values):
    begun = time.perf_counter()
    rows = facet.execute(sql, values)
    return (time.perf_counter() - begun) * 1000, rows[0][0] if rows else None

class Large(Workflow):
    async def run(self, event, step):
        def begin():
            self.facet.execute("create table note(id integer primary key, key integer unique, body blob)")

        def first(total):
            return timed(self.facet, "select length(body) from note where id = ?", total // 2)

        async def look(total, looks):
            keys = [at * 99_991 % total * 7919 % 1_000_003 for at in range(looks)]
            took = [timed(self.facet, "select length(body) from note where key = ?", key) for key in keys]
            assert all(found == 900 for _, found in took)
            return sorted(ms for ms, _ in took)

        async def change(number, total):
            return timed(self.facet, "update note set body = randomblob(900) where id = ?", number * 99_991 % total)[0]

        def scan(rows):
            return timed(self.facet, "select sum(length(body)) from note where id < ?", rows)

        await step.do("begin", begin)
        await step.wait_for_event("go", type="go", timeout="1 hour")
        total, looks = event.payload["rows"], event.payload["looks"]
        opened, length = await step.do("first", first, total)
        assert length == 900
        found = await step.do("look", look, total, looks)
        changed = [await step.do(f"change {number}", change, number, total) for number in range(looks)]
        scanned, length = await step.do("scan", scan, event.payload["scan"])
        return {"first_ms": opened, "look": found, "change": sorted(changed), "scan_ms": scanned, "scanned": length}
"""


async def run(*, mib: int = 256, looks: int = 200, steps: int = 2_000) -> dict[str, Any]:
    """Times in milliseconds unless named otherwise; memory is a process's own. `steps`: folded without the platform."""
    rows = max(100, mib * MIB // 1050)
    settings = {"facet_bytes_max": 1024 * MIB, "processes": 1}
    payload = {"rows": rows, "looks": looks, "scan": min(rows, SCAN_ROWS)}
    with folder() as data_dir:
        async with embedded(data_dir, **settings) as tenant:
            await tenant.deploy({"workflows.py": CODE})
            instance = await tenant.start("Large", payload, id=NAME[1])
            while (await instance.status()).state != "waiting":
                await anyio.sleep(0.02)
        figures = _make_large(data_dir, rows)
        async with embedded(data_dir, **settings) as tenant:
            before = memory_bytes(os.getpid())
            instance = await tenant.instance(NAME[1])
            await instance.send_event("go", id="go")
            result = await instance.result(timeout=240)
            host = memory_bytes(os.getpid())
            sandbox = max(memory_bytes(pid) for pid in processes() if pid != os.getpid())
        return (
            figures
            | {
                "first_query_ms": round(result["first_ms"], 2),
                "look_p50_ms": round(result["look"][looks // 2], 3),
                "look_p99_ms": round(result["look"][looks * 99 // 100], 3),
                "change_p50_ms": round(result["change"][looks // 2], 3),
                "scan_mib_per_s": round(result["scanned"] / MIB / result["scan_ms"] * 1000, 1),
                "host_grew_mib": round((host - before) / MIB, 1),
                "sandbox_mib": round(sandbox / MIB, 1),
                "disk_bytes": disk_bytes(data_dir),
            }
            | _without_platform(data_dir, rows, steps)
        )


def _make_large(data_dir: Path, rows: int) -> dict[str, Any]:
    """Put a large image in place of the instance's facet."""
    path = data_dir / "large.db"
    image = sqlite3.connect(path)
    image.execute("pragma page_size = 1024")
    image.execute("create table note(id integer primary key, key integer unique, body blob)")
    bodies = ((at, at * 7919 % 1_000_003, os.urandom(ROW_BYTES)) for at in range(rows))
    image.executemany("insert into note values (?, ?, ?)", bodies)
    image.commit()
    image.close()
    size, weight = path.stat().st_size, 0
    with StateStore.open(data_dir / "state", fold="manual") as store, path.open("rb") as file:
        store.fold()
        row = store.row(*NAME)
        assert row is not None
        key, writer = row.generation, store._writer
        begun = time.process_time()
        with writer:
            for number in range(-(-size // CHUNK_BYTES)):
                chunk = file.read(CHUNK_BYTES).ljust(CHUNK_BYTES, b"\0")
                weight += delta.weigh(chunk, number * CHUNK_BLOCKS)
                writer.execute("INSERT INTO paged_chunk VALUES(?, ?)", (key << 20 | number, pack_chunk(chunk)))
            stamp = delta.stamp_from(weight, size)
            writer.execute("DELETE FROM base WHERE key = ?", (key,))
            writer.execute(
                "INSERT INTO paged VALUES(?, ?, ?, ?, NULL, 0, 0)", (key, row.sequence, size, stamp.checksum)
            )
            writer.execute("UPDATE instance SET facet_bytes = ? WHERE key = ?", (size, key))
        packed_s = time.process_time() - begun
    path.unlink()
    return {"image_bytes": size, "pack_cpu_ms_per_mib": round(packed_s * 1000 / size * MIB, 2)}


def _without_platform(data_dir: Path, rows: int, steps: int) -> dict[str, Any]:
    """Bytes fetched for one row, and processor time of steps and folds, which must not grow with their number."""
    limits = Limits(facet_bytes_max=1024 * MIB)
    with StateStore.open(data_dir / "state", limits=limits, fold="manual") as store:
        opening = store.facet(*NAME)
        if isinstance(opening, bytes):
            return {}
        facet = Facet(opening, limits, fetch=lambda *asked: store.pages(*NAME, *asked), cache=PageCache(16 * MIB))
        pages = facet._image.pages
        assert pages is not None
        facet.begin_step()
        facet.execute("select body from note where id = ?", (rows // 3,))
        read = pages.fetched_bytes
        facet.execute("update note set body = randomblob(900) where id = ?", (rows // 3,))
        written = pages.fetched_bytes - read
        facet.rollback_step()
        found = store.row(*NAME)
        assert found is not None
        sequence, quarters = found.sequence, []
        row = RowUpdate("waiting", None, found.workflow, found.commit, found.created_at_ms, found.updated_at_ms, b"")
        for _ in range(4):
            begun = time.process_time()
            for number in range(steps // 4):
                facet.begin_step()
                at = (sequence * 7919 + number) % rows
                facet.execute("update note set body = randomblob(900) where id = ?", (at,))
                sequence += 1
                store.append([Record(*NAME, sequence, b"entry", facet.commit_step(), row)])
                if number % 100 == 99:
                    store._fold.fold()
            quarters.append((time.process_time() - begun) / (steps // 4) * 1000)
        return {
            "chunk_bytes_of_a_read": read,
            "chunk_bytes_of_a_write": written,
            "step_and_fold_cpu_ms_first_quarter": round(quarters[0], 3),
            "step_and_fold_cpu_ms_last_quarter": round(quarters[-1], 3),
        }


if __name__ == "__main__":
    main(run)
