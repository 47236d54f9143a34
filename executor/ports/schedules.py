"""The store of schedules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from executor.views import FiringView


class ScheduleRow(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule as stored. `spec` is a `core.schedule.ScheduleSpec` as JSON, `payload` an encoded value.

    `revision` grows with every change. `cursor_ms`: times up to it are dealt with, or written down as pending.
    `due_ms`: when the next one is to be dealt with; None: never, or paused. `running`: instances it started of which it
    is not known that they have ended.
    """

    tenant: str
    name: str
    workflow: str
    channel: str
    origin: Literal["api", "code"]
    payload: bytes
    spec: bytes
    created_at_ms: int
    cursor_ms: int
    due_ms: int | None
    revision: int = 0
    paused_by: str | None = None
    running: tuple[str, ...] = ()


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """A time of a schedule that is to be fired, with what it is to start: written before anything else is done.

    `retry_at_ms` None: it waits for an earlier instance to end.
    """

    tenant: str
    name: str
    scheduled_ms: int
    workflow: str
    channel: str
    payload: bytes
    attempts: int = 0
    retry_at_ms: int | None = 0
    reason: str = ""


class Settled(msgspec.Struct, frozen=True, kw_only=True):
    """A pending time with what became of it, and the instances of its schedule that are running now."""

    pending: Pending
    firing: FiringView
    running: tuple[str, ...]


class Advanced(msgspec.Struct, frozen=True, kw_only=True):
    """A decision about the times of `row` up to `cursor_ms`: what is to be fired, what is not, when to look again."""

    row: ScheduleRow
    pending: tuple[Pending, ...]
    firings: tuple[FiringView, ...]
    cursor_ms: int
    due_ms: int | None


class ScheduleStore(Protocol):
    """Schedules of all tenants. Everything that changes is durable on return, one transaction, one fsync. Raises
    Unavailable (`storage_full`, `busy`), Corrupt. Thread-safe."""

    def add(self, row: ScheduleRow, *, count_max: int) -> ScheduleRow:
        """The row; the one that is there if it says the same. Raises Conflict (`schedule_exists`), Refused
        (`limit_exceeded`: the tenant has `count_max` of that origin)."""
        ...

    def declare(self, tenant: str, rows: Sequence[ScheduleRow]) -> None:
        """Make these the tenant's schedules of origin "code". One that is there and says the same stays as it is; one
        that says something else keeps its pause, its history, and a later cursor. The others are out of sight until
        they are declared again; what is pending of them is dropped."""

    def delete(self, tenant: str, name: str) -> None:
        """Raises NotFound (`schedule_not_found`), Conflict (`invalid_state`: it is declared in code)."""

    def delete_tenant(self, tenant: str) -> None: ...
    def pause(self, tenant: str, name: str, *, by: str) -> None: ...
    def resume(self, tenant: str, name: str, *, revision: int, cursor_ms: int, due_ms: int | None) -> bool:
        """False: it has changed since `revision`, look again."""
        ...

    def get(self, tenant: str, name: str) -> ScheduleRow:
        """Raises NotFound (`schedule_not_found`)."""
        ...

    def of_tenant(self, tenant: str) -> list[ScheduleRow]: ...
    def tenants(self) -> list[str]:
        """Those that have any."""
        ...

    def due(self, now_ms: int, *, limit: int) -> list[ScheduleRow]: ...
    def next_ms(self) -> int | None:
        """When the next schedule is due, or the next pending time to be tried."""
        ...

    def advance(self, decisions: Sequence[Advanced]) -> None:
        """Write them down. Those about a schedule that has changed since its `row` was read are left out."""

    def startable(self, now_ms: int, *, limit: int) -> list[tuple[ScheduleRow, Pending]]:
        """The oldest pending time of each schedule that is not paused, if it is to be tried by now."""
        ...

    def pending(self, tenant: str, name: str) -> list[Pending]: ...
    def waiting(self) -> list[Pending]:
        """All that wait for an earlier instance to end, the oldest of each schedule."""
        ...

    def settle(self, settled: Sequence[Settled], delayed: Sequence[Pending]) -> None:
        """Those are done with; these are still pending, as they are now."""

    def record(self, tenant: str, name: str, firing: FiringView) -> None:
        """A firing outside of the schedule's times, once for each instance; that is running now."""

    def firings(self, tenant: str, name: str, *, limit: int) -> list[FiringView]:
        """Newest first."""
        ...

    def backup(self, target: Path) -> None: ...
    def check(self) -> list[str]: ...
    def close(self) -> None: ...
