"""What the task of schedules does with instances and versions, on the platform's own behalf."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Literal

import msgspec
import trio

from executor.core import schedule, values
from executor.core.errors import Conflict, NotFound, PerdureError
from executor.core.lifecycle import FINAL
from executor.ports import Clock, CodeSource, Instances, Pending, ScheduleRow, Seen
from executor.service.admission import Admission

LIVE = "live"
"""The channel whose version's declarations count."""
DECLARED_MAX = 1_000
"""Of a tenant."""
HELD_RECHECK_MS = 30_000
"""A held instance has not ended, and may stay so for days: it is looked at again after this."""

Start = Callable[[Pending, str], Awaitable[Seen]]

logger = logging.getLogger(__name__)


class PlatformRuns:
    """See `executor.schedules.scheduler.ScheduledRuns`. The platform itself asks: nobody's permission is looked at."""

    def __init__(
        self, instances: Instances, code: CodeSource, clock: Clock, admission: Admission, start: Start
    ) -> None:
        """`admission`: bounds how many are waited for. `start`: makes the instance of a pending time, or finds it."""
        self._admission = admission
        self._instances = instances
        self._code = code
        self._clock = clock
        self._start = start

    async def start(self, pending: Pending, instance: str) -> str:
        return (await self._start(pending, instance)).row.instance

    async def has_ended(self, tenant: str, instance: str) -> bool:
        try:
            seen = await self._instances.status(tenant, instance)
        except NotFound:
            return True
        return seen.row.row.state in FINAL

    async def until_ended(self, tenant: str, instance: str) -> None:
        while True:
            self._admission.begin_waiting()
            try:
                seen = await self._instances.outcome(tenant, instance, wait_s=None)
            except NotFound:
                return
            finally:
                self._admission.end_waiting()
            if seen.row.row.state in FINAL:
                return
            await self._clock.sleep_until_ms(self._clock.now_ms() + HELD_RECHECK_MS)

    async def end(self, tenant: str, instance: str, *, by: str) -> None:
        try:
            await self._instances.terminate(tenant, instance, by=by)
        except (NotFound, Conflict):
            if not await self.has_ended(tenant, instance):
                raise

    async def tenants(self) -> list[str]:
        return [tenant.name for tenant in await trio.to_thread.run_sync(self._code.tenants)]

    async def declared(self, tenant: str) -> list[ScheduleRow]:
        try:
            version = await trio.to_thread.run_sync(self._code.version, tenant, LIVE)
        except NotFound:
            return []
        now_ms = self._clock.now_ms()
        found: list[ScheduleRow] = []
        for workflow in version.workflows:
            for position, value in enumerate(workflow.schedule, start=1):
                name = schedule.declared_name(workflow.name, position)
                try:
                    spec, payload = schedule.parse_declared(value)
                    encoded = values.encode(payload, what="payload")
                except PerdureError as error:  # it was right at the push; time zones come and go with the machine
                    logger.warning("a declared schedule cannot be read: %s", error, extra={"schedule": name})
                    continue
                found.append(
                    new_row(tenant, name, workflow.name, payload=encoded, spec=spec, now_ms=now_ms, origin="code")
                )
        return found[:DECLARED_MAX]


def new_row(
    tenant: str,
    name: str,
    workflow: str,
    *,
    payload: bytes,
    spec: schedule.ScheduleSpec,
    now_ms: int,
    channel: str = LIVE,
    origin: Literal["api", "code"] = "api",
) -> ScheduleRow:
    """A new schedule: it fires at its first time after now."""
    return ScheduleRow(
        tenant=tenant,
        name=name,
        workflow=workflow,
        channel=channel,
        origin=origin,
        payload=payload,
        spec=msgspec.json.encode(spec),
        created_at_ms=now_ms,
        cursor_ms=now_ms,
        due_ms=schedule.due_ms(spec, name, now_ms),
    )
