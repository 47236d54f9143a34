"""What tasks wait for: `Signal`, for any number of waiters, and `Landing`, for one that must not be cancelled."""

from __future__ import annotations

import trio
from trio.lowlevel import Abort, ParkingLot, Task, reschedule, wait_task_rescheduled


class Signal:
    """ "Something changed, look again". Look first, then wait: with no await in between, a change cannot be missed."""

    def __init__(self) -> None:
        self._waiters = ParkingLot()

    def notify(self) -> None:
        """Wake everybody who waits now."""
        if self._waiters:
            self._waiters.unpark_all()

    async def wait(self) -> None:
        """Return at the next `notify`."""
        await self._waiters.park()


class Landing:
    """Something that will certainly happen, soon, and that one task waits for; a cancellation waits with it."""

    __slots__ = ("_is_set", "_task")

    def __init__(self) -> None:
        self._is_set = False
        self._task: Task | None = None

    def set(self) -> None:
        """It has happened. Idempotent."""
        self._is_set = True
        if self._task is not None:
            reschedule(self._task)
            self._task = None

    async def wait(self) -> None:
        """Return once it has happened. Always a checkpoint in trio's sense but for cancellation."""
        if self._is_set:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        self._task = trio.lowlevel.current_task()
        await wait_task_rescheduled(_not_now)


def _not_now(_raise_cancel: object) -> Abort:
    return Abort.FAILED
