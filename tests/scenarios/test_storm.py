"""A storm: 210 instances of three tenants on three commits each, and ten kills at random moments; by night, 36 kills.

Six kills hit the server, two a sandbox that is at work, two what forks the sandboxes. The seed is printed; another one
is given by PERDURE_STORM_SEED. The laws are those of `witness.py`, and everything has to end well.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.scenarios.stories import check_story, payload, source
from tests.scenarios.witness import CallRefused, Key, ServerDied, World, killed

TENANTS = ("acme", "birch", "cedar")
INSTANCES = 210
KILLS = ("server", "sandbox", "server", "cell", "server", "server", "sandbox", "server", "cell", "server")


@pytest.fixture
def world(tmp_path: Path):
    world = World(tmp_path)
    yield world
    world.close()


def again(world: World, request):
    """The answer to an idempotent request, whatever dies meanwhile."""
    while True:
        try:
            return request()
        except ServerDied:
            bury(world)


def bury(world: World) -> None:
    """The server is dead: look at what it left, and start the next one."""
    assert killed(world.alive.wait_over()), world.alive.said("failed")
    world.after_death()
    world.start_server().wait_ready()


class Wave:
    """Starts of some instances and events to others, all asked for at once. Each can be asked for again."""

    def __init__(self, world: World, keys: list[Key], to_go: list[Key], noise: random.Random) -> None:
        self._world = world
        for key in keys:
            world.expect(*key, "Story", payload(int(key[1][1:]), nap_ms=noise.choice([1, 20, 150, 600])))
        self._to_start = list(keys)
        self._to_go = list(to_go)

    def ask(self) -> None:
        server = self._world.alive
        self._starts = [
            (key, server.post("start", key[0], "Story", self._world.instances[key].payload, id=key[1]))
            for key in self._to_start
        ]
        self._events = [
            (key, server.post("send_event", *key, "go", key[1], event_id=f"go-{key[1]}")) for key in self._to_go
        ]

    def collect(self) -> None:
        """Take the answers; what got none before the server's death is left for the next `ask`."""
        world, server = self._world, self._world.alive
        for key, number in self._starts:
            with contextlib.suppress(ServerDied):
                world.acknowledge_start(key, server.answer(number))
                self._to_start.remove(key)
        for key, number in self._events:
            with contextlib.suppress(ServerDied):
                try:
                    server.answer(number)
                except CallRefused as refused:
                    assert refused.code == "instance_finished"
                world.instances[key].events.add(f"go-{key[1]}")
                self._to_go.remove(key)


def strike(world: World, what: str, noise: random.Random) -> None:
    """One kill, a random moment from now."""
    server = world.alive
    time.sleep(noise.uniform(0.0, 0.35))
    if what == "server":
        server.kill()
        return
    processes = server.call("processes")
    victims = processes["sandboxes"] if what == "sandbox" else processes["cells"]
    if victims:
        os.kill(noise.choice(victims), signal.SIGKILL)


def test_storm_of_kills_loses_and_repeats_nothing(world: World) -> None:
    storm(world, int(os.environ.get("PERDURE_STORM_SEED", "20261122")), INSTANCES, KILLS)


@pytest.mark.deep
def test_long_storm_of_kills_loses_and_repeats_nothing(world: World) -> None:
    """Another storm every night, on one data directory from beginning to end."""
    seed = int(os.environ.get("PERDURE_STORM_SEED", str(random.randrange(1 << 32))))
    storm(world, seed, 360, ("server", "server", *KILLS[1:], "server") * 3)


def storm(world: World, seed: int, instances: int, kills: tuple[str, ...]) -> None:
    print(f"PERDURE_STORM_SEED={seed}")
    noise = random.Random(seed)
    world.start_server().wait_ready()
    for tenant in TENANTS:
        world.alive.call("create_tenant", tenant)
    keys: list[Key] = [(TENANTS[number % 3], f"i{number}") for number in range(instances)]
    waves = [keys[number :: len(kills)] for number in range(len(kills))]
    for number, (wave, what) in enumerate(zip(waves, kills, strict=True)):
        if number in (0, 3, 7):
            for tenant in TENANTS:
                marker = f"{tenant} {number}"
                again(world, lambda: world.deploy(tenant, marker, source(marker)))
        elif number % 2:
            tenant = noise.choice(TENANTS)
            commit = noise.choice([commit for commit, marker in world.markers.items() if marker.startswith(tenant)])
            live = again(world, lambda: world.alive.call("version", tenant, "live"))
            if live.commit != commit:
                again(world, lambda: world.alive.call("rollback", tenant, to=commit))
        to_go = [key for key in waves[number - 1] if noise.random() < 0.6] if number else []
        requests = Wave(world, wave, to_go, noise)
        requests.ask()
        strike(world, what, noise)
        requests.collect()
        if what == "server":
            bury(world)
            requests.ask()
            requests.collect()
    assert world.lives == 1 + kills.count("server")

    for key in keys:
        world.send_event(*key, "go", key[1], f"go-{key[1]}")
    for key in keys:
        check_story(world, key, key[1])
    world.check_executions()
    on_commits = {world.instances[key].commit for key in keys}
    assert len(on_commits) >= 6
    executed = [message[1:] for message in (*world.history, *world.alive.record) if message[0] == "executed"]
    assert len(set(executed)) == 7 * instances  # six steps, one of them in two attempts
    print(f"{len(executed) - len(set(executed))} attempts were executed again, none of them journaled")
