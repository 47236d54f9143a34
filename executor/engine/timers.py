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
        self._alarm_nap = _Nap(clock)
        self._rest_nap = _Nap(clock)

    def rest_until(self, wake_at_ms: int) -> None:
        """An instance was put to rest on disk until then (durably): look again no later than that."""
        if wake_at_ms < self._next_rest_ms:
            self._next_rest_ms = wake_at_ms
            self._rest_nap.end()

    def alarm_at(self, at_ms: int, key: Key) -> None:
        """Call `on_alarm(key)` then. An alarm that is no longer wanted does no harm."""
        heapq.heappush(self._alarms, (at_ms, key))
        if self._alarms[0][0] == at_ms:
            self._alarm_nap.end()

    async def run(self) -> None:
        """Fire until cancelled. Waking waits for places now and then; alarms never wait for it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ring_alarms)
            nursery.start_soon(self._wake_rested)

    async def _ring_alarms(self) -> None:
        while True:
            now_ms = self._clock.now_ms()
            rung: set[Key] = set()
            while self._alarms and self._alarms[0][0] <= now_ms:
                _, key = heapq.heappop(self._alarms)
                if key not in rung:
                    rung.add(key)
                    self._on_alarm(key)
            await self._alarm_nap.until(self._alarms[0][0] if self._alarms else NEVER_MS)

    async def _wake_rested(self) -> None:
        while True:
            now_ms = self._clock.now_ms()
            if self._next_rest_ms <= now_ms:
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
            await self._rest_nap.until(self._next_rest_ms)


class _Nap:
    """A sleep that can be ended from outside. No await between reading the time and `until`: no change is missed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._scope: trio.CancelScope | None = None

    async def until(self, at_ms: int) -> None:
        with trio.CancelScope() as self._scope:
            await self._clock.sleep_until_ms(at_ms)
        self._scope = None

    def end(self) -> None:
        if self._scope is not None:
            self._scope.cancel()
