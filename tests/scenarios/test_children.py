"""Trees of instances over a live server with two processes, of which now one and now all are killed."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from executor import Unavailable
from executor.platform import Tenant
from tests.scenarios.live import LiveServer, serving, shard_processes, wait_status

SOURCE = """
import asyncio

from executor.workflow import Workflow


def square(n):
    return n * n


class Leaf(Workflow):
    async def run(self, event, step):
        return await step.do("square", square, event.payload)


class Branch(Workflow):
    async def run(self, event, step):
        first = event.payload * 10
        found = await asyncio.gather(*(step.call(f"leaf {n}", Leaf, n) for n in range(first, first + 4)))
        await step.sleep("breathe", 0.05)
        return sum(found)


class Root(Workflow):
    async def run(self, event, step):
        total = 0
        for number in range(event.payload):
            await step.wait_for_event("turn", type="turn")
            total += await step.call("branch", Branch, number)
        return total


class Waiter(Workflow):
    async def run(self, event, step):
        return (await step.wait_for_event("wait", type="go")).payload


class Middle(Workflow):
    async def run(self, event, step):
        return await step.call("waiter", Waiter, None)


class Top(Workflow):
    async def run(self, event, step):
        await step.start("left alone", Waiter, None, id=event.payload)
        return await asyncio.gather(*(step.call(f"middle {n}", Middle, n) for n in range(4)))
"""
BRANCHES = 2
LEAVES = 4 * BRANCHES
TOTAL = sum(n * n for branch in range(BRANCHES) for n in range(branch * 10, branch * 10 + 4))
ROOTS = 5
T = TypeVar("T")


def again(call: Callable[[], T]) -> T:
    """What `call` returns once the process that has the instance is there."""
    end = time.monotonic() + 60
    while True:
        try:
            return call()
        except Unavailable:
            assert time.monotonic() < end
            time.sleep(0.02)


def prepared(server: LiveServer) -> Tenant:
    acme = server.platform().create_tenant("acme")
    acme.deploy({"workflows.py": SOURCE})
    return acme


def states(acme: Tenant) -> Counter[tuple[str, str]]:
    return Counter((view.workflow, view.state) for view in acme.instances(limit=1000))


def until(is_there: Callable[[], Any], acme: Tenant) -> None:
    end = time.monotonic() + 60
    while not is_there():
        assert time.monotonic() < end, again(lambda: states(acme))
        time.sleep(0.02)


def test_trees_come_to_their_result_with_each_child_once_though_processes_are_killed(tmp_path: Path) -> None:
    with serving(tmp_path, processes=2) as server:
        acme = prepared(server)
        runs = [acme.start("Root", BRANCHES, id=f"root-{number}") for number in range(ROOTS)]
        # In each turn one process is killed while the turn's children are being made: the next turn waits for an event.
        for turn in range(BRANCHES):
            for run in runs:
                again(lambda run=run, turn=turn: run.send_event("turn", id=f"turn-{turn}"))
            some = ROOTS + turn * ROOTS * (1 + 4) + 7
            until(lambda some=some: again(lambda: states(acme).total()) >= some, acme)
            os.kill(shard_processes(server.pid)[turn], signal.SIGKILL)
        until(lambda: again(lambda: states(acme)["Branch", "complete"]) >= ROOTS, acme)
        server.kill()  # with both shard processes
        server.start()
        acme = server.platform().tenant("acme")
        runs = [acme.instance(run.id) for run in runs]
        assert [again(lambda run=run: run.result(timeout=60)) for run in runs] == [TOTAL] * ROOTS
        assert states(acme) == {
            ("Root", "complete"): ROOTS,
            ("Branch", "complete"): ROOTS * BRANCHES,
            ("Leaf", "complete"): ROOTS * LEAVES,
        }
        kinds = Counter(item.kind for item in runs[0].journal())
        assert [kinds[kind] for kind in ("child_requested", "child_started", "child_ended")] == [BRANCHES] * 3
        assert server.platform().verify() == []


def test_terminating_the_root_ends_its_tree_in_both_processes_and_leaves_alone_what_it_only_started(
    tmp_path: Path,
) -> None:
    with serving(tmp_path, processes=2) as server:
        acme = prepared(server)
        top = acme.start("Top", "apart", id="top")
        until(lambda: states(acme)["Waiter", "waiting"] == 5, acme)
        # The one process that is killed here may have any of them: whoever is asked while it is gone is asked again.
        top.terminate()
        os.kill(shard_processes(server.pid)[0], signal.SIGKILL)
        ended = {("Top", "terminated"): 1, ("Middle", "terminated"): 4, ("Waiter", "terminated"): 4}
        until(lambda: again(lambda: states(acme)) == {**ended, ("Waiter", "waiting"): 1}, acme)
        apart = acme.instance("apart")
        again(lambda: apart.send_event("go", "on"))
        wait_status(apart, lambda status: status.state == "complete")
        assert apart.result(timeout=30) == "on"
