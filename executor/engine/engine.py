"""Engine: the trio program that keeps instances going. It owns the residents and puts the other parts together.

Everything that changes an instance goes through `commit`: entries are applied to the resident, encoded, handed to the
committer, and acted upon when they are durable: sent to the run, shown to watchers, the instance put to rest. All of
that is synchronous code in one thread, so between two awaits a resident is always consistent.

Failure at each point:
- the process dies: rows in the states queued and running are activated again at the next start, from the journal;
- a sandbox dies: its runs are activated again; one that keeps dying without progress is held;
- the disk is full: the residents concerned are dropped from memory and activated again from what the disk holds;
- any other failed write: the executor stops.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import trio

from executor.core import attributes, decide, summary
from executor.core.bounds import HISTORY_KEPT_BYTES, JOURNAL_BYTES_MAX, RESIDENT_BYTES_MAX, STEP_COUNT_MAX, Bounds
from executor.core.entries import (
    AnyEntry,
    AttributesSet,
    Paused,
    Released,
    Resumed,
    Terminated,
    Undoing,
    Unheld,
)
from executor.core.errors import NotFound, PerdureError
from executor.core.lifecycle import ACTIVE, FINAL, State, check
from executor.engine.asking import Asking
from executor.engine.ballast import Ballast
from executor.engine.commit import Commit, apply, check_room
from executor.engine.committer import RECORD_BYTES, Committer
from executor.engine.losses import Losses
from executor.engine.obligations import Obligations
from executor.engine.output import OutputBuffer
from executor.engine.peers import NoPeers
from executor.engine.places import Places
from executor.engine.querying import Querying
from executor.engine.reads import Reads
from executor.engine.resident import Key, Resident
from executor.engine.residents import Residents
from executor.engine.restarting import Restarting
from executor.engine.retention import Retention
from executor.engine.runner import Runner
from executor.engine.sandboxes import share_of
from executor.engine.scheduler import FairQueue
from executor.engine.signal import Landing
from executor.engine.starting import Starting
from executor.engine.timers import Timers
from executor.engine.waking import Waking
from executor.engine.watchers import Watchers
from executor.engine.worker import Blocking, Worker
from executor.ports import Append, Clock, CodeSource, Peers, Row, SandboxHost, Start, StateStore, StoredRow

log = logging.getLogger(__name__)

SEED_BYTES = 16
RECOVERY_PAGE = 1_000
QUEUED_IN_MEMORY_MAX = 1_000
"""When more instances than this wait for their turn, those that come after them wait on disk."""


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """`active_runs_max`: runs in sandboxes at once; `sandboxes_max`: sandbox processes; `sandbox_idle_s`: how long
    an unused one is kept; `deaths_max`: how often an instance's sandbox may die without progress before it is held;
    `queued_max`: instances waiting for their turn before new starts are refused; `waking_queue_max`: before those
    that are due wait on disk; `stop_grace_s`: how long executing steps may take to finish when the executor stops;
    `steps_max`, `journal_bytes_max`: of one execution; beyond, the instance is held; `history_bytes_max`: of those
    before it, the oldest go; `resident_bytes_max`: of long journals of instances that have runs (ballast.py);
    `unloads_at_every_wait`: no run is kept at rest, however long its journal; `retain_complete_s`, `retain_failed_s`:
    how long ended instances are kept (0: for ever; failed: terminated too)."""

    active_runs_max: int = 2_000
    sandboxes_max: int = 64
    sandbox_idle_s: float = 30.0
    deaths_max: int = 5
    queued_max: int = 100_000
    waking_queue_max: int = 2_000
    stop_grace_s: float = 5.0
    steps_max: int = STEP_COUNT_MAX
    journal_bytes_max: int = JOURNAL_BYTES_MAX
    history_bytes_max: int = HISTORY_KEPT_BYTES
    resident_bytes_max: int = RESIDENT_BYTES_MAX
    unloads_at_every_wait: bool = False
    retain_complete_s: float = 0
    retain_failed_s: float = 0


class Engine:
    """See the module's text. `running()` is its life; every other method needs it to be running."""

    def __init__(  # noqa: PLR0917  # made in one place, and in tests
        self,
        store: StateStore,
        code: CodeSource,
        host: SandboxHost,
        clock: Clock,
        limits: EngineLimits,
        workers: Callable[[str], Blocking] = Worker,
    ) -> None:
        """`workers`: makes what runs the store's calls off the event loop; one writes, one reads."""
        self.store = store
        self.clock = clock
        self.limits = limits
        self._bounds = Bounds(steps=limits.steps_max, journal_bytes=limits.journal_bytes_max)
        self.watchers = Watchers()
        self._writer, self.reader = workers("engine-writer"), workers("engine-reader")
        self.output = OutputBuffer(store, self.watchers.changed)
        self.committer = Committer(store, self._writer)
        self.reads = Reads(store, self.reader)
        self.residents = Residents(self.reads)
        self.ballast = Ballast(limits.resident_bytes_max)
        self.places = Places(limits.active_runs_max, share_of(limits.active_runs_max))
        self.queue = FairQueue(self.places)
        self.timers = Timers(store, clock, self.reader, on_due=Waking(self).wake, on_alarm=self._alarm)
        self.runner = Runner(self, host, code)
        self.asking = Asking(self)
        self.querying = Querying(self, host)
        self.starting = Starting(self)
        self.restarting = Restarting(self)
        self.losses = Losses(self)
        self.peers: Peers = NoPeers()
        """Set by who made this engine, once it is known where the others are."""
        self.obligations = Obligations(self)
        self.is_stopping = False

    # --- life

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Recover what was active, run until the block ends, then stop in order: steps that execute may finish."""
        async with trio.open_nursery() as nursery:
            # The engine's own tasks outlive a cancellation from outside: stopping in order needs them.
            tasks = trio.CancelScope()
            await nursery.start(self._tasks, tasks)
            try:
                yield
            finally:
                with trio.CancelScope(shield=True):
                    await self._stop()
                tasks.cancel()
                self._writer.close()
                self.reader.close()

    async def _tasks(
        self, scope: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with scope:
            scope.shield = True
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.committer.run)
                nursery.start_soon(self.reads.run)
                nursery.start_soon(self.losses.run)
                nursery.start_soon(self.obligations.run)
                nursery.start_soon(Retention(self).run)
                nursery.start_soon(self.output.run)
                await nursery.start(self.runner.run)
                await self._recover()
                nursery.start_soon(self.timers.run)
                task_status.started()

    async def _recover(self) -> None:
        after = 0
        while True:
            rows = await self.reader.run(partial(self.store.in_states, ACTIVE, limit=RECOVERY_PAGE, after=after))
            for row in rows:
                priority, behind = summary.turn_of(row.row.summary)
                self.ballast.queued((row.tenant, row.instance), summary.size_of(row.row.summary))
                self.queue.put((row.tenant, row.instance), priority=priority, limits=behind)
            if len(rows) < RECOVERY_PAGE:
                return
            after = rows[-1].generation

    async def _stop(self) -> None:
        self.is_stopping = True
        if not self.committer.is_over:
            with trio.move_on_after(self.limits.stop_grace_s):
                await self.runner.quiesce()
        self.runner.stop()
        await self.committer.drain()
        try:
            await self.output.flush()
        except PerdureError as error:
            # Output is kept as well as can be: it must not hide why the executor stops.
            log.warning("captured output was not written", extra={"error": str(error)})

    # --- use cases

    async def start(self, key: Key, *, workflow: str, commit: str, payload: bytes, is_new: bool = False) -> StoredRow:
        """As `start_many`, for one. Raises what that answers."""
        [row] = await self.starting.start_many([Start(key, workflow, commit, payload, is_new)])
        if isinstance(row, PerdureError):
            raise row
        return row

    async def start_many(self, starts: Sequence[Start]) -> list[StoredRow | PerdureError]:
        """See `Starting`."""
        return await self.starting.start_many(starts)

    async def send_event(self, key: Key, *, id: str, type: str, payload: bytes) -> bool:
        """Take an event in, durably. False: an event of this id is there already.

        Raises NotFound, Conflict (`instance_finished`, `event_exists`).
        """
        async with self.residents.hold(key) as resident:
            decided = decide.on_event(resident.instance, id=id, type=type, payload=payload, now_ms=self.clock.now_ms())
            if decided.entries:
                # A repeated one is known by its id even when the instance has ended on it.
                check("send_event", self.state(resident), key[1])
                check_room(resident, len(payload))
            await self.commit_and_wait(resident, decided.entries)
            return bool(decided.entries)

    async def pause(self, key: Key, *, by: str = "") -> None:
        """Stop before the next step, and all timers, durably; steps that execute finish and are journaled."""
        async with self.residents.hold(key) as resident:
            is_new = check("pause", self.state(resident), key[1])
            check_room(resident)
            await self.commit_and_wait(resident, (Paused(self.clock.now_ms(), by),) if is_new else ())

    async def resume(self, key: Key, *, by: str = "") -> None:
        """Go on after a pause, durations being as long as they were; or try again after being held."""
        async with self.residents.hold(key) as resident:
            entries: list[AnyEntry] = []
            if check("resume", self.state(resident), key[1]):
                check_room(resident)
                now_ms = self.clock.now_ms()
                entries = [Unheld(now_ms) if resident.instance.held is not None else Resumed(now_ms, by)]
                resident.is_resting = False
                resident.deaths = 0
            await self.commit_and_wait(resident, entries)

    async def terminate(self, key: Key, *, undo: bool = False, by: str = "") -> None:
        """End it now, durably; what executes is cancelled. `undo`: first undo what its finished steps did."""
        async with self.residents.hold(key) as resident:
            is_new = check("terminate_undoing" if undo else "terminate", self.state(resident), key[1])
            entries: list[AnyEntry] = []
            if is_new:
                now_ms = self.clock.now_ms()
                instance = resident.instance
                if undo and instance.step_count:
                    entries = [Undoing(now_ms, None, by)]
                    if instance.held is not None:
                        entries.insert(0, Unheld(now_ms))
                        resident.deaths = 0
                else:
                    entries = [Terminated(now_ms, by)]
            await self.commit_and_wait(resident, entries)

    async def restart(self, key: Key, *, from_step: tuple[str, int] | None = None, by: str = "") -> None:
        """Run it again, durably, from its first line; with `from_step` (name and occurrence) keeping what was recorded
        before that step began. The facet is as it was then. See `Restarting`."""
        await self.restarting.restart(key, from_step=from_step, by=by)

    async def retry(self, key: Key, *, by: str = "") -> None:
        """Let a failed one go on, durably, from the step that failed it. See `Restarting`."""
        await self.restarting.retry(key, by=by)

    async def set_attributes(self, key: Key, changes: dict[str, Any]) -> None:
        """Change search attributes, durably; None takes one away. Raises Refused (`bad_request`)."""
        async with self.residents.hold(key) as resident:
            check("set_attributes", self.state(resident), key[1])
            check_room(resident)
            instance = resident.instance
            changed = attributes.merge(instance.attributes, changes)
            is_new = changed != instance.attributes
            entry = AttributesSet(self.clock.now_ms(), 0, changed)
            await self.commit_and_wait(resident, (entry,) if is_new else ())

    async def delete(self, key: Key) -> None:
        """Remove everything of an ended instance, durably."""
        async with self.residents.hold(key) as resident:
            check("delete", self.state(resident), key[1])
            await self.commit_and_wait(resident, ())
            # Who waits for its end would wait for ever.
            await self.obligations.discharge(resident)
            check("delete", self.state(resident), key[1])  # somebody may have restarted it meanwhile
            if resident.loss is not None:
                raise resident.loss
            with self.residents.barred(key):
                # Whoever else holds it must not go on. What is under way already is refused by the store.
                resident.is_lost = True
                resident.loss = NotFound(f'tenant "{key[0]}" has no instance "{key[1]}"', code="instance_not_found")
                await self.committer.exclusive(lambda: self.store.delete(*key))
        self.watchers.changed(key)

    async def delete_tenant(self, tenant: str) -> None:
        """Remove all instances of a tenant, durably, whatever state they are in."""
        gone = NotFound(f'there is no tenant "{tenant}"', code="tenant_not_found")
        self.residents.begin_deleting(tenant)
        try:
            for resident in self.residents.of(tenant):
                self.runner.drop(resident)
                resident.is_lost = True
                resident.loss = gone
                self.residents.forget(resident)
            await self.committer.drain()
            await self.committer.exclusive(lambda: self.store.delete_tenant(tenant))
        finally:
            self.residents.end_deleting(tenant)

    def active_counts(self) -> tuple[int, int]:
        """Runs and sandboxes at this moment."""
        return self.runner.run_count, self.runner.sandbox_count

    def state(self, resident: Resident) -> State:
        """Its public state, as far as memory knows."""
        return resident.instance.state(is_resting=resident.is_resting)

    # --- the commit path

    def commit(
        self,
        resident: Resident,
        entries: Sequence[AnyEntry],
        delta: bytes | None = None,
        *,
        landing: Landing | None = None,
    ) -> Commit:
        """Apply `entries`, and hand them with what was applied before to the committer; nothing: write the row alone.

        See the module's text. `delta` rides with the first entry. `landing` is set once they are durable, or lost.
        """
        apply(resident, entries, delta)
        if resident.is_resting and resident.instance.can_go_on and self.runner.releases(resident):
            assert resident.run is not None
            resident.run.is_released = True
            apply(resident, (Released(self.clock.now_ms(), "waits"),))
        size = resident.history_bytes
        if size >= summary.LARGE and resident.run is not None:
            self.ballast.note(resident.key, size)
        resident.summary = summary.encode(
            resident.instance, self._bounds, journal_bytes=resident.journal_bytes, size=size
        )
        row = self.row(resident)
        unsent, resident.unsent = resident.unsent, []
        tenant, name = resident.key
        size = RECORD_BYTES
        records: list[Append] = []
        last = resident.instance.sequence
        shown = len(row.summary) + len(row.attributes)
        # They are written together, and the last row counts: what is shown need not be there once for each.
        before = row if shown <= RECORD_BYTES else msgspec.structs.replace(row, summary=b"", attributes=b"")
        for sequence, (data, carried) in enumerate(unsent, start=last - len(unsent) + 1):
            size += RECORD_BYTES + len(data)
            if carried is not None:
                size += len(carried)
            records.append(Append(tenant, name, sequence, data, carried, row if sequence == last else before))
        size += shown
        if not records:
            records.append(Append(tenant, name, 0, b"", None, row))
        commit = Commit(self, resident, last, row, landing)
        self.committer.submit(records, size, commit.done)
        return commit

    def row(self, resident: Resident) -> Row:
        instance = resident.instance
        start = instance.start
        state = instance.state(is_resting=resident.is_resting)
        timer_ms = (
            instance.next_wake_ms() if state == "waiting" or (state == "undoing" and resident.is_resting) else None
        )
        return Row(
            state,
            self.obligations.wake_at_ms(resident, state, timer_ms),
            start.workflow,
            start.commit,
            start.at_ms,
            instance.updated_at_ms,
            resident.summary,
            instance.attributes,
        )

    def committed(self, commit: Commit, error: PerdureError | None) -> None:
        """Act upon what is durable now, or was not written."""
        resident = commit.resident
        if error is not None:
            self.losses.lose(resident, error)
        else:
            resident.durable = max(resident.durable, commit.sequence)
            self._forget_past(resident)
            row = commit.row
            if row.wake_at_ms is not None:
                self.timers.rest_until(row.wake_at_ms)
            key = resident.key
            resident.row = stored = StoredRow(*key, 0, commit.sequence, row)
            if key in self.watchers:
                self.watchers.changed(key, stored, resident.instance.outcome if row.state in FINAL else None)
            self.settle(resident)
        if commit.landing is not None:
            commit.landing.set()

    def _forget_past(self, resident: Resident) -> None:
        """Once a new execution is durable, the oldest of what was before it may go."""
        journal = resident.journal
        if resident.forgotten < journal.first <= resident.durable:
            resident.forgotten = journal.first
            needed = list(journal.earlier())
            self.store.forget(*resident.key, before=journal.first, but=needed, keep_bytes=self.limits.history_bytes_max)

    def settle(self, resident: Resident) -> None:
        """Do what the durable state asks for: send entries on, start a run, end one, leave memory."""
        if resident.is_lost:
            return
        instance = resident.instance
        if instance.children or instance.to_close or instance.outcome is not None:  # else it owes nothing
            self.obligations.tend(resident)
        if resident.run is not None:
            self.runner.settle(resident)
        if resident.run is None:
            if resident.durable and resident.needs_run:
                size = resident.history_bytes
                self.ballast.queued(resident.key, size)
                self.queue.put(resident.key, priority=resident.priority, limits=resident.limits)
                # A long journal is read again, if need be, when it is known that there is room for it.
                is_much = size >= summary.LARGE or len(self.queue) > QUEUED_IN_MEMORY_MAX
                if is_much and resident.can_wait_on_disk:
                    self.residents.forget(resident)
            else:
                self.residents.evict(resident)

    async def commit_and_wait(
        self, resident: Resident, entries: Sequence[AnyEntry], *, row_alone: bool = False
    ) -> None:
        """Durable on return. No entries: what is under way already is, and with `row_alone` the row."""
        if not entries and not row_alone:
            # "It is so already" may rest on a commit of another caller that is still under way.
            await self.until_durable(resident, resident.instance.sequence)
        else:
            landing = Landing()
            self.commit(resident, entries, landing=landing)
            await landing.wait()
        if resident.loss is not None:
            raise resident.loss

    async def until_durable(self, resident: Resident, sequence: int) -> None:
        """Return once the disk has its journal up to `sequence`, or it is lost."""
        if resident.durable >= sequence or resident.is_lost:
            return
        async with self.watchers.watching(resident.key) as watch:
            while resident.durable < sequence and not resident.is_lost:
                await watch.wait()

    # --- time

    def _alarm(self, key: Key) -> None:
        resident = self.residents.get(key)
        if resident is not None and resident.run is not None and not resident.is_lost:
            self.runner.on_time(resident)
