"""Kill -9 at every named point of `crash_server.POINTS`, in a real server, and go on in a new one.

The servers of all points share one data directory, each recovering what the one before left: so a point is met with a
history behind it, and each costs one start. Run alone, a point makes its own history first.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Iterator

import pygit2
import pytest

from tests.scenarios.crash_server import POINTS
from tests.scenarios.stories import check_story, payload, source
from tests.scenarios.witness import CallRefused, Key, ServerDied, World, killed

TENANT = "acme"
AT_THE_START = "recovery: state read, not serving"
AT_THE_STOP = "stop: in order, before the stores are closed"
hits: list[str] = []


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("crash"))
    world.start_server().wait_ready()
    world.alive.call("create_tenant", TENANT)
    for marker in ("one", "two"):
        world.deploy(TENANT, marker, source(marker))
    yield world
    world.close()


class Script:
    """What is asked of the server around a crash. It can be said again from the top: every request is idempotent."""

    numbers = itertools.count(1)

    def __init__(self, world: World, point: str) -> None:
        self.world = world
        self.point = point
        number = next(self.numbers)
        self.marker = f"version {number}"
        self.keys: list[Key] = [(TENANT, f"i{number}-{letter}") for letter in "abcd"]
        self.gone: Key = (TENANT, f"i{number}-gone")
        self.is_gone = False
        self.side = f"side{number}"
        old = list(world.markers)
        self.old = [old[-1], old[-2]]

    def requests(self) -> list[Callable[[], object]]:
        """In this order. Those that only few points need are left out of the others, for time."""
        world, (a, b, c, d) = self.world, self.keys
        found: list[Callable[[], object]] = [
            lambda: self.move_to(self.old[0]),
            lambda: world.start(*a, "Story", payload(1)),
            lambda: world.send_event(*a, "go", "a", "go-a"),
            lambda: self.move_to(self.old[1]),
            lambda: world.start(*b, "Story", payload(2)),
            lambda: self.pause_and_resume(b),
        ]
        if self.point.startswith(("deploy", "start", "sandbox", "garbage")):  # a version that nobody has used yet
            found.append(lambda: world.deploy(TENANT, self.marker, source(self.marker)))
        if self.point.startswith("garbage"):
            found += [self.litter, lambda: world.alive.call("collect_garbage", TENANT)]
        found += [
            lambda: world.start(*c, "Story", payload(3)),
            lambda: world.send_event(*c, "go", "c", "go-c"),
            lambda: world.send_event(*b, "go", "b", "go-b"),
            lambda: world.start(*d, "Story", payload(4, nap_ms=120)),
            lambda: world.alive.call("logs", *a),
            lambda: world.send_event(*d, "go", "d", "go-d"),
        ]
        if self.point.startswith("deletion"):
            found += [self.delete_one, self.delete_side_tenant]
        return found

    def say(self) -> None:
        for request in self.requests():
            request()

    def check(self) -> None:
        for key, go in zip(self.keys, "abcd", strict=True):
            check_story(self.world, key, go)

    def move_to(self, commit: str) -> None:
        server = self.world.alive
        if server.call("version", TENANT, "live").commit != commit:
            server.call("rollback", TENANT, to=commit)
        assert server.call("version", TENANT, "live").commit == commit

    def pause_and_resume(self, key: Key) -> None:
        try:
            self.world.alive.call("pause", *key)
            self.world.alive.call("resume", *key)
        except CallRefused as refused:
            assert refused.code == "instance_finished"

    def litter(self) -> None:
        """A loose object that nothing needs, as a stray git tool leaves it: the collection has something to do."""
        repository = pygit2.Repository(str(self.world.data_dir / "git" / "repositories" / f"{TENANT}.git"))
        repository.create_blob(secrets.token_bytes(16))
        repository.free()

    def delete_one(self) -> None:
        world, server = self.world, self.world.alive
        if self.gone not in world.deleted:
            world.start(*self.gone, "Story", payload(5))
            server.call("terminate", *self.gone)
            world.deleted.add(self.gone)  # from here on both are right, until the acknowledgement
        if not self.is_gone:
            try:
                server.call("delete", *self.gone)
            except CallRefused as refused:
                assert refused.code == "instance_not_found"
        self.is_gone = True
        with pytest.raises(CallRefused, match="instance_not_found"):
            server.call("status", *self.gone)

    def delete_side_tenant(self) -> None:
        """Deleted whole, or there with whatever the crash left of it: then it is deleted again."""
        server = self.world.alive
        if self.side not in {tenant.name for tenant in server.call("tenants")}:
            server.call("create_tenant", self.side)
        server.call("deploy", self.side, {"workflows.py": source("side").encode()})
        server.call("start", self.side, "Story", payload(6), id=f"x{self.world.lives}")
        server.call("delete_tenant", self.side)
        with pytest.raises(CallRefused, match="tenant_not_found"):
            server.call("instances", self.side)


@pytest.mark.parametrize("point", POINTS)
def test_nothing_acknowledged_is_lost_by_a_crash(world: World, point: str) -> None:
    script = Script(world, point)
    if point != AT_THE_START:
        world.alive.call("arm", point)
    with pytest.raises(ServerDied):
        script.say()
        if point == AT_THE_START:
            world.alive.kill()
        if point == AT_THE_STOP:
            world.alive.stop()
        if not world.alive.is_over:
            script.check()  # some points come only while the instances go on
            world.alive.wait_over(5)
        raise ServerDied
    if point == AT_THE_START:
        world.after_death()
        world.start_server(point=point)
    assert killed(world.alive.wait_over())
    assert world.alive.said("hit") == [("hit", point)]
    hits.append(point)
    durable = world.after_death()

    world.start_server().wait_ready()
    script.say()
    script.check()
    world.check_executions()
    world.check_grown(durable)


def test_every_point_was_reached(request: pytest.FixtureRequest) -> None:
    selected = {
        item.callspec.params["point"]
        for item in request.session.items
        if hasattr(item, "callspec") and "point" in item.callspec.params
    }
    assert set(hits) == selected & set(POINTS)
