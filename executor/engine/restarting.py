"""Restarting: an instance goes back, in whatever state it is, and runs again from there.

The journal only grows: a Restarted entry says which of the entries before it still count, and carries the facet's way
back. Everything else follows from the fold. While it is being made nothing of the instance executes, so that no step
reports into a past that is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import trio

from executor.core import codec, decide, rewind
from executor.core.bounds import RESTARTS_MAX
from executor.core.entries import AnyEntry, Restarted
from executor.core.errors import Refused
from executor.core.lifecycle import Operation, check
from executor.engine.commit import apply, check_room
from executor.engine.resident import Key, Resident
from executor.engine.signal import Landing

if TYPE_CHECKING:
    from executor.engine.engine import Engine


class Restarting:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def restart(self, key: Key, *, from_step: tuple[str, int] | None, by: str) -> None:
        """Durable on return. Raises NotFound (`step_not_found`), Conflict, Refused (`facet_refused`)."""

        def after(resident: Resident) -> int:
            if from_step is None:
                return resident.instance.begin_at
            name, occurrence = from_step
            return rewind.before_step(_recorded(resident), f"{name}#{occurrence}", id=key[1])

        await self._go_back(key, "restart", after, keeps_events=from_step is not None, by=by)

    async def retry(self, key: Key, *, by: str) -> None:
        """A failed one goes on from the step that failed it. Durable on return. Raises Conflict, Refused."""

        def after(resident: Resident) -> int:
            return rewind.before_failure(_recorded(resident), id=key[1])

        await self._go_back(key, "retry", after, keeps_events=True, by=by)

    async def _go_back(
        self, key: Key, operation: Operation, find: Callable[[Resident], int], *, keeps_events: bool, by: str
    ) -> None:
        """`find`: the sequence of the last entry that still counts."""
        engine = self._engine
        async with engine.residents.hold(key) as resident:
            check(operation, engine.state(resident), key[1])
            check_room(resident)
            after = find(resident)
            if len(resident.instance.cuts) >= RESTARTS_MAX and after > resident.instance.begin_at:
                raise Refused(
                    f'instance "{key[1]}" was restarted {len(resident.instance.cuts)} times from a step, the limit is '
                    f"{RESTARTS_MAX}",
                    code="limit_exceeded",
                    hint="Restart it from its first line, or start another.",
                )
            resident.bars += 1
            try:
                engine.runner.drop(resident)
                await engine.until_durable(resident, resident.instance.sequence)
                if resident.loss is not None:
                    raise resident.loss
                # Somebody may have ended it, or restarted it, meanwhile: what was found is looked for again.
                check(operation, engine.state(resident), key[1])
                after = find(resident)
                delta = await engine.reader.run(partial(engine.store.revert, *key, after=after))
                if resident.loss is not None:
                    raise resident.loss
                now_ms = engine.clock.now_ms()
                resident.deaths = 0
                resident.is_resting = False
                landing = Landing()
                apply(resident, (Restarted(now_ms, after, keeps_events=keeps_events, by=by),), delta)
                engine.commit(resident, decide.after_restart(resident.instance, now_ms=now_ms), landing=landing)
                # Until then a run would be begun on a past that a crash can bring back.
                with trio.CancelScope(shield=True):
                    await landing.wait()
            finally:
                resident.bars -= 1
                engine.settle(resident)
            if resident.loss is not None:
                raise resident.loss


def _recorded(resident: Resident) -> list[tuple[int, AnyEntry]]:
    stored = resident.stored
    return [(sequence, codec.decode(stored[sequence - 1])[0]) for sequence in rewind.sequences(resident.instance)]
