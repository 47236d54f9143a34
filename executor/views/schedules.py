"""Schedules, as callers see them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class FiringView(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one time of a schedule. `scheduled_ms`: the time; `at_ms`: when it was dealt with; `instance`: the
    one it started. `missed` tells of all times from `scheduled_ms` to `until_ms`, which came while nothing could fire.
    """

    scheduled_ms: int
    at_ms: int
    outcome: Literal["fired", "triggered", "skipped", "missed", "failed"]
    instance: str | None = None
    until_ms: int | None = None
    reason: str = ""


class ScheduleView(msgspec.Struct, frozen=True, kw_only=True):
    """When a workflow is started by itself. `origin` code: the version on the channel declares it.

    `next_ms`: the times ahead, without jitter; none while it is paused, or when it has ended. `running`: instances it
    started that had not ended when it last fired; `waiting`: times that are due and not fired yet. `firings`: newest
    first, the last one in a list, up to 100 of one schedule."""

    name: str
    workflow: str
    channel: str
    origin: Literal["api", "code"]
    payload: Any
    cron: str | None
    every_ms: int | None
    timezone: str
    start_ms: int | None
    end_ms: int | None
    overlap: Literal["skip", "queue", "cancel", "allow"]
    catch_up: Literal["none", "last", "all"]
    catch_up_window_ms: int | None
    jitter_ms: int
    paused: bool
    paused_by: str
    created_at_ms: int
    next_ms: list[int]
    running: list[str]
    waiting: list[int]
    firings: list[FiringView]
