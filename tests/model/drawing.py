"""Programs of the model, drawn."""

from __future__ import annotations

from random import Random
from typing import Any

TYPES = ("a", "b")
SECONDS = (50, 150, 350)
SIMPLE = ("wait", "wait", "sleep", "do", "flaky", "undoable", "hold")
"""What may go on beside others."""
GROUPED = (*SIMPLE, "write", "both", "map", "poll", "strict", "status", "emit")
KINDS = (*GROUPED, "hold", "hold", "hold", "wait", "wait", "sleep", "undoable", "write", "attribute", "group", "fail")
TIMELESS = ("wait", "wait", "do", "write", "hold", "status", "emit")
NESTED = ("call", "call", "start", "anew")
"""What begins another program."""


def program(random: Random, *, depth: int = 1) -> list[Any]:
    """Some actions; those that begin another program only `depth` times in each other."""
    found: list[Any] = []
    for _ in range(random.randint(1, 4 if depth else 2)):
        found.append(_action(random, random.choice([*KINDS, *NESTED * depth]), depth))
        if found[-1][0] == "start" and found[-1][2] == "terminate":
            found.append(["sleep", 50])  # else how far the child comes is chance
    return found


def scheduled(random: Random, *, can_end_at_once: bool) -> list[Any]:
    """Of a schedule: none that ends by the clock, which would race the next firing."""
    waits = [] if can_end_at_once else [["wait", random.choice(TYPES), None, None]]
    return waits + [_timeless(random) for _ in range(random.randint(0, 2))]


def _timeless(random: Random) -> list[Any]:
    found = _action(random, random.choice(TIMELESS), 0)
    return [*found[:2], None, found[3]] if found[0] == "wait" else found


def _action(random: Random, kind: str, depth: int) -> list[Any]:
    match kind:
        case "call":
            return [kind, program(random, depth=depth - 1), random.choice([None, None, "live"])]
        case "start" if random.random() < 0.5:
            # What is due for it when its parent closes it would be chance.
            return [kind, [_timeless(random) for _ in range(random.randint(1, 3))], "terminate"]
        case "start":
            return [kind, program(random, depth=depth - 1), "abandon"]
        case "anew":
            return [kind, program(random, depth=depth - 1)]
        case "group":
            return [kind, [_action(random, random.choice(GROUPED), 0) for _ in range(random.randint(0, 3))]]
        case "both":
            return [kind, *(_action(random, random.choice([*SIMPLE, "map"]), 0) for _ in range(2))]
        case "map":
            items = [random.choice([0, 0, 0, 1, 2, 3, -1]) for _ in range(random.randint(0, 4))]
            return [kind, items, random.randint(1, 3), random.random() < 0.5]
        case "poll":
            return [kind, random.randint(1, 4), random.choice([50, 150]), random.choice([None, 75, 275])]
        case "wait":
            match = random.choice([None, None, {"k": 0}, {"k": 1}])
            return [kind, random.choice(TYPES), random.choice([None, *SECONDS]), match]
        case "sleep":
            return [kind, random.choice(SECONDS)]
        case "flaky":
            return [kind, random.randrange(4), random.choice(SECONDS)]
        case "strict":
            return [kind, random.choice([1, 3, -1, -1]), 50]
        case "write":
            return [kind, random.randrange(4), random.choice([0, 0, 0, 1, 3]) if depth else 0]
        case "undoable":
            return [kind, random.randrange(4), random.choice([0, 0, 1, 2])]
        case "fail":
            return [kind]
    return [kind, random.randrange(4)]
