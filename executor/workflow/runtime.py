"""The seam between what tenants call and what runs it: two small protocols and two context variables.

Outside a sandbox nothing implements them, and every call says so; hence `executor.workflow` needs no other package.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NoReturn, Protocol

from executor.workflow.options import StepOptions

Parameters = Sequence[Any] | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ReceivedEvent:
    """An event from outside: what `wait_for_event` returns. `timestamp` (UTC) is when the platform took it in."""

    payload: Any
    type: str
    id: str
    timestamp: datetime


ClosePolicy = Literal["terminate", "abandon"]


@dataclass(frozen=True, slots=True)
class ChildHandle:
    """A child that was started: its instance id, workflow, and the commit that it is pinned to."""

    id: str
    workflow: str
    commit: str


class RunRuntime(Protocol):
    """One run: answers what `run()` asks. Each method checks its arguments at once; a coroutine that it returns must be
    awaited. `scope` None is that of the group in which the code is, "" is none."""

    def do(  # noqa: PLR0917  # one caller, in step.py
        self,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: StepOptions,
        where: str,
        scope: str | None,
    ) -> Coroutine[Any, Any, Any]: ...

    def sleep(self, name: str, duration_ms: int, where: str, scope: str | None) -> Coroutine[Any, Any, None]: ...

    def sleep_until(self, name: str, until: datetime, where: str, scope: str | None) -> Coroutine[Any, Any, None]: ...

    def wait_for_event(  # noqa: PLR0917  # one caller, in step.py
        self,
        name: str,
        type: str,
        timeout_ms: int | None,
        match: Mapping[str, Any] | None,
        where: str,
        scope: str | None,
    ) -> Coroutine[Any, Any, ReceivedEvent]: ...

    def child(  # noqa: PLR0917  # two callers, in step.py
        self,
        name: str,
        workflow: object,
        payload: Any,
        id: str | None,
        channel: str | None,
        close: ClosePolicy,
        *,
        is_awaited: bool,
        where: str,
        scope: str | None,
    ) -> Coroutine[Any, Any, Any]: ...

    def combined(self, name: str, work: Callable[[], Coroutine[Any, Any, Any]], where: str) -> Coroutine[Any, Any, Any]:
        """A coroutine over `work()`, told of if it is never awaited."""
        ...

    def begin_group(self, name: str, where: str, scope: str | None) -> str:
        """The group's path."""
        ...

    def end_group(self, path: str, where: str) -> None:
        """The code has left it. Does nothing if the run is over."""

    def emit(self, stream: str, item: Any) -> None: ...

    def get_status(self) -> Any: ...

    def set_status(self, value: Any) -> None: ...

    def set_attributes(self, attributes: dict[str, Any]) -> None: ...

    def continue_as_new(self, payload: Any) -> NoReturn: ...


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
        """A part of a stream of this instance; None: there is none."""

    async def stream_part_async(self, id: int, number: int) -> bytes | None:
        """As `stream_part`, without stopping the loop."""

    def facet_execute(self, sql: str, parameters: Parameters) -> list[Any]: ...

    def facet_executemany(self, sql: str, parameters: Sequence[Parameters]) -> None: ...

    def facet_exclusive(self) -> AbstractAsyncContextManager[None]: ...


current_attempt: ContextVar[AttemptRuntime | None] = ContextVar("perdure_attempt", default=None)
"""Set in the context of each executing attempt (task or thread)."""

current_scope: ContextVar[str] = ContextVar("perdure_scope", default="")
"""The path of the group in which code of `run()` is, "" for none: set in the context of its task."""

in_run: Callable[[], bool] = bool
"""True while `run()` of some instance executes on this thread; the sandbox puts its own in place (`set_hooks`)."""


def _no_run() -> RunRuntime | None:
    return None


current_run: Callable[[], RunRuntime | None] = _no_run
"""The run that executes on this thread; see `in_run`."""


def scope_of(scope: str | None) -> str:
    """`scope`, or that of the code that calls."""
    return current_scope.get() if scope is None else scope


def set_hooks(is_in_run: Callable[[], bool] = bool, run: Callable[[], RunRuntime | None] = _no_run) -> None:
    """Tell this module how to know which `run()` executes; without arguments: none does."""
    global in_run, current_run  # noqa: PLW0603  # the hooks of the sandbox into this package
    in_run = is_in_run
    current_run = run
