"""Several executor processes behind one front: the main path, a process killed under load, and a move at restart."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from executor import Conflict, NotFound, Platform, Refused, TenantError, Unavailable
from executor.platform import Tenant
from facets import StateStore, shard_of, shards
from tests.scenarios.live import shard_processes

SOURCE = """
from executor.workflow import Workflow


def one(n):
    return {"n": n}


class Three(Workflow):
    async def run(self, event, step):
        for number in range(3):
            last = await step.do(f"step {number}", one, number)
        print("done")
        return last


class Waiter(Workflow):
    async def run(self, event, step):
        @step.do("note")
        def note():
            self.facet.execute("create table t (x)")
            self.facet.execute("insert into t values (?)", (event.payload,))

        await note()
        return [event.payload, (await step.wait_for_event("wait for go", type="go")).payload]


class Broken(Workflow):
    async def run(self, event, step):
        raise ValueError("no luck")
"""
PROCESSES = 2


@contextmanager
def opened(data_dir: Path, processes: int = PROCESSES) -> Iterator[tuple[Platform, Tenant]]:
    with Platform.local(data_dir, processes=processes) as platform:
        try:
            tenant = platform.tenant("acme")
        except NotFound:
            tenant = platform.create_tenant("acme")
            tenant.deploy({"workflows.py": SOURCE})
        yield platform, tenant


def again(call: Any, until_s: float = 30.0) -> Any:
    """What `call` returns once the platform is not busy; every other error is the caller's."""
    end = time.monotonic() + until_s
    while True:
        try:
            return call()
        except Unavailable as busy:
            assert busy.code == "busy"
            assert busy.details["retry_after_s"] == 1
            assert time.monotonic() < end, busy
            time.sleep(0.02)


def test_everything_that_one_process_can_do_works_over_several(tmp_path: Path) -> None:
    with opened(tmp_path) as (platform, acme):
        assert len(shard_processes(os.getpid())) == PROCESSES
        runs = [acme.start("Three", {}, id=f"three-{number}") for number in range(8)]
        assert [run.result(timeout=30) for run in runs] == [{"n": 2}] * 8
        assert acme.start("Three", {}, id="three-1").status().state == "complete"  # the same instance
        with pytest.raises(Conflict) as taken:
            acme.start("Three", {"other": 1}, id="three-1")
        assert taken.value.code == "instance_exists"
        with pytest.raises(TenantError, match="no luck"):
            acme.start("Broken").result(timeout=30)
        waiters = [acme.start("Waiter", number, id=f"waiter-{number}") for number in range(4)]
        for number, run in enumerate(waiters):
            run.send_event("go", number, id="e")
            assert run.send_event("go", number, id="e").is_duplicate
        assert [run.result(timeout=30) for run in waiters] == [[number, number] for number in range(4)]
        assert [line.text for line in runs[0].logs()] == ["done"]
        assert next(item.kind for item in runs[0].journal()) == "started"
        paused = acme.start("Waiter", 9, id="paused")
        assert paused.pause().state == "paused"
        assert paused.resume().state != "paused"
        assert paused.terminate().state == "terminated"
        paused.delete()
        with pytest.raises(NotFound) as gone:
            paused.status()
        assert gone.value.code == "instance_not_found"
        with pytest.raises(NotFound) as nobody:
            platform.tenant("nobody")
        assert nobody.value.code == "tenant_not_found"
        with pytest.raises(Refused) as unknown:
            acme.start("Nothing")
        assert unknown.value.code == "unknown_workflow"
        listed = [view.id for view in acme.instances()]
        assert len(listed) == 13
        assert listed[0].startswith("waiter") and listed[-1] == "three-0"
        outcomes = acme.start_many(
            [{"workflow": "Three", "payload": {}}] * 20 + [{"workflow": "Nothing"}], return_exceptions=True
        )
        assert [isinstance(outcome, Refused) for outcome in outcomes] == [False] * 20 + [True]
        assert platform.verify() == []
        assert platform.health().ready
        platform.backup(tmp_path / "copy")
    assert shard_processes(os.getpid()) == []
    with opened(tmp_path / "copy", processes=0) as (platform, acme):  # as many as it was made with
        assert len(shard_processes(os.getpid())) == PROCESSES
        assert acme.instance("waiter-3").result(timeout=30) == [3, 3]
        platform.delete_tenant("acme")
        platform.create_tenant("acme")
        assert list(platform.tenant("acme").instances()) == []


def test_killed_shard_process_comes_back_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    acknowledged: set[str] = set()
    unexpected: list[BaseException] = []
    is_over = threading.Event()
    with opened(tmp_path) as (platform, acme):

        def client(number: int) -> None:
            count = 0
            while not is_over.is_set():
                name = f"c{number}-{count}"
                try:
                    again(lambda name=name: acme.start("Three", {"name": name}, id=name))
                except BaseException as error:
                    unexpected.append(error)
                    return
                acknowledged.add(name)
                count += 1

        threads = [threading.Thread(target=client, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        victims = []
        for _ in range(2):
            seen = len(acknowledged)
            while len(acknowledged) < seen + 40 and not unexpected:
                time.sleep(0.01)
            victim = next(pid for pid in shard_processes(os.getpid()) if pid not in victims)
            os.kill(victim, signal.SIGKILL)
            victims.append(victim)
        while not again(platform.health).ready or set(shard_processes(os.getpid())) & set(victims):
            time.sleep(0.02)
        is_over.set()
        for thread in threads:
            thread.join()
        assert unexpected == []
        assert len(acknowledged) > 80
        for name in sorted(acknowledged):
            assert again(lambda name=name: acme.instance(name).result(timeout=60)) == {"n": 2}
        assert platform.verify() == []


def test_result_that_is_waited_for_is_unavailable_at_once_when_its_process_dies(tmp_path: Path) -> None:
    with opened(tmp_path) as (platform, acme):
        run = acme.start("Waiter", 1, id="w")
        found: list[BaseException] = []

        def wait() -> None:
            try:
                run.result(timeout=600)
            except BaseException as error:
                found.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        while run.status().state != "waiting":
            time.sleep(0.01)
        for pid in shard_processes(os.getpid()):
            os.kill(pid, signal.SIGKILL)
        thread.join(10)
        assert [(type(error), getattr(error, "code", "")) for error in found] == [(Unavailable, "busy")]
        again(lambda: run.send_event("go", 2))
        assert again(lambda: run.result(timeout=60)) == [1, 2]
        assert again(platform.health).pid == os.getpid()


def test_number_of_processes_changes_at_restart_and_instances_go_on(tmp_path: Path) -> None:
    with opened(tmp_path, 1) as (_, acme):
        names = [f"w{number}" for number in range(6)]
        for number, name in enumerate(names):
            run = acme.start("Waiter", number, id=name)
            while run.status().state != "waiting":
                time.sleep(0.01)
    with opened(tmp_path, 2) as (platform, acme):
        assert [view.id for view in acme.instances()] == names[::-1]
        for number, name in enumerate(names[:3]):
            acme.instance(name).send_event("go", "two")
            assert acme.instance(name).result(timeout=30) == [number, "two"]
        assert platform.verify() == []
    layout = shards.current(tmp_path)
    assert layout is not None
    for name in names:
        place = layout.places[layout.owners[shard_of("acme", name)]]
        with StateStore.open(tmp_path / place, fold="manual") as store:
            assert store.row("acme", name) is not None
    with opened(tmp_path, 1) as (platform, acme):
        assert [view.id for view in acme.instances()] == names[::-1]
        for number, name in enumerate(names[3:], start=3):
            acme.instance(name).send_event("go", "one")
            assert acme.instance(name).result(timeout=30) == [number, "one"]
            assert acme.instance(name).facet()[:15] == b"SQLite format 3"
        assert platform.verify() == []
