"""What the instances of the model run: a workflow that interprets its payload, a list of actions.

["do", x]                              a step
["flaky", failures, delay_s]           a step that fails so often, of 2 retries
["sleep", s]
["wait", type, timeout_s, match]       for an event; the last two may be None
["both", action, action]               at the same time; each one of do, sleep and wait
["call", actions]                      a child
["status", n] ["attribute", n] ["emit", n]
["undoable", x, failures]              a step; undoing it fails so often, of 1 retry
["anew", actions]                      continue_as_new
["fail"]
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from executor.workflow import ChildFailed, Event, EventTimeout, Retry, Step, StepFailed, Undo, Workflow

RETRY_LIMIT = 2
UNDO_LIMIT = 1
UNDO_DELAY_S = 50
TYPES = ("a", "b")
SECONDS = (50, 150, 350)
REFUSED, FAILING = -1, 13
"""What an update must not be, and what its handler fails at."""


async def plus(x: int) -> int:
    return x + 1


async def flaky(step: Step, failures: int) -> int:
    if step.current().attempt <= failures:
        raise ValueError(f"failure {step.current().attempt}")
    return step.current().attempt


class Job(Workflow[Any, Any]):
    notes: list[int]

    @Workflow.update
    async def note(self, payload: int, step: Step) -> int:
        if payload == FAILING:
            raise ValueError("not that one")
        self.notes.append(payload)
        return len(self.notes)

    @note.validator
    def check(self, payload: int) -> None:
        if payload == REFUSED:
            raise ValueError("never that one")

    @Workflow.query
    def noted(self, payload: Any) -> list[int]:
        return self.notes

    async def run(self, event: Event[Any], step: Step) -> Any:
        self.notes = []
        return [await self.act(step, action) for action in event.payload]

    async def act(self, step: Step, action: list[Any]) -> Any:
        match action:
            case ["do", x]:
                return await step.do("do", plus, x)
            case ["flaky", failures, delay_s]:
                retry = Retry(limit=RETRY_LIMIT, delay=delay_s, backoff="constant", jitter=0)
                try:
                    return await step.options(retry=retry).do("flaky", flaky, step, failures)
                except StepFailed:
                    return "failed"
            case ["sleep", s]:
                return await step.sleep("sleep", s)
            case ["wait", kind, timeout_s, match]:
                try:
                    found = await step.wait_for_event("wait", type=kind, timeout=timeout_s, match=match)
                except EventTimeout:
                    return "timeout"
                return [found.id, found.payload]
            case ["both", one, other]:
                return await asyncio.gather(self.act(step, one), self.act(step, other))
            case ["call", actions]:
                try:
                    return await step.call("call", "Job", actions)
                except ChildFailed:
                    return "child failed"
            case ["undoable", x, failures]:

                async def undo(output: int, error: Any) -> None:
                    assert output == x + 1
                    await flaky(step, failures)

                retry = Retry(limit=UNDO_LIMIT, delay=UNDO_DELAY_S, backoff="constant", jitter=0)
                return await step.options(undo=Undo(undo, retry=retry)).do("undoable", plus, x)
            case ["status", n]:
                self.status = n
            case ["attribute", n]:
                self.set_attributes(n=n)
            case ["emit", n]:
                step.emit("out", n)
            case ["anew", actions]:
                self.continue_as_new(actions)
            case _:
                raise ValueError("boom")
        return None


def program(random: Random, *, depth: int = 1) -> list[Any]:
    """Some actions; those that begin another program only `depth` times in each other."""
    return [_action(random, depth) for _ in range(random.randint(1, 4 if depth else 2))]


def _action(random: Random, depth: int) -> list[Any]:
    kinds = ["wait", "wait", "wait", "sleep", "sleep", "do", "undoable", "undoable", "flaky", "both", "both"]
    kinds += ["status", "attribute", "emit", "fail"]
    kind = random.choice(kinds + ["call", "call", "anew"] * depth)
    match kind:
        case "call" | "anew":
            return [kind, program(random, depth=depth - 1)]
        case "both":
            return [kind, *(_simple(random, random.choice(["wait", "sleep", "do"])) for _ in range(2))]
        case "undoable":
            return [kind, random.randrange(4), random.choice([0, 0, 1, 2])]
        case "flaky":
            return [kind, random.randrange(4), random.choice(SECONDS)]
        case "fail":
            return [kind]
    return _simple(random, kind)


def _simple(random: Random, kind: str) -> list[Any]:
    if kind == "wait":
        timeout_s = random.choice([None, *SECONDS])
        return [kind, random.choice(TYPES), timeout_s, random.choice([None, None, {"k": 0}, {"k": 1}])]
    return [kind, random.choice(SECONDS) if kind == "sleep" else random.randrange(4)]
