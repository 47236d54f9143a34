"""Flow control over a live server with two shard processes: declared by a push, kept through a kill."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from executor import Conflict, Refused
from executor.platform import Run, Tenant
from executor.shards.layout import present
from facets import shard_of
from tests.scenarios.live import WorkingCopy, serving

FLOWS = """
import asyncio
import time

from executor.workflow import Flow, Workflow


class One(Workflow):
    flow = Flow(concurrency=1, per="payload.key")

    async def run(self, event, step):
        begin = await step.do("begin", time.time)
        await step.do("work", lambda: time.sleep(0.05))
        return [begin, await step.do("end", time.time)]


class Latest(Workflow):
    flow = Flow(debounce="1 hour")

    async def run(self, event, step):
        return event.payload


class Sole(Workflow):
    flow = Flow(singleton="skip")

    async def run(self, event, step):
        await step.wait_for_event("go", type="go")


class Paced(Workflow):
    flow = Flow(rate="10/second")

    async def run(self, event, step):
        return await step.do("begin", time.time)


class Fan(Workflow):
    async def run(self, event, step):
        before = await step.do("before", time.time)
        begun = await asyncio.gather(*(step.call(f"paced {n}", Paced, None) for n in range(6)))
        return [before, *sorted(begun)]
"""
WITHIN_S = 20.0


def until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + WITHIN_S
    while not what():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.02)


def spans(runs: list[Run]) -> list[tuple[float, float]]:
    return sorted((begin, end) for begin, end in (run.result(timeout=WITHIN_S) for run in runs))


def test_what_a_push_declares_holds_over_two_processes_and_a_kill(tmp_path: Path) -> None:
    with serving(tmp_path, processes=2) as server:
        platform = server.platform()
        acme: Tenant = platform.create_tenant("acme")
        work = WorkingCopy(tmp_path, acme.git_url, str(acme.create_token().secret))
        work.commit({"workflows.py": FLOWS.replace('"1 hour"', '"soon"')})
        refused = work.push()
        assert refused.code != 0
        assert "workflows.py:17:1 Latest: flow: Flow(debounce=...) is 'soon'" in refused.err
        work.commit({"workflows.py": FLOWS})
        assert work.push().code == 0

        drawn = [{"workflow": "One", "payload": {"key": number % 2}} for number in range(12)]
        named = [{"workflow": "One", "payload": {"key": "named"}, "id": f"named{number}"} for number in range(8)]
        layout = present(server.data)
        assert layout is not None
        assert {layout.owners[shard_of("acme", str(start["id"]))] for start in named} == {0, 1}
        runs = acme.start_many([*drawn, *named])
        for of_key in (runs[0:12:2], runs[1:12:2], runs[12:]):
            assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans(of_key)))

        # Of both fans together: the rate is one for children of all processes.
        fans = [acme.start("Fan").result(timeout=WITHIN_S) for _ in range(2)]
        paced = list(acme.instances(workflow="Paced"))
        assert {layout.owners[shard_of("acme", run.id)] for run in paced} == {0, 1}
        begun = sorted(moment for _, *moments in fans for moment in moments)
        assert all(moment >= fans[0][0] + 0.1 * number - 0.002 for number, moment in enumerate(begun))

        first = acme.start("Latest", {"v": 1})
        assert acme.start("Latest", {"v": 2}).id == first.id
        sole = acme.start("Sole", id="sole")
        until(lambda: sole.status().state == "waiting")
        platform.set_tenant("acme", weight=7, concurrency=5)
        server.kill()
        server.start()
        acme = server.platform().tenant("acme")
        assert (acme.view.weight, acme.view.concurrency) == (7, 5)
        assert acme.start("Latest", {"v": 3}).id == first.id
        assert acme.instance(first.id).status().waiting_for.kind == "start"  # type: ignore[union-attr]
        with pytest.raises(Conflict) as conflict:
            acme.start("Sole")
        assert (conflict.value.code, conflict.value.details["instance"]) == ("singleton_exists", "sole")
        acme.instance("sole").send_event("go")
        acme.instance("sole").result(timeout=WITHIN_S)
        with pytest.raises(Refused):
            acme.start("Sole", at=None, delay="never")
        assert acme.start("Sole").id != "sole"
