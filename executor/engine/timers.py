"""Timers: wakes instances that rest on disk, from the store's index, and tells residents when their time has come.

Instances at rest are found by an indexed query when they are due: nothing of them is in memory before. Residents that
have a run (a sleep beside an executing step) keep an alarm in a heap.
"""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from executor.engine.resident import Key
from executor.engine.worker import Blocking
from executor.ports import Clock, StateStore, StoredRow

DUE_BATCH = 256
NEVER_MS = 1 << 62


class Timers:
    """`on_due` takes rows that are due and returns when they no longer are; `on_alarm` takes a resident's key."""

    def __init__(
        self,
        store: StateStore,
        clock: Clock,
        reader: Blocking,
        *,
        on_due: Callable[[list[StoredRow]], Awaitable[None]],
        on_alarm: Callable[[Key], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._reader = reader
        self._on_due = on_due
        self._on_alarm = on_alarm
        self._alarms: list[tuple[int, Key]] = []
        self._next_rest_ms = 0
        self._sleeping: trio.CancelScope | None = None

    def rest_until(self, wake_at_ms: int) -> None:
        """An instance was put to rest on disk until then (durably): look again no later than that."""
        if wake_at_ms < self._next_rest_ms:
            self._next_rest_ms = wake_at_ms
            self._look_again()

    def alarm_at(self, at_ms: int, key: Key) -> None:
        """Call `on_alarm(key)` then. An alarm that is no longer wanted does no harm."""
        heapq.heappush(self._alarms, (at_ms, key))
        if self._alarms[0][0] == at_ms:
            self._look_again()

    async def run(self) -> None:
        """Fire until cancelled."""
        while True:
            now_ms = self._clock.now_ms()
            self._ring(now_ms)
            if self._next_rest_ms <= now_ms:
                await self._wake_rested(now_ms)
            # No checkpoint between reading the next time and setting the scope: a change cannot fall in between.
            with trio.CancelScope() as self._sleeping:
                await self._clock.sleep_until_ms(self._earliest())
            self._sleeping = None

    def _look_again(self) -> None:
        if self._sleeping is not None:
            self._sleeping.cancel()

    def _ring(self, now_ms: int) -> None:
        rung: set[Key] = set()
        while self._alarms and self._alarms[0][0] <= now_ms:
            _, key = heapq.heappop(self._alarms)
            if key not in rung:
                rung.add(key)
                self._on_alarm(key)

    async def _wake_rested(self, now_ms: int) -> None:
        # What `rest_until` notes while the store is asked must survive the store's answer.
        self._next_rest_ms = NEVER_MS
        while True:
            rows = await self._reader.run(partial(self._store.due, now_ms, limit=DUE_BATCH))
            if rows:
                await self._on_due(rows)
            if len(rows) < DUE_BATCH:
                break
        stored = await self._reader.run(self._store.next_wake_ms)
        self._next_rest_ms = min(self._next_rest_ms, NEVER_MS if stored is None else stored)

    def _earliest(self) -> int:
        return min(self._next_rest_ms, self._alarms[0][0] if self._alarms else NEVER_MS)
