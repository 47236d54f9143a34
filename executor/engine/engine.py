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
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from executor.core import codec, decide, summary
from executor.core.entries import AnyEntry, Held, Paused, Resumed, Started, Terminated, Unheld
from executor.core.errors import Conflict, Corrupt, NotFound, PerdureError, Unavailable
from executor.core.failure import ErrorFact
from executor.core.instance import Instance, fold
from executor.core.lifecycle import ACTIVE, FINAL, State, check
from executor.engine.committer import Committer
from executor.engine.output import OutputBuffer
from executor.engine.resident import Key, Resident
from executor.engine.runner import Runner
from executor.engine.scheduler import FairQueue
from executor.engine.timers import Timers
from executor.engine.watchers import Watchers
from executor.ports import Append, Clock, CodeSource, Row, SandboxHost, StateStore, StoredRow

log = logging.getLogger(__name__)

SEED_BYTES = 16
RECOVERY_PAGE = 1_000
FULL_DISK_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """`active_runs_max`: runs in sandboxes at once; `sandboxes_max`: sandbox processes; `sandbox_idle_s`: how long an
    unused one is kept; `deaths_max`: how often an instance's sandbox may die without progress before it is held;
    `stop_grace_s`: how long executing steps may take to finish when the executor stops."""

    active_runs_max: int = 2_000
    sandboxes_max: int = 64
    sandbox_idle_s: float = 30.0
    deaths_max: int = 5
    queued_max: int = 100_000
    stop_grace_s: float = 5.0


class Engine:
    """See the module's text. `running()` is its life; every other method needs it to be running."""

    def __init__(
        self, store: StateStore, code: CodeSource, host: SandboxHost, clock: Clock, limits: EngineLimits
    ) -> None:
        self.store = store
        self.clock = clock
        self.limits = limits
        self.watchers = Watchers()
        self.output = OutputBuffer(store, self.watchers.changed)
        self.committer = Committer(store)
        self.queue = FairQueue()
        self.timers = Timers(store, clock, on_due=self._wake_rows, on_alarm=self._alarm)
        self.runner = Runner(self, host, code)
        self._residents: dict[Key, Resident] = {}
        self._loading: dict[Key, trio.Event] = {}
        self._deleting: set[str] = set()
        self._beginning: set[Key] = set()
        """Instances whose last commit was refused and that begin again after a pause."""
        self._nursery: trio.Nursery | None = None
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

    async def _tasks(
        self, scope: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with scope:
            scope.shield = True
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self.committer.run)
                nursery.start_soon(self.output.run)
                await nursery.start(self.runner.run)
                await self._recover()
                nursery.start_soon(self.timers.run)
                task_status.started()

    async def _recover(self) -> None:
        after = 0
        while True:
            page_after = after
            rows = await trio.to_thread.run_sync(
                lambda: self.store.in_states(ACTIVE, limit=RECOVERY_PAGE, after=page_after)  # noqa: B023 - awaited here
            )
            for row in rows:
                self.queue.put((row.tenant, row.instance))
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

    async def start(self, key: Key, *, workflow: str, commit: str, payload: bytes, is_new: bool = False) -> bool:
        """Make the instance, durably. False: it is there already with the same workflow and payload.

        `is_new`: the id was drawn just now and cannot be taken; the store is not asked.

        Raises Conflict (`instance_exists`), Unavailable (`busy`, `shutting_down`, `storage_full`).
        """
        self._check_accepting()
        if is_new:
            self._residents[key] = Resident(key, Instance(), [], 0, is_resting=False)
        async with self.hold(key, create=True) as resident:
            instance = resident.instance
            if instance.sequence:
                await self._until_durable(resident, instance.sequence)
                there = instance.start
                if (there.workflow, there.payload) == (workflow, payload):
                    return False
                raise Conflict(
                    f'an instance with id "{key[1]}" exists with another workflow or payload',
                    code="instance_exists",
                    hint="Use another id, or the same workflow and payload to get the existing instance.",
                    workflow=there.workflow,
                )
            now_ms = self.clock.now_ms()
            started = Started(now_ms, workflow, commit, payload, secrets.token_bytes(SEED_BYTES))
            await self._commit_and_wait(resident, (started,))
            return True

    async def send_event(self, key: Key, *, id: str, type: str, payload: bytes) -> bool:
        """Take an event in, durably. False: an event of this id is there already.

        Raises NotFound, Conflict (`instance_finished`, `event_exists`).
        """
        async with self.hold(key) as resident:
            decided = decide.on_event(resident.instance, id=id, type=type, payload=payload, now_ms=self.clock.now_ms())
            if decided.entries:
                # A repeated one is known by its id even when the instance has ended on it.
                check("send_event", self._state(resident), key[1])
            await self._commit_and_wait(resident, decided.entries)
            return bool(decided.entries)

    async def pause(self, key: Key) -> None:
        """Stop before the next step, durably; steps that execute finish and are journaled."""
        async with self.hold(key) as resident:
            if check("pause", self._state(resident), key[1]):
                await self._commit_and_wait(resident, (Paused(self.clock.now_ms()),))

    async def resume(self, key: Key) -> None:
        """Go on after a pause; or try again after being held."""
        async with self.hold(key) as resident:
            if check("resume", self._state(resident), key[1]):
                now_ms = self.clock.now_ms()
                entry: AnyEntry = Unheld(now_ms) if resident.instance.held is not None else Resumed(now_ms)
                resident.is_resting = False
                resident.deaths = 0
                await self._commit_and_wait(resident, (entry,))

    async def terminate(self, key: Key) -> None:
        """End it now, durably; what executes is cancelled."""
        async with self.hold(key) as resident:
            if check("terminate", self._state(resident), key[1]):
                await self._commit_and_wait(resident, (Terminated(self.clock.now_ms()),))

    async def delete(self, key: Key) -> None:
        """Remove everything of an ended instance, durably."""
        async with self.hold(key) as resident:
            check("delete", self._state(resident), key[1])
            await self._until_durable(resident, resident.instance.sequence)
            self._forget(resident)
            await self.committer.exclusive(lambda: self.store.delete(*key))
        self.watchers.changed(key)

    async def delete_tenant(self, tenant: str) -> None:
        """Remove all instances of a tenant, durably, whatever state they are in."""
        self._deleting.add(tenant)
        try:
            for resident in [resident for key, resident in self._residents.items() if key[0] == tenant]:
                self.runner.drop(resident)
                resident.is_lost = True
                self._forget(resident)
            await self.committer.drain()
            await self.committer.exclusive(lambda: self.store.delete_tenant(tenant))
        finally:
            self._deleting.discard(tenant)

    def active_counts(self) -> tuple[int, int]:
        """Runs and sandboxes at this moment."""
        return self.runner.run_count, self.runner.sandbox_count

    # --- residents

    @asynccontextmanager
    async def hold(self, key: Key, *, create: bool = False) -> AsyncGenerator[Resident]:
        """The instance in memory, kept there for the block. Raises NotFound (`instance_not_found`), Corrupt."""
        resident = await self.load(key, create=create)
        resident.holds += 1
        try:
            yield resident
        finally:
            resident.holds -= 1
            self.evict(resident)

    async def load(self, key: Key, *, create: bool = False) -> Resident:
        """The resident of `key`, read from the store if need be; the caller must hold or use it without an await."""
        while True:
            if key[0] in self._deleting:
                raise NotFound(f'there is no tenant "{key[0]}"', code="tenant_not_found")
            resident = self._residents.get(key)
            if resident is not None:
                return resident
            loading = self._loading.get(key)
            if loading is None:
                break
            await loading.wait()
        self._loading[key] = trio.Event()
        try:
            row, stored = await trio.to_thread.run_sync(self._read, key)
            if row is None and not create:
                raise NotFound(
                    f'tenant "{key[0]}" has no instance "{key[1]}"',
                    code="instance_not_found",
                    hint="List the tenant's instances to see which there are.",
                )
            instance = fold(codec.decode_journal(stored))
            is_resting = row is not None and row.row.state == "waiting"
            resident = Resident(key, instance, stored, instance.sequence, is_resting)
            self._residents[key] = resident
            return resident
        finally:
            self._loading.pop(key).set()

    def _read(self, key: Key) -> tuple[StoredRow | None, list[bytes]]:
        row = self.store.row(*key)
        if row is None:
            return None, []
        stored = self.store.journal(*key)
        if len(stored) < row.sequence:
            raise Corrupt(
                f'instance "{key[1]}" has {len(stored)} journal entries, its row says {row.sequence}',
                code="corrupt_journal",
            )
        return row, stored

    def evict(self, resident: Resident) -> None:
        """Let it leave memory if nobody works on it."""
        if resident.is_evictable:
            self._forget(resident)

    def _forget(self, resident: Resident) -> None:
        if self._residents.get(resident.key) is resident:
            del self._residents[resident.key]

    def resident(self, key: Key) -> Resident | None:
        """The resident of `key`, if there is one."""
        return self._residents.get(key)

    def _state(self, resident: Resident) -> State:
        return resident.instance.state(is_resting=resident.is_resting)

    # --- the commit path

    def commit(
        self,
        resident: Resident,
        entries: Sequence[AnyEntry],
        delta: bytes | None = None,
        *,
        durable: trio.Event | None = None,
        more_follow: bool = False,
    ) -> None:
        """Apply `entries` and hand them to the committer; none: write the row alone. See the module's text.

        `more_follow`: another commit comes in this same moment, so the row may keep its last summary: making one costs
        as much as there are waits, and a turn may bring thousands.
        """
        instance = resident.instance
        before = instance.resolved_at
        encoded: list[bytes] = []
        for entry in entries:
            instance.apply(entry)
            encoded.append(codec.encode(entry, instance.chain))
        if instance.resolved_at != before or instance.sequence == len(entries):
            resident.is_resting = False
        resident.stored.extend(encoded)
        if not more_follow:
            resident.summary = summary.encode(instance)
        row = self._row(resident)
        first = instance.sequence - len(encoded) + 1
        tenant, name = resident.key
        records = [
            Append(tenant, name, first + index, data, delta if index == 0 else None, row)
            for index, data in enumerate(encoded)
        ] or [Append(tenant, name, 0, b"", None, row)]
        sequence = instance.sequence
        self.committer.submit(records, lambda error: self._committed(resident, sequence, row, durable, error))

    def _row(self, resident: Resident) -> Row:
        instance = resident.instance
        start = instance.start
        state = instance.state(is_resting=resident.is_resting)
        return Row(
            state,
            instance.next_wake_ms() if state == "waiting" else None,
            start.workflow,
            start.commit,
            start.at_ms,
            instance.updated_at_ms,
            resident.summary,
        )

    def _committed(
        self,
        resident: Resident,
        sequence: int,
        row: Row,
        durable: trio.Event | None,
        error: PerdureError | None,
    ) -> None:
        if error is not None:
            self._lose(resident, error)
        else:
            resident.durable = max(resident.durable, sequence)
            self.timers.rest_until(row.wake_at_ms)
            tenant, name = resident.key
            outcome = resident.instance.outcome if row.state in FINAL else None
            self.watchers.changed(resident.key, StoredRow(tenant, name, 0, sequence, row), outcome)
            self.settle(resident)
        if durable is not None:
            durable.set()

    def settle(self, resident: Resident) -> None:
        """Do what the durable state asks for: send entries on, start a run, end one, leave memory."""
        if resident.is_lost:
            return
        self.runner.settle(resident)
        if resident.needs_run and resident.run is None and resident.durable and not resident.is_queued:
            resident.is_queued = True
            self.queue.put(resident.key)
        self.evict(resident)

    def _lose(self, resident: Resident, error: PerdureError) -> None:
        """Its last commit was not written: memory is ahead of the disk. Drop it, and begin again from the disk."""
        if resident.is_lost:
            return
        resident.is_lost = True
        resident.loss = error
        self.runner.drop(resident)
        self._forget(resident)
        self.watchers.changed(resident.key)
        if self.committer.is_over:
            return
        if resident.durable and self._nursery is not None and resident.key not in self._beginning:
            self._beginning.add(resident.key)
            self._nursery.start_soon(self._begin_again, resident.key, error)

    async def _begin_again(self, key: Key, error: PerdureError) -> None:
        try:
            if isinstance(error, Unavailable):
                await trio.sleep(FULL_DISK_PAUSE_S)
            self._beginning.discard(key)
            async with self.hold(key) as resident:
                if isinstance(error, Unavailable):
                    # Nothing may execute before there is room for its result: the row, as it is, tries it out.
                    await self._commit_and_wait(resident, (), row_alone=True)
                else:
                    # What the run asked for breaks a limit of the store, and would again: a person has to look.
                    held = Held(self.clock.now_ms(), "limit_exceeded", error.message, None, None)
                    await self._commit_and_wait(resident, (held,))
        except NotFound:
            return  # Deleted meanwhile.
        except Unavailable:
            return  # Refused again: that began another pause.
        except Corrupt as corrupt:
            await self.hold_corrupt(key, corrupt)

    async def _commit_and_wait(
        self, resident: Resident, entries: Sequence[AnyEntry], *, row_alone: bool = False
    ) -> None:
        """Durable on return. No entries: what is under way already is, and with `row_alone` the row."""
        if not entries and not row_alone:
            await self._until_durable(resident, resident.instance.sequence)
            return
        durable = trio.Event()
        self.commit(resident, entries, durable=durable)
        # Shielded: the caller may go away, but what was handed to the disk will be there.
        with trio.CancelScope(shield=True):
            await durable.wait()
        if resident.loss is not None:
            raise resident.loss

    async def _until_durable(self, resident: Resident, sequence: int) -> None:
        async with self.watchers.watching(resident.key) as watch:
            while resident.durable < sequence and not resident.is_lost:
                await watch.wait()

    def _check_accepting(self) -> None:
        if self.is_stopping:
            raise Unavailable("the executor is stopping", code="shutting_down", hint="Try again when it is back.")
        if len(self.queue) >= self.limits.queued_max:
            raise Unavailable(
                f"{len(self.queue)} instances wait for their turn, the limit is {self.limits.queued_max}",
                code="busy",
                hint="Try again after a second.",
                retry_after_s=1,
            )

    # --- time

    async def _wake_rows(self, rows: list[StoredRow]) -> None:
        """Make rows that are due no longer due: their timers are journaled, their instances queued."""
        limiter = trio.CapacityLimiter(8)
        async with trio.open_nursery() as nursery:
            for row in rows:
                nursery.start_soon(self._wake_row, (row.tenant, row.instance), limiter)
        if any((row.tenant, row.instance) in self._beginning for row in rows):
            # The disk is full: they are still due, and would be asked for again at once.
            await trio.sleep(FULL_DISK_PAUSE_S)

    async def _wake_row(self, key: Key, limiter: trio.CapacityLimiter) -> None:
        if key in self._beginning:
            return
        try:
            async with limiter, self.hold(key) as resident:
                # The store may be behind a commit that is under way: let it catch up before asking it again.
                await self._until_durable(resident, resident.instance.sequence)
                if self._state(resident) == "waiting" and not resident.is_lost:
                    await self._fire(resident)
        except NotFound:
            return
        except Corrupt as corrupt:
            await self.hold_corrupt(key, corrupt)

    async def _fire(self, resident: Resident) -> None:
        now_ms = self.clock.now_ms()
        wake_at_ms = resident.instance.next_wake_ms()
        if wake_at_ms is None or wake_at_ms > now_ms:
            # Only the row is stale (a lost hint): write it again.
            entries: tuple[AnyEntry, ...] = ()
        else:
            entries = decide.on_clock(resident.instance, now_ms).entries
            resident.is_resting = False
        durable = trio.Event()
        self.commit(resident, entries, durable=durable)
        await durable.wait()

    def _alarm(self, key: Key) -> None:
        resident = self._residents.get(key)
        if resident is not None and resident.run is not None and not resident.is_lost:
            self.runner.on_time(resident)

    async def hold_corrupt(self, key: Key, corrupt: Corrupt) -> None:
        """A journal that cannot be read: take the instance out of the index of due ones, keep its bytes."""
        log.error("instance cannot be read", extra={"tenant": key[0], "instance": key[1], "error": str(corrupt)})
        row = await trio.to_thread.run_sync(self.store.row, *key)
        if row is None:
            return
        fact = summary.encode_error(ErrorFact("Corrupt", corrupt.message, "", False, corrupt.code))
        old = row.row
        held = Row("held", None, old.workflow, old.commit, old.created_at_ms, self.clock.now_ms(), fact)
        durable = trio.Event()
        self.committer.submit([Append(*key, 0, b"", None, held)], lambda _error: durable.set())
        await durable.wait()
        self.watchers.changed(key)
