"""Worker: a thread of its own for one kind of blocking work: a hop is a queue and a wake-up, without a pool."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

import outcome
import trio
from trio.lowlevel import Abort, Task, TrioToken

T = TypeVar("T")


class Blocking(Protocol):
    """Runs functions that block, one after the other, off the event loop."""

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """What `function(*args)` returns or raises. Not cancellable: what was begun is finished."""
        ...

    def close(self) -> None:
        """Nothing more will be run. Returns at once."""


class Worker:
    """See Blocking. The thread begins with the first call and ends with `close`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[tuple[TrioToken, Task, Callable[..., Any], tuple[Any, ...]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    async def run(self, function: Callable[..., T], *args: Any) -> T:
        """See Blocking."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
            self._thread.start()
        self._calls.put((trio.lowlevel.current_trio_token(), trio.lowlevel.current_task(), function, args))
        result: T = await trio.lowlevel.wait_task_rescheduled(_not_cancellable)
        return result

    def close(self) -> None:
        """See Blocking."""
        if self._thread is not None:
            self._calls.put(None)
            self._thread = None

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            token, task, function, args = call
            result = outcome.capture(function, *args)
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(trio.lowlevel.reschedule, task, result)
            del call, task, function, args, result  # nothing of a call may live on while the next is waited for


def _not_cancellable(_raise_cancel: object) -> Abort:
    return Abort.FAILED
