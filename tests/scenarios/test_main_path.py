"""The story of the README in one test: push, run, push what would break it, die, come back, finish, roll back.

One `perdure serve`, real `git push`, SIGKILL in the middle. Before the kill one instance is in each state of waiting: a
sleep, an event, a retry, and a step that executes. All end on the version that they began on.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from executor import wire
from executor.platform import Run, Tenant
from tests.scenarios.live import LiveServer, WorkingCopy, facts, git, serving, wait_status, wait_waiting

AHEAD_S = 7.0
"""How far the sleep, the retry and the executing step reach: beyond the kill and the restart."""
V1 = """
import asyncio
import logging
import time

from executor.workflow import Retry, Workflow

VERSION = "v1"
log = logging.getLogger("orders")


class Order(Workflow):
    async def run(self, event, step):
        print("begins on", VERSION)
        first = await step.do("first", self.note, "first")
        print("has", first)
        kind, until_ms = event.payload["kind"], event.payload["until_ms"]
        if kind == "sleep":
            await step.sleep("nap", until_ms / 1000 - event.timestamp.timestamp())
            how = "slept"
        elif kind == "event":
            how = (await step.wait_for_event("approval", type="approved", timeout="1 hour")).payload["by"]
        elif kind == "retry":
            delay = until_ms / 1000 - event.timestamp.timestamp()
            retry = Retry(limit=3, delay=delay, backoff="constant", jitter=0)
            how = await step.options(retry=retry).do("shaky", self.shaky, step)
        elif kind == "executing":
            how = await step.do("long", self.long, until_ms)
        else:
            how = "at once"
        print("then", how)
        last = await step.do("last", self.note, "last")
        return {"version": VERSION, "how": how, "steps": [first, last]}

    def note(self, what):
        log.info("note %s", what)
        self.facet.execute("CREATE TABLE IF NOT EXISTS note (what TEXT, version TEXT)")
        self.facet.execute("INSERT INTO note VALUES (?, ?)", (what, VERSION))
        return f"{what} by {VERSION}"

    def shaky(self, step):
        attempt = step.current().attempt
        print("attempt", attempt)
        self.facet.execute("INSERT INTO note VALUES (?, ?)", (f"attempt {attempt}", VERSION))
        if attempt == 1:
            raise ConnectionError("the other side hung up")
        return f"attempt {attempt}"

    async def long(self, until_ms):
        print("works")
        self.facet.execute("INSERT INTO note VALUES (?, ?)", ("long", VERSION))
        await asyncio.sleep(max(0, until_ms / 1000 - time.time()))
        print("worked")
        return "worked"
"""
V2 = V1.replace('VERSION = "v1"', 'VERSION = "v2"').replace('step.do("first"', 'step.do("check stock"')
"""v1's journals begin with a step that this code never asks for."""

KINDS = ["sleep", "event", "retry", "executing"]
HOW = {"sleep": "slept", "event": "kim", "retry": "attempt 2", "executing": "worked"}
FIRST = [("run", "begins on v1"), ("first#1", "orders: note first"), ("run", "has first by v1")]
LAST = [("last#1", "orders: note last")]
LOGS = {
    "sleep": [*FIRST, ("run", "then slept"), *LAST],
    "event": [*FIRST, ("run", "then kim"), *LAST],
    "retry": [*FIRST, ("shaky#1", "attempt 1"), ("shaky#1", "attempt 2"), ("run", "then attempt 2"), *LAST],
    "executing": [*FIRST, ("long#1", "works"), ("long#1", "worked"), ("run", "then worked"), *LAST],
}
JOURNALS = {
    "sleep": ["started", "step_succeeded", "sleep_started", "sleep_ended", "step_succeeded", "completed"],
    "event": [
        "started",
        "step_succeeded",
        "wait_started",
        "event_received",
        "wait_ended",
        "step_succeeded",
        "completed",
    ],
    "retry": ["started", "step_succeeded", "attempt_failed", "step_succeeded", "step_succeeded", "completed"],
    "executing": ["started", "step_succeeded", "step_succeeded", "step_succeeded", "completed"],
}
ROWS = {
    "sleep": [("first", "v1"), ("last", "v1")],
    "event": [("first", "v1"), ("last", "v1")],
    "retry": [("first", "v1"), ("attempt 2", "v1"), ("last", "v1")],  # what the failed attempt wrote is rolled back
    "executing": [("first", "v1"), ("long", "v1"), ("last", "v1")],  # it began twice; it wrote once
}


@dataclass
class World:
    server: LiveServer
    tenant: Tenant
    copy: WorkingCopy
    token: str


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with serving(tmp_path) as server:
        tenant = server.platform().create_tenant("acme")
        token = str(tenant.create_token(label="kim").secret)
        yield World(server, tenant, WorkingCopy(tmp_path, tenant.git_url, token), token)


def test_instances_end_on_the_version_that_they_began_on_whatever_happens(world: World, tmp_path: Path) -> None:
    server, acme = world.server, world.tenant
    v1 = world.copy.commit({"workflows.py": V1}, "v1")
    pushed = world.copy.push()
    assert pushed.code == 0, pushed.err
    for line in (f"acme  main  {v1[:8]} (new)", "Workflows Order  workflows.py:12", f"Channel   live -> {v1[:8]}"):
        assert f"remote:   {line}" in " ".join(pushed.err.split(" " * 8)), pushed.err

    until_ms = int((time.time() + AHEAD_S) * 1000)
    runs = {kind: acme.start("Order", {"kind": kind, "until_ms": until_ms}, id=kind) for kind in KINDS}
    seen: dict[str, list[Any]] = {}
    for kind in ("sleep", "event", "retry"):
        status = wait_waiting(runs[kind], kind)
        assert status.commit == v1
    wait_status(runs["executing"], lambda status: any(line.text == "works" for line in runs["executing"].logs()))
    retry = runs["retry"].status()
    assert retry.waiting_for is not None
    assert (retry.waiting_for.attempt, retry.waiting_for.limit) == (1, 3)
    assert str(retry.waiting_for).endswith(": ConnectionError: the other side hung up")
    for kind, run in runs.items():
        seen[kind] = [*run.journal()]

    v2 = world.copy.commit({"workflows.py": V2}, "v2")
    pushed = world.copy.push()
    assert pushed.code == 0, pushed.err
    assert f"live {v1[:8]} -> {v2[:8]}" in pushed.err
    assert "Running instances stay on the commit they are pinned to." in pushed.err
    new = acme.start("Order", {"kind": "", "until_ms": 0}, id="new-before")
    assert new.result(timeout=30)["version"] == "v2"

    assert time.time() * 1000 < until_ms, "this machine is too slow for the story: raise AHEAD_S"
    assert runs["executing"].status().state == "running"
    server.kill()
    server.start()

    acme = world.tenant = server.platform().tenant("acme")
    runs = {kind: acme.instance(kind) for kind in KINDS}
    for kind, run in runs.items():
        assert run.journal()[: len(seen[kind])] == seen[kind]
        assert run.status().commit == v1
    new = acme.start("Order", {"kind": "", "until_ms": 0}, id="new-after")
    assert new.result(timeout=30) == {"version": "v2", "how": "at once", "steps": ["first by v2", "last by v2"]}
    assert new.status().commit == v2
    assert not runs["event"].send_event("approved", {"by": "kim"}, id="e1").is_duplicate
    for kind, run in runs.items():
        expected = {"version": "v1", "how": HOW[kind], "steps": ["first by v1", "last by v1"]}
        assert run.result(timeout=30) == expected, kind
        _check_told(kind, run, tmp_path)

    moved = acme.rollback(why="v2 asks for the stock too often")
    assert (moved.from_commit, moved.to_commit, moved.kind) == (v2, v1, "rollback")
    old = acme.start("Order", {"kind": "", "until_ms": 0}, id="rolled-back")
    assert (old.result(timeout=30)["version"], old.status().commit) == ("v1", v1)
    assert [(move.kind, move.to_commit) for move in acme.channel_history()] == [
        ("rollback", v1),
        ("push", v2),
        ("push", v1),
    ]
    assert git(tmp_path, "ls-remote", world.copy.remote, "refs/heads/main").out == f"{v2}\trefs/heads/main\n"

    _check_command_line(world, runs, tmp_path)
    _check_tenants_token(world, runs)
    assert server.stop() == 0
    assert "Traceback" not in server.log_text()


def _check_told(kind: str, run: Run[Any], folder: Path) -> None:
    """Journal, logs and facet of an ended instance."""
    journal = run.journal()
    assert [item.sequence for item in journal] == list(range(1, len(journal) + 1))
    assert facts(run) == JOURNALS[kind]
    lines = run.logs()
    assert [(line.step or "run", line.text) for line in lines] == LOGS[kind]
    cursors = [line.cursor for line in lines]
    assert cursors == sorted(set(cursors))
    file = folder / f"{kind}.sqlite"
    file.write_bytes(run.facet())
    shell = subprocess.run(
        ["sqlite3", "-batch", file, "PRAGMA integrity_check; SELECT what || '|' || version FROM note ORDER BY rowid;"],
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert shell.stdout.splitlines() == ["ok", *("|".join(row) for row in ROWS[kind])]


def _check_command_line(world: World, runs: dict[str, Run[Any]], folder: Path) -> None:
    """`perdure … --json` says what the Python API says, word for word."""
    cli = world.server.cli
    acme = world.tenant
    of = ("--tenant", "acme", "--json")
    assert cli("versions", "list", *of).document == _as_json(acme.versions())
    assert cli("versions", "channels", *of).document == _as_json(acme.channels())
    assert cli("versions", "history", *of).document == _as_json(acme.channel_history())
    assert cli("instances", "list", *of).document == _as_json(acme.instances())
    assert cli("instances", "list", "--commit", acme.versions()[1].commit, "--limit", "3", *of).document == _as_json(
        acme.instances(commit=acme.versions()[1].commit, limit=3)
    )
    for kind, run in runs.items():
        assert cli("instances", "show", kind, *of).document == _as_json(run.status())
        assert cli("instances", "journal", kind, *of).document == _as_json(run.journal())
        assert cli("instances", "logs", kind, *of).document == _as_json(list(run.logs()))
        assert cli("instances", "result", kind, *of).document == {"output": run.result()}
        file = folder / f"{kind}.by-cli.sqlite"
        assert cli("instances", "facet", kind, "--output", file, *of).code == 0
        assert file.read_bytes() == run.facet()
        with sqlite3.connect(file) as connection:
            assert connection.execute("SELECT * FROM note ORDER BY rowid").fetchall() == ROWS[kind]
        connection.close()
    followed = cli("instances", "logs", "retry", "--follow", *of).out.splitlines()
    assert [json.loads(line) for line in followed] == _as_json(list(runs["retry"].logs()))
    program = world.server.program("instances", "show", "event", *of)
    assert (program.code, program.document) == (0, _as_json(runs["event"].status()))


def _check_tenants_token(world: World, runs: dict[str, Run[Any]]) -> None:
    """The tenant's own token, over HTTP, sees what the administrator sees over Python."""
    client = world.server.http(world.token)
    base = "/api/v1/tenants/acme/instances/"
    for kind, run in runs.items():
        assert client.get(base + kind).json() == _as_json(run.status())
        assert client.get(f"{base}{kind}/journal").json() == _as_json(run.journal())
        assert client.get(f"{base}{kind}/facet").content == run.facet()


def _as_json(views: Any) -> Any:
    return json.loads(wire.encode(views))
