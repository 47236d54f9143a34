"""Restarting: an instance goes back, in whatever state it is, and runs again from there.

The journal only grows: a Restarted entry says which of the entries before it still count, and carries the facet's way
back. Everything else follows from the fold. While it is being made nothing of the instance executes, so that no step
reports into a past that is gone. Its journal may be long: it is looked through in the reading thread.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import trio

from executor.core import carrying, codec, decide, rewind
from executor.core.bounds import RESTARTS_MAX
from executor.core.entries import Restarted
from executor.core.errors import Refused
from executor.core.instance import Instance
from executor.core.journal import Journal
from executor.core.lifecycle import Operation, check
from executor.engine.commit import check_room, go_back
from executor.engine.resident import Key, Resident
from executor.engine.signal import Landing

if TYPE_CHECKING:
    from executor.engine.engine import Engine

Cuts: TypeAlias = tuple[tuple[int, int], ...]
Find: TypeAlias = Callable[[rewind.Recorded], int]
"""The sequence of the last entry that still counts, in what is recorded."""


class Past(NamedTuple):
    """Where an instance goes back to: the sequence, the instance as of it, and the facet's way there."""

    after: int
    instance: Instance
    delta: bytes | None


class Restarting:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def restart(self, key: Key, *, from_step: tuple[str, int] | None, by: str) -> None:
        """Durable on return. Raises NotFound (`step_not_found`), Conflict, Refused (`facet_refused`)."""
        find: Find | None = None
        if from_step is not None:
            name, occurrence = from_step
            find = partial(rewind.before_named, name=name, occurrence=occurrence, id=key[1])
        await self._go_back(key, "restart", find, by=by)

    async def retry(self, key: Key, *, by: str) -> None:
        """A failed one goes on from the step that failed it. Durable on return. Raises Conflict, Refused."""
        await self._go_back(key, "retry", partial(rewind.before_failure, id=key[1]), by=by)

    async def _go_back(self, key: Key, operation: Operation, find: Find | None, *, by: str) -> None:
        """`find` None: to the first line."""
        engine = self._engine
        async with engine.residents.hold(key) as resident:
            check(operation, engine.state(resident), key[1])
            check_room(resident)
            # What cannot be found is said before anything is stopped.
            await engine.reader.run(partial(_after, *_recorded_of(resident), find, id=key[1]))
            _check_loss(resident)
            resident.bars += 1
            try:
                engine.runner.drop(resident)
                past = await self._past(resident, operation, find)
                now_ms = engine.clock.now_ms()
                resident.deaths = 0
                landing = Landing()
                undone = resident.instance.undone
                entry = Restarted(now_ms, past.after, keeps_events=find is not None, by=by, undone=undone)
                go_back(resident, past.instance, entry, past.delta)
                engine.commit(resident, decide.after_restart(resident.instance, now_ms=now_ms), landing=landing)
                # Until then a run would be begun on a past that a crash can bring back.
                with trio.CancelScope(shield=True):
                    await landing.wait()
            finally:
                resident.bars -= 1
                engine.settle(resident)
            _check_loss(resident)

    async def _past(self, resident: Resident, operation: Operation, find: Find | None) -> Past:
        """Where it goes back to. Nothing of it executes meanwhile, but somebody may end it, or restart it too."""
        engine, key = self._engine, resident.key
        while True:
            await engine.until_durable(resident, resident.instance.sequence)
            _check_loss(resident)
            check(operation, engine.state(resident), key[1])
            execution = resident.instance.execution
            past = await engine.reader.run(
                partial(_look, *_recorded_of(resident), find, revert=partial(engine.store.revert, *key), id=key[1])
            )
            _check_loss(resident)
            check(operation, engine.state(resident), key[1])
            if resident.instance.execution == execution:
                return past


def _check_loss(resident: Resident) -> None:
    if resident.loss is not None:
        raise resident.loss


# --- in the reading thread


def _recorded_of(resident: Resident) -> tuple[Journal, int, Cuts]:
    """What there is to look through, as it is now."""
    return resident.journal.copy(), resident.instance.begin_at, resident.instance.cuts


def _after(journal: Journal, begin_at: int, cuts: Cuts, find: Find | None, *, id: str) -> int:
    if find is None:
        return begin_at
    counted = rewind.sequences(begin_at, len(journal), cuts)
    after = find([(at, codec.decode(data)[0]) for at in counted if (data := journal.get(at)) is not None])
    if len(cuts) >= RESTARTS_MAX and after > begin_at:
        raise Refused(
            f'instance "{id}" was restarted {len(cuts)} times from a step, the limit is {RESTARTS_MAX}',
            code="limit_exceeded",
            hint="Restart it from its first line, or start another.",
        )
    return after


def _look(
    journal: Journal, begin_at: int, cuts: Cuts, find: Find | None, *, revert: Callable[..., bytes | None], id: str
) -> Past:
    after = _after(journal, begin_at, cuts, find, id=id)
    return Past(after, carrying.load(journal.upto(after)), revert(after=after))
