"""One owner at a time, an end in order, and disks that are full or broken: real server processes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.scenarios.crash_server import MARK
from tests.scenarios.stories import check_story, payload, source
from tests.scenarios.witness import CallRefused, Server, World, killed

TENANT = "acme"

SLOW = f"""
import asyncio, time

from executor.workflow import Workflow

VERSION = "slow"


async def slow(milliseconds):
    print("{MARK}")
    await asyncio.sleep(milliseconds / 1000)
    return milliseconds


def slow_in_a_thread(milliseconds):
    print("{MARK}")
    time.sleep(milliseconds / 1000)
    return milliseconds


def quick():
    print("{MARK}")
    return "quick"


class Slow(Workflow):
    async def run(self, event, step):
        done = await asyncio.gather(step.do("slow", slow, 300), step.do("thread", slow_in_a_thread, 300))
        return [*done, await step.do("quick", quick)]
"""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def ready(world: World, *sources: tuple[str, str], **settings: object) -> World:
    """A running server with tenant acme and these versions."""
    world.settings.update(settings)
    world.start_server().wait_ready()
    world.alive.call("create_tenant", TENANT)
    for marker, text in sources or (("one", source("one")),):
        world.deploy(TENANT, marker, text)
    return world


def test_second_executor_is_refused_and_told_who_has_the_data(world: World) -> None:
    ready(world)
    second = Server(world.data_dir)
    assert second.wait_over() == 1
    ((_, code, message),) = second.said("failed")
    assert code == "data_in_use"
    assert message == f"{world.data_dir} is in use by process {world.alive.process.pid}."
    world.start(TENANT, "one", "Story", payload(1))  # the first noticed nothing


def test_kill_of_the_owner_lets_the_next_one_in_at_once(world: World) -> None:
    ready(world)
    world.start(TENANT, "one", "Story", payload(1))
    assert world.alive.said("ready") == [("ready", 1)]
    assert killed(world.alive.kill())
    world.after_death()
    world.start_server().wait_ready()
    assert world.alive.said("ready") == [("ready", 2)]
    world.send_event(TENANT, "one", "go", "x", "go")
    check_story(world, (TENANT, "one"), "x")
    world.check_executions()


def test_next_executor_gets_the_data_when_the_owner_stops_in_order(world: World) -> None:
    ready(world)
    world.start(TENANT, "one", "Story", payload(1))
    assert world.alive.stop() == 0
    assert world.alive.said("stopped") == [("stopped",)]
    world.after_death()
    world.start_server().wait_ready()
    world.send_event(TENANT, "one", "go", "x", "go")
    check_story(world, (TENANT, "one"), "x")
    world.check_executions()


def test_stop_in_order_lets_executing_steps_finish_and_starts_no_other(world: World) -> None:
    ready(world, ("slow", SLOW))
    world.start(TENANT, "one", "Slow", None)
    executing = {("executed", TENANT, "one", "slow#1", 1), ("executed", TENANT, "one", "thread#1", 1)}
    world.alive.wait_for(lambda record: executing <= {m for m in record if m[0] == "executed"})
    assert world.alive.stop() == 0
    assert set(world.alive.said("executed")) == executing
    durable = world.after_death()
    assert [entry.path for entry in world.journal((TENANT, "one"))[1:]] in (
        ["slow#1", "thread#1"],
        ["thread#1", "slow#1"],
    )
    world.start_server().wait_ready()
    assert world.alive.call("result", TENANT, "one", timeout_s=20) == [300, 300, "quick"]
    assert world.alive.said("executed") == [("executed", TENANT, "one", "quick#1", 1)]
    world.check_grown(durable)


def test_full_disk_refuses_starts_and_events_and_goes_on_by_itself(world: World) -> None:
    ready(world, faulty=True)
    world.start(TENANT, "one", "Story", payload(1, nap_ms=60_000))
    world.start(TENANT, "two", "Story", payload(2, nap_ms=100))
    world.alive.call("disk", "full", ".db")
    refused: list[str] = []
    while len(refused) < 2:  # what was allocated before takes a few more
        number = len(world.instances)
        try:
            world.start(TENANT, f"more-{number}", "Story", payload(number))
        except CallRefused as error:
            assert error.code == "storage_full"
            refused.append(error.message)
    with pytest.raises(CallRefused, match="storage_full"):
        world.send_event(TENANT, "one", "go", "x", "go")
    assert len(world.alive.call("instances", TENANT, limit=1000).items) >= 2  # reading goes on
    world.alive.call("disk", "full", None)
    for (tenant, instance), expected in list(world.instances.items()):
        world.start(tenant, instance, "Story", expected.payload)
        world.send_event(tenant, instance, "go", instance, "go")
    for key in world.instances:
        if key[1] != "one":
            check_story(world, key, key[1])
    world.check_executions()
    assert world.alive.stop() == 0


def test_failing_fsync_stops_the_executor_and_acknowledges_nothing(world: World) -> None:
    ready(world, faulty=True)
    world.start(TENANT, "one", "Story", payload(1))
    world.alive.call("disk", "failing_sync", "log.db-wal")
    with pytest.raises(CallRefused, match=r"^corrupt_store: Writing log\.db failed: "):
        world.start(TENANT, "two", "Story", payload(2))
    assert world.alive.wait_over() == 1
    ((_, code, message),) = world.alive.said("failed")
    assert (code, message) == ("corrupt_store", "Writing log.db failed: the disk does not answer.")
    world.after_death()
    world.start_server().wait_ready()
    for name in ("one", "two"):
        world.start(TENANT, name, "Story", payload(1 if name == "one" else 2))
        world.send_event(TENANT, name, "go", name, "go")
        check_story(world, (TENANT, name), name)
    world.check_executions()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB of its own. Where this user may not mount, the fault of the test above stands in."""
    path = tmp_path / "disk"
    path.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting needs root; test_full_disk_refuses_starts_and_events covers the fault by a VFS")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(path)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"mounting is not allowed here: {mounted.stderr.decode().strip()}")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def test_real_full_file_system_loses_nothing(small_disk: Path) -> None:
    world = World(small_disk)
    try:
        ready(world)
        world.start(TENANT, "before", "Story", payload(1))
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            while file.write(bytes(4096)):
                pass
        codes = set()
        for number in range(200):
            try:
                world.start(TENANT, f"i{number}", "Story", payload(number, nap_ms=1))
            except CallRefused as error:
                codes.add(error.code)
                if len(codes) == 1 and number > 20:
                    break
        assert codes == {"storage_full"}
        with pytest.raises(CallRefused) as refused:
            world.deploy(TENANT, "two", source("two"))
        assert refused.value.code == "storage_full"
        filler.unlink()
        world.deploy(TENANT, "two", source("two"))
        for (tenant, instance), expected in list(world.instances.items()):
            world.start(tenant, instance, "Story", expected.payload)
            world.send_event(tenant, instance, "go", instance, "go")
        for key in world.instances:
            check_story(world, key, key[1])
        world.check_executions()
        assert world.alive.stop() == 0
    finally:
        world.close()
