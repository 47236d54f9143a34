"""Determinism through the whole platform: code that decides otherwise on replay is held, told with both sides, and can
be let go or tried again; and what the platform makes deterministic is the same before and after a restart.

Whatever lives in a sandbox process starts anew in another one; a SIGKILL of the server is what makes it another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from executor import Conflict
from executor.platform import Run, Tenant
from tests.scenarios.live import LiveServer, facts, serving, wait_status, wait_waiting

SOURCE = '''
import asyncio
import datetime as dt
import os
import random
import secrets
import time
import uuid

from executor.workflow import Workflow

began = 0


class Forgetful(Workflow):
    """Its second step is named by a global that only the process knows."""

    async def run(self, event, step):
        global began
        began += 1
        await step.do("first", lambda: 1)
        mine = began if event.instance_id.startswith("counted") else 1
        await step.do(f"step of start {mine}", lambda: mine)
        await step.wait_for_event("go", type="go")
        return mine


class Chance(Workflow):
    """Everything that could differ, looked at before and after the wait."""

    async def run(self, event, step):
        before = self.look()
        print("sees", before)
        await step.do("first", lambda: 1)
        middle = self.look()
        await step.wait_for_event("go", type="go")
        return {"before": before, "middle": middle, "after": self.look(), "rest": self.rest()}

    def look(self):
        return [
            time.time(), time.time_ns(), str(dt.datetime.now()), str(dt.datetime.now(dt.timezone.utc)),
            time.monotonic(), random.random(), random.randrange(10**9), random.sample(range(1000), 5),
            str(uuid.uuid4()), str(uuid.uuid1()), secrets.token_hex(8), os.urandom(8).hex(),
            asyncio.get_running_loop().time(),
        ]

    def rest(self):
        words = {f"word {number}" for number in range(50)}
        return [list(words), hash("a text"), list({word: 1 for word in words})]


class Order(Workflow):
    """Steps in the order of a set: the same only if texts hash the same."""

    async def run(self, event, step):
        for word in {"plum", "fig", "pear", "quince", "sloe", "medlar"}:
            await step.do(word, lambda: 1)
        await step.wait_for_event("go", type="go")
        return [word for word in {"plum", "fig", "pear", "quince", "sloe", "medlar"}]
'''
DO_LINE = SOURCE.splitlines().index('        await step.do(f"step of start {mine}", lambda: mine)') + 1


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with serving(tmp_path_factory.mktemp("determinism")) as started:
        started.platform().create_tenant("acme").deploy({"workflows.py": SOURCE})
        yield started


def _acme(server: LiveServer) -> Tenant:
    return server.platform().tenant("acme")


def _replayed(server: LiveServer, *runs: Run[Any]) -> list[Run[Any]]:
    """The same instances in a new server, and so in a new sandbox process."""
    server.kill()
    server.start()
    return [_acme(server).instance(run.id) for run in runs]


def test_code_that_decides_otherwise_on_replay_is_held_with_both_sides_named(server: LiveServer) -> None:
    acme = _acme(server)
    decoys = [acme.start("Forgetful", id=f"decoy-{number}") for number in range(2)]
    for decoy in decoys:
        wait_waiting(decoy, "event")
    run = acme.start("Forgetful", id="counted")
    wait_waiting(run, "event")
    commit = run.status().commit
    steps = [item for item in run.journal() if item.kind == "step_succeeded"]
    recorded = next(item for item in steps if item.fields["path"].startswith("step of start"))
    assert recorded.fields["path"] == "step of start 3#1"

    (run,) = _replayed(server, run)
    run.send_event("go")
    status = wait_status(run, lambda status: status.state == "held")
    assert status.commit == commit
    error = status.error
    assert error is not None
    assert error.code == "nondeterminism"
    where = f"workflows.py:{DO_LINE}"
    assert error.message.startswith(
        f'the journal records step "step of start 3#1" ({where}) (entry {recorded.sequence}), '
        f'but here the code asks for step "step of start 1#1" ({where}). '
    )
    assert "not deterministic" in error.message
    held = run.journal()[-1]
    assert held.kind == "held"
    assert held.fields["recorded"]["path"] == "step of start 3#1"
    assert held.fields["requested"]["path"] == "step of start 1#1"
    assert held.fields["recorded"]["where"] == held.fields["requested"]["where"] == where
    with pytest.raises(Conflict) as refused:
        run.result(timeout=5)
    assert refused.value.code == "instance_held"
    told = server.cli("instances", "show", "counted", "--tenant", "acme")
    for text in ("held", commit, "step of start 3#1", "step of start 1#1", where):
        assert text in told.out
    assert server.http().get("/api/v1/tenants/acme/instances?state=held").json()["items"][0]["id"] == "counted"

    # Its neighbours, equal but for that, go on.
    decoys = [_acme(server).instance(decoy.id) for decoy in decoys]
    decoys[0].send_event("go")
    assert decoys[0].result(timeout=30) == 1
    # In this process the code begins for the third time now, so trying again agrees with the journal.
    assert run.resume().state in ("queued", "running", "complete")
    again = wait_status(run, lambda status: status.state in ("held", "complete"))
    assert (again.state, again.output, again.error) == ("complete", 3, None)
    kinds = facts(run)
    assert kinds[-3:] == ["held", "unheld", "completed"]
    decoys[1].send_event("go")
    assert decoys[1].result(timeout=30) == 1


def test_a_held_instance_held_again_changes_nothing_and_can_be_terminated(server: LiveServer) -> None:
    acme = _acme(server)
    for number in range(3):
        wait_waiting(acme.start("Forgetful", id=f"before-{number}"), "event")
    run = acme.start("Forgetful", id="counted-late")
    wait_waiting(run, "event")
    (run,) = _replayed(server, run)
    run.send_event("go")
    first = wait_status(run, lambda status: status.state == "held")
    assert first.error is not None
    run.resume()
    second = wait_status(run, lambda status: status.state == "held" and "start 2#1" in str(status.error))
    assert second.error is not None
    assert second.error.message == first.error.message.replace("start 1#1", "start 2#1")
    assert not run.send_event("go", id="kept").is_duplicate
    assert run.terminate().state == "terminated"
    assert facts(run) == [
        "started",
        "step_succeeded",
        "step_succeeded",
        "wait_started",
        "event_received",
        "wait_ended",
        "held",
        "unheld",
        "held",
        "event_received",
        "terminated",
    ]
    with pytest.raises(Conflict) as refused:
        run.result(timeout=5)
    assert refused.value.code == "instance_terminated"


def test_time_and_chance_in_run_are_the_same_after_a_restart(server: LiveServer) -> None:
    acme = _acme(server)
    runs = [acme.start("Chance", id=f"chance-{number}") for number in range(2)]
    for run in runs:
        wait_waiting(run, "event")
    seen = [run.logs()[0].text for run in runs]
    assert seen[0] != seen[1]
    runs = _replayed(server, *runs)
    outputs = []
    for run, line in zip(runs, seen, strict=True):
        run.send_event("go")
        output = run.result(timeout=30)
        assert f"sees {output['before']}" == line
        assert [found.text for found in run.logs()] == [line]
        times = [output[when][0] for when in ("before", "middle", "after")]
        assert times == sorted(times)
        assert output["before"][5:12] != output["middle"][5:12] != output["after"][5:12]
        outputs.append(output)
    started = [run.journal()[0].at_ms for run in runs]
    assert [output["before"][0] for output in outputs] == [at_ms / 1000 for at_ms in started]
    for column in (5, 8, 10, 11):
        assert outputs[0]["before"][column] != outputs[1]["before"][column]
    assert outputs[0]["rest"] == outputs[1]["rest"]


def test_the_order_of_sets_is_the_same_over_restarts(server: LiveServer) -> None:
    run = _acme(server).start("Order", id="order")
    wait_waiting(run, "event")
    order = [item.fields["path"].partition("#")[0] for item in run.journal() if item.kind == "step_succeeded"]
    assert sorted(order) == ["fig", "medlar", "pear", "plum", "quince", "sloe"]
    for _ in range(2):
        (run,) = _replayed(server, run)
        fresh = _acme(server).start("Order")
        wait_waiting(fresh, "event")
        assert [
            item.fields["path"].partition("#")[0] for item in fresh.journal() if item.kind == "step_succeeded"
        ] == order
    run.send_event("go")
    assert run.result(timeout=30) == order
