"""Operations on schedules."""

from __future__ import annotations

from typing import Any, Literal

from executor.operations.operation import TENANT, Arguments, Operation
from executor.views import ScheduleView, Status


class CreateSchedule(Arguments, frozen=True):
    """`cron`, or `every` as a duration ("10 minutes", or seconds). `start`, `end`: ISO 8601, in `timezone` if they name
    no other. The same name with the same content is the existing schedule."""

    workflow: str
    payload: Any = None
    name: str | None = None
    channel: str = "live"
    cron: str | None = None
    every: str | float | None = None
    timezone: str = "UTC"
    start: str | None = None
    end: str | None = None
    overlap: Literal["skip", "queue", "cancel", "allow"] = "skip"
    catch_up: Literal["none", "last", "all"] = "last"
    catch_up_window: str | float | None = None
    jitter: str | float = 0


class TriggerSchedule(Arguments, frozen=True):
    """`id`: of the instance; triggering again with the same one is the same firing."""

    id: str | None = None


SCHEDULES_PATH = TENANT + "/schedules"
SCHEDULE = SCHEDULES_PATH + "/{name}"
SCHEDULES = [
    Operation(
        name="schedules",
        method="GET",
        path=SCHEDULES_PATH,
        result=list[ScheduleView],
        summary="List schedules, each with its next time and its last firing",
    ),
    Operation(
        name="schedule",
        method="GET",
        path=SCHEDULE,
        result=ScheduleView,
        summary="Show a schedule with its next 10 times and its last 100 firings",
    ),
    Operation(
        name="create_schedule",
        method="POST",
        path=SCHEDULES_PATH,
        arguments=CreateSchedule,
        result=ScheduleView,
        status=201,
        access="write",
        summary="Start a workflow again and again, by cron or interval",
    ),
    Operation(
        name="delete_schedule",
        method="DELETE",
        path=SCHEDULE,
        status=204,
        access="write",
        summary="Delete a schedule that was made by the API; its instances go on",
    ),
    Operation(
        name="pause_schedule",
        method="POST",
        path=SCHEDULE + "/pause",
        result=ScheduleView,
        access="write",
        summary="Fire nothing until resumed",
    ),
    Operation(
        name="resume_schedule",
        method="POST",
        path=SCHEDULE + "/resume",
        result=ScheduleView,
        access="write",
        summary="Fire again, from the next time on",
    ),
    Operation(
        name="trigger_schedule",
        method="POST",
        path=SCHEDULE + "/trigger",
        arguments=TriggerSchedule,
        result=Status,
        access="write",
        summary="Start an instance now, as the schedule would",
    ),
]
