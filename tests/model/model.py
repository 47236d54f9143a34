"""Model: one example. The same operations to the oracle and to the platform, through any number of lives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any, cast

import trio

from executor.core.errors import PerdureError
from tests.model.moves import move
from tests.model.operations import Operation, ask_oracle, ask_platform, has_succeeded, kind_of
from tests.model.oracle import Oracle
from tests.model.platform import ADMINISTRATOR, COMMITS, TENANT, Life, Platform
from tests.model.states import Instance, Refusal
from tests.simulation.disk import Loss

RECOVERY_MS = 3_000
"""After so long what instances owed each other at a crash is done. All durations of programs are odd multiples of 25 s and
time passes by multiples of 100 s, so that these few seconds never decide whether something is due."""
CRASHES_MAX = 7
"""Of one example: fewer recoveries than make 25 s."""


class Model:
    """`done`: how often each kind of operation succeeded, over all examples."""

    def __init__(self, seed: int, done: Counter[str]) -> None:
        self.seed = seed
        self.platform = Platform(seed)
        self.oracle = Oracle(self.platform.now_ms, COMMITS)
        self.done = done
        self.told: list[Operation] = []
        self.crashes = 0
        self._left: list[int | Operation] = []
        self._again: Operation | None = None

    def play(self, story: Sequence[int | Operation]) -> None:
        """A number draws an operation. Raises AssertionError where they disagree."""
        self._left = list(reversed(story))
        try:
            while self._left or self._again is not None:
                self.platform.live(self._live)
            self.platform.live(self._recover)
            self.done += self.oracle.noted
        finally:
            self.platform.close()

    async def _live(self, life: Life) -> Loss | None:
        """A life: up to the next crash."""
        if self._again is not None:
            again, self._again = self._again, None
            await self._do(life, again, is_again=True)
            self.done["crash in the middle"] += 1
        await self._recover(life)
        while self._left:
            drawn = self._left.pop()
            operation = drawn
            if isinstance(operation, int):
                operation = move(Random(f"{self.seed} {len(self.told)} {drawn}"), self.oracle)
            if "crash" in operation[0]:
                self.crashes += 1
                if self.crashes > CRASHES_MAX:
                    continue
            self.told.append(operation)
            if "crash" in operation[0]:
                return await self._crash(life, operation)
            await self._do(life, operation)
            await life.settle()
            await self._agree(life)
        return None

    async def _crash(self, life: Life, operation: Operation) -> Loss:
        kind, loss, *more = operation
        if kind == "crash in the middle":
            after_s, self._again = more
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._interrupted, life, self._again)
                await trio.sleep(after_s)
                nursery.cancel_scope.cancel()
        else:
            if more:
                await self._do(life, more[0])
            self.done[kind] += 1
        self.oracle.crash()
        return cast("Loss", loss)

    async def _recover(self, life: Life) -> None:
        """What a crash kept instances from doing for each other is done some seconds later."""
        await life.settle()
        self.oracle.advance(RECOVERY_MS)
        self.oracle.follow()
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
        kind = kind_of(self.oracle, operation)
        expected, found = None, None
        try:
            expected = ask_oracle(self.oracle, operation)
            self.done[kind] += has_succeeded(operation, expected)
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

    async def _agree(self, life: Life) -> None:
        service, caller = life.service, ADMINISTRATOR
        for name, instance in list(self.oracle.instances.items()):
            assert await life.look(name) == _looks(instance), name
        assert await life.look_at_schedules() == {name: one.look() for name, one in self.oracle.schedules.items()}
        by_state = Counter(instance.state for instance in self.oracle.instances.values())
        assert await service.counts(caller, TENANT) == dict(by_state)
        page = await service.instances(caller, TENANT, limit=1000)
        listed = {item.id: (item.state, item.commit) for item in page.items}
        assert listed == {name: (one.state, one.commit) for name, one in self.oracle.instances.items()}


def _looks(instance: Instance) -> dict[str, Any]:
    """What can be seen of it."""
    return {
        "kinds": instance.kinds,
        "state": instance.state,
        "waiting for": instance.waiting_for,
        "output": instance.result,
        "status": instance.run.status,
        "attributes": instance.attributes,
        "stream": instance.stream,
        "parent": instance.parent,
        "commit": instance.commit,
    }
