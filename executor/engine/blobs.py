"""Byte streams of steps, between sandboxes and the store.

A sandbox sends a portion of a stream at a time and gets the next answered only when the one before is durable, so what
is in memory here is one portion for each sandbox. What a journal names is never swept: bytes are durable before the
step's result is reported, and a sweep spares what the entries that count name, as of when all of them are durable.

Invariant: puts and sweeps go one after the other, in the order in which they were asked for. So a sweep that was asked
for when a run began or ended takes what earlier runs left, and nothing of a later one.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import trio

from executor.core.blobs import ID_MAX, PART_BYTES, PART_COUNT_MAX
from executor.core.decide.decided import PATH_CHARS_MAX
from executor.core.entries import Held
from executor.core.errors import Corrupt, NotFound, PerdureError, Refused, Unavailable
from executor.engine.resident import Resident, Run
from executor.engine.sandboxes import WarmSandbox
from executor.sandbox.protocol import BlobPart, BlobStored, NeedBlob, PutBlob
from executor.sandbox.spec import SandboxDied

if TYPE_CHECKING:
    from executor.engine.engine import Engine

log = logging.getLogger(__name__)

PORTION_PARTS = 4
"""Of one PutBlob: a MiB."""
READERS = 2
UNNAMED_MAX = 1_000
"""Streams of a run that no journal entry names yet: each attempt that gives one has one."""
_GONE = "the run has ended"

Question = PutBlob | NeedBlob
Found = tuple[Run, Resident] | None


class Blobs:
    """Answers what sandboxes send and ask for, and sweeps."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._asked: set[tuple[WarmSandbox, type[Question]]] = set()
        self._writer = trio.CapacityLimiter(1)
        self._readers = trio.CapacityLimiter(READERS)

    def accept(self, warm: WarmSandbox, question: Question) -> str | None:
        """Take note of a question before it is answered; what is wrong with it, or None."""
        if not 0 < question.id <= ID_MAX:
            return f"it names a stream {question.id}"
        if isinstance(question, PutBlob):
            sizes = [len(part) for part in question.parts]
            if (
                not 0 <= question.first < PART_COUNT_MAX
                or not 0 < len(sizes) <= PORTION_PARTS
                or not all(0 < size <= PART_BYTES for size in sizes)
                or len(question.path) > PATH_CHARS_MAX
            ):
                return "it sends a portion of a stream that has not the form of one"
        elif not 0 <= question.part < PART_COUNT_MAX:
            return f"it asks for part {question.part} of a stream"
        if (warm, type(question)) in self._asked:
            return "it sends more of a stream, or asks for more, before it was answered"
        self._asked.add((warm, type(question)))
        return None

    async def answer(self, warm: WarmSandbox, found: Found, question: Question) -> None:
        """Do and answer what was accepted. `found`: the run that asks, None if it is gone."""
        if found is not None and found[1].run is not found[0]:
            found = None
        answer: BlobStored | BlobPart
        try:
            if isinstance(question, PutBlob):
                answer = await self._put(found, question)
            else:
                answer = await self._part(found, question)
        finally:
            self._asked.discard((warm, type(question)))
        try:
            if not warm.is_dead:
                await warm.sandbox.send([answer])
        except SandboxDied:
            pass  # Whoever reads from it tells.

    async def _put(self, found: Found, put: PutBlob) -> BlobStored:
        if found is None:
            return BlobStored(put.run, put.number, _GONE)
        run, resident = found
        named = set(resident.instance.blobs.values())
        if put.first == 0:
            # What earlier attempts of the step have left is of no use.
            others = {
                known: path for known, path in (run.blobs or {}).items() if path != put.path and known not in named
            }
            if len(others) >= UNNAMED_MAX:
                settled = resident.instance.settled
                others = {known: path for known, path in others.items() if path not in settled}
            if len(others) >= UNNAMED_MAX:
                return BlobStored(put.run, put.number, f"{UNNAMED_MAX} steps give byte streams already")
            run.blobs = {**others, put.id: put.path}
        if put.id in named or (run.blobs or {}).get(put.id) != put.path:
            return BlobStored(put.run, put.number, "it is not the stream of an attempt that executes")
        keep = named | set(run.blobs or ()) - {put.id} if put.first == 0 else ()
        store = self._engine.store
        write = partial(store.put_blob, *resident.key, put.id, put.first, put.parts, keep=keep)
        try:
            await trio.to_thread.run_sync(write, limiter=self._writer)
        except (NotFound, Refused, Unavailable) as error:
            return BlobStored(put.run, put.number, error.message, is_too_large=error.code == "payload_too_large")
        return BlobStored(put.run, put.number)

    async def _part(self, found: Found, need: NeedBlob) -> BlobPart:
        if found is None:
            return BlobPart(need.run, need.number, None, _GONE)
        run, resident = found
        read = partial(self._engine.store.blob_part, *resident.key, need.id, need.part)
        try:
            data = await trio.to_thread.run_sync(read, limiter=self._readers)
        except PerdureError as error:
            if isinstance(error, Corrupt) and resident.run is run:
                held = Held(self._engine.clock.now_ms(), "corrupt_store", error.message, None, None)
                self._engine.commit(resident, (held,))
            return BlobPart(need.run, need.number, None, error.message)
        return BlobPart(need.run, need.number, data)

    def to_sweep(self, resident: Resident) -> tuple[int, set[int]] | None:
        """What `sweep` is to be given now, when a run begins or has ended; None: nothing has to be swept."""
        row = resident.row
        if row is None or not self._engine.store.may_have_blobs(row.generation) or not resident.is_settled:
            return None
        return row.generation, set(resident.instance.blobs.values())

    async def sweep(self, generation: int, named: set[int]) -> None:
        """Let go of the streams of an instance that its journal does not name."""
        try:
            await trio.to_thread.run_sync(
                partial(self._engine.store.sweep_blobs, generation, named), limiter=self._writer
            )
        except Unavailable as hindered:
            log.warning("streams are not swept now", extra={"error": str(hindered)})
