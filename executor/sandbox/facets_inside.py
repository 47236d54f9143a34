"""The facet of one run, shared by its steps: fetched at first use, one step's at a time, committed with its result.

A small one comes as a whole. Of a large one pages come as statements touch them: the statement waits, in a step thread
for the main thread to bring them, on the main thread by stopping everything else there.

A step takes the facet with its first statement and keeps it until it ends. Sync steps wait for it in their threads. An
async step that finds it taken gets FacetBusy, as waiting would stop the loop of all steps; `exclusive()` waits.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from executor.sandbox.child_limits import ChildLimits
from executor.sandbox.protocol import FacetFailed, FacetPages, NeedFacet, NeedPages
from executor.workflow import FacetBusy, NotHere
from executor.workflow.runtime import Parameters
from facets.delta import Stamp
from facets.errors import Unavailable
from facets.facet import Facet
from facets.pages import Fetched, PageCache


class Host(Protocol):
    """What a facet needs of the process. `wait_for` blocks the main thread and takes facet frames only, until it is
    so; `page_cache` is for all facets of the process."""

    @property
    def page_cache(self) -> PageCache: ...

    def need(self, question: NeedFacet | NeedPages) -> None: ...

    def wait_for(self, is_so: Callable[[], bool]) -> None: ...

    def call_on_loop(self, callback: Callable[[], object]) -> None: ...


class Owner(Protocol):
    """The run that attempts belong to."""

    @property
    def facet(self) -> RunFacet: ...


class RunFacet:
    """One run's facet and the right to it. Methods may be called on the main thread and in step threads."""

    def __init__(self, run: int, host: Host, limits: ChildLimits) -> None:
        self.run = run
        self._host = host
        self._limits = limits
        self._facet: Facet | None = None
        self._image: bytearray | None = None
        self._asked = False
        self._closed = False
        self._failure: str | None = None
        self._number = 0
        self._answer: FacetPages | FacetFailed | None = None
        self._holder: object = None
        self._changed = threading.Condition()
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def is_loaded(self) -> bool:
        return self._facet is not None or self._closed or self._failure is not None

    # --- the image, on the main thread

    def ask(self) -> None:
        """Send NeedFacet, once."""
        if not self._asked and not self._closed:
            self._asked = True
            self._host.need(NeedFacet(self.run))

    def take_image(self, offset: int, total: int, data: bytes) -> None:
        """A FacetImage frame."""
        if self._closed or self._facet is not None:
            return
        if self._image is None:
            self._image = bytearray()
        if offset != len(self._image):
            raise ValueError(f"a facet image goes on at {offset}, not at {len(self._image)}")
        self._image += data
        if len(self._image) >= total:
            image, self._image = bytes(self._image), None
            self._begin(image)

    def take_pages(self, frame: FacetPages | FacetFailed) -> None:
        """The first pages of a large facet, pages that were asked for, or word that they cannot be had."""
        if frame.number:
            with self._changed:
                if frame.number == self._number:  # or nobody waits for it any more
                    self._answer = frame
                    self._changed.notify_all()
        elif isinstance(frame, FacetFailed):
            with self._changed:
                self._failure = frame.message
                self._changed.notify_all()
            self._wake_waiting()
        elif not self._closed and self._facet is None:
            self._begin(_fetched(frame))

    def _begin(self, image: bytes | Fetched) -> None:
        facet = Facet(image, self._limits.facet, fetch=self._fetch, cache=self._host.page_cache)
        with self._changed:
            self._facet = facet
            self._changed.notify_all()
        self._wake_waiting()

    def _fetch(self, first: int, count: int) -> Fetched:
        """Get chunks, in whichever thread a statement needs them. It holds the facet: one asks at a time."""
        question = self._next_question(first, count)
        if threading.current_thread() is threading.main_thread():
            self._host.need(question)
            self._host.wait_for(self._is_answered)
        else:
            self._host.call_on_loop(lambda: self._host.need(question))
            with self._changed:
                self._changed.wait_for(self._is_answered, self._limits.facet_wait_s)
        answer, self._answer = self._answer, None
        if isinstance(answer, FacetPages):
            return _fetched(answer)
        if self._closed:
            raise _ended()
        raise Unavailable(
            "pages of the facet did not come" if answer is None else f"the facet cannot be read: {answer.message}",
            code="facet_unavailable",
        )

    def _next_question(self, first: int, count: int) -> NeedPages:
        with self._changed:
            self._answer = None
            self._number += 1
            return NeedPages(self.run, self._number, first, count)

    def _is_answered(self) -> bool:
        return self._closed or self._answer is not None

    def close(self) -> None:
        """The run is dropped: whoever waits gets an error, and the image is freed."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._wake_waiting()
        if self._facet is not None:
            self._facet.discard()
            if self._holder is None:
                self._facet.close()

    # --- the right to it

    def take(self, holder: object) -> Facet:
        """The facet, for `holder` until `release`. Waits in a step thread; raises FacetBusy on the main thread."""
        facet = self._facet
        if facet is not None and self._holder is holder:
            return facet
        if threading.current_thread() is threading.main_thread():
            return self._take_now(holder)
        self._host.call_on_loop(self.ask)
        with self._changed:
            free = self._changed.wait_for(
                lambda: self._closed or self._failure or (self._facet is not None and self._holder is None),
                self._limits.facet_wait_s,
            )
            if not free:
                raise FacetBusy("another step of this instance has held the facet for too long; this step is retried")
            return self._hold(holder)

    def _take_now(self, holder: object) -> Facet:
        if self._facet is None:
            self.ask()
            self._host.wait_for(lambda: self.is_loaded)
        with self._changed:
            if self._holder is not None and not self._closed:
                raise FacetBusy(
                    "another step of this instance holds the facet until it ends; "
                    "wait for it with `async with self.facet.exclusive():`, or run the steps one after the other"
                )
            return self._hold(holder)

    def _hold(self, holder: object) -> Facet:
        if self._failure is not None and not self._closed:
            raise Unavailable(f"the facet cannot be read: {self._failure}", code="facet_unavailable")
        if self._closed or self._facet is None:
            raise _ended()
        self._facet.begin_step()
        self._holder = holder
        return self._facet

    async def take_exclusively(self, holder: object) -> None:
        """Wait, without stopping the loop, until `holder` has the facet."""
        while self._holder is not holder:
            if self._closed or self._failure or (self._facet is not None and self._holder is None):
                with self._changed:
                    if self._holder is None:
                        self._hold(holder)
                continue
            self.ask()
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            await waiting

    def release(self, holder: object, *, commit: bool) -> bytes:
        """End the step's use: the delta of what it wrote, b"" if nothing or not committed. May raise on commit."""
        if self._holder is not holder:
            return b""
        facet = self._facet
        assert facet is not None
        try:
            if commit:
                return facet.commit_step()
            facet.rollback_step()
            return b""
        finally:
            with self._changed:
                self._holder = None
                self._changed.notify_all()
            if self._waiting:
                self._host.call_on_loop(self._wake_waiting)

    def _wake_waiting(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        for future in waiting:
            if not future.done():
                future.set_result(None)


def _fetched(frame: FacetPages) -> Fetched:
    return Fetched(Stamp(frame.size, frame.checksum), frame.first, frame.chunks)


def _ended() -> NotHere:
    return NotHere("this run of the instance has ended; its facet is gone")


class AttemptFacet:
    """The facet as one attempt sees it. After `end` every use is refused, also by code that outlives its attempt."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._lock = threading.Lock()
        self._used = False
        self._ended = False
        self._rollback_due = False

    def execute(self, sql: str, parameters: Parameters) -> list[Any]:
        rows: list[Any] = self._use(lambda facet: facet.execute(sql, parameters))
        return rows

    def executemany(self, sql: str, parameters: Sequence[Parameters]) -> None:
        self._use(lambda facet: facet.executemany(sql, parameters))

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        self._check()
        self._used = True
        await self._owner.facet.take_exclusively(self)
        self._check()
        yield

    def end(self, *, commit: bool) -> bytes:
        """The attempt is over; the delta of what it wrote.

        A thread that is inside a statement for an attempt that was given up rolls back itself, when it gets out.
        """
        self._ended = True
        if not self._used:
            return b""
        if not self._lock.acquire(blocking=commit):
            self._rollback_due = True
            if not self._lock.acquire(blocking=False):
                return b""
        try:
            self._rollback_due = False
            return self._owner.facet.release(self, commit=commit)
        finally:
            self._lock.release()

    def _use(self, call: Callable[[Facet], Any]) -> Any:
        try:
            with self._lock:
                self._check()
                self._used = True
                return call(self._owner.facet.take(self))
        finally:
            if self._rollback_due:
                with self._lock:
                    self._rollback_due = False
                    self._owner.facet.release(self, commit=False)

    def _check(self) -> None:
        if self._ended:
            raise NotHere("this attempt of the step is over (timed out, cancelled or finished); its facet is closed")
