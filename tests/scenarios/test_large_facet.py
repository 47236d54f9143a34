"""A facet of more than a sandbox is sent at once: filled, killed, reopened, queried, exported."""

import sqlite3
from pathlib import Path

import pytest

from executor import Platform, TenantError
from facets import Limits
from tests.scenarios.live import TIMEOUT_S, wait_status, wait_waiting

MIB = 1024 * 1024
STEPS, ROWS = 7, 900
SOURCE = f"""
import asyncio
from executor.workflow import Retry, Workflow


class Large(Workflow):
    async def run(self, event, step):
        for number in range({STEPS}):
            await step.options(retry=Retry(limit=0)).do("fill", self.fill, number)
        await step.wait_for_event("go", type="go", timeout="1 hour")
        found = [await step.do("look", self.look, number * 800) for number in range({STEPS})]
        await asyncio.gather(*(step.do("change", self.change, number) for number in range(4)))
        await step.wait_for_event("again", type="again", timeout="1 hour")
        return found + [await step.do("total", self.total)]

    def fill(self, number):
        self.facet.execute("create table if not exists note(id integer primary key, key text unique, body blob)")
        rows = [(number * {ROWS} + at, f"key {{number * {ROWS} + at}}") for at in range({ROWS})]
        self.facet.executemany("insert into note values (?, ?, randomblob(900))", rows)

    async def look(self, number):
        return self.facet.execute("select id from note where key = ?", (f"key {{number}}",))[0]["id"]

    def change(self, number):
        self.facet.execute("update note set body = ? where id % 4 = ? and id < 2000", (f"changed {{number}}", number))

    def total(self):
        (row,) = self.facet.execute("select count(*), sum(id), sum(body like 'changed%') from note")
        return list(row)
"""


def sums(path: Path) -> tuple[int, ...]:
    connection = sqlite3.connect(path)
    assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
    (row,) = connection.execute("select count(*), sum(id), sum(body like 'changed%') from note")
    connection.close()
    return tuple(row)


def test_a_large_facet_outlives_its_sandboxes(tmp_path: Path) -> None:
    data_dir, total = tmp_path / "data", STEPS * ROWS
    settings = {"facet_bytes_max": 16 * MIB, "processes": 1}
    with Platform.local(data_dir, **settings) as platform:
        tenant = platform.create_tenant("acme")
        tenant.deploy({"workflows.py": SOURCE})
        wait_waiting(tenant.start("Large", id="large"), "event")
    with Platform.local(data_dir, **settings) as platform:
        run = platform.tenant("acme").instance("large")
        before = run.facet()
        assert len(before) > Limits().paged_bytes_min
        run.send_event("go", id="go")
        wait_status(run, lambda status: status.state == "waiting" and "again" in str(status.waits))
    with Platform.local(data_dir, **settings) as platform:
        run = platform.tenant("acme").instance("large")
        run.send_event("again", id="again")
        found = run.result(timeout=TIMEOUT_S)
        assert found == [number * 800 for number in range(STEPS)] + [[total, total * (total - 1) // 2, 2000]]
        (tmp_path / "facet.db").write_bytes(run.facet())
    assert sums(tmp_path / "facet.db") == tuple(found[-1])


def test_a_facet_is_bounded_by_the_configuration(tmp_path: Path) -> None:
    with Platform.local(tmp_path / "data", facet_bytes_max=MIB, processes=1) as platform:
        tenant = platform.create_tenant("acme")
        tenant.deploy({"workflows.py": SOURCE.replace("randomblob(900)", "randomblob(2000)")})
        with pytest.raises(TenantError, match=f"limit of {MIB} bytes"):
            tenant.start("Large", id="large").result(timeout=TIMEOUT_S)
