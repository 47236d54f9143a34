"""A world for tests of schedules: the real scheduler and store, a clock that stands until told, instances in a dict.

Fault model: the process may end before and after every write of the store and every start of an instance
(`crash_after` counts them down). What was written stays, what was in memory is gone.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio
from trio.testing import wait_all_tasks_blocked

from executor.core import schedule
from executor.core.errors import PerdureError
from executor.ports import Pending, ScheduleRow
from executor.schedules.scheduler import Scheduler
from executor.schedules.store import SqliteScheduleStore
from executor.views import FiringView
from tests.executor.engine.world import StandingClock

NOON_MS = 1_809_172_800_000
"""2027-05-01 12:00 in UTC."""
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
TENANT = "acme"


class Crash(BaseException):
    """The process ends here."""


class Disk:
    """The store, with crash points around its writes and errors where a test wants them."""

    WRITES = frozenset({"add", "declare", "delete", "pause", "resume", "advance", "settle", "record"})

    def __init__(self, world: World, store: SqliteScheduleStore) -> None:
        self._world = world
        self._store = store

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name not in self.WRITES:
            return method

        def write(*args: Any, **kwargs: Any) -> Any:
            if self._world.write_errors:
                raise self._world.write_errors.pop(0)
            self._world.point()
            answer = method(*args, **kwargs)
            self._world.point()
            return answer

        return write


class World:
    """`started`: every instance that was made, with when; `running`: those that have not ended."""

    def __init__(self) -> None:
        self.clock = StandingClock()
        self.clock.advance(NOON_MS - self.clock.now_ms())
        self.store = SqliteScheduleStore.open(Path(":memory:"))
        self.disk: Any = Disk(self, self.store)
        self.started: dict[str, tuple[int, Pending]] = {}
        self.running: dict[str, trio.Event] = {}
        self.most_at_once = 0
        self.ended_by_us: list[str] = []
        self.start_errors: list[PerdureError | None] = []
        self.write_errors: list[PerdureError] = []
        self.versions: dict[str, list[ScheduleRow]] = {TENANT: []}
        self.crash_after: int | None = None
        self.scheduler: Scheduler

    # --- what the scheduler works with

    async def start(self, pending: Pending, instance: str) -> str:
        await trio.lowlevel.checkpoint()
        error = self.start_errors.pop(0) if self.start_errors else None
        if error is not None:
            raise error
        self.point()
        if instance not in self.started:
            self.started[instance] = (self.clock.now_ms(), pending)
            self.running[instance] = trio.Event()
            self.most_at_once = max(self.most_at_once, len(self.running))
        self.point()
        return instance

    async def has_ended(self, tenant: str, instance: str) -> bool:
        await trio.lowlevel.checkpoint()
        return instance not in self.running

    async def until_ended(self, tenant: str, instance: str) -> None:
        while instance in self.running:
            await self.running[instance].wait()

    async def end(self, tenant: str, instance: str, *, by: str) -> None:
        assert by == "schedule s"
        await trio.lowlevel.checkpoint()
        if instance in self.running:
            self.ended_by_us.append(instance)
            self.finish(instance)

    async def declared(self, tenant: str) -> list[ScheduleRow]:
        await trio.lowlevel.checkpoint()
        rows = self.versions[tenant]
        now_ms = self.clock.now_ms()
        return [msgspec.structs.replace(row, cursor_ms=now_ms, due_ms=_due(row, now_ms)) for row in rows]

    async def tenants(self) -> list[str]:
        await trio.lowlevel.checkpoint()
        return list(self.versions)

    # --- what tests do

    def point(self) -> None:
        if self.crash_after is not None:
            self.crash_after -= 1
            if self.crash_after < 0:
                self.crash_after = None
                raise Crash

    def finish(self, instance: str) -> None:
        self.running.pop(instance).set()

    def row(self, name: str = "s", payload: bytes = b"", **spec: Any) -> ScheduleRow:
        now_ms = self.clock.now_ms()
        row = ScheduleRow(
            tenant=TENANT,
            name=name,
            workflow="W",
            channel="live",
            origin="api",
            payload=payload,
            spec=msgspec.json.encode(schedule.parse_spec(**spec)),
            created_at_ms=now_ms,
            cursor_ms=now_ms,
            due_ms=None,
        )
        return msgspec.structs.replace(row, due_ms=_due(row, now_ms))

    def declaration(self, name: str, **spec: Any) -> ScheduleRow:
        return msgspec.structs.replace(self.row(name, **spec), origin="code")

    def add(self, name: str = "s", **spec: Any) -> None:
        self.store.add(self.row(name, **spec), count_max=1000)

    async def settle(self) -> None:
        await wait_all_tasks_blocked()

    async def after(self, ms: int) -> None:
        """Let the clock go on (or back) and everything happen that follows."""
        self.clock.advance(ms)
        self.scheduler.poke()
        await self.settle()

    @property
    def times(self) -> list[int]:
        """The times of the instances that were started, in the order of their starts."""
        return [pending.scheduled_ms for _, pending in self.started.values()]

    def history(self, name: str = "s") -> list[FiringView]:
        """Oldest first."""
        return self.store.firings(TENANT, name, limit=1000)[::-1]

    def outcomes(self, name: str = "s") -> list[tuple[str, int]]:
        return [(firing.outcome, firing.scheduled_ms) for firing in self.history(name)]

    @asynccontextmanager
    async def working(self) -> AsyncGenerator[None]:
        """With a scheduler of a new process."""
        self.scheduler = Scheduler(self.disk, self.clock, self)
        async with trio.open_nursery() as nursery:
            await nursery.start(self.scheduler.run)
            await self.settle()
            yield
            nursery.cancel_scope.cancel()


def _due(row: ScheduleRow, now_ms: int) -> int | None:
    return schedule.due_ms(msgspec.json.decode(row.spec, type=schedule.ScheduleSpec), row.name, now_ms)


async def inline(function: Callable[[], Any]) -> Any:
    """In place of a worker thread, so that "all tasks are blocked" means that nothing more will happen."""
    await trio.lowlevel.checkpoint()
    return function()
