"""A tenant's schedules: workflows that start by themselves."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Literal

from executor.core.errors import Unavailable
from executor.entropy import new_name
from executor.platform import payloads
from executor.platform.asynchronous.caller import AsyncOfTenant
from executor.platform.asynchronous.run import AsyncRun
from executor.views import ScheduleView, Status
from executor.workflow import Workflow


class AsyncSchedules(AsyncOfTenant):
    """Part of AsyncTenant."""

    async def schedules(self) -> list[ScheduleView]:
        """By name, each with its next time and its last firing; those that the live version's code declares too."""
        found: list[ScheduleView] = await self._call("schedules")
        return found

    async def schedule(self, name: str) -> ScheduleView:
        """With the next 10 times and the last 100 firings. Raises NotFound (`schedule_not_found`)."""
        found: ScheduleView = await self._call("schedule", name)
        return found

    async def create_schedule(
        self,
        workflow: str | type[Workflow[Any, Any]],
        payload: Any = None,
        *,
        name: str | None = None,
        channel: str = "live",
        cron: str | None = None,
        every: str | float | timedelta | None = None,
        timezone: str = "UTC",
        start: str | datetime | None = None,
        end: str | datetime | None = None,
        overlap: Literal["skip", "queue", "cancel", "allow"] = "skip",
        catch_up: Literal["none", "last", "all"] = "last",
        catch_up_window: str | float | timedelta | None = None,
        jitter: str | float | timedelta = 0,
    ) -> ScheduleView:
        """Start `workflow` on whatever version `channel` is on then, by `cron` or `every` so long. Durable on return.

        The same name with the same content is the existing schedule; with another it is a Conflict
        (`schedule_exists`). Raises Refused: `bad_request` says what is wrong with the times, `unknown_workflow`,
        `not_deployed`, `limit_exceeded`, `invalid_name`.
        """
        found: ScheduleView = await self._call(
            "create_schedule",
            workflow=payloads.workflow_name(workflow),
            payload=payloads.value_of(payload),
            name=name,
            channel=channel,
            cron=cron,
            every=payloads.duration_of(every),
            timezone=timezone,
            start=payloads.moment_of(start),
            end=payloads.moment_of(end),
            overlap=overlap,
            catch_up=catch_up,
            catch_up_window=payloads.duration_of(catch_up_window),
            jitter=payloads.duration_of(jitter),
        )
        return found

    async def delete_schedule(self, name: str) -> None:
        """Its instances go on. Raises NotFound (`schedule_not_found`), Conflict (`invalid_state`: code declares it)."""
        await self._call("delete_schedule", name)

    async def pause_schedule(self, name: str) -> ScheduleView:
        """Fire nothing until it is resumed. Durable on return."""
        found: ScheduleView = await self._call("pause_schedule", name)
        return found

    async def resume_schedule(self, name: str) -> ScheduleView:
        """Fire again, from the next time on; what came meanwhile is not made up for."""
        found: ScheduleView = await self._call("resume_schedule", name)
        return found

    async def trigger_schedule(self, name: str, *, id: str | None = None) -> AsyncRun[Any]:
        """Start an instance now, as the schedule would, whatever its overlap policy says and even if it is paused.

        The same `id` is the same firing, however often it is asked for. Without one it is drawn here, before anything
        is sent: if no answer comes (Unavailable), `details["id"]` is what to ask again with.
        """
        run_id = new_name("run") if id is None else id
        try:
            status: Status = await self._call("trigger_schedule", name, id=run_id)
        except Unavailable as error:
            error.details.setdefault("id", run_id)
            error.hint = " ".join(
                filter(None, (error.hint, f"Asked again with the id {run_id} it is the same firing."))
            )
            raise
        return AsyncRun(self, status.id)
