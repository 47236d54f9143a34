"""Scheduler: the one task that fires schedules.

A time that is due is first written down as pending, together with the cursor that leaves it behind; then the instance
is started, under an id that derives from the schedule and the time; then what became of it is written down. A crash
between any two of them is followed by the same start once more, which finds the instance: fired at least once, started
exactly once. A time that is not later than the cursor is never looked at again, whatever the clock says.

Which of the times that came while nothing could fire are made up for is `core.schedule.plan`'s; whether a firing waits
for an earlier instance, ends it or is left out is decided here, when its turn comes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

import msgspec
import trio

from executor.core import schedule
from executor.core.errors import PerdureError, Unavailable
from executor.core.schedule import ScheduleSpec
from executor.ports import Advanced, Clock, Pending, ScheduleRow, ScheduleStore, Settled
from executor.views import FiringView

T = TypeVar("T")

BATCH = 100
PENDING_MAX = 100
"""Times of one schedule that may be pending. What is due beyond them stays undecided, and may come to be missed."""
PENDING_RECHECK_MS = 1_000
RETRY_FIRST_MS = 1_000
RETRY_MOST_MS = 60_000
RETRY_FOR_MS = 86_400_000
"""A time that could not be fired for so long is given up."""
UNREADABLE_RECHECK_MS = 3_600_000
ACT_S_MAX = 60.0
"""A start that takes longer is tried again: it may be waiting for a process that does not answer."""

logger = logging.getLogger(__name__)


class ScheduledRuns(Protocol):
    """What a schedule does with instances. All may raise PerdureErrors; Unavailable is tried again."""

    async def start(self, pending: Pending, instance: str) -> str:
        """Start it, durably; nothing if this very start has been made. The instance: another one if the workflow's own
        flow control lets this start replace its payload. Raises Conflict (`singleton_exists`)."""
        ...

    async def has_ended(self, tenant: str, instance: str) -> bool:
        """Also True if it does not exist any more."""
        ...

    async def until_ended(self, tenant: str, instance: str) -> None: ...
    async def end(self, tenant: str, instance: str, *, by: str) -> None:
        """Terminate it; nothing if it has ended."""

    async def declared(self, tenant: str) -> list[ScheduleRow]:
        """What the version on channel `live` declares, as of now; [] if there is none."""
        ...

    async def tenants(self) -> list[str]: ...


class _Waits(NamedTuple):
    """A firing that waits until `instance` has ended."""

    pending: Pending
    instance: str


class Scheduler:
    def __init__(self, store: ScheduleStore, clock: Clock, runs: ScheduledRuns) -> None:
        self._store = store
        self._clock = clock
        self._runs = runs
        self._poked = trio.Event()
        self._changed: set[str] = set()
        self._declaring = trio.Lock()
        self._nursery: trio.Nursery | None = None

    # --- told by others

    def changed(self, tenant: str) -> None:
        """A channel of the tenant may have moved."""
        self._changed.add(tenant)
        self._poked.set()

    def poke(self) -> None:
        """Something may be due earlier than before."""
        self._poked.set()

    async def declare(self, tenant: str) -> None:
        """Take over what the tenant's version declares, if it may have changed; durable on return."""
        async with self._declaring:
            if tenant in self._changed:
                self._changed.discard(tenant)
                try:
                    rows = await self._runs.declared(tenant)
                    await _in_thread(lambda: self._store.declare(tenant, rows))
                except BaseException:
                    self._changed.add(tenant)
                    raise

    async def forget(self, tenant: str) -> None:
        """The tenant is being deleted."""
        async with self._declaring:
            self._changed.discard(tenant)
            await _in_thread(lambda: self._store.delete_tenant(tenant))

    # --- the task

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Fire what is due, until cancelled. Raises Corrupt: schedules cannot be worked on any more."""
        self._changed.update(await self._runs.tenants())
        for tenant in await _in_thread(self._store.tenants):
            if tenant not in self._changed:  # a crash came between the deletion of its code and of its schedules
                await self.forget(tenant)
        async with trio.open_nursery() as self._nursery:
            # Whoever waited for an instance to end looks at it anew.
            waiting = await _in_thread(self._store.waiting)
            again = [msgspec.structs.replace(one, retry_at_ms=0) for one in waiting]
            await _in_thread(lambda: self._store.settle([], again))
            task_status.started()
            while True:
                self._poked = trio.Event()
                try:
                    at_ms = await self.turn()
                except Unavailable as error:
                    logger.warning("schedules cannot be worked on now: %s", error.message)
                    at_ms = self._clock.now_ms() + RETRY_FIRST_MS
                if at_ms is None or at_ms > self._clock.now_ms():
                    await self._until(at_ms)

    async def turn(self) -> int | None:
        """Do what is due. When to look again; None: once something has changed."""
        again_ms = await self._declare_changed()
        now_ms = self._clock.now_ms()
        due = await _in_thread(lambda: self._store.due(now_ms, limit=BATCH))
        if due:
            await _in_thread(lambda: self._store.advance([self._decided(row, now_ms) for row in due]))
        startable = await _in_thread(lambda: self._store.startable(now_ms, limit=BATCH))
        if startable:
            await self._fire(startable)
        if due or startable:
            return now_ms
        next_ms = await _in_thread(self._store.next_ms)
        return min((at for at in (again_ms, next_ms) if at is not None), default=None)

    async def _until(self, at_ms: int | None) -> None:
        async with trio.open_nursery() as nursery:

            async def poked() -> None:
                await self._poked.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(poked)
            if at_ms is not None:
                await self._clock.sleep_until_ms(at_ms)
                nursery.cancel_scope.cancel()

    async def _declare_changed(self) -> int | None:
        for tenant in list(self._changed):
            try:
                await self.declare(tenant)
            except PerdureError as error:
                logger.warning("schedules of a version cannot be taken over: %s", error, extra={"tenant": tenant})
        return self._clock.now_ms() + RETRY_FIRST_MS if self._changed else None

    # --- what is due

    def _decided(self, row: ScheduleRow, now_ms: int) -> Advanced:
        """What to do about the times of a schedule that are due."""
        try:
            if len(self._store.pending(row.tenant, row.name)) >= PENDING_MAX:
                return _undecided(row, now_ms + PENDING_RECHECK_MS)
            spec = spec_of(row)
            plan = schedule.plan(spec, row.name, row.cursor_ms, now_ms)
            due_ms = schedule.due_ms(spec, row.name, plan.cursor_ms)
        except PerdureError as error:  # its time zone is not known any more, for instance
            logger.warning(
                "a schedule cannot be worked on: %s", error, extra={"tenant": row.tenant, "schedule": row.name}
            )
            failed = FiringView(scheduled_ms=now_ms, at_ms=now_ms, outcome="failed", reason=error.message)
            return msgspec.structs.replace(_undecided(row, now_ms + UNREADABLE_RECHECK_MS), firings=(failed,))
        firings: tuple[FiringView, ...] = ()
        if plan.missed is not None:
            first, last = plan.missed
            reason = "nothing could fire at that time"
            firings = (FiringView(scheduled_ms=first, until_ms=last, at_ms=now_ms, outcome="missed", reason=reason),)
        pending = tuple(
            Pending(
                tenant=row.tenant,
                name=row.name,
                scheduled_ms=at_ms,
                workflow=row.workflow,
                channel=row.channel,
                payload=row.payload,
            )
            for at_ms in plan.fire
        )
        return Advanced(row=row, pending=pending, firings=firings, cursor_ms=plan.cursor_ms, due_ms=due_ms)

    # --- firing

    async def _fire(self, startable: Sequence[tuple[ScheduleRow, Pending]]) -> None:
        """Each is of another schedule, so they may go together, and share the fsync of their instances."""
        done: list[Settled | Pending | _Waits] = []

        async def one(row: ScheduleRow, pending: Pending) -> None:
            done.append(await self._acted(row, pending))

        async with trio.open_nursery() as nursery:
            for row, pending in startable:
                nursery.start_soon(one, row, pending)
        settled = [item for item in done if isinstance(item, Settled)]
        waits = [item for item in done if isinstance(item, _Waits)]
        delayed = [item for item in done if isinstance(item, Pending)] + [item.pending for item in waits]
        await _in_thread(lambda: self._store.settle(settled, delayed))
        # Only now: one that ends at once would be told of before it is written down that somebody waits for it.
        for item in waits:
            assert self._nursery is not None, "only a running scheduler lets a firing wait"
            self._nursery.start_soon(self._retry_when_ended, item.pending, item.instance)

    async def _acted(self, row: ScheduleRow, pending: Pending) -> Settled | Pending | _Waits:
        try:
            with trio.fail_after(ACT_S_MAX):
                return await self._act(row, pending)
        except (Unavailable, trio.TooSlowError) as error:
            reason = error.message if isinstance(error, Unavailable) else f"no answer in {ACT_S_MAX:g} s"
            now_ms = self._clock.now_ms()
            if now_ms - pending.scheduled_ms < RETRY_FOR_MS:
                pause_ms = min(RETRY_MOST_MS, RETRY_FIRST_MS << min(pending.attempts, 16))
                return msgspec.structs.replace(
                    pending, attempts=pending.attempts + 1, retry_at_ms=now_ms + pause_ms, reason=reason
                )
            return self._settled(pending, "failed", row.running, reason=reason)
        except PerdureError as error:
            outcome = "skipped" if error.code == "singleton_exists" else "failed"
            return self._settled(pending, outcome, row.running, reason=f"{error.message} [{error.code}]")
        except Exception:  # whatever it is, the other schedules go on
            logger.exception("a schedule could not be fired", extra={"tenant": row.tenant, "schedule": row.name})
            return self._settled(pending, "failed", row.running, reason="a fault of the platform [internal]")

    async def _act(self, row: ScheduleRow, pending: Pending) -> Settled | Pending | _Waits:
        instance = schedule.instance_id(pending.name, pending.scheduled_ms)
        overlap = spec_of(row).overlap
        running: list[str] = []
        if overlap != "allow":
            running = [found for found in row.running if not await self._runs.has_ended(row.tenant, found)]
        if running and overlap == "skip":
            reason = f'"{running[-1]}" has not ended'
            return self._settled(pending, "skipped", tuple(running), reason=reason)
        if running and overlap == "queue":
            reason = f'"{running[0]}" has not ended'
            return _Waits(msgspec.structs.replace(pending, retry_at_ms=None, reason=reason), running[0])
        for found in running:
            await self._runs.end(row.tenant, found, by=f"schedule {row.name}")
        instance = await self._runs.start(pending, instance)
        return self._settled(pending, "fired", () if overlap == "allow" else (instance,), instance=instance)

    def _settled(
        self,
        pending: Pending,
        outcome: str,
        running: tuple[str, ...],
        *,
        instance: str | None = None,
        reason: str = "",
    ) -> Settled:
        firing = FiringView(
            scheduled_ms=pending.scheduled_ms,
            at_ms=self._clock.now_ms(),
            outcome=outcome,  # type: ignore[arg-type]  # given by literals above
            instance=instance,
            reason=reason,
        )
        return Settled(pending=pending, firing=firing, running=running)

    async def _retry_when_ended(self, pending: Pending, instance: str) -> None:
        try:
            await self._runs.until_ended(pending.tenant, instance)
        except PerdureError as error:
            logger.warning("an instance cannot be watched: %s", error, extra={"tenant": pending.tenant})
            await self._clock.sleep_until_ms(self._clock.now_ms() + RETRY_FIRST_MS)
        ready = msgspec.structs.replace(pending, retry_at_ms=0)
        while True:
            try:
                await _in_thread(lambda: self._store.settle([], [ready]))
                break
            except Unavailable:
                await self._clock.sleep_until_ms(self._clock.now_ms() + RETRY_FIRST_MS)
        self.poke()


def spec_of(row: ScheduleRow) -> ScheduleSpec:
    return msgspec.json.decode(row.spec, type=ScheduleSpec)


def _undecided(row: ScheduleRow, due_ms: int) -> Advanced:
    return Advanced(row=row, pending=(), firings=(), cursor_ms=row.cursor_ms, due_ms=due_ms)


async def _in_thread(function: Callable[[], T]) -> T:
    return await trio.to_thread.run_sync(function)
