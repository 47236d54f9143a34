"""Watchers: who waits for an instance to change, and what it changed to. An unwatched instance costs nothing here."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

from executor.core.entries import Completed
from executor.core.instance import Outcome
from executor.engine.resident import Key
from executor.ports import StoredRow


class _Watch:
    __slots__ = ("changed", "outcome", "row", "watchers")

    def __init__(self) -> None:
        self.watchers = 0
        self.changed = trio.Event()
        self.row: StoredRow | None = None
        self.outcome: Outcome | None = None


class Watch:
    """One watcher's view: `await wait()` returns after the next change."""

    def __init__(self, watch: _Watch) -> None:
        self._watch = watch
        self._event = watch.changed

    @property
    def row(self) -> StoredRow | None:
        """The durable row as of the latest change since somebody watches; None: there was none, ask the store."""
        return self._watch.row

    @property
    def output(self) -> bytes | None:
        """What `run()` returned, encoded, if `row` says complete."""
        outcome = self._watch.outcome
        return outcome.value if isinstance(outcome, Completed) else None

    async def wait(self) -> None:
        """Return once something has changed since the last call (or since the watch began)."""
        await self._event.wait()
        self._event = self._watch.changed


class Watchers:
    def __init__(self) -> None:
        self._watched: dict[Key, _Watch] = {}

    def changed(self, key: Key, row: StoredRow | None = None, outcome: Outcome | None = None) -> None:
        """Wake everybody who watches `key`. `row`: what is durable now; None: look into the store."""
        watch = self._watched.get(key)
        if watch is not None:
            watch.row, watch.outcome = row, outcome
            watch.changed.set()
            watch.changed = trio.Event()

    @asynccontextmanager
    async def watching(self, key: Key) -> AsyncGenerator[Watch]:
        """Look at the instance *after* entering: a change between the look and `wait()` is not missed."""
        watch = self._watched.setdefault(key, _Watch())
        watch.watchers += 1
        try:
            yield Watch(watch)
        finally:
            watch.watchers -= 1
            if not watch.watchers:
                del self._watched[key]
