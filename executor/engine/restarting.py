"""Restarting: an instance goes back, in whatever state it is, and runs again from there.

The journal only grows: a Restarted entry says which of the entries before it still count, and carries the facet's way
back. Everything else follows from the fold. While it is being made nothing of the instance executes, so that no step
reports into a past that is gone.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from executor.core import codec
from executor.core.entries import AnyEntry, Restarted
from executor.core.errors import NotFound
from executor.core.instance import Instance
from executor.core.lifecycle import check
from executor.engine.resident import Key, Resident
from executor.engine.signal import Landing

if TYPE_CHECKING:
    from executor.engine.engine import Engine

STEPS_NAMED_MAX = 10


class Restarting:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def restart(self, key: Key, *, from_step: tuple[str, int] | None, by: str) -> None:
        """Durable on return. Raises NotFound (`step_not_found`), Conflict, Refused (`facet_refused`)."""
        engine = self._engine
        async with engine.residents.hold(key) as resident:
            check("restart", engine.state(resident), key[1])
            after = resident.instance.begin_at if from_step is None else _before(resident, *from_step)
            resident.is_barred = True
            try:
                engine.runner.drop(resident)
                await engine.until_durable(resident, resident.instance.sequence)
                if resident.loss is not None:
                    raise resident.loss
                # Somebody may have ended it, or restarted it, meanwhile: what was found is looked for again.
                check("restart", engine.state(resident), key[1])
                after = resident.instance.begin_at if from_step is None else _before(resident, *from_step)
                delta = await engine.reader.run(partial(engine.store.revert, *key, after=after))
                entry = Restarted(engine.clock.now_ms(), after, keeps_events=from_step is not None, by=by)
            finally:
                resident.is_barred = False
            resident.deaths = 0
            resident.is_resting = False
            landing = Landing()
            engine.commit(resident, (entry,), delta, landing=landing)
            await landing.wait()
            if resident.loss is not None:
                raise resident.loss


def _before(resident: Resident, name: str, occurrence: int) -> int:
    """Sequence of the entry before the first that tells of the step."""
    path = f"{name}#{occurrence}"
    instance = resident.instance
    known: dict[str, None] = {}
    for sequence, entry in _execution(instance, resident.stored):
        found = getattr(entry, "path", None)
        if found == path:
            return sequence - 1
        if found:
            known[found] = None
    shown = ", ".join(f'"{each}"' for each in list(known)[-STEPS_NAMED_MAX:])
    raise NotFound(
        f'instance "{resident.key[1]}" has no step "{path}" in its journal',
        code="step_not_found",
        hint=f"Its latest are {shown}." if known else "It has not begun a step.",
    )


def _execution(instance: Instance, stored: list[bytes]) -> list[tuple[int, AnyEntry]]:
    """The entries of the present execution, in order, traces of steps too."""
    cut = set[int]()
    for first, last in instance.cuts:
        cut.update(range(first, last + 1))
    return [
        (sequence, codec.decode(data)[0])
        for sequence, data in enumerate(stored, start=1)
        if sequence > instance.begin_at and sequence not in cut
    ]
