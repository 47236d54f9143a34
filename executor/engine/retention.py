"""Retention: instances that ended longer ago than they are kept are deleted, a portion at a time."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from executor.core.errors import Unavailable

if TYPE_CHECKING:
    from executor.engine.engine import Engine

log = logging.getLogger(__name__)

EVERY_MS = 600_000


class Retention:
    """By `EngineLimits.retain_complete_s` and `retain_failed_s`; 0 is for ever."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        limits = engine.limits
        self._retain_ms = {
            state: round(seconds * 1000)
            for state, seconds in (
                ("complete", limits.retain_complete_s),
                ("failed", limits.retain_failed_s),
                ("terminated", limits.retain_failed_s),
            )
            if seconds
        }

    async def run(self) -> None:
        """Look now, and again every ten minutes, until cancelled."""
        clock = self._engine.clock
        while self._retain_ms:
            try:
                await self._look()
            except Unavailable as full:
                log.warning("what is kept no longer could not be deleted", extra={"error": str(full)})
            await clock.sleep_until_ms(clock.now_ms() + EVERY_MS)

    async def _look(self) -> None:
        engine = self._engine
        now_ms = engine.clock.now_ms()
        before_ms = {state: now_ms - retain_ms for state, retain_ms in self._retain_ms.items()}
        after: int | None = 0
        while after is not None:
            gone, after = await engine.committer.exclusive(partial(engine.store.expire, before_ms, after=after))
            engine.residents.gone(gone)
            for key in gone:
                engine.watchers.changed(key)
