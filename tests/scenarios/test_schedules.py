"""Schedules over a live server: declared by a push, killed with SIGKILL, rolled back, copied, asked by every surface."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from executor.config import Config
from executor.main import running
from executor.platform import Tenant
from executor.service import ADMINISTRATOR
from tests.scenarios.live import LiveServer, WorkingCopy, serving

TICK = """
from executor.workflow import Schedule, Workflow


class Tick(Workflow):
    schedule = Schedule(every="1 second", overlap="allow", catch_up="all", payload={"from": "code"})

    async def run(self, event, step):
        return {"schedule": event.schedule, "payload": event.payload, "for": event.scheduled_at}
"""
QUIET = TICK.replace("    schedule =", "    _unused =")
WITHIN_S = 20.0


def until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + WITHIN_S
    while not what():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.05)


def seconds(acme: Tenant) -> list[str]:
    """The times that instances were started for, oldest first."""
    found = [re.fullmatch(r"Tick-1-(\d{8}T\d{6}Z)-[0-9a-f]{12}", view.id) for view in acme.instances(limit=None)]
    assert all(found), acme.instances(limit=None)
    return sorted(one.group(1) for one in found if one)


def test_each_second_has_its_instance_through_a_kill_and_a_rollback_takes_the_schedule_back(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        acme = server.platform().create_tenant("acme")
        work = WorkingCopy(tmp_path, acme.git_url, str(acme.create_token().secret))
        work.commit({"workflows.py": QUIET})
        assert work.push().code == 0
        assert acme.schedules() == []
        work.commit({"workflows.py": TICK})
        assert work.push().code == 0
        [view] = acme.schedules()
        assert (view.name, view.origin, view.every_ms) == ("Tick:1", "code", 1000)
        [declared] = acme.version("live").workflows[0].schedule
        assert declared["every"] == "1 second"
        until(lambda: len(seconds(acme)) >= 1)
        server.kill()
        time.sleep(1.5)  # seconds that nobody could fire
        server.start()
        acme = server.platform().tenant("acme")
        before = len(seconds(acme))
        until(lambda: len(seconds(acme)) >= before + 1)
        acme.rollback(why="too often")
        assert acme.schedules() == []

        def is_over() -> bool:  # one may have been under way
            fired = seconds(acme)
            time.sleep(1.1)
            return seconds(acme) == fired

        until(is_over)
        fired = seconds(acme)
        # One for each second, none left out, none twice, the kill and its downtime included.
        moments = [datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) for text in fired]
        apart = {(later - earlier).total_seconds() for earlier, later in itertools.pairwise(moments)}
        assert apart == {1}
        for item in acme.instances(limit=3):
            result = acme.instance(item.id).result(timeout=30)
            assert (result["schedule"], result["payload"]) == ("Tick:1", {"from": "code"})
            assert result["for"].strftime("-%Y%m%dT%H%M%SZ-") in item.id
        assert acme._platform.verify() == []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with serving(tmp_path_factory.mktemp("server")) as found:
        yield found


def test_push_with_an_impossible_time_is_refused_with_its_place(server: LiveServer, tmp_path: Path) -> None:
    acme = server.platform().create_tenant("pushes")
    work = WorkingCopy(tmp_path, acme.git_url, str(acme.create_token().secret))
    work.commit({"workflows.py": TICK.replace('every="1 second"', 'cron="0 0 31 2 *"')})
    told = work.push()
    assert told.code != 0
    text = " ".join(told.err.replace("remote:", " ").split())
    assert 'workflows.py:5:1 Tick: the schedule has cron "0 0 31 2 *": Bad day-of-month' in text
    work.commit({"workflows.py": TICK.replace('every="1 second"', "every=input()")})
    text = " ".join(work.push().err.replace("remote:", " ").split())
    assert "workflows.py:6:31 schedule of Tick calls input; write Schedule(...) with literals" in text


def test_command_line_and_http_tell_the_same(server: LiveServer) -> None:
    acme = server.platform().create_tenant("asks")
    acme.deploy({"workflows.py": QUIET})
    arguments = ["Tick", '{"a": 1}', "--name", "nightly", "--cron", "0 3 * * *", "--overlap", "queue", "-t", "asks"]
    assert server.cli("schedules", "create", *arguments).code == 0
    assert server.cli("schedules", "create", *arguments).code == 0  # the same one
    again = [text.replace("0 3", "0 4") for text in arguments]
    assert "[schedule_exists]" in server.cli("schedules", "create", *again).err
    http = server.http()
    listed = http.get("/api/v1/tenants/asks/schedules").json()
    assert listed == server.cli("schedules", "list", "-t", "asks", "--json").document
    assert (listed[0]["payload"], listed[0]["overlap"], len(listed[0]["next_ms"])) == ({"a": 1}, "queue", 1)
    paused = http.post("/api/v1/tenants/asks/schedules/nightly/pause").json()
    assert (paused["paused"], paused["next_ms"]) == (True, [])
    triggered = server.cli("schedules", "trigger", "nightly", "--id", "one", "-t", "asks", "--json").document
    assert triggered["id"] == "one"
    assert acme.instance("one").result(timeout=30)["payload"] == {"a": 1}
    shown = server.cli("schedules", "show", "nightly", "-t", "asks")
    assert re.search(r"^\S+Z  triggered one \(by admin\)$", shown.out, re.MULTILINE), shown.out
    assert http.post("/api/v1/tenants/asks/schedules/nightly/resume").json()["paused"] is False
    assert http.delete("/api/v1/tenants/asks/schedules/nightly").status_code == 204
    assert server.cli("schedules", "show", "nightly", "-t", "asks").code == 3


async def test_backup_has_the_schedules_and_a_deleted_tenant_has_none(tmp_path: Path) -> None:
    data, copy = tmp_path / "data", tmp_path / "copy"
    async with running(Config(data_dir=data)) as service:
        await service.create_tenant(ADMINISTRATOR, "acme")
        await service.deploy(ADMINISTRATOR, "acme", {"workflows.py": QUIET.encode()})
        await service.create_schedule(ADMINISTRATOR, "acme", "Tick", [1], name="daily", cron="0 0 * * *")
        await service.backup(ADMINISTRATOR, str(copy))
        await service.delete_tenant(ADMINISTRATOR, "acme")
        await service.create_tenant(ADMINISTRATOR, "acme")
        assert await service.schedules(ADMINISTRATOR, "acme") == []
        assert await service.check(ADMINISTRATOR) == []
    async with running(Config(data_dir=copy)) as service:
        [view] = await service.schedules(ADMINISTRATOR, "acme")
        assert (view.name, view.payload, view.cron) == ("daily", [1], "0 0 * * *")
