"""Streams far larger than what a step may change: given, read, tried again, killed, restarted, continued, deleted."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from hashlib import sha256, shake_128
from pathlib import Path

from executor import Platform
from executor.platform import Run
from tests.scenarios.live import TIMEOUT_S, wait_waiting

MIB = 1024 * 1024
SIZE = 10 * MIB + 12_345
SOURCE = f"""
import hashlib
import os
from executor.workflow import Retry, Workflow


def content(seed, size):
    block = hashlib.shake_128(str(seed).encode()).digest(100_003)
    while size > 0:
        yield block[:size]
        size -= len(block)


def digest(blob):
    found = hashlib.sha256()
    for chunk in blob.chunks():
        found.update(chunk)
    return found.hexdigest()


class Gives(Workflow):
    async def run(self, event, step):
        options = event.payload
        given = step.options(stream=True, retry=Retry(limit=3, delay=0.01))
        first = await given.do("first", self.first, step.current, options.get("fails", 0), options.get("dies", False))
        await step.wait_for_event("read", type="read", timeout="1 hour")
        second = await given.do("second", lambda: content("second", 3_000_000))
        found = [await step.do("look", digest, blob) for blob in (first, second)]
        assert found == [first.sha256, second.sha256], found
        if options.get("again"):
            self.continue_as_new({{}})
        return [first.size, *found]

    def first(self, current, fails, dies):
        now, given = current(), 0
        was_here = now.last_heartbeat
        now.heartbeat("here")
        self.facet.execute("create table if not exists tries (attempt)")
        self.facet.execute("insert into tries values (?)", (now.attempt,))
        for piece in content("first", {SIZE}):
            if given > {SIZE} // 2:
                if now.attempt <= fails:
                    raise ValueError("half-way")
                if dies and not was_here:
                    os._exit(1)
            yield piece
            given += len(piece)
            self.facet.execute("update tries set attempt = attempt")
"""


def content(seed: str, size: int) -> Iterator[bytes]:
    block = shake_128(seed.encode()).digest(100_003)
    while size > 0:
        yield block[:size]
        size -= len(block)


def digest(seed: str, size: int) -> str:
    found = sha256()
    for piece in content(seed, size):
        found.update(piece)
    return found.hexdigest()


WANTED = [SIZE, digest("first", SIZE), digest("second", 3_000_000)]


def kept(data_dir: Path) -> list[int]:
    """Sizes of the streams that are kept, and nothing of any other."""
    connection = sqlite3.connect(data_dir / "state" / "blobs.db")
    sizes = [size for (size,) in connection.execute("select size from blob where key > 0 order by size")]
    (total,) = connection.execute("select coalesce(sum(length(content)), 0) from part").fetchone()
    connection.close()
    assert total == sum(sizes)
    return sizes


def read(run: Run, path: str) -> str:
    """SHA-256 of what is read of a stream from outside."""
    steps = [item.fields for item in run.journal() if item.kind == "step_succeeded"]
    [given] = [fields["value"] for fields in steps if fields["path"] == path]
    found, part = sha256(), 0
    while piece := run.blob(given["id"], part=part):
        found.update(piece)
        part += 1
    return found.hexdigest()


def test_a_stream_has_exactly_its_bytes_whatever_happened_to_its_attempts(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    with Platform.local(data_dir, processes=1) as platform:
        tenant = platform.create_tenant("acme")
        tenant.deploy({"workflows.py": SOURCE})
        starts = {"fails": {"fails": 2}, "dies": {"dies": True}, "again": {"again": True}, "restarted": {}}
        runs = [tenant.start("Gives", payload, id=name) for name, payload in starts.items()]
        for run in runs:
            wait_waiting(run, "event")
        runs[3].restart(from_step=("first", 1))
        wait_waiting(runs[3], "event")
        assert runs[0].query("select attempt from tries").rows == [[3]]
    assert kept(data_dir) == [SIZE] * 4
    with Platform.local(data_dir, processes=1) as platform:
        tenant = platform.tenant("acme")
        for name in starts:
            tenant.instance(name).send_event("read", id="read")
        for name in ("fails", "dies", "restarted"):
            assert tenant.instance(name).result(timeout=TIMEOUT_S) == WANTED
        assert read(tenant.instance("fails"), "first#1") == WANTED[1]
        wait_waiting(tenant.instance("again"), "event")
        tenant.instance("dies").delete()
    assert kept(data_dir) == [3_000_000] * 2 + [SIZE] * 3
    with Platform.local(data_dir, processes=1) as platform:
        platform.delete_tenant("acme")
    assert kept(data_dir) == []
    assert (data_dir / "state" / "blobs.db").stat().st_size < MIB
