"""What tenant code reaches of the attempt that executes it, through its context: identity, facet, output, signals.

Each is made at its first use, on any thread: most attempts use none of them.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, cast

import msgspec

from executor.core import values
from executor.core.commands import Beat, Emit, StepDone, StepError
from executor.sandbox.blobs_inside import Blobs
from executor.sandbox.facets_inside import AttemptFacet, RunFacet
from executor.sandbox.output import Recorder, Scope, nowhere
from executor.sandbox.step_calls import StepCall
from executor.sandbox.step_signals import Signals
from executor.sandbox.threads import ThreadPlace
from executor.workflow.errors import NotHere
from executor.workflow.runtime import Parameters

if TYPE_CHECKING:
    from executor.sandbox.step_attempt import Attempt
    from executor.sandbox.steps import Steps


_time_ns = time.time_ns
"""The real clock, taken before `ambient` replaces the name."""


class Owner(Protocol):
    """The run that an attempt belongs to."""

    recorder: Recorder
    number: int

    @property
    def facet(self) -> RunFacet: ...

    @property
    def blobs(self) -> Blobs: ...

    def attempt_begun(self, attempt: Attempt) -> None:
        """It executes from now on. To be told along with whatever is told next."""

    def attempt_lasts(self, attempt: Attempt) -> None:
        """It has executed for a while: if its beginning has not been told, now is the time."""

    def attempt_says(self, attempt: Attempt, command: Beat | Emit) -> None: ...

    def attempt_over(self, attempt: Attempt, report: StepDone | StepError) -> None: ...


class _Nobody:
    """The owner of an attempt that has ended: code that outlives its attempt does not keep the run."""

    recorder: Any = None
    number = 0

    @property
    def facet(self) -> RunFacet:
        raise _over()

    @property
    def blobs(self) -> Blobs:
        raise _over()

    def attempt_begun(self, attempt: Attempt) -> None: ...

    def attempt_lasts(self, attempt: Attempt) -> None: ...

    def attempt_says(self, attempt: Attempt, command: Beat | Emit) -> None: ...

    def attempt_over(self, attempt: Attempt, report: StepDone | StepError) -> None: ...


NOBODY = _Nobody()
making = threading.RLock()
"""Held while an attempt's facet, output or signals are made, or while it ends: they are made at first use, often in a
thread."""


class AttemptSurface:
    """The base of Attempt. Implements `executor.workflow.runtime.AttemptRuntime`."""

    __slots__ = (
        "__weakref__", "_children", "_facet", "_given_details", "_output", "_place", "_signals", "_steps", "_task",
        "_then", "_timer", "_watch", "attempt", "call", "deadline", "is_ended", "is_over", "is_started",
        "owner", "started_at_ms",
    )  # fmt: skip

    def __init__(self, steps: Steps, owner: Owner, call: StepCall, number: int, details: bytes = b"") -> None:
        """`details`: of the last heartbeat of the attempt before, or of this one before it was lost."""
        self.call = call
        self.attempt = number
        self.deadline: datetime | None = None
        self.owner = owner
        self.is_over = False
        self.is_ended = False
        self.is_started = False
        self.started_at_ms = 0
        self._steps = steps
        self._given_details = details
        self._facet: AttemptFacet | None = None
        self._output: Scope | None = None
        self._signals: Signals | None = None
        self._task: asyncio.Task[None] | None = None
        self._children: set[asyncio.Task[Any]] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._then: Callable[[], None] | None = None
        self._place: ThreadPlace | None = None

    def _set_deadline(self) -> None:
        now_ms = _time_ns() // 1_000_000
        if not self.started_at_ms:
            self.started_at_ms = now_ms
        timeout_ms = self.call.options.timeout_ms
        if timeout_ms is not None:
            self.deadline = datetime.fromtimestamp((now_ms + timeout_ms) / 1000, UTC)

    @property
    def name(self) -> str:
        return self.call.name

    @property
    def path(self) -> str:
        return self.call.path

    @property
    def idempotency_key(self) -> str:
        return self.call.idempotency_key

    @property
    def last_heartbeat(self) -> Any:
        return values.decode(self._given_details, what="heartbeat details") if self._given_details else None

    @property
    def output(self) -> Scope:
        """Where its lines go; made at the first. See `executor.sandbox.output.current`."""
        if self._output is None:
            with making:  # or an end that comes between would leave it open
                if self.is_ended:
                    return nowhere
                self._output = Scope(self.owner.recorder, self.call.path, self.attempt)
        return self._output

    @property
    def facet(self) -> AttemptFacet:
        """Made at the first use: most attempts have none."""
        if self._facet is None:
            with making:
                if self._facet is None:
                    facet = AttemptFacet(self.owner)
                    if self.is_over:
                        facet.end(commit=False)
                    self._facet = facet
        return self._facet

    def facet_execute(self, sql: str, parameters: Parameters) -> list[Any]:
        return self.facet.execute(sql, parameters)

    def facet_executemany(self, sql: str, parameters: Sequence[Parameters]) -> None:
        self.facet.executemany(sql, parameters)

    def facet_exclusive(self) -> AbstractAsyncContextManager[None]:
        return self.facet.exclusive()

    def stream_part(self, id: int, number: int) -> bytes | None:
        owner = self.owner
        self.check()
        return owner.blobs.part(owner.number, id, number)

    async def stream_part_async(self, id: int, number: int) -> bytes | None:
        owner = self.owner
        self.check()
        return await owner.blobs.part_async(owner.number, id, number)

    def check(self) -> None:
        """Raises NotHere if it is over."""
        if self.is_over:
            raise _over()

    def heartbeat(self, details: Any) -> None:
        self._speaking().beat(details)

    def emit(self, stream: str, item: Any) -> None:
        self._speaking().emit(stream, item)

    def _speaking(self) -> Signals:
        if self._signals is None:
            with making:
                if self._signals is None and not self.is_over:
                    self._signals = self._new_signals()
        if self.is_over or self._signals is None:
            raise _over()
        return self._signals

    def _new_signals(self) -> Signals:
        return Signals(self, self._steps, self.call.options.heartbeat_ms, self._given_details)

    def say(self, command: Beat | Emit) -> None:
        if self.call.options.is_sensitive and isinstance(command, Beat):
            command = msgspec.structs.replace(command, is_sensitive=True)
        self.owner.attempt_says(cast("Attempt", self), command)  # the one class that is made of this


def _over() -> NotHere:
    return NotHere("this attempt of the step is over (timed out, cancelled or finished)")
