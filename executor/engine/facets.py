"""Facets on their way into sandboxes: whole images, or the pages of large ones that statements ask for.

Invariants:
- What is read is read off the event loop, and sent at once: at most one answer per sandbox is in memory here, as the
  next one is not read before the sandbox has taken this one.
- A sandbox asks for the facets of its own runs only, within bounds, and for one thing at a time; one that asks for more
  breaks the protocol.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from executor.core.entries import Held
from executor.core.errors import NotFound, PerdureError
from executor.engine.resident import Resident, Run
from executor.engine.sandboxes import WarmSandbox
from executor.ports import Pages
from executor.sandbox.protocol import (
    CHUNK_BYTES,
    PAGE_CHUNK_MAX,
    PAGE_CHUNKS_MAX,
    FacetFailed,
    FacetImage,
    FacetPages,
    NeedFacet,
    NeedPages,
    ToSandbox,
)
from executor.sandbox.spec import SandboxDied

if TYPE_CHECKING:
    from executor.engine.engine import Engine

ASKED_MAX = 2
"""Requests of one run under way: one, and one that a step gave up waiting for."""
READERS = 2
"""Threads that read facets, of all instances."""

Question = NeedFacet | NeedPages


class FacetSender:
    """Answers what sandboxes ask for."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._asked: Counter[int] = Counter()
        self._turns: dict[WarmSandbox, trio.Lock] = {}
        self._readers = trio.CapacityLimiter(READERS)

    def accept(self, question: Question) -> str | None:
        """Take note of a question before it is answered; what is wrong with it, or None."""
        if isinstance(question, NeedPages) and not (
            0 <= question.first < PAGE_CHUNK_MAX and 0 <= question.count <= PAGE_CHUNKS_MAX and question.number > 0
        ):
            return f"it asks for {question.count} chunks of a facet from {question.first} on"
        if self._asked[question.run] >= ASKED_MAX:
            return "it asks for more of a facet before it has taken what it asked for"
        self._asked[question.run] += 1
        return None

    async def answer(self, resident: Resident, run: Run, question: Question) -> None:
        """Read and send what an accepted question asks for."""
        turn = self._turns.setdefault(run.sandbox, trio.Lock())
        try:
            async with turn:
                if resident.run is run:
                    await self._answer(resident, run, question)
        except SandboxDied:
            pass  # Whoever reads from it tells.
        finally:
            if not turn.locked():
                self._turns.pop(run.sandbox, None)
            self._asked[run.number] -= 1
            if not self._asked[run.number]:
                del self._asked[run.number]

    async def _answer(self, resident: Resident, run: Run, question: Question) -> None:
        store, number = self._engine.store, 0
        read: Callable[[], bytes | Pages]
        if isinstance(question, NeedPages):
            number, first, count = question.number, question.first, question.count
            read = lambda: store.pages(*resident.key, first, count)  # noqa: E731
        else:
            read = lambda: store.facet(*resident.key)  # noqa: E731
        try:
            found = await trio.to_thread.run_sync(read, limiter=self._readers)
        except PerdureError as error:
            await self._send(resident, run, FacetFailed(run.number, number, error.message))
            if resident.run is run and not isinstance(error, NotFound):
                held = Held(self._engine.clock.now_ms(), "corrupt_store", error.message, None, None)
                self._engine.commit(resident, (held,))
            return
        if isinstance(found, Pages):
            await self._send(resident, run, FacetPages(run.number, number, *found))
            return
        for offset in range(0, max(len(found), 1), CHUNK_BYTES):
            part = FacetImage(run.number, offset, len(found), found[offset : offset + CHUNK_BYTES])
            await self._send(resident, run, part)

    async def _send(self, resident: Resident, run: Run, frame: ToSandbox) -> None:
        """Wait until the sandbox has taken it. Past the queue of other frames: none of them depends on it."""
        if resident.run is run and not run.sandbox.is_dead:
            await run.sandbox.sandbox.send([frame])
