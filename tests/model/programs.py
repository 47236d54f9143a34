"""What the instances of the model run: a workflow that interprets its payload, a list of actions.

["do", x]                              a step
["flaky", failures, delay_s]           a step that fails so often, of 2 retries; its failure is caught
["strict", failures, delay_s]          the same, and its failure is not caught; -1: it fails at once and for good
["write", x, failures]                 a step that writes x to the facet, and then fails so often, of 2 retries
["hold", x]                            a step that executes until the test says a word
["undoable", x, failures]              a step; undoing it fails so often, of 1 retry
["sleep", s]
["wait", type, timeout_s, match]       for an event; the last two may be None
["both", action, action]               at the same time; each one branch, that is one of those above, or a map
["map", [failures, …], at_once, stops] a step for each, that fails so often, or -1
["poll", n, every_s, timeout_s]        until it has looked n times
["group", actions]                     those above, in a group
["call", actions, channel]             a child that is waited for; on the channel, if there is one
["start", actions, close]              a child that is not waited for
["status", n] ["attribute", n] ["emit", n]
["anew", actions]                      continue_as_new
["fail"]
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

from executor.workflow import (
    ChildFailed,
    Event,
    EventTimeout,
    NonRetryableError,
    PollTimeout,
    Retry,
    Step,
    StepFailed,
    Undo,
    Workflow,
    runtime,
)

RETRY_LIMIT = 2
UNDO_LIMIT = 1
UNDO_DELAY_S = 50
DEBOUNCE_S = 150
RATE_S = 350
WORKFLOWS: dict[str, dict[str, Any]] = {
    "Job": {},
    "Calm": {"debounce": f"{DEBOUNCE_S} seconds"},
    "Alone": {"singleton": "skip"},
    "Latest": {"singleton": "cancel"},
    "Paced": {"rate": f"2/{2 * RATE_S} seconds"},
    "Narrow": {"concurrency": 1},
}
"""What each of them declares as its flow."""
REFUSED, FAILING = -1, 13
"""What an update must not be, and what its handler fails at."""

held: defaultdict[str, list[asyncio.Future[None]]] = defaultdict(list)
"""By instance: what its steps wait for, which execute. The test's word sets it."""


def retry(delay_s: int, limit: int = RETRY_LIMIT) -> Retry:
    return Retry(limit=limit, delay=delay_s, backoff="constant", jitter=0)


async def plus(x: int) -> int:
    return x + 1


async def flaky(step: Step, failures: int) -> int:
    if failures < 0:
        raise NonRetryableError("for good")
    if step.current().attempt <= failures:
        raise ValueError(f"failure {step.current().attempt}")
    return step.current().attempt


async def hold(x: int, instance: str) -> int:
    word = asyncio.get_running_loop().create_future()
    held[instance].append(word)
    await word
    return x + 1


class Job(Workflow[Any, Any]):
    notes: list[int]
    instance: str

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
        self.instance = event.instance_id
        return [await self.act(step, action) for action in event.payload]

    async def act(self, step: Step, action: list[Any]) -> Any:
        match action:
            case ["do", x]:
                return await step.do("do", plus, x)
            case ["hold", x]:
                return await step.do("hold", hold, x, self.instance)
            case ["flaky", failures, delay_s]:
                try:
                    return await step.options(retry=retry(delay_s)).do("flaky", flaky, step, failures)
                except StepFailed:
                    return "failed"
            case ["strict", failures, delay_s]:
                return await step.options(retry=retry(delay_s)).do("strict", flaky, step, failures)
            case ["write", x, failures]:
                try:
                    return await step.options(retry=retry(UNDO_DELAY_S)).do("write", self.write, step, x, failures)
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
            case ["group", actions]:
                with step.group("group"):
                    return [await self.act(step, part) for part in actions]
            case ["map", items, at_once, stops]:
                return await self.act_map(step, items, at_once, stops=stops)
            case ["poll", n, every_s, timeout_s]:
                try:
                    return await step.poll(
                        "poll", looked, until=lambda found: found >= n, every=every_s, timeout=timeout_s
                    )
                except PollTimeout:
                    return "poll timeout"
            case ["call", actions, channel]:
                try:
                    return await step.call("call", "Job", actions, channel=channel)
                except ChildFailed:
                    return "child failed"
            case ["start", actions, close]:
                try:
                    return (await step.start("start", "Job", actions, close=close)).id
                except ChildFailed:
                    return "child failed"
            case ["undoable", x, failures]:

                async def undo(output: int, error: Any) -> None:
                    assert output == x + 1
                    await flaky(step, failures)

                how = Undo(undo, retry=retry(UNDO_DELAY_S, UNDO_LIMIT))
                return await step.options(undo=how).do("undoable", plus, x)
        return self.show(step, action)

    def show(self, step: Step, action: list[Any]) -> None:
        match action:
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

    async def act_map(self, step: Step, items: list[int], at_once: int, *, stops: bool) -> Any:
        mapped = step.options(retry=retry(UNDO_DELAY_S))

        async def item(failures: int) -> int:
            return await flaky(step, failures)

        if not stops:
            found = await mapped.map("map", item, items, concurrency=at_once, stop_on="never")
            return ["failed" if isinstance(one, StepFailed) else one for one in found]
        try:
            return await mapped.map("map", item, items, concurrency=at_once)
        except StepFailed:
            return "failed"

    async def write(self, step: Step, x: int, failures: int) -> int:
        async with self.facet.exclusive():
            self.facet.execute("create table if not exists written (x integer)")
            self.facet.execute("insert into written values (?)", (x,))
            (row,) = self.facet.execute("select count(*) from written")
        if step.current().attempt <= failures:
            raise ValueError("it is written; and rolled back")
        return int(row[0])


class Calm(Job):
    """Its starts are debounced."""


class Alone(Job):
    """There is one at a time: others are refused."""


class Latest(Job):
    """There is one at a time: the one before is ended."""


class Paced(Job):
    """Its starts have a rate."""


class Narrow(Job):
    """One at a time has a place."""


async def looked() -> int:
    """How often this poll has, by now."""
    attempt: Any = runtime.current_attempt.get()
    return int(attempt.path.rpartition("#")[2])
