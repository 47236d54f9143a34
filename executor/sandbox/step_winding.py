"""Tasks of an attempt that is over: cancelled, given their grace time, and closed if they overstay it."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from typing import Any

from executor.sandbox.step_surface import AttemptSurface
from executor.workflow.runtime import current_attempt


class WindingAttempt(AttemptSurface):
    """The base of Attempt. Main thread only. `_then` is what is to be done once its tasks have ended."""

    __slots__ = ()

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """A task that its code has made: it ends with the attempt."""
        if self._children is None:
            self._children = set()
        self._children.add(task)
        task.add_done_callback(self._children.discard)
        if self.is_over:
            task.add_done_callback(self._one_ended)
        if self.is_ended:
            # Nobody awaits it: an async generator that was left open is closed by a task of the loop, for instance.
            task.cancel()
            self._close_later([task])

    def _left(self) -> list[asyncio.Task[Any]]:
        """Tasks of it that have not ended, but for the one that executes now."""
        own = _current_task(self._steps.loop)
        tasks: list[asyncio.Task[Any]] = list(self._children or ())
        if self._task is not None:
            tasks.append(self._task)
        return [task for task in tasks if task is not own and not task.done()]

    def _wind_up(self) -> None:
        """Cancel what still executes; when that has ended, or has overstayed its grace time, go on with `_then`."""
        left = self._left()
        if not left:
            self._wound_up()
            return
        for task in left:
            task.add_done_callback(self._one_ended)
            task.cancel()
        context = contextvars.Context()
        context.run(current_attempt.set, self)  # its own: what is closed in the end may print
        grace_s = self.call.options.grace_ms / 1000
        self._timer = self._steps.call_later(grace_s, self._overstayed, context=context)

    def _one_ended(self, task: asyncio.Task[Any]) -> None:
        _look_at(task)
        if self._timer is None or self._task is None:
            return  # it had its time
        left = self._left()
        if not left:
            self._timer.cancel()
            self._timer = None
            self._wound_up()
        elif self._task.done():
            for other in left:
                if not other.cancelling():  # its clean-up has left it behind
                    other.cancel()

    def _overstayed(self) -> None:
        self._timer = None
        for task in self._left():
            _close(task)
        self._wound_up()

    def _wound_up(self) -> None:
        self._task = None
        then, self._then = self._then, None
        if then is not None:
            then()

    def _wind_up_children(self) -> None:
        """What a step that has its result leaves behind: nobody waits for it."""
        left = [task for task in self._children or () if not task.done()]
        for task in left:
            task.add_done_callback(_look_at)
            task.cancel()
        if left:
            self._close_later(left)

    def _close_later(self, left: list[asyncio.Task[Any]]) -> None:
        """When their grace time is over."""
        grace_s = self.call.options.grace_ms / 1000
        self._steps.call_later(grace_s, functools.partial(_close_all, left), context=contextvars.Context())


def _look_at(task: asyncio.Task[Any]) -> None:
    """Or asyncio would complain that nobody has."""
    if not task.cancelled():
        task.exception()


def _close(task: asyncio.Task[Any]) -> None:
    """Put an end to a task that its cancellation did not end: GeneratorExit at the place where it waits.

    Code that awaits again even then is torn from what would wake it up, and never executes again.
    """
    try:
        task.get_coro().close()
    except BaseException:  # it goes on, or raises
        return
    finally:
        task.cancel()  # it is woken up once more, and finds its coroutine closed


def _close_all(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        if not task.done():
            _close(task)


def _current_task(loop: asyncio.AbstractEventLoop) -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task(loop)
    except RuntimeError:
        return None
