"""P17: the oracle and the real platform get the same operations, with crashes, and agree on everything that can be seen.

After each operation: its answer or refusal; of every instance the state, what it waits for, its result, status,
attributes, stream and journal (kinds, without traces); lists and counts. The run fails if a kind of operation never
succeeded: a model that only ever refuses agrees easily.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any, cast

import pytest
import trio
from hypothesis import Phase, given, note, settings
from hypothesis import strategies as st

from executor.core.errors import PerdureError
from executor.testing import inside
from executor.views import StartRequest
from tests.model.oracle import Oracle, Refusal
from tests.model.platform import ADMINISTRATOR, TENANT, Life, Platform
from tests.model.programs import FAILING, REFUSED, TYPES, program
from tests.simulation.disk import LOSSES, Loss

OPERATIONS = (
    "start",
    "start again",
    "start delayed",
    "start with attributes",
    "start_many",
    "send_event",
    "send_event again",
    "advance",
    "pause",
    "resume",
    "terminate",
    "terminate undoing",
    "restart",
    "restart from step",
    "delete",
    "set_attributes",
    "update",
    "update again",
    "ask",
    "result",
    "crash",
    "crash in the middle",
    "crash after the answer",
)
IDEMPOTENT = {
    *("start", "start_many", "send_event", "pause", "resume", "terminate", "terminate undoing", "set_attributes"),
    "update",
}
"""What may be asked again when a crash came before the answer."""

RECOVERY_MS = 3_000
"""After so long what instances owed each other at a crash is done. All durations of programs are odd multiples of 50 s and
time passes by multiples of 100 s, so that these few seconds never decide whether something is due."""
CRASHES_MAX = 14
PROFILE = os.environ.get("PERDURE_PROFILE", "quick")
Operation = tuple[Any, ...]

WEIGHTS = {
    "start": 2,
    "send_event": 4,
    "send_event again": 2,
    "advance": 6,
    "pause": 4,
    "resume": 4,
    "crash after the answer": 3,
    "restart from step": 3,
    "update": 4,
    "update again": 5,
    "start delayed": 0,
    "start with attributes": 0,
}
"""How often each kind is drawn; 1 if it is not here."""
READS = {"advance", "ask", "result"}
MOVES = [kind for kind in OPERATIONS for _ in range(WEIGHTS.get(kind, 1))]


def move(random: Random, oracle: Oracle, kind: str = "") -> Operation:
    """An operation, mostly one that makes sense."""
    kind = kind or random.choice(MOVES)
    ids = sorted(oracle.instances)
    if not ids and kind not in {"start_many", "crash"}:
        kind = "start"
    name = _target(random, oracle, kind)
    match kind:
        case "start":
            delay_s = random.choice([None, None, None, 50, 150])
            return (kind, f"i{random.randrange(4)}", program(random), delay_s, _some_attributes(random, [0, 1]))
        case "start again":
            payload = oracle.instances[name].payload if name in oracle.instances else []
            return ("start", name, random.choice([payload, payload, [["fail"]]]), None, None)
        case "start_many":
            return (kind, [(f"i{random.randrange(4)}", program(random)) for _ in range(random.randint(1, 3))])
        case "advance":
            return (kind, random.choice([100, 100, 100, 200, 400]))
        case "restart from step":
            steps = list(oracle.instances[name].marks) if name in oracle.instances else []
            path = random.choice([*steps, *steps, "do#1", "undo/undoable#1"])
            return (kind, name, path.rpartition("#")[0], int(path.rpartition("#")[2]))
        case "send_event again" if name in oracle.instances and oracle.instances[name].events:
            event, sort, payload = random.choice(oracle.instances[name].events)
            return ("send_event", name, event, sort, random.choice([payload, payload, {"k": 2}]))
        case "update again" if name in oracle.instances and oracle.instances[name].run.updates:
            update, (payload, _) = random.choice(list(oracle.instances[name].run.updates.items()))
            return ("update", name, update, random.choice([payload, payload, 4]))
        case "send_event" | "send_event again":
            return ("send_event", name, f"e{random.randrange(5)}", random.choice(TYPES), {"k": random.randrange(2)})
        case "set_attributes":
            return (kind, name, _some_attributes(random, [0, 1, None]) or {"m": 1})
        case "update" | "update again":
            return ("update", name, f"u{random.randrange(3)}", random.choice([1, 2, 3, 1, 2, 3, REFUSED, FAILING]))
        case "crash":
            return (kind, random.choice(LOSSES))
        case "crash after the answer":
            inner = move(
                random, oracle, random.choice([each for each in MOVES if "crash" not in each and each not in READS])
            )
            return (kind, random.choice(LOSSES), inner)
        case "crash in the middle":
            inner = move(random, oracle, random.choice(sorted(IDEMPOTENT)))
            return (kind, random.choice(LOSSES), random.choice([0, 0.01, 0.03, 0.1]) * random.random(), inner)
    return (kind, name)


def _target(random: Random, oracle: Oracle, kind: str) -> str:
    """Mostly one at which the operation can succeed."""
    instances = sorted(oracle.instances.values(), key=lambda instance: instance.id)
    fitting = {
        "delete": [instance for instance in instances if instance.outcome],
        "send_event again": [instance for instance in instances if instance.events],
        "update again": [instance for instance in instances if instance.run.updates],
        "restart from step": [instance for instance in instances if instance.marks],
        "resume": [instance for instance in instances if instance.paused_ms is not None],
        "pause": [instance for instance in instances if instance.run.branches],
        "terminate undoing": [instance for instance in instances if instance.run.steps and not instance.outcome],
        "send_event": [instance for instance in instances if "event" in instance.waiting_for],
    }.get(kind, [instance for instance in instances if not instance.outcome])
    found = random.choice([fitting] * 6 + [instances]) or instances
    return random.choice(found).id if found and random.random() > 0.02 else "nobody"


def _some_attributes(random: Random, values: list[int | None]) -> dict[str, int | None] | None:
    return {name: random.choice(values) for name in random.sample(["n", "m"], random.randint(0, 2))} or None


class Model:
    """One example: the same operations to both."""

    def __init__(self, seed: int, done: Counter[str]) -> None:
        self.seed = seed
        self.platform = Platform(seed)
        self.oracle = Oracle(self.platform.now_ms)
        self.done = done
        """How often each kind of operation succeeded, over all examples."""
        self.told: list[Operation] = []
        self.crashes = 0

    def play(self, story: list[int]) -> None:
        """Each number draws an operation. Raises AssertionError where they disagree."""
        left: list[int | Operation] = list(reversed(story))
        try:
            while left:
                self.platform.live(lambda life: self._live(life, left))
            self.platform.live(self._recover)
        finally:
            self.platform.close()

    async def _live(self, life: Life, left: list[int | Operation]) -> Loss | None:
        """A life: up to the next crash."""
        if left and isinstance(left[-1], int):
            await self._recover(life)
        while left:
            drawn = left.pop()
            if not isinstance(drawn, int):
                await self._do(life, drawn, is_again=True)
                self.done["crash in the middle"] += 1
                await self._recover(life)
                continue
            operation = move(Random(f"{self.seed} {len(self.told)} {drawn}"), self.oracle)
            if "crash" in operation[0]:
                self.crashes += 1
                if self.crashes > CRASHES_MAX:
                    continue
            self.told.append(operation)
            if operation[0] == "crash":
                self.done["crash"] += 1
                return cast("Loss", operation[1])
            if operation[0] == "crash after the answer":
                await self._do(life, operation[2])
                self.done["crash after the answer"] += 1
                return cast("Loss", operation[1])
            if operation[0] == "crash in the middle":
                _, loss, after_s, inner = operation
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._interrupted, life, inner)
                    await trio.sleep(after_s)
                    nursery.cancel_scope.cancel()
                left.append(inner)
                return cast("Loss", loss)
            await self._do(life, operation)
            await life.settle()
            await self._agree(life)
        return None

    def tell(self, operations: list[Operation]) -> None:
        """The same for a story that is told, not drawn."""

        async def life_of(life: Life) -> None:
            await self._recover(life)
            for operation in operations:
                await self._do(life, operation)
                await life.settle()
                await self._agree(life)

        try:
            self.platform.live(life_of)
        finally:
            self.platform.close()

    async def _recover(self, life: Life) -> None:
        """What a crash kept instances from doing for each other is done some seconds later."""
        await life.settle()
        self.oracle.advance(RECOVERY_MS)
        life.advance(RECOVERY_MS)
        await life.settle()
        await self._agree(life)

    @staticmethod
    async def _interrupted(life: Life, operation: Operation) -> None:
        try:
            await ask_platform(life, operation)
        except PerdureError:
            return

    async def _do(self, life: Life, operation: Operation, *, is_again: bool = False) -> None:
        kind = self._kind(operation)
        expected, found = None, None
        try:
            expected = ask_oracle(self.oracle, operation)
            self.done[kind] += 1
        except Refusal as refusal:
            expected = refusal.code
        try:
            found = await ask_platform(life, operation)
        except PerdureError as error:
            found = error.code
        if not is_again:
            assert found == expected, operation
        elif isinstance(expected, str) and kind != "start":
            assert found == expected, operation

    def _kind(self, operation: Operation) -> str:
        """What is counted."""
        kind, *arguments = operation
        instance = self.oracle.instances.get(arguments[0]) if isinstance(arguments[0], str) else None
        if kind == "start":
            if instance is not None:
                return "start again"
            return "start delayed" if arguments[2] else "start with attributes" if arguments[3] else kind
        if kind == "send_event" and instance is not None and arguments[1] in instance.run.event_ids:
            return "send_event again"
        if kind == "update" and instance is not None and arguments[1] in instance.run.updates:
            return "update again"
        return str(kind)

    async def _agree(self, life: Life) -> None:
        service, caller = life.service, ADMINISTRATOR
        by_state: dict[str, set[str]] = {}
        by_n: dict[Any, set[str]] = {}
        for name, instance in list(self.oracle.instances.items()):
            status = await service.status(caller, TENANT, name)
            stream = await service.stream(caller, TENANT, name, "out")
            found = {
                "kinds": await life.kinds(name),
                "state": status.state,
                "waiting for": sorted(wait.kind for wait in status.waits),
                "output": status.output,
                "status": status.status,
                "attributes": status.attributes,
                "stream": [item.item for item in stream],
                "parent": (status.parent.id, status.parent.path) if status.parent is not None else None,
            }
            expected = {
                "kinds": instance.kinds,
                "state": instance.state,
                "waiting for": instance.waiting_for,
                "output": instance.result,
                "status": instance.run.status,
                "attributes": instance.attributes,
                "stream": instance.stream,
                "parent": instance.parent,
            }
            assert found == expected, name
            by_state.setdefault(instance.state, set()).add(name)
            by_n.setdefault(instance.attributes.get("n"), set()).add(name)
        counts = await service.counts(caller, TENANT)
        assert counts == {state: len(ids) for state, ids in by_state.items()}
        for state, ids in by_state.items():
            assert {item.id for item in (await service.instances(caller, TENANT, state=state)).items} == ids
        for n, ids in by_n.items():
            if n is not None:
                assert {item.id for item in (await service.instances(caller, TENANT, where={"n": n})).items} == ids


def ask_oracle(oracle: Oracle, operation: Operation) -> Any:
    match operation:
        case ("start", id, actions, delay_s, attributes):
            return oracle.start(id, actions, delay_s, attributes)
        case ("start_many", starts):
            answers = []
            for name, actions in starts:
                try:
                    answers.append(oracle.start(name, actions))
                except Refusal as refusal:
                    answers.append(refusal.code)
            return answers
        case ("send_event", id, event, kind, payload):
            return oracle.send_event(id, event, kind, payload)
        case ("advance", s):
            return oracle.advance(s * 1000)
        case ("terminate undoing", id):
            return oracle.terminate(id, undo=True)
        case ("restart from step", id, name, occurrence):
            return oracle.restart(id, (name, occurrence))
        case ("set_attributes", id, changes):
            return oracle.set_attributes(id, changes)
        case ("update", id, update, payload):
            return oracle.update(id, update, payload)
        case (kind, id):
            return getattr(oracle, kind)(id)
    raise AssertionError(operation)


async def ask_platform(life: Life, operation: Operation) -> Any:
    service, caller = life.service, ADMINISTRATOR
    match operation:
        case ("start", id, actions, delay_s, attributes):
            started = await service.start(caller, TENANT, "Job", actions, id=id, delay=delay_s, attributes=attributes)
            return started.id
        case ("start_many", starts):
            requests = [StartRequest(workflow="Job", payload=actions, id=name) for name, actions in starts]
            outcomes = await service.start_many(caller, TENANT, requests)
            return [one.status.id if one.status is not None else (one.error or {})["code"] for one in outcomes]
        case ("send_event", id, event, kind, payload):
            receipt = await service.send_event(caller, TENANT, id, kind, payload, event_id=event)
            return receipt.is_duplicate
        case ("advance", s):
            life.advance(s * 1000)
            return None
        case ("terminate undoing", id):
            await service.terminate(caller, TENANT, id, undo=True)
        case ("restart from step", id, name, occurrence):
            await service.restart(caller, TENANT, id, from_step=name, occurrence=occurrence)
        case ("set_attributes", id, changes):
            await service.set_attributes(caller, TENANT, id, changes)
        case ("update", id, update, payload):
            return (await service.update(caller, TENANT, id, "note", payload, update_id=update)).value
        case ("ask", id):
            return await service.ask(caller, TENANT, id, "noted")
        case ("result", id):
            return await service.result(caller, TENANT, id, timeout_s=0)
        case (kind, id):
            await getattr(service, kind)(caller, TENANT, id)
    return None


@pytest.fixture(autouse=True)
def as_a_sandbox() -> Iterator[None]:
    """This process stands for a sandbox too: `run()` sees virtual clocks and drawn chance."""
    token = object()
    inside.enter(token, [])
    yield
    inside.leave(token)


def agree(examples: int, *, length: int = 20) -> None:
    done: Counter[str] = Counter()
    numbers = st.integers(0, (1 << 32) - 1)

    # A step of shrinking costs as much as an example: only the deep profile, which nobody waits for, has the time.
    shrink = [Phase.shrink] if PROFILE == "deep" else []

    @settings(max_examples=examples, phases=[Phase.generate, *shrink])
    @given(numbers, st.lists(numbers, min_size=length // 2, max_size=length))
    def both_agree(seed: int, story: list[int]) -> None:
        model = Model(seed, done)
        try:
            model.play(story)
        except BaseException:
            for operation in model.told:
                note(repr(operation))
            raise

    both_agree()
    assert [kind for kind in OPERATIONS if not done[kind]] == []


def test_the_platform_does_what_the_oracle_says() -> None:
    agree(80)


TOLD: dict[str, list[Operation]] = {
    "a pause is added to a sleep": [
        ("start", "i0", [["sleep", 350]], None, None),
        ("advance", 100),
        ("pause", "i0"),
        ("advance", 400),
        ("resume", "i0"),
        ("advance", 200),
        ("advance", 100),
        ("result", "i0"),
    ],
    "an event that nobody read is kept by a new execution": [
        ("start", "i0", [["sleep", 50], ["anew", [["sleep", 50], ["wait", "a", None, None]]]], None, None),
        ("send_event", "i0", "e0", "a", {"k": 0}),
        ("advance", 100),
        ("advance", 100),
        ("result", "i0"),
    ],
}
"""What chance draws too rarely in the quick profile."""


@pytest.mark.parametrize("story", TOLD)
def test_the_platform_does_what_the_oracle_says_in_stories_that_are_told(story: str) -> None:
    done: Counter[str] = Counter()
    Model(1, done).tell(TOLD[story])
    assert done["result"] == 1


@pytest.mark.deep
def test_the_platform_does_what_the_oracle_says_in_long_stories() -> None:
    agree(2_000, length=40)
