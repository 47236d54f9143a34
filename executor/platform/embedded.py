"""Transports to a Host in this process: one for plain threads, one for asyncio and trio."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from executor.operations import Arguments, Operation
from executor.platform.host import Host

if TYPE_CHECKING:
    from executor.service import Caller, Service

T = TypeVar("T")


def _call(host: Host, operation: Operation, path: tuple[str, ...], arguments: Arguments) -> Future[Any]:
    def call(service: Service, caller: Caller) -> Awaitable[Any]:
        before = [] if operation.access == "none" else [caller]
        answer: Awaitable[Any] = getattr(service, operation.name)(*before, *path, **arguments.keywords())
        return answer

    return host.submit(call)


def _result(host: Host, tenant: str, instance: str, timeout_s: float | None) -> Future[Any]:
    return host.submit(lambda service, caller: service.result(caller, tenant, instance, timeout_s=timeout_s))


class Embedded:
    """Blocks the calling thread until the trio thread has answered."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def open(self) -> None:
        self._host.start().result()

    def close(self) -> None:
        self._host.stop().result()

    def call(self, operation: Operation, path: tuple[str, ...], arguments: Arguments) -> Any:
        return _block(_call(self._host, operation, path, arguments))

    def result(self, tenant: str, instance: str, timeout_s: float | None) -> Any:
        return _block(_result(self._host, tenant, instance, timeout_s))

    def url(self, path: str) -> str:
        return self._host.address() + path


class AsyncEmbedded:
    """Suspends the calling task, under asyncio or trio."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def open(self) -> None:
        await _wait(self._host.start())

    async def close(self) -> None:
        await _wait(self._host.stop())

    async def call(self, operation: Operation, path: tuple[str, ...], arguments: Arguments) -> Any:
        return await _wait(_call(self._host, operation, path, arguments))

    async def result(self, tenant: str, instance: str, timeout_s: float | None) -> Any:
        return await _wait(_result(self._host, tenant, instance, timeout_s))

    def url(self, path: str) -> str:
        return self._host.address() + path


def _block(future: Future[T]) -> T:
    try:
        return future.result()
    except BaseException:
        # An interrupt of the waiting thread gives up the call too; for a finished future this does nothing.
        future.cancel()
        raise


async def _wait(future: Future[T]) -> T:
    """The future's outcome without blocking the caller's event loop. Cancelling the wait cancels the future."""
    if not trio.lowlevel.in_trio_task():
        return await asyncio.wrap_future(future)
    waiting = _Waiting(trio.lowlevel.current_task())
    answers = _answers.get(None)
    if answers is None:
        answers = _Answers(trio.lowlevel.current_trio_token())
        _answers.set(answers)
    future.add_done_callback(partial(answers.put, waiting))

    def give_up(_raise_cancel: object) -> trio.lowlevel.Abort:
        waiting.task = None
        future.cancel()
        return trio.lowlevel.Abort.SUCCEEDED

    await trio.lowlevel.wait_task_rescheduled(give_up)
    return future.result()


class _Waiting:
    """`task` None: it waits no longer."""

    __slots__ = ("task",)

    def __init__(self, task: trio.lowlevel.Task) -> None:
        self.task: trio.lowlevel.Task | None = task


class _Answers:
    """Answers for the tasks of one trio loop, brought by another thread: however many come at once, one wake-up."""

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self._token = token
        self._done: deque[_Waiting] = deque()
        self._is_woken = False

    def put(self, waiting: _Waiting, _future: Future[Any]) -> None:
        """From any thread. Append first, then look: `_deliver` lowers the flag before it looks at the queue."""
        self._done.append(waiting)
        if not self._is_woken:
            self._is_woken = True
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._deliver)

    def _deliver(self) -> None:
        self._is_woken = False
        with suppress(IndexError):
            while True:
                waiting = self._done.popleft()
                if waiting.task is not None:
                    trio.lowlevel.reschedule(waiting.task)


_answers: trio.lowlevel.RunVar[_Answers | None] = trio.lowlevel.RunVar("perdure answers")
