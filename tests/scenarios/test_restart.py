"""A restart on the real platform: the facet goes back with the journal."""

from __future__ import annotations

from pathlib import Path

import pytest

from executor.platform import Platform, Run
from tests.scenarios.live import wait_status

SOURCE = """
from executor.workflow import Workflow


class Ledger(Workflow):
    async def run(self, event, step):
        await step.do("first", self.post, 1)
        await step.do("second", self.post, 2)
        await step.wait_for_event("wait", type="go")

    def post(self, number):
        self.facet.execute("create table if not exists postings (number integer, of integer)")
        (row,) = self.facet.execute("select count(*) as count from postings")
        self.facet.execute("insert into postings values (?, ?)", (number, row["count"]))
"""


@pytest.mark.parametrize("state", ["waiting", "terminated"])
def test_restart_takes_back_what_the_steps_that_it_repeats_wrote(tmp_path: Path, state: str) -> None:
    with Platform.local(tmp_path / "data", processes=1) as platform:
        acme = platform.create_tenant("acme")
        acme.deploy({"workflows.py": SOURCE})
        run: Run[None] = acme.start("Ledger")
        for from_step in ("second", "first", None):
            wait_status(run, lambda status: status.state == "waiting")
            if state == "terminated":
                run.terminate()
            run.restart(from_step=from_step)
        wait_status(run, lambda status: status.state == "waiting")
        assert run.query("select number, of from postings").rows == [[1, 0], [2, 1]]
