"""Obligations: what an instance owes to others, done in the background and never forgotten.

- a parent starts the children it asked for, and closes those that are wanted no more;
- an ended child tells the parent that waits for it;
- an instance with a time of its own for being kept is deleted when that has passed.

There is at most one task per instance, so a child is never closed while its start is under way. The task begins when
what is owed is durable. That it survives a crash is the wake index's doing: the row of an instance that owes something
and is not activated anyway is due a little later (GRACE_MS), in whatever state it is; what was done by then has
written the row again without that time. So the ordinary way costs no look at the index, and what failed is tried again
by the index, after ever longer pauses.

An ended instance's row says by its wake time what is left: none, or the time of its expiry: nothing but that; any
other: it owes something.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import trio

from executor.core.entries import ChildRequested
from executor.core.errors import PerdureError, Unavailable
from executor.core.instance import Instance
from executor.core.lifecycle import ACTIVE, FINAL, State
from executor.engine.children import TOGETHER_MAX, Children
from executor.engine.resident import Key, Resident

if TYPE_CHECKING:
    from executor.engine.engine import Engine

log = logging.getLogger(__name__)

PAUSE_MS = 200
"""A process that died is back after about this; the pause doubles each time."""
GRACE_MS = 2_000
PAUSE_MS_MAX = 60_000
AUDIT_MS = 3_600_000
AUDIT_MS_MAX = 24 * AUDIT_MS
"""After so long a parent that waits looks after its children by itself, ever more rarely. A backup of several stores is
not of one moment: after it was restored, one of the two may know what the other has yet to be told."""


class Obligations:
    """`run` owns the tasks."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.children = Children(engine)
        self._nursery: trio.Nursery | None = None
        self._under_way: dict[Key, trio.Event] = {}

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async with trio.open_nursery() as self._nursery:
                await trio.sleep_forever()
        finally:
            self._nursery = None

    # --- what is owed

    def is_owing(self, resident: Resident) -> bool:
        """Whether there is something to be done for others now."""
        instance = resident.instance
        if instance.to_close:
            return True
        if instance.outcome is None:
            is_going_on = instance.held is None and instance.paused is None
            return is_going_on and bool(instance.to_start)
        return _wants_to_tell(instance) and not self._has_told(resident)

    def _has_told(self, resident: Resident) -> bool:
        row = None if resident.row is None else resident.row.row
        if row is not None and row.state in FINAL and row.wake_at_ms in (None, expiry_ms(resident.instance)):
            resident.has_told = True
        return resident.has_told

    def wake_at_ms(self, resident: Resident, state: State, timer_ms: int | None) -> int | None:
        """The wake time of its row; `timer_ms`: that of what `run()` waits for."""
        instance = resident.instance
        if instance.outcome is None:
            resident.has_told = False
            if state in ACTIVE:
                return timer_ms
            if self.is_owing(resident):
                due_ms = _due_ms(resident)
            elif state == "waiting" and _awaits(instance):
                due_ms = max(instance.updated_at_ms + AUDIT_MS, resident.audit_at_ms)
            else:
                return timer_ms
            return due_ms if timer_ms is None else min(timer_ms, due_ms)
        expires_ms = expiry_ms(instance)
        if not self.is_owing(resident):
            return expires_ms
        due_ms = _due_ms(resident)
        return due_ms + (due_ms == expires_ms)

    def is_expired(self, resident: Resident) -> bool:
        """Whether it ended, owes nothing, and has been kept as long as its own start said."""
        expires_ms = expiry_ms(resident.instance)
        is_over = expires_ms is not None and expires_ms <= self._engine.clock.now_ms()
        return is_over and not self.is_owing(resident)

    # --- doing it

    def tend(self, resident: Resident) -> None:
        """Begin with what it owes, if that is not under way."""
        if self._nursery is None or resident.key in self._under_way or self._engine.is_stopping:
            return
        if self.is_owing(resident) or resident.asks_again:
            self._under_way[resident.key] = trio.Event()
            resident.holds += 1
            self._nursery.start_soon(self._tend, resident)

    def postpone(self, resident: Resident) -> None:
        """Its time in the wake index has come: the row that is written next is due again later."""
        now_ms = self._engine.clock.now_ms()
        pause_ms = min(max(now_ms - resident.instance.updated_at_ms, GRACE_MS), PAUSE_MS_MAX)
        resident.tend_at_ms = now_ms + pause_ms
        silent_ms = now_ms - resident.instance.updated_at_ms
        if silent_ms >= AUDIT_MS and not self.is_owing(resident) and _awaits(resident.instance):
            resident.audit_at_ms = now_ms + min(silent_ms, AUDIT_MS_MAX)
            resident.asks_again = True

    async def discharge(self, resident: Resident) -> None:
        """Do what an ended instance owes, now. The caller holds it. Raises Unavailable."""
        under_way = self._under_way.get(resident.key)
        if under_way is not None:
            await under_way.wait()
        while self.is_owing(resident) and not resident.is_lost:
            await self._some(resident)

    async def _tend(self, resident: Resident) -> None:
        engine = self._engine
        pause_ms = PAUSE_MS
        try:
            while (self.is_owing(resident) or resident.asks_again) and not resident.is_lost:
                try:
                    await self._some(resident)
                except Unavailable as error:
                    facts = {"tenant": resident.key[0], "instance": resident.key[1], "error": str(error)}
                    log.warning("what it owes to other instances is tried again", extra=facts)
                    if 2 * pause_ms > GRACE_MS and engine.state(resident) not in ACTIVE:
                        return  # Its row is due: memory need not keep it.
                    await engine.clock.sleep_until_ms(engine.clock.now_ms() + pause_ms)
                    pause_ms = min(2 * pause_ms, PAUSE_MS_MAX)
            if resident.instance.outcome is not None and not resident.is_lost:
                await self._write_row(resident)
        finally:
            self._under_way.pop(resident.key).set()
            engine.residents.release(resident)

    async def _write_row(self, resident: Resident) -> None:
        """It is done: the row is due no more, or when it expires."""
        row = resident.row
        if row is None or row.row.wake_at_ms != expiry_ms(resident.instance) or not resident.is_settled:
            try:
                await self._engine.commit_and_wait(resident, (), row_alone=True)
            except PerdureError as error:
                # The disk is full, or it was deleted. What is not written is done once more.
                log.info("a row was not written", extra={"instance": resident.key[1], "error": str(error)})

    async def _some(self, resident: Resident) -> None:
        """A portion of what it owes as of now, once that is durable. Raises Unavailable."""
        instance = resident.instance
        is_ended = instance.outcome is not None
        starts = [] if is_ended else list(islice(instance.to_start.values(), TOGETHER_MAX))
        closes = sorted(instance.to_close)[:TOGETHER_MAX]
        asked = list(_awaited(instance)) if resident.asks_again else []
        resident.asks_again = False
        await self._engine.until_durable(resident, instance.sequence)
        if resident.is_lost:
            return
        later: Unavailable | None = None
        if starts:
            try:
                await self.children.start(resident, starts)
            except Unavailable as error:
                later = error
        if closes and not resident.is_lost:
            await self.children.close(resident, closes)
        if is_ended and not resident.is_lost and _wants_to_tell(instance) and not self._has_told(resident):
            await self.children.tell_parent(resident)
            resident.has_told = resident.instance.outcome is not None
        while asked and not resident.is_lost:
            await self.children.ask_again(resident, asked[:TOGETHER_MAX])
            asked = asked[TOGETHER_MAX:]
        if later is not None:
            raise later

    # --- expiry

    async def expire(self, residents: Sequence[Resident]) -> bool:
        """Delete these, durably; the caller holds them. False: not all, they are still due."""
        engine = self._engine
        # Whoever else holds one may be about to restart it.
        gone = [resident for resident in residents if resident.holds == 1 and resident.is_settled]
        if gone:
            keys = [resident.key for resident in gone]
            with ExitStack() as barred:
                for key in keys:
                    barred.enter_context(engine.residents.barred(key))
                try:
                    await engine.committer.exclusive(partial(engine.store.delete_many, keys))
                except Unavailable as full:
                    log.warning("what is kept no longer could not be deleted", extra={"error": str(full)})
                    return False
            for key in keys:
                engine.watchers.changed(key)
        return len(gone) == len(residents)


def expiry_ms(instance: Instance) -> int | None:
    """When an ended instance is to be deleted by what its own start says; None: as the platform says."""
    options = instance.start.options
    outcome = instance.outcome
    if options is None or outcome is None:
        return None
    is_complete = instance.state(is_resting=False) == "complete"
    retain_ms = options.retain_complete_ms if is_complete else options.retain_failed_ms
    return None if retain_ms is None else outcome.at_ms + retain_ms


def _awaited(instance: Instance) -> Iterator[ChildRequested]:
    """Started children whose end it waits for, if it goes on at all."""
    if instance.awaiting and instance.paused is None and instance.held is None:
        yield from (request for path, request in instance.awaiting.items() if path not in instance.to_start)


def _awaits(instance: Instance) -> bool:
    """Whether there are any: asked at each commit, so not all of them are looked at. They are started in order."""
    return next(_awaited(instance), None) is not None


def _wants_to_tell(instance: Instance) -> bool:
    parent = instance.parent
    return parent is not None and parent.is_awaited


def _due_ms(resident: Resident) -> int:
    return max(resident.instance.updated_at_ms + GRACE_MS, resident.tend_at_ms)
