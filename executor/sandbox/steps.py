"""All attempts of the process: how many execute at once, in which threads, and what they have in common."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Container, Coroutine
from contextvars import Context
from typing import Any

from executor.sandbox.child_limits import ChildLimits
from executor.sandbox.step_attempt import Attempt
from executor.sandbox.step_calls import StepCall
from executor.sandbox.step_surface import Owner
from executor.sandbox.threads import StepPool
from executor.workflow.runtime import current_attempt

LASTS_S = 0.1
"""An attempt that has executed for one to two times as long is said to last."""


class Steps:
    """Attempts, bounded in number. Methods belong to the main thread, but for `call_on_loop`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pool: StepPool,
        files: Container[str],
        limits: ChildLimits,
        *,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """`now_s`: the clock of `loop`, the real one also where `run()` executes: there the loop itself would ask the
        clock that `ambient` has put in place."""
        self.loop = loop
        self.now_s = now_s
        self.pool = pool
        self.files = files
        self.limits = limits
        self._executing: set[Attempt] = set()
        self._queued: deque[Attempt] = deque()
        self._abandoned = 0
        self._threads_taken = 0
        # Attempts whose beginning may not have been told yet, in two generations: one timer is enough for all of them.
        self._young: dict[Attempt, None] = {}
        self._older: dict[Attempt, None] = {}
        self._look_due = False
        self.on_no_thread_left: Callable[[], object] = lambda: None
        loop.set_task_factory(_new_task)  # type: ignore[arg-type]  # typeshed has no keyword arguments of it

    def begin(self, owner: Owner, call: StepCall, number: int, details: bytes = b"") -> Attempt:
        """Execute an attempt now, or when there is room. `details`: see Attempt."""
        attempt = Attempt(self, owner, call, number, details)
        if len(self._executing) < self.limits.attempt_count_max:
            self._executing.add(attempt)
            attempt.start()
        else:
            self._queued.append(attempt)
        return attempt

    def began(self, attempt: Attempt) -> None:
        """It executes. Its owner hears `attempt_lasts` if it still does after a while."""
        self._young[attempt] = None
        if not self._look_due:
            self._look_due = True
            self.call_later(LASTS_S, self._look)

    def _look(self) -> None:
        lasting, self._older, self._young = self._older, self._young, {}
        self._look_due = bool(self._older)
        if self._look_due:
            self.call_later(LASTS_S, self._look)
        for attempt in lasting:
            attempt.owner.attempt_lasts(attempt)

    def thread_taken(self, change: int) -> bool:
        """Count what is given to the pool. Whether there are threads for all of it."""
        self._threads_taken += change
        return self._threads_taken <= self.pool.count

    def abandoned_thread(self, change: int) -> None:
        """Count threads that execute what nobody waits for. They cannot be stopped; with all of them so, the process
        is of no use for sync steps any more: `on_no_thread_left` ends it, and its instances go on in another."""
        self._abandoned += change
        if self._abandoned >= self.pool.count:
            self.on_no_thread_left()

    @property
    def has_thread_left(self) -> bool:
        return self._abandoned < self.pool.count

    def ended(self, attempt: Attempt) -> None:
        """Make room. An attempt that never started is found over when its turn comes."""
        self._executing.discard(attempt)
        self._young.pop(attempt, None)
        self._older.pop(attempt, None)
        while self._queued and len(self._executing) < self.limits.attempt_count_max:
            following = self._queued.popleft()
            if not following.is_over:
                self._executing.add(following)
                following.start()

    def call_later(
        self, wait_s: float, callback: Callable[[], object], *, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Main thread."""
        return self.loop.call_at(self.now_s() + wait_s, callback, context=context)

    def call_on_loop(self, callback: Callable[[], object]) -> None:
        """From any thread."""
        try:
            self.loop.call_soon_threadsafe(callback)
        except RuntimeError:  # the loop is closed: the process ends
            return


def _new_task(loop: asyncio.AbstractEventLoop, code: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
    """A task that the code of an attempt makes belongs to it, and ends with it."""
    task: asyncio.Task[Any] = asyncio.Task(code, loop=loop, **options)
    attempt = current_attempt.get()
    if isinstance(attempt, Attempt):
        attempt.adopt(task)
    return task
