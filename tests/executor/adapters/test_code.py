"""What the code store says of a deployed commit, in the platform's words."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from executor.adapters.code import GitCodeSource
from executor.views import WorkflowView

SOURCE = b"""
from executor.workflow import Flow, Schedule, Workflow


class Plain(Workflow):
    async def run(self, event, step): ...


class Declares(Workflow):
    schedule = "0 6 * * *"
    flow = Flow(concurrency=5, per="payload.customer", debounce="5 seconds")

    async def run(self, event, step): ...
"""


def test_a_version_shows_the_schedule_and_the_flow_that_its_workflows_declare(tmp_path: Path) -> None:
    with closing(GitCodeSource.open(tmp_path / "code", pack_bytes_max=1 << 20)) as code:
        code.create_tenant("acme")
        deployed = code.deploy("acme", {"workflows.py": SOURCE}, message="m", who="me", branch="live")
        assert deployed.workflows == [
            WorkflowView(name="Plain", path="workflows.py", line=5),
            WorkflowView(
                name="Declares",
                path="workflows.py",
                line=9,
                schedule=["0 6 * * *"],
                flow={"concurrency": 5, "per": "payload.customer", "debounce": "5 seconds"},
            ),
        ]
        assert code.version("acme", deployed.commit).workflows == deployed.workflows
