"""All runs of a sandbox process: frames in, frames out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from executor.sandbox.blobs_inside import Blobs
from executor.sandbox.child_limits import ChildLimits
from executor.sandbox.facets_inside import RunFacet
from executor.sandbox.loader import Bundle
from executor.sandbox.messages import messages_of
from executor.sandbox.protocol import (
    Activate,
    Answer,
    Ask,
    Attempt,
    BlobPart,
    BlobStored,
    Drop,
    Entries,
    FacetFailed,
    FacetImage,
    FacetPages,
    FromSandbox,
    GoOn,
    NeedBlob,
    NeedFacet,
    NeedPages,
    Output,
    Ping,
    Pong,
    PutBlob,
    Query,
    Quiesce,
    ToSandbox,
    Update,
)
from executor.sandbox.query import QueriedFacet
from executor.sandbox.run import Run
from executor.sandbox.run_state import RunState
from executor.sandbox.steps import Steps
from executor.sandbox.threads import StepPool
from facets.pages import PageCache


class Child:
    """All runs of this process. `send` takes frames in order; `handle` is given them. Main thread only."""

    def __init__(  # noqa: PLR0917  # made in one place here, and in tests
        self,
        loop: asyncio.AbstractEventLoop,
        pool: StepPool,
        bundle: Bundle,
        limits: ChildLimits,
        send: Callable[[list[FromSandbox]], None],
        wait_for_frames: Callable[[], None],
    ) -> None:
        self.bundle = bundle
        self.steps = Steps(loop, pool, bundle.files, limits)
        self._loop = loop
        self._limits = limits
        self._send = send
        self._wait_for_frames = wait_for_frames
        self._runs: dict[int, Run] = {}
        self._queried: QueriedFacet | None = None
        self._outbox: list[FromSandbox] = []
        self._touched: dict[int, RunState] = {}
        self._flush_due = False
        self.page_cache = PageCache(limits.facet.page_cache_bytes_max)
        self.blobs = Blobs(self, wait_s=limits.blob_wait_s)
        self._facets_awaited = 0
        self._held_back: list[ToSandbox] = []

    def handle(self, frames: list[ToSandbox]) -> None:
        """Take frames, begin what they bring about, and send what is to be said now. Unknown runs are ignored."""
        if self._facets_awaited:
            for frame in frames:
                if isinstance(frame, FacetImage | FacetPages | FacetFailed | BlobStored | BlobPart):
                    self._handle(frame)
                else:
                    self._held_back.append(frame)  # a step is in the middle of a statement: nothing may run beside it
            return
        was_due, self._flush_due = self._flush_due, True  # it comes at the end of this
        for frame in frames:
            self._handle(frame)
        self._flush_due = was_due
        self._flush_runs()

    def _handle(self, frame: ToSandbox) -> None:
        if isinstance(frame, Activate):
            self._drop(frame.run)
            self._runs[frame.run] = Run(self, frame)
            return
        if isinstance(frame, Ping):
            self._outbox.append(Pong(frame.number))
            self._flush_soon()
            return
        if isinstance(frame, Query):
            self._query(frame)
            return
        if isinstance(frame, BlobStored | BlobPart):
            self.blobs.take(frame)
            return
        run = self._runs.get(frame.run)
        if run is None:
            if self._queried is not None and frame.run == self._queried.run:
                _take_facet(self._queried, frame)
            return
        if isinstance(frame, Entries):
            run.deliver(frame.first, frame.entries)
        elif isinstance(frame, Attempt):
            run.attempt_due(frame.path, frame.attempt)
        elif isinstance(frame, FacetImage | FacetPages | FacetFailed):
            _take_facet(run.facet, frame)
        elif isinstance(frame, Update | Ask):
            run.ask(frame)
        elif isinstance(frame, Quiesce):
            run.quiesce()
        elif isinstance(frame, GoOn):
            run.go_on()
        elif isinstance(frame, Drop):
            self._drop(frame.run)

    def _query(self, question: Query) -> None:
        self._queried = QueriedFacet(question.run, self, self._limits)
        answer = self._queried.answer(question)
        self._queried = None
        self._outbox.append(answer)  # the list is another one by now
        self._flush_soon()

    def _drop(self, number: int) -> None:
        run = self._runs.pop(number, None)
        if run is not None:
            run.drop()
            self._touched.pop(number, None)

    # --- what runs and their facets ask of the process

    def touch(self, run: RunState) -> None:
        self._touched[run.number] = run
        self._flush_soon()

    def send_output(self, frame: Output) -> None:
        """From any thread."""
        self._outbox.append(frame)
        if not self._flush_due:
            self.call_on_loop(self._flush_soon)

    def answer(self, frame: Answer) -> None:
        self._outbox.append(frame)
        self._flush_soon()

    def need(self, question: NeedFacet | NeedPages | PutBlob | NeedBlob) -> None:
        self._outbox.append(question)
        self._flush_soon()

    def wait_for(self, is_so: Callable[[], bool]) -> None:
        """Stop everything on the main thread until what an async step needs now is there: a facet's pages, or a part
        of a stream."""
        self._facets_awaited += 1
        try:
            while not is_so():
                self._send_outbox()
                self._wait_for_frames()
        finally:
            self._facets_awaited -= 1
            if not self._facets_awaited and self._held_back:
                self._loop.call_soon(self._handle_held_back)

    def call_on_loop(self, callback: Callable[[], object]) -> None:
        self.steps.call_on_loop(callback)

    def _handle_held_back(self) -> None:
        held_back, self._held_back = self._held_back, []
        self.handle(held_back)

    # --- sending

    def _flush_soon(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        self._flush_runs()

    def _flush_runs(self) -> None:
        touched, self._touched = self._touched, {}
        for run in touched.values():
            self._outbox.extend(run.turn())
        self._send_outbox()

    def _send_outbox(self) -> None:
        outbox, self._outbox = self._outbox, []
        if not outbox:
            return
        for message in messages_of(outbox):
            self._send(message)


def _take_facet(facet: RunFacet, frame: ToSandbox) -> None:
    """A frame of the image or pages that it asked for; any other is not for it."""
    if isinstance(frame, FacetImage):
        facet.take_image(frame.offset, frame.total, frame.data)
    elif isinstance(frame, FacetPages | FacetFailed):
        facet.take_pages(frame)
