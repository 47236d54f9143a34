"""Operations of the model, drawn: mostly such that make sense."""

from __future__ import annotations

from random import Random
from typing import Any

from tests.model.drawing import TYPES, program, scheduled
from tests.model.operations import IDEMPOTENT, OPERATIONS, READS, Operation
from tests.model.oracle import Oracle
from tests.model.programs import FAILING, REFUSED
from tests.model.states import Instance
from tests.simulation.disk import LOSSES

WEIGHTS = {
    "start": 5,
    "send_event": 4,
    "send_event again": 2,
    "advance": 6,
    "release": 5,
    "pause": 3,
    "resume": 4,
    "restart from step": 3,
    "retry": 3,
    "update": 3,
    "update again": 3,
    "crash after the answer": 3,
    "create_schedule": 2,
    "trigger_schedule": 2,
    "start delayed": 0,
    "start with attributes": 0,
    "start unloading": 0,
}
"""How often each kind is drawn; 1 if it is not here."""
MOVES = [kind for kind in OPERATIONS if not kind.startswith("flow") for _ in range(WEIGHTS.get(kind, 1))]
BREAKABLE = [kind for kind in MOVES if "crash" not in kind and kind not in READS]
FLOWS = ("Calm", "Alone", "Latest")
STATES = (None, None, "waiting", "running", "paused", "complete", "failed", "terminated")


def move(random: Random, oracle: Oracle, kind: str = "") -> Operation:
    kind = kind or random.choice(MOVES)
    if not oracle.instances and kind not in {"start_many", "crash", "rollback", "create_schedule"}:
        kind = "start"
    name = _target(random, oracle, kind)
    there = oracle.instances.get(name)
    match kind:
        case "start":
            return (kind, f"i{random.randrange(4)}", program(random), _options(random, oracle))
        case "start again":
            payload = [] if there is None else there.payload
            return ("start", name, random.choice([payload, payload, [["fail"]]]), {})
        case "start_many":
            starts = []
            for _ in range(random.randint(1, 3)):
                workflow = random.choice(["Job", "Job", "Job", "Nothing"])
                starts.append((f"i{random.randrange(4)}", program(random), workflow))
            return (kind, starts)
        case "advance":
            return (kind, random.choice([100, 100, 100, 200, 400]))
        case "rollback":
            return (kind, random.randrange(2))
        case "restart from step":
            steps = [] if there is None else list(there.marks)
            path = random.choice([*steps, *steps, "do#1", "undo/undoable#1"])
            return (kind, name, path.rpartition("#")[0], int(path.rpartition("#")[2]))
        case "send_event again" if there is not None and there.events:
            event, sort, payload = random.choice(there.events)
            return ("send_event", name, event, sort, random.choice([payload, payload, {"k": 2}]))
        case "update again" if there is not None and there.run.updates:
            update, (payload, _) = random.choice(list(there.run.updates.items()))
            return ("update", name, update, random.choice([payload, payload, 4]))
        case "send_event" | "send_event again":
            return ("send_event", name, f"e{random.randrange(5)}", random.choice(TYPES), {"k": random.randrange(2)})
        case "set_attributes":
            return (kind, name, _some_attributes(random, [0, 1, None]) or {"m": 1})
        case "update" | "update again":
            return ("update", name, f"u{random.randrange(3)}", random.choice([1, 2, 3, 1, 2, 3, REFUSED, FAILING]))
        case "create_schedule":
            overlap = random.choice(["skip", "queue", "cancel", "allow"])
            made = scheduled(random, can_end_at_once=overlap == "allow")
            # One that is ended just after it began would have come as far as chance let it.
            catch_up = random.choice(["none", "last"] if overlap == "cancel" else ["none", "last", "all"])
            return (kind, f"s{random.randrange(3)}", made, random.choice([100, 300]), overlap, catch_up)
        case "pause_schedule" | "resume_schedule" | "delete_schedule" | "trigger_schedule":
            wanted = [name for name, one in oracle.schedules.items() if one.is_paused or kind != "resume_schedule"]
            name = random.choice(sorted(wanted or oracle.schedules) or ["s0"])
            return (kind, name, f"t{random.randrange(3)}") if kind == "trigger_schedule" else (kind, name)
        case "find":
            return (kind, *_search(random))
        case "crash":
            return (kind, random.choice(LOSSES))
        case "crash after the answer":
            return (kind, random.choice(LOSSES), move(random, oracle, random.choice(BREAKABLE)))
        case "crash in the middle":
            inner = move(random, oracle, random.choice(sorted(IDEMPOTENT)))
            if inner[0] == "start" and inner[3].get("workflow") == "Calm":
                inner = (*inner[:3], {})  # asked again, it begins its time anew
            if inner[0] == "pause" and inner[1] in oracle.instances and oracle.instances[inner[1]].is_executing:
                inner = ("resume", inner[1])  # whether its step begins again depends on whether the pause was durable
            return (kind, random.choice(LOSSES), random.choice([0, 0.01, 0.03, 0.1]) * random.random(), inner)
    if kind.startswith("bulk"):
        state, where = _search(random)
        if kind == "bulk retry":
            state = random.choice(["failed", None])
        return (kind, state, where) if oracle.are_strangers(oracle.find(state, where)) else ("find", state, where)
    return (kind, name)


def _target(random: Random, oracle: Oracle, kind: str) -> str:
    """Mostly one at which the operation can succeed."""
    instances = sorted(oracle.instances.values(), key=lambda instance: instance.id)
    found = random.choice([[one for one in instances if _fits(one, kind)]] * 6 + [instances]) or instances
    return random.choice(found).id if found and random.random() > 0.02 else "nobody"


def _fits(instance: Instance, kind: str) -> bool:
    match kind:
        case "delete":
            return bool(instance.outcome)
        case "send_event again":
            return bool(instance.events)
        case "update again":
            return bool(instance.run.updates)
        case "restart from step":
            return bool(instance.marks)
        case "retry":
            return instance.outcome == "failed"
        case "resume":
            return instance.paused_ms is not None
        case "pause":
            return bool(instance.run.branches)
        case "terminate undoing":
            return bool(instance.run.steps and not instance.outcome)
        case "send_event":
            return "event" in instance.waiting_for
        case "release":
            return instance.is_executing
        case "query":
            return instance.run.facet is not None
        case "result":
            return instance.outcome == "complete"
    return not instance.outcome


def _options(random: Random, oracle: Oracle) -> dict[str, Any]:
    options: dict[str, Any] = {}
    flows = [one.workflow for one in oracle.instances.values() if one.workflow in FLOWS and not one.outcome]
    if random.random() < (0.5 if flows else 0.25):
        options["workflow"] = random.choice(flows or FLOWS)
    if random.random() < 0.25:
        options["delay"] = random.choice([50, 150])
    attributes = _some_attributes(random, [0, 1])
    if attributes:
        options["attributes"] = attributes
    if random.random() < 0.2:
        options["unload"] = "every-wait"
    return options


def _some_attributes(random: Random, values: list[int | None]) -> dict[str, int | None]:
    return {name: random.choice(values) for name in random.sample(["n", "m"], random.randint(0, 2))}


def _search(random: Random) -> tuple[str | None, dict[str, Any] | None]:
    conditions = {name: random.randrange(2) for name in random.sample(["n", "m"], random.choice([0, 0, 1, 1, 2]))}
    return random.choice(STATES), conditions or None
