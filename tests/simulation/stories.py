"""Random stories: what clients ask for, and what goes wrong, drawn from a seed."""

from __future__ import annotations

from random import Random

import trio

from executor.core.errors import PerdureError
from tests.simulation.disk import LOSSES, Fault, Loss
from tests.simulation.programs import Operation, execution, payload_of
from tests.simulation.witness import Key
from tests.simulation.world import Life, World

TENANTS = ("acme", "birch")
ENDS = ("power", "power", "power", "kill", "kill", "stop", "sync", "write", "read", "full", "usurp", "at once")
"""How a life may end."""
ASKED = (
    *("start", "start", "start", "event", "event", "update", "update"),
    *("pause", "resume", "terminate", "restart", "delete", "tenant"),
)
"""What clients may ask for."""


def draw_operation(random: Random, *, is_branch: bool = False, is_child: bool = False) -> Operation:
    """One operation of a program."""
    kinds = (
        ["step", "step", "make", "nap", "wait", "call"]
        if is_branch
        else ["step", "step", "make", "make", "facet", "facet", "nap", "wait", "both", "race", "call", "spawn", "anew"]
    )
    if is_child:
        kinds = [kind for kind in kinds if kind not in ("call", "spawn", "both", "anew")]
    match random.choice(kinds):
        case "step":
            return ["step", random.choice([0, 0, 0, 1, 2, 9]), random.choice([0, 0, 1, 30, 900])]
        case "make":
            return ["make", random.choice([0, 0, 1, 9]), random.choice([0, 1, 30])]
        case "facet":
            return ["facet", random.choice([0, 1, 20])]
        case "nap":
            return ["nap", random.choice([0, 1, 40, 900, 15_000])]
        case "wait":
            return ["wait", random.choice(["go", "stop"]), random.choice([50, 3_000, None])]
        case "both":
            return ["both", *(draw_operation(random, is_branch=True) for _ in range(random.randint(2, 4)))]
        case "call" | "spawn" as kind:
            inner = [draw_operation(random, is_child=True) for _ in range(random.randint(0, 2))]
            failing = [["fail"]] if random.random() < 0.2 else []
            return [kind, random.choice(["terminate", "abandon"]), *inner, *failing]
        case "anew":
            return ["anew"]
        case _:
            return ["race", random.choice([5, 500, 5_000]), random.choice(["go", "stop"])]


def draw_program(random: Random) -> bytes:
    """A payload."""
    operations = [draw_operation(random) for _ in range(random.randint(0, 6))]
    failing = [["fail"]] if random.random() < 0.35 else []
    return payload_of([*operations, *failing], random.getrandbits(16))


class RandomStory:
    """What happens in one world. `ends`: how its lives end, the last one without a fault."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.random = random = world.random
        self.keys: list[Key] = [(random.choice(TENANTS), f"i{number}") for number in range(random.randint(2, 8))]
        self.payloads = {key: draw_program(random) for key in self.keys}
        self.client_count = random.randint(1, 4)
        self.events = 0
        self.end = ""

    def run(self) -> None:
        """All lives of the world. Raises Violation."""
        random = self.random
        for _ in range(random.randint(1, 4)):
            self.end = random.choice(ENDS)
            self.world.live(self.live, loss=self._loss(), deep=random.random() < 0.2, prepare=self._plan)
        self.end = ""
        ended = self.world.live(Life.finish, deep=True)
        if ended is not None:
            raise ended
        self.world.witness.check_finished()
        ended = self.world.live(_nothing, deep=True)
        if ended is not None:
            raise ended

    def _loss(self) -> Loss:
        if self.end in ("power", "at once") or self.random.random() < 0.4:
            return self.random.choice(LOSSES)
        return "kept"

    def _plan(self) -> None:
        """Faults of this life, on the disk."""
        disk, random = self.world.disk, self.random
        self.world.say("to end by", self.end)
        at = disk.operations + random.randint(1, random.choice([20, 80, 300]))
        match self.end:
            case "power" | "kill":
                disk.off_at = at
            case "sync" | "write":
                disk.faults.append(Fault(self.end, at, random.choice(["log", "log", "state", "wal", ""])))
            case "read":
                disk.faults.append(Fault("read", at, times=random.randint(1, 3)))
            case _:
                pass

    async def live(self, life: Life) -> None:
        """Clients and faults until the life is over."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._fold, life)
            nursery.start_soon(self._harm, life)
            async with trio.open_nursery() as clients:
                for _ in range(self.client_count):
                    clients.start_soon(self._client, life)
            nursery.cancel_scope.cancel()

    async def _client(self, life: Life) -> None:
        for _ in range(self.random.randint(2, 14)):
            await trio.sleep(self.random.choice([0, 0, 0.01, 0.2, 4]))
            try:
                await self._ask(life)
            except PerdureError as error:
                life.witness.say("refused", error.code)
                if self.random.random() < 0.3:
                    await trio.sleep(2)

    async def _ask(self, life: Life) -> None:
        random = self.random
        key = random.choice(self.keys)
        match random.choice(ASKED):
            case "start":
                await life.start(key, self.payloads[key])
            case "event":
                self.events += random.random() < 0.8  # else the same once more
                await life.send_event(key, f"e{self.events}", random.choice(["go", "stop"]))
            case "pause":
                await life.pause(key)
            case "resume":
                await life.engine.resume(key)
            case "terminate":
                if random.random() < 0.3:
                    await life.terminate(key)
                elif random.random() < 0.5:
                    await life.terminate_undoing(key)
            case "update":
                self.events += random.random() < 0.8
                await life.update(key, f"u{self.events}")
            case "restart":
                known = life.witness.memory.get(key)
                paths = [getattr(entry, "path", "") for entry in execution(known.journal)] if known else []
                path = random.choice([*filter(None, paths), ""])
                name, _, occurrence = path.partition("#")
                await life.restart(key, (name, int(occurrence)) if path else None)
            case "delete":
                await life.delete(key)
                if random.random() < 0.5:
                    self.payloads[key] = draw_program(random)
            case _:
                if random.random() < 0.2:
                    await life.delete_tenant(key[0])

    async def _fold(self, life: Life) -> None:
        while True:
            await trio.sleep(self.random.choice([0.01, 0.2, 1, 5]))
            life.fold()

    async def _harm(self, life: Life) -> None:
        random, disk = self.random, self.world.disk
        life.host.fails = random.choice([0, 0, 0.2])
        while True:
            await trio.sleep(random.choice([0.02, 0.3, 2]))
            what = random.random()
            if what < 0.4 and life.host.living:
                random.choice(life.host.living).kill("crashed")
            elif self.end == "full" and disk.capacity is None and what < 0.7:
                life.witness.say("the disk is full")
                disk.capacity = disk.used + random.choice([0, 0, 3_000, 20_000])
                await trio.sleep(random.choice([0.1, 3]))
                disk.capacity = None
            elif self.end in ("at once", "kill") and what < 0.6:
                disk.turn_off()
            elif self.end == "usurp" and what < 0.6 and self.world._next is None:
                life.usurp()


async def _nothing(life: Life) -> None:
    await trio.sleep(1)
