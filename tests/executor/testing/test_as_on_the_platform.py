"""A run under test is the run of a platform: same result, same journal, but for times and digests of time."""

from __future__ import annotations

from typing import Any

import pytest

from executor.platform import Platform
from executor.testing import WorkflowTest

SOURCE = """
import asyncio
from executor.workflow import EventTimeout, NonRetryableError, Retry, StepFailed, Workflow


def flaky(step):
    if step.current().attempt < 3:
        raise ConnectionError("no line")
    return step.current().attempt


class Sequence(Workflow):
    async def run(self, event, step):
        seen = [await step.options(retry=Retry(limit=3, delay="5 ms", jitter=0)).do("flaky", flaky, step)]
        await step.do("write", self.write)
        await step.sleep("nap", "5 ms")
        seen.append((await step.wait_for_event("approval", type="approved")).payload)
        try:
            await step.wait_for_event("second", type="approved", timeout="5 ms")
        except EventTimeout as timeout:
            seen.append(str(timeout))
        return [*seen, await step.do("read", self.read)]

    def write(self):
        self.facet.execute("create table t (a)")
        self.facet.execute("insert into t values (7)")

    def read(self):
        return self.facet.execute("select a from t")[0]["a"]


class Undone(Workflow):
    async def run(self, event, step):
        await step.options(undo=lambda output, error: None).do("book", lambda: 1)
        with step.group("audit"):
            try:
                await step.do("no", self.no)
            except StepFailed as failed:
                self.status = {"why": failed.error_message}
        if event.payload == "again":
            self.continue_as_new("last")
        raise ValueError("given up")

    def no(self):
        raise NonRetryableError("never")
"""


@pytest.fixture(scope="module")
def acme(tmp_path_factory: pytest.TempPathFactory):
    with Platform.local(tmp_path_factory.mktemp("platform")) as platform:
        tenant = platform.create_tenant("acme")
        tenant.deploy({"workflows.py": SOURCE})
        yield tenant


def outcome(run: Any) -> object:
    try:
        return run.result()
    except Exception as error:
        return type(error).__name__, error.code, error.details["type"], error.details["text"]


HIDDEN = {"step_started", "activated", "released"}


@pytest.mark.parametrize(("workflow", "payload"), [("Sequence", None), ("Undone", "again")])
def test_the_journal_is_the_same(acme, tmp_path, workflow: str, payload: object) -> None:
    (tmp_path / f"as_on_the_platform_{workflow.lower()}.py").write_text(SOURCE)
    live = acme.start(workflow, payload, id=workflow)
    with WorkflowTest(f"{tmp_path}/as_on_the_platform_{workflow.lower()}.py:{workflow}") as test:
        tested = test.start(payload, id=workflow)
        if workflow == "Sequence":
            live.send_event("approved", 5, id="1")
            tested.send_event("approved", 5, id="1")
        assert outcome(tested) == outcome(live)

        def told(run, journal) -> list[tuple[object, ...]]:
            return [
                (item.kind, item.fields.get("path"), item.fields.get("attempt"), item.fields.get("value"))
                for item in journal
                if item.kind not in HIDDEN | {"event_received"}
            ]

        assert told(tested, tested.journal) == told(live, live.journal())
