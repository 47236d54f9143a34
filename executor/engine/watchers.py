"""Watchers: who waits for an instance to change. An instance nobody watches costs nothing here."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

from executor.engine.resident import Key


class _Watch:
    __slots__ = ("changed", "watchers")

    def __init__(self) -> None:
        self.watchers = 0
        self.changed = trio.Event()


class Watch:
    """One watcher's view: `await wait()` returns after the next change."""

    def __init__(self, watch: _Watch) -> None:
        self._watch = watch
        self._event = watch.changed

    async def wait(self) -> None:
        """Return once something has changed since the last call (or since the watch began)."""
        await self._event.wait()
        self._event = self._watch.changed


class Watchers:
    def __init__(self) -> None:
        self._watched: dict[Key, _Watch] = {}

    def changed(self, key: Key) -> None:
        """Wake everybody who watches `key`."""
        watch = self._watched.get(key)
        if watch is not None:
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
