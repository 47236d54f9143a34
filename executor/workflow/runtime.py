"""The seam between what tenants call and what runs it: two small protocols and two context variables.

Outside a sandbox nothing implements them, and every call says so; hence `executor.workflow` needs no other package.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from executor.workflow.options import StepOptions

Parameters = Sequence[Any] | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ReceivedEvent:
    """An event from outside: what `wait_for_event` returns. `timestamp` (UTC) is when the platform took it in."""

    payload: Any
    type: str
    id: str
    timestamp: datetime


class RunRuntime(Protocol):
    """One run: answers what `run()` asks. Each method checks its arguments at once; what it returns must be awaited."""

    def do(  # noqa: PLR0917  # one caller, in step.py
        self,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: StepOptions,
        where: str,
    ) -> Coroutine[Any, Any, Any]: ...

    def sleep(self, name: str, duration_ms: int, where: str) -> Coroutine[Any, Any, None]: ...

    def sleep_until(self, name: str, until: datetime, where: str) -> Coroutine[Any, Any, None]: ...

    def wait_for_event(
        self, name: str, type: str, timeout_ms: int | None, where: str
    ) -> Coroutine[Any, Any, ReceivedEvent]: ...

    def emit(self, stream: str, item: Any) -> None: ...


class AttemptRuntime(Protocol):
    """One attempt of a step, while it executes."""

    attempt: int
    deadline: datetime | None

    @property
    def name(self) -> str: ...

    @property
    def idempotency_key(self) -> str: ...

    @property
    def last_heartbeat(self) -> Any:
        """Details of the last heartbeat of the attempt before this one, decoded; None if there were none."""

    def heartbeat(self, details: Any) -> None: ...

    def emit(self, stream: str, item: Any) -> None: ...

    def stream_part(self, id: int, number: int) -> bytes | None:
        """A part of a stream that is in the facet."""

    def facet_execute(self, sql: str, parameters: Parameters) -> list[Any]: ...

    def facet_executemany(self, sql: str, parameters: Sequence[Parameters]) -> None: ...

    def facet_exclusive(self) -> AbstractAsyncContextManager[None]: ...


current_attempt: ContextVar[AttemptRuntime | None] = ContextVar("perdure_attempt", default=None)
"""Set in the context of each executing attempt (task or thread)."""

in_run: Callable[[], bool] = bool
"""True while `run()` of some instance executes on this thread; the sandbox puts its own in place (`set_in_run`)."""


def set_in_run(function: Callable[[], bool]) -> None:
    """Tell this module how to know that `run()` executes."""
    global in_run  # noqa: PLW0603  # the one hook of the sandbox into this package
    in_run = function
