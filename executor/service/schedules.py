"""Use cases of schedules, and what their task does with instances on the platform's own behalf."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec
import trio

from executor import ports
from executor.core import ids, schedule
from executor.core.entries import StartOptions
from executor.core.errors import Corrupt, NotFound, Refused
from executor.entropy import new_name
from executor.ports import Pending, ScheduleRow, ScheduleStore, Seen
from executor.rendering import readable
from executor.schedules.scheduler import Scheduler, spec_of
from executor.service.access import Caller, ServiceOptions, in_thread
from executor.service.flow_state import FlowState
from executor.service.gate import Gate
from executor.service.instances import Instances, _commit, status_of
from executor.service.scheduled import PlatformRuns, new_row
from executor.views import FiringView, ScheduleView, StartRequest, Status

SCHEDULES_MAX = 1_000
PAYLOAD_BYTES_MAX = 64 * 1024
"""Of a schedule: a list shows all of them."""
"""Of a tenant, made by the API; as many may be declared in its code."""
UPCOMING_SHOWN = 10
FIRINGS_SHOWN = 100

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,79}")
_DECLARED_NAME = re.compile(r"\w{1,200}:\d{1,3}")


class Schedules(Instances):
    """Part of Service. `schedules` None: the service is used without any."""

    def __init__(
        self,
        instances: ports.Instances,
        code: ports.CodeSource,
        clock: ports.Clock,
        options: ServiceOptions,
        *,
        schedules: ScheduleStore | None = None,
        gate: Gate | None = None,
        flow_state: FlowState | None = None,
    ) -> None:
        super().__init__(instances, code, clock, options, gate=gate, flow_state=flow_state)
        self._schedule_store = schedules
        self._scheduler = (
            None
            if schedules is None
            else Scheduler(
                schedules, clock, PlatformRuns(instances, code, clock, self._admission, self._start_scheduled)
            )
        )

    async def run_schedules(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Fire what is due, until cancelled; see `Scheduler.run`."""
        scheduler, _ = self._working()
        await scheduler.run(task_status=task_status)

    async def schedules(self, caller: Caller, tenant: str) -> list[ScheduleView]:
        """All of a tenant by name, each with its next time and its last firing."""
        self.may(caller, tenant, "read")
        await self.known(tenant)
        scheduler, store = self._working()
        await scheduler.declare(tenant)
        return await in_thread(lambda: [self._view(store, row, 1, 1) for row in store.of_tenant(tenant)])

    async def schedule(self, caller: Caller, tenant: str, name: str) -> ScheduleView:
        """With the next 10 times and the last 100 firings. Raises NotFound (`schedule_not_found`)."""
        self.may(caller, tenant, "read")
        store = await self._store_of(tenant, name)
        return await self._shown(store, tenant, name)

    async def create_schedule(
        self,
        caller: Caller,
        tenant: str,
        workflow: str,
        payload: Any = None,
        *,
        name: str | None = None,
        channel: str = "live",
        cron: str | None = None,
        every: str | float | None = None,
        timezone: str = "UTC",
        start: str | None = None,
        end: str | None = None,
        overlap: str = "skip",
        catch_up: str = "last",
        catch_up_window: str | float | None = None,
        jitter: str | float = 0,
    ) -> ScheduleView:
        """A schedule that starts `workflow` on whatever version `channel` is on then. Durable on return.

        The same name with the same content is the existing schedule. Raises Refused (`bad_request`: what is wrong with
        the times; `unknown_workflow`, `not_deployed`, `limit_exceeded`, `invalid_name`), Conflict (`schedule_exists`).
        """
        self.may(caller, tenant, "write")
        await self.known(tenant)
        scheduler, store = self._working()
        encoded = self._encode(payload, "payload")
        if len(encoded) > PAYLOAD_BYTES_MAX:
            raise Refused(
                f"the payload of a schedule is {len(encoded)} bytes, the limit is {PAYLOAD_BYTES_MAX}",
                code="payload_too_large",
                hint="Keep what is large elsewhere, and send a reference.",
            )
        if name is not None and _NAME.fullmatch(name) is None:
            raise Refused(
                f"{name[:80]!r} is not a schedule's name",
                code="invalid_name",
                hint="Use 1 to 80 letters, digits and _ . @ + -, beginning with a letter, a digit or _.",
            )
        spec = schedule.parse_spec(
            cron=cron,
            every=every,
            timezone=timezone,
            start=start,
            end=end,
            overlap=overlap,
            catch_up=catch_up,
            catch_up_window=catch_up_window,
            jitter=jitter,
        )
        startable = self._startables.kept(tenant, channel, None) or await self._startables.find(tenant, channel, None)
        _commit(tenant, workflow, startable)  # a slip in the name is told now, not at six in the morning
        row = new_row(
            tenant,
            name or new_name("sched"),
            workflow,
            payload=encoded,
            spec=spec,
            now_ms=self._clock.now_ms(),
            channel=channel,
        )
        if row.due_ms is None:
            raise Refused("the schedule has no time ahead", code="bad_request", hint="Check its end.")
        await self._write(lambda: store.add(row, count_max=SCHEDULES_MAX))
        scheduler.poke()
        return await self._shown(store, tenant, row.name)

    async def delete_schedule(self, caller: Caller, tenant: str, name: str) -> None:
        """Instances that it started go on. Raises NotFound, Conflict (`invalid_state`: code declares it)."""
        self.may(caller, tenant, "write")
        store = await self._store_of(tenant, name)
        await self._write(lambda: store.delete(tenant, name))

    async def pause_schedule(self, caller: Caller, tenant: str, name: str) -> ScheduleView:
        """Fire nothing until it is resumed; instances that it started go on. Idempotent."""
        self.may(caller, tenant, "write")
        store = await self._store_of(tenant, name)
        await self._write(lambda: store.pause(tenant, name, by=caller.who))
        return await self._shown(store, tenant, name)

    async def resume_schedule(self, caller: Caller, tenant: str, name: str) -> ScheduleView:
        """Go on with the next time from now; what came meanwhile is not made up for. Idempotent."""
        self.may(caller, tenant, "write")
        store = await self._store_of(tenant, name)
        await self._write(lambda: self._resume(store, tenant, name))
        self._working()[0].poke()
        return await self._shown(store, tenant, name)

    def _resume(self, store: ScheduleStore, tenant: str, name: str) -> None:
        while True:
            row = store.get(tenant, name)
            now_ms = self._clock.now_ms()
            due_ms = schedule.due_ms(spec_of(row), name, now_ms)
            if row.paused_by is None or store.resume(
                tenant, name, revision=row.revision, cursor_ms=now_ms, due_ms=due_ms
            ):
                return

    async def trigger_schedule(self, caller: Caller, tenant: str, name: str, *, id: str | None = None) -> Status:
        """Start an instance now, as the schedule would, paused or not and whatever its overlap policy says.

        `id`: of the instance; with one, doing it again is the same firing. Raises what `start` raises, NotFound.
        """
        self.may(caller, tenant, "write")
        store = await self._store_of(tenant, name)
        row = await in_thread(store.get, tenant, name)
        instance = ids.parse_instance_id(id) if id is not None else new_name("run")
        now_ms = self._clock.now_ms()
        seen = await self._start_scheduled(
            Pending(
                tenant=tenant,
                name=name,
                scheduled_ms=now_ms,
                workflow=row.workflow,
                channel=row.channel,
                payload=row.payload,
            ),
            instance,
        )
        firing = FiringView(
            scheduled_ms=now_ms,
            at_ms=now_ms,
            outcome="triggered",
            instance=seen.row.instance,
            reason=f"by {caller.who}",
        )
        await self._write(lambda: store.record(tenant, name, firing))
        return status_of(seen)

    # --- inside

    async def _write(self, write: Callable[[], object]) -> None:
        """Change the store. A store that can be worked on no more stops the executor, whoever found that out."""
        try:
            await in_thread(write)
        except Corrupt:
            self._working()[0].poke()
            raise

    def _moved(self, tenant: str) -> None:
        super()._moved(tenant)
        if self._scheduler is not None:
            self._scheduler.changed(tenant)

    async def _forget_schedules(self, tenant: str) -> None:
        if self._scheduler is not None:
            await self._scheduler.forget(tenant)

    async def _start_scheduled(self, pending: Pending, instance: str) -> Seen:
        """Start an instance for a time of a schedule; the one that is there if it has been made. Durable.

        What the workflow declares as its `flow` counts as for any other start.
        """
        payload = readable(pending.payload)
        request = StartRequest(workflow=pending.workflow, payload=payload, id=instance, channel=pending.channel)
        size = len(pending.payload)
        self._admission.enter(size)
        try:
            await self._gate.enter()
            try:
                wanted = await self._prepared(pending.tenant, request, pending.payload)
                options = msgspec.structs.replace(
                    wanted.start.options or StartOptions(), schedule=pending.name, scheduled_ms=pending.scheduled_ms
                )
                start = msgspec.structs.replace(wanted.start, options=options)
                return await self._flows.start(wanted._replace(start=start))
            finally:
                self._gate.leave()
        finally:
            self._admission.leave(size)

    def _working(self) -> tuple[Scheduler, ScheduleStore]:
        assert self._scheduler is not None, "this service was made without schedules"
        assert self._schedule_store is not None, "a scheduler has a store"
        return self._scheduler, self._schedule_store

    async def _store_of(self, tenant: str, name: str) -> ScheduleStore:
        """The store, with what the tenant's version declares. What can be no schedule's name is not found."""
        scheduler, store = self._working()
        await self.known(tenant)
        await scheduler.declare(tenant)
        if _NAME.fullmatch(name) is None and _DECLARED_NAME.fullmatch(name) is None:
            shown = name[:120].encode("utf-8", "backslashreplace").decode()
            raise NotFound(f'tenant "{tenant}" has no schedule "{shown}"', code="schedule_not_found")
        return store

    async def _shown(self, store: ScheduleStore, tenant: str, name: str) -> ScheduleView:
        return await in_thread(lambda: self._view(store, store.get(tenant, name), UPCOMING_SHOWN, FIRINGS_SHOWN))

    def _view(self, store: ScheduleStore, row: ScheduleRow, upcoming: int, firings: int) -> ScheduleView:
        spec = spec_of(row)
        ahead = [] if row.paused_by is not None else schedule.upcoming(spec, row.cursor_ms, upcoming)
        return ScheduleView(
            name=row.name,
            workflow=row.workflow,
            channel=row.channel,
            origin=row.origin,
            payload=readable(row.payload),
            cron=spec.cron,
            every_ms=spec.every_ms,
            timezone=spec.timezone,
            start_ms=spec.start_ms,
            end_ms=spec.end_ms,
            overlap=spec.overlap,
            catch_up=spec.catch_up,
            catch_up_window_ms=spec.catch_up_window_ms,
            jitter_ms=spec.jitter_ms,
            paused=row.paused_by is not None,
            paused_by=row.paused_by or "",
            created_at_ms=row.created_at_ms,
            next_ms=ahead,
            running=list(row.running),
            waiting=[one.scheduled_ms for one in store.pending(row.tenant, row.name)],
            firings=store.firings(row.tenant, row.name, limit=firings),
        )
