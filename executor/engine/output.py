"""OutputBuffer: captured lines of tenant code on their way to the store, written in batches, relaxed durability."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import trio

from executor.core.errors import Unavailable
from executor.engine.resident import Key
from executor.ports import OutputText, StateStore

LINES_PENDING_MAX = 20_000
"""Beyond this, lines are dropped and counted: output must never grow the executor's memory without bound."""
BYTES_PENDING_MAX = 64 * 1024 * 1024
FLUSH_DELAY_S = 0.02
FULL_DISK_PAUSE_S = 1.0


class OutputBuffer:
    def __init__(self, store: StateStore, on_written: Callable[[Key], None]) -> None:
        self._store = store
        self._on_written = on_written
        self._lines: list[OutputText] = []
        self._size = 0
        self._filled = trio.Event()
        self._writing = trio.Lock()
        self.dropped: Counter[str] = Counter()

    def add(self, line: OutputText) -> None:
        """Queue a line."""
        size = len(line.text) + len(line.step) + len(line.level)
        if len(self._lines) >= LINES_PENDING_MAX or self._size + size > BYTES_PENDING_MAX:
            self.dropped[line.tenant] += 1
            return
        self._size += size
        self._lines.append(line)
        self._filled.set()

    async def flush(self) -> bool:
        """Write what is queued now, so that a reader sees it. False: the disk is full, and it stays queued."""
        async with self._writing:
            lines, self._lines = self._lines, []
            size, self._size = self._size, 0
            if lines:
                try:
                    await trio.to_thread.run_sync(self._store.append_output, lines)
                except Unavailable as full:
                    if full.code != "storage_full":
                        raise
                    self._lines = lines + self._lines
                    self._size += size
                    return False
                for key in {(line.tenant, line.instance) for line in lines}:
                    self._on_written(key)
            return True

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._filled.wait()
            self._filled = trio.Event()
            await trio.sleep(FLUSH_DELAY_S)
            is_written = False
            with trio.CancelScope(shield=True):
                is_written = await self.flush()
            if not is_written:
                self._filled.set()
                await trio.sleep(FULL_DISK_PAUSE_S)
