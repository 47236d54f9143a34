"""Watchers: who waits for an instance to change, and what it changed to. An unwatched instance costs nothing here."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from executor.core.entries import Completed
from executor.core.instance import Outcome
from executor.core.lifecycle import FINAL
from executor.engine.resident import Key
from executor.engine.signal import Signal
from executor.ports import StoredRow

ENDED = FINAL | {"held"}
"""States in which whoever waits for a result is answered."""


class _Watched:
    __slots__ = ("changed", "count", "ended", "outcome", "row", "version")

    def __init__(self) -> None:
        self.count = 0
        self.version = 0
        self.changed = Signal()
        self.ended = Signal()
        self.row: StoredRow | None = None
        self.outcome: Outcome | None = None


class Watch:
    """One watcher's view, while it is entered. Look at the instance *after* entering: then no change is missed."""

    __slots__ = ("_key", "_seen", "_watched", "_watchers")

    def __init__(self, watchers: Watchers, key: Key) -> None:
        self._watchers = watchers
        self._key = key
        self._watched: _Watched
        self._seen = 0

    async def __aenter__(self) -> Self:
        self._watched = self._watchers.enter(self._key)
        self._seen = self._watched.version
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        self._watchers.leave(self._key, self._watched)

    @property
    def row(self) -> StoredRow | None:
        """The durable row as of the latest change since somebody watches; None: there was none, ask the store."""
        return self._watched.row

    @property
    def output(self) -> bytes | None:
        """What `run()` returned, encoded, if `row` says complete."""
        outcome = self._watched.outcome
        return outcome.value if isinstance(outcome, Completed) else None

    async def wait(self) -> None:
        """Return once something has changed since the last call (or since the watch began)."""
        while self._seen == self._watched.version:
            await self._watched.changed.wait()
        self._seen = self._watched.version

    async def wait_ended(self) -> None:
        """Return at the next change to a state of ENDED, or to one that only the store can tell."""
        await self._watched.ended.wait()


class Watchers:
    def __init__(self) -> None:
        self._watched: dict[Key, _Watched] = {}

    def __contains__(self, key: Key) -> bool:
        return key in self._watched

    def watching(self, key: Key) -> Watch:
        """To be entered by `async with`."""
        return Watch(self, key)

    def changed(self, key: Key, row: StoredRow | None = None, outcome: Outcome | None = None) -> None:
        """Wake everybody who watches `key`. `row`: what is durable now; None: look into the store."""
        watched = self._watched.get(key)
        if watched is not None:
            watched.row, watched.outcome = row, outcome
            watched.version += 1
            watched.changed.notify()
            if row is None or row.row.state in ENDED:
                watched.ended.notify()

    def enter(self, key: Key) -> _Watched:
        watched = self._watched.get(key)
        if watched is None:
            watched = self._watched[key] = _Watched()
        watched.count += 1
        return watched

    def leave(self, key: Key, watched: _Watched) -> None:
        watched.count -= 1
        if not watched.count:
            del self._watched[key]
