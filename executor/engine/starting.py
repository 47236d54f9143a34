"""Starting: instances begin to exist, or are found to exist already. Nothing new is taken in when too much waits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from executor.core import summary
from executor.core.entries import Rescheduled, Started
from executor.core.errors import Conflict, NotFound, PerdureError, Unavailable
from executor.core.summary import LARGE
from executor.engine.commit import Commit, check_room
from executor.engine.resident import Key, Resident
from executor.engine.signal import Landing
from executor.entropy import Entropy
from executor.ports import Start, StoredRow

if TYPE_CHECKING:
    from executor.engine.engine import Engine

SEED_BYTES = 16
THERE_BYTES_MAX = 32 * LARGE
"""Journals of instances that are there already, read together: what is asked for again is in memory for a moment."""
QUEUES_MAX = 5
"""So many times `queued_max` wait in all queues together, at most: some hundred bytes of memory for each instance."""


class Starting:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._entropy = Entropy()

    async def start_many(self, starts: Sequence[Start]) -> list[StoredRow | PerdureError]:
        """Make instances, durably: the row of each. One that is there, with the same workflow and payload, is it.

        All that are new share one fsync. `is_new`: the id was drawn just now and cannot be taken; the store is not
        asked. Each has its own outcome: Conflict (`instance_exists`), Unavailable (`busy`, `shutting_down`,
        `storage_full`).
        """
        refused = self._refusals(starts)
        if refused:
            taken = iter(await self.start_many([start for start in starts if start.key[0] not in refused]))
            return [refused.get(start.key[0]) or next(taken) for start in starts]
        answers: list[StoredRow | PerdureError] = []
        for portion in await self._portions(starts):
            answers += await self._start_together(portion)
        return answers

    async def _portions(self, starts: Sequence[Start]) -> list[Sequence[Start]]:
        """In order; all in one, unless the journals of those that are there are too much for memory together."""
        residents = self._engine.residents
        asked = [start.key for start in starts if not start.is_new and residents.get(start.key) is None]
        if len(asked) < 2:
            return [starts] if starts else []
        sizes = {
            key: max(LARGE, summary.size_of(row.row.summary))
            for key, row in zip(asked, await self._engine.reads.rows(asked), strict=True)
            if row is not None
        }
        portions: list[Sequence[Start]] = []
        first = 0
        together: dict[Key, int] = {}
        for index, start in enumerate(starts):
            own = sizes.get(start.key)
            if own is not None and start.key not in together:
                if together and sum(together.values()) + own > THERE_BYTES_MAX:
                    portions.append(starts[first:index])
                    first, together = index, {}
                together[start.key] = own
        return [*portions, starts[first:]]

    async def _start_together(self, starts: Sequence[Start]) -> list[StoredRow | PerdureError]:
        known = [start.key for start in starts if not start.is_new]
        held = iter(await self._engine.residents.hold_many(known, create=True) if known else ())
        begun = [self._begin(start, None if start.is_new else next(held)) for start in starts]
        last = next((commit.landing for commit in reversed(begun) if isinstance(commit, Commit)), None)
        if last is not None:
            await last.wait()  # They are written in order: what came before it is durable too.
        return [await self._begun(start, commit) for start, commit in zip(starts, begun, strict=True)]

    def _begin(self, start: Start, found: Resident | PerdureError | None) -> Commit | Resident | PerdureError:
        """The commit of the new instance, or the existing one (held), or why there is neither."""
        if isinstance(found, PerdureError):
            return found
        if found is None and self._engine.residents.is_deleting(start.key[0]):
            return NotFound(f'there is no tenant "{start.key[0]}"', code="tenant_not_found")
        if found is not None and found.is_lost:
            # While others were being read its tenant was deleted: what it began now would be nobody's.
            self._engine.residents.release(found)
            assert found.loss is not None, "whoever loses a resident says why"
            return found.loss
        resident = found or self._engine.residents.new(start.key)
        if resident.instance.sequence:
            return resident
        seed = self._entropy.draw(SEED_BYTES)
        now_ms = self._engine.clock.now_ms()
        started = Started(now_ms, start.workflow, start.commit, start.payload, seed, start.options)
        commit = self._engine.commit(resident, (started,), landing=Landing())
        if found is not None:
            self._engine.residents.release(found)
        return commit

    async def _begun(self, start: Start, begun: Commit | Resident | PerdureError) -> StoredRow | PerdureError:
        if isinstance(begun, PerdureError):
            return begun
        if isinstance(begun, Commit):
            return begun.error or StoredRow(*start.key, 0, begun.sequence, begun.row)
        try:
            there = begun.instance.start
            if (there.workflow, there.payload) != (start.workflow, start.payload):
                return Conflict(
                    f'an instance with id "{start.key[1]}" exists with another workflow or payload',
                    code="instance_exists",
                    hint="Use another id, or the same workflow and payload to get the existing instance.",
                    workflow=there.workflow,
                )
            parent = None if start.options is None else start.options.parent
            if parent is not None and begun.instance.parent != parent:
                return Conflict(
                    f'an instance with id "{start.key[1]}" exists that step "{parent.path}" of "{parent.instance}" '
                    "did not start",
                    code="instance_exists",
                    hint="Use another id, or none: then it derives from the step.",
                )
            await self._engine.until_durable(begun, begun.instance.sequence)
            return begun.loss or StoredRow(*start.key, 0, begun.instance.sequence, self._engine.row(begun))
        finally:
            self._engine.residents.release(begun)

    async def reschedule(self, key: Key, *, payload: bytes, start_at_ms: int, debounce: str) -> StoredRow:
        """Give a delayed start that was debounced by this key another payload and time, durably.

        Raises NotFound, Conflict (`invalid_state`): it has begun, ended, or was started otherwise.
        """
        engine = self._engine
        async with engine.residents.hold(key) as resident:
            instance = resident.instance
            options = instance.start.options
            if instance.delayed_until_ms is None or options is None or options.debounce != debounce:
                raise Conflict(
                    f'instance "{key[1]}" waits for no start that could be replaced',
                    code="invalid_state",
                    state=engine.state(resident),
                )
            check_room(resident, len(payload))
            entry = Rescheduled(engine.clock.now_ms(), payload, start_at_ms)
            await engine.commit_and_wait(resident, (entry,))
            return StoredRow(*key, 0, instance.sequence, engine.row(resident))

    def _refusals(self, starts: Sequence[Start]) -> dict[str, Unavailable]:
        """By tenant: why nothing new is taken in now."""
        engine = self._engine
        tenants = {start.key[0] for start in starts}
        if engine.is_stopping:
            stopping = Unavailable("the executor is stopping", code="shutting_down", hint="Try again when it is back.")
            return dict.fromkeys(tenants, stopping)
        if engine.committer.is_full:
            return dict.fromkeys(tenants, _busy("more waits to be written than the disk takes in"))
        queue, queued_max = engine.queue, engine.limits.queued_max
        total_max = queued_max * QUEUES_MAX
        if len(queue) >= total_max:
            return dict.fromkeys(
                tenants, _busy(f"{len(queue)} instances wait for their turn, the limit is {total_max}")
            )
        # One tenant's long queue, which may stand behind a limit of its own, is no other tenant's business.
        return {
            tenant: _busy(f"{count} instances wait for their turn, the limit is {queued_max}")
            for tenant in tenants
            if (count := queue.count_of(tenant)) >= queued_max
        }


def _busy(message: str) -> Unavailable:
    return Unavailable(message, code="busy", hint="Try again after a second.", retry_after_s=1)
