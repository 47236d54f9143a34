"""What an instance waits for, as callers see it."""

from __future__ import annotations

from typing import Literal

import msgspec

from executor.views.times import format_ms


class WaitingFor(msgspec.Struct, frozen=True, kw_only=True):
    """One thing an instance waits for; `str()` tells it to a person.

    start: its delayed start is at `until_ms`; sleep: ends then; event: one of `type`, until then (None: for ever);
    retry: number `attempt` of `limit`, made at `until_ms`, `error` being the last one; child: the end of instance
    `child`; paused: by `by` since `since_ms`, until somebody resumes it; held: `error` says why, until somebody acts;
    queued: its turn, `position` being 1 for the next, behind what `type` names; undo: that what it did is undone,
    because of `error` or because `by` asked.

    `name` is the step's with its scopes, and `path` its path; both "" where the instance as a whole waits. Times of a
    paused instance are those from before: they shift by as long as the pause lasts, but for dates.
    """

    kind: Literal["start", "sleep", "event", "retry", "child", "paused", "held", "queued", "undo"]
    name: str
    path: str = ""
    until_ms: int | None = None
    type: str | None = None
    attempt: int | None = None
    limit: int | None = None
    error: str | None = None
    child: str | None = None
    by: str | None = None
    since_ms: int | None = None
    position: int | None = None

    def __str__(self) -> str:
        until = f" until {format_ms(self.until_ms)}" if self.until_ms is not None else ""
        since = f" since {format_ms(self.since_ms)}" if self.since_ms is not None else ""
        by = f" by {self.by}" if self.by else ""
        match self.kind:
            case "start":
                return f"its start{until.replace('until', 'at')}"
            case "event":
                return f'event "{self.type}" ({self.name}){until}'
            case "retry":
                return (
                    f"retry {self.attempt} of {self.limit} of {self.name}{until.replace('until', 'at')}: {self.error}"
                )
            case "child":
                return f'child "{self.child}" ({self.name})'
            case "paused":
                return f"resume, paused{by}{since}"
            case "held":
                return f"help, held{since}: {self.error}"
            case "queued":
                return f"its turn, number {self.position} behind {self.type}"
            case "undo":
                return f"the undoing of its steps{by}{since}" + (f": {self.error}" if self.error else "")
            case "sleep":
                return f"sleep {self.name}{until}"


class Queued(msgspec.Struct, frozen=True, kw_only=True):
    """What an instance that waits for its turn waits behind ("platform", "tenant", or the name of a limit), and its
    position there: 1 is the next."""

    limit: str
    position: int
