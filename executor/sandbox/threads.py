"""A fixed pool of threads for sync steps.

The threads are started before the sandbox's filter refuses new ones, so the pool never grows. A job cannot be stopped:
one whose attempt has timed out goes on in its thread, `abandoned`, until it returns by itself.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Literal, Protocol

from executor.sandbox.limits import THREAD_STACK_BYTES

Job = Callable[[], None]


class StepPool:
    """`count` daemon threads with stacks of `stack_bytes`, started at once. A job must not raise."""

    def __init__(self, count: int, stack_bytes: int = THREAD_STACK_BYTES) -> None:
        self.count = count
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._ended: SimpleQueue[None] = SimpleQueue()
        before = _thread.stack_size(stack_bytes)
        try:
            for _ in range(count):
                # threading.Thread.start waits for each to run, 1 ms apiece; this is on the way of every cold start.
                _thread.start_new_thread(self._work, ())
        finally:
            _thread.stack_size(before)

    def submit(self, job: Job) -> None:
        self._jobs.put(job)

    def close(self) -> None:
        """Let the threads end when they have done what is queued (for tests; the sandbox ends with its process)."""
        for _ in range(self.count):
            self._jobs.put(None)
        for _ in range(self.count):
            self._ended.get()

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                self._ended.put(None)
                return
            job()
            del job


class PlaceCount(Protocol):
    """Who counts the places, on the main thread."""

    def thread_taken(self, change: int) -> bool: ...

    def abandoned_thread(self, change: int) -> None: ...


class ThreadPlace:
    """One job's place in the pool, from before it is submitted. Main thread only, but for `enter`.

    `is_free`: a thread was free for it. A job that is abandoned while it executes keeps its thread until it returns.
    """

    __slots__ = ("_count", "_state", "is_free")

    def __init__(self, count: PlaceCount) -> None:
        self._count = count
        self._state: Literal["queued", "executing", "abandoned", "left"] = "queued"
        self.is_free = count.thread_taken(+1)

    def enter(self) -> None:
        """The job begins; in its thread."""
        self._state = "executing"

    def abandon(self) -> None:
        """Nobody waits for it any more."""
        if self._state == "executing":
            self._state = "abandoned"
            self._count.abandoned_thread(+1)

    def leave(self) -> None:
        """It has returned."""
        if self._state == "abandoned":
            self._count.abandoned_thread(-1)
        self._state = "left"
        self._count.thread_taken(-1)


class LoopExecutor:
    """The pool as `loop.set_default_executor` wants it, so that `asyncio.to_thread` works in async steps."""

    def __init__(self, pool: StepPool) -> None:
        self._pool = pool

    def as_executor(self) -> Any:
        pool = self._pool

        class PoolExecutor(ThreadPoolExecutor):
            """asyncio insists on this class; its own threads are never started."""

            def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
                future: Future[Any] = Future()

                def job() -> None:
                    if not future.set_running_or_notify_cancel():
                        return
                    try:
                        future.set_result(fn(*args, **kwargs))
                    except BaseException as error:  # it belongs to whoever awaits the future
                        future.set_exception(error)

                pool.submit(job)
                return future

        return PoolExecutor(max_workers=1)
