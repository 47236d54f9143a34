"""FakeSchedules: the schedule part of FakeService over a dict. Times are real arithmetic from a standing clock; nothing
fires by itself."""

from __future__ import annotations

from typing import Any

import msgspec

from executor.core import schedule
from executor.core.errors import Conflict, NotFound
from executor.service import Caller
from executor.views import FiringView, ScheduleView, Status

NOW_MS = 1_700_000_000_000


class FakeSchedules:
    """Part of FakeService."""

    schedules_: dict[tuple[str, str], ScheduleView]

    def _schedule(self, caller: Caller, tenant: str, name: str, access: str = "read") -> ScheduleView:
        self._tenant(caller, tenant, access)  # type: ignore[attr-defined]
        found = self.schedules_.get((tenant, name))
        if found is None:
            raise NotFound(f'tenant "{tenant}" has no schedule "{name[:120]}"', code="schedule_not_found")
        return found

    async def schedules(self, caller: Caller, tenant: str) -> list[ScheduleView]:
        self._tenant(caller, tenant)  # type: ignore[attr-defined]
        return [view for (owner, _), view in sorted(self.schedules_.items()) if owner == tenant]

    async def schedule(self, caller: Caller, tenant: str, name: str) -> ScheduleView:
        return self._schedule(caller, tenant, name)

    async def create_schedule(
        self,
        caller: Caller,
        tenant: str,
        workflow: str,
        payload: Any = None,
        *,
        name: str | None,
        channel: str,
        **when: Any,
    ) -> ScheduleView:
        self._tenant(caller, tenant, "write")  # type: ignore[attr-defined]
        spec = schedule.parse_spec(**when)
        name = name or f"sched_{len(self.schedules_) + 1}"
        view = ScheduleView(
            name=name,
            workflow=workflow,
            channel=channel,
            origin="api",
            payload=self._encode(payload),  # type: ignore[attr-defined]
            **{key: getattr(spec, key) for key in spec.__struct_fields__},
            paused=False,
            paused_by="",
            created_at_ms=NOW_MS,
            next_ms=schedule.upcoming(spec, NOW_MS, 10),
            running=[],
            waiting=[],
            firings=[],
        )
        if self.schedules_.setdefault((tenant, name), view) != view:
            raise Conflict(f'a schedule "{name}" exists with another content', code="schedule_exists")
        return view

    async def delete_schedule(self, caller: Caller, tenant: str, name: str) -> None:
        self._schedule(caller, tenant, name, "write")
        del self.schedules_[tenant, name]

    async def pause_schedule(self, caller: Caller, tenant: str, name: str) -> ScheduleView:
        return self._change(caller, tenant, name, paused=True, paused_by=caller.who, next_ms=[])

    async def resume_schedule(self, caller: Caller, tenant: str, name: str) -> ScheduleView:
        return self._change(caller, tenant, name, paused=False, paused_by="")

    async def trigger_schedule(self, caller: Caller, tenant: str, name: str, *, id: str | None = None) -> Status:
        found = self._schedule(caller, tenant, name, "write")
        status: Status = await self.start(caller, tenant, found.workflow, found.payload, id=id)  # type: ignore[attr-defined]
        firing = FiringView(scheduled_ms=NOW_MS, at_ms=NOW_MS, outcome="triggered", instance=status.id)
        if status.id not in [known.instance for known in found.firings]:
            self._change(caller, tenant, name, running=[status.id], firings=[firing, *found.firings])
        return status

    def _change(self, caller: Caller, tenant: str, name: str, **changes: Any) -> ScheduleView:
        found = msgspec.structs.replace(self._schedule(caller, tenant, name, "write"), **changes)
        self.schedules_[tenant, name] = found
        return found
