"""Step: what `run(self, event, step)` calls."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextvars import Token
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, Unpack, overload

from executor.workflow import runtime
from executor.workflow.blob import Blob
from executor.workflow.calls import (
    Calls,
    OptionsGiven,
    StepDecorator,
    StepWithOptions,
    check_function,
    check_misplaced_options,
    where,
)
from executor.workflow.current import CurrentAttempt, current_attempt
from executor.workflow.durations import Duration, duration_ms
from executor.workflow.options import Retry, StepOptions, Undo
from executor.workflow.runtime import ChildHandle, ClosePolicy, ReceivedEvent

if TYPE_CHECKING:
    from executor.workflow.base import Workflow

_P = ParamSpec("_P")
_T = TypeVar("_T")
_R = TypeVar("_R")


class _Missing:
    """Marks an argument that was not given."""


_MISSING = _Missing()
_DEFAULT_OPTIONS = StepOptions()


class Step(Calls):
    """The durable operations of one run. Each call is recorded under its name; on replay the record answers.

    Names may repeat: the n-th use of a name is its own step. Every call must be awaited.
    """

    __slots__ = ()

    def __init__(self, run: runtime.RunRuntime, scope: str | None = None) -> None:
        super().__init__(run, _DEFAULT_OPTIONS, scope)

    @overload
    def do(
        self, name: str, function: Callable[_P, Awaitable[_T]], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Coroutine[Any, Any, _T]: ...

    @overload
    def do(
        self, name: str, function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Coroutine[Any, Any, _T]: ...

    @overload
    def do(
        self,
        name: str,
        /,
        *,
        retry: Retry = ...,
        timeout: Duration | None = ...,
        undo: Callable[..., Any] | Undo | None = ...,
        sensitive: bool = ...,
        heartbeat: Duration | None = ...,
        stream: Literal[False] = ...,
        grace: Duration = ...,
    ) -> StepDecorator: ...

    @overload
    def do(
        self,
        name: str,
        /,
        *,
        stream: Literal[True],
        retry: Retry = ...,
        timeout: Duration | None = ...,
        undo: Callable[..., Any] | Undo | None = ...,
        heartbeat: Duration | None = ...,
        grace: Duration = ...,
    ) -> Callable[[Callable[_P, Any]], Callable[_P, Coroutine[Any, Any, Blob]]]: ...

    def do(
        self, name: str, function: Callable[..., Any] | _Missing = _MISSING, /, *args: Any, **kwargs: Any
    ) -> Coroutine[Any, Any, Any] | Callable[..., Any]:
        """Run `function(*args, **kwargs)` once, however often the run is replayed, and give its result.

        Sync or async. Without a function it is a decorator, and the keyword arguments are the step's options.
        Raises StepFailed when the retries are used up (StepTimeout: the last attempt took too long). The result must be
        made of JSON types, bytes, dates and datetimes, or be of the dataclass or model that the function declares.
        """
        if isinstance(function, _Missing):
            return StepDecorator(self._runtime, name, StepOptions().changed(kwargs), self._scope)
        check_function(name, function)
        if kwargs:
            check_misplaced_options(function, kwargs)
        return self._runtime.do(name, function, args, kwargs, _DEFAULT_OPTIONS, where(), self._scope)

    def options(self, **options: Unpack[OptionsGiven]) -> StepWithOptions:
        """Options for the direct form: `await step.options(retry=Retry(limit=2)).do("name", function, argument)`."""
        return StepWithOptions(self._runtime, StepOptions().changed(options), self._scope)

    def group(self, name: str) -> Group:
        """A scope for steps: what is asked inside `with step.group("audit"):` has paths like "audit#1/hash#1".

        What it returns can also be used in place of `step`, without entering it.
        """
        place = where()
        return Group(self._runtime, self._runtime.begin_group(name, place, runtime.scope_of(self._scope)), place)

    def emit(self, stream: str, item: Any) -> None:
        """Append a value to one of the instance's output streams, from `run()` or a step; durable a moment later.

        What an attempt of a step has emitted stays, also if the attempt fails; each item tells which one it is from.
        """
        attempt = None if runtime.in_run() else runtime.current_attempt.get()
        if attempt is None:
            self._runtime.emit(stream, item)
        else:
            attempt.emit(stream, item)

    def sleep(self, name: str, duration: Duration) -> Coroutine[Any, Any, None]:
        """Sleep durably: no process or memory is used meanwhile, restarts do not matter."""
        return self._runtime.sleep(name, duration_ms(duration, of="duration of step.sleep()"), where(), self._scope)

    def sleep_until(self, name: str, until: datetime) -> Coroutine[Any, Any, None]:
        """Sleep durably until a point in time (with a time zone); one in the past ends at once."""
        if not isinstance(until, datetime):
            raise TypeError(f"step.sleep_until() takes a datetime, not {type(until).__name__}")
        if until.utcoffset() is None:
            raise ValueError("step.sleep_until() takes a datetime with a time zone; add tzinfo=timezone.utc")
        return self._runtime.sleep_until(name, until, where(), self._scope)

    def wait_for_event(
        self, name: str, *, type: str, timeout: Duration | None = None, match: Mapping[str, Any] | None = None
    ) -> Coroutine[Any, Any, ReceivedEvent]:
        """Wait for an event of this type sent to this instance; one that came before the wait counts.

        `match`: what the payload must have, {"order.id": 7}; dots reach into it. Raises EventTimeout. Without a timeout
        it waits for ever. Each event answers one wait.
        """
        timeout_ms = None if timeout is None else duration_ms(timeout, of="timeout of step.wait_for_event()")
        return self._runtime.wait_for_event(name, type, timeout_ms, match, where(), self._scope)

    @overload
    def call(
        self,
        name: str,
        workflow: type[Workflow[Any, _R]],
        payload: Any = None,
        *,
        id: str | None = None,
        channel: str | None = None,
        close: ClosePolicy = "terminate",
    ) -> Coroutine[Any, Any, _R]: ...

    @overload
    def call(
        self,
        name: str,
        workflow: str,
        payload: Any = None,
        *,
        id: str | None = None,
        channel: str | None = None,
        close: ClosePolicy = "terminate",
    ) -> Coroutine[Any, Any, Any]: ...

    def call(
        self,
        name: str,
        workflow: str | type[Workflow[Any, Any]],
        payload: Any = None,
        *,
        id: str | None = None,
        channel: str | None = None,
        close: ClosePolicy = "terminate",
    ) -> Coroutine[Any, Any, Any]:
        """Run another workflow as a child of this instance and give what it returns.

        It runs on this instance's commit, or on what `channel` is on. `close`: what happens to it if this instance ends
        or gives it up first. Raises ChildFailed.
        """
        return self._runtime.child(
            name, workflow, payload, id, channel, close, is_awaited=True, where=where(), scope=self._scope
        )

    def start(
        self,
        name: str,
        workflow: str | type[Workflow[Any, Any]],
        payload: Any = None,
        *,
        id: str | None = None,
        channel: str | None = None,
        close: ClosePolicy = "abandon",
    ) -> Coroutine[Any, Any, ChildHandle]:
        """Start another workflow as a child of this instance; goes on when it exists. Raises ChildFailed."""
        return self._runtime.child(
            name, workflow, payload, id, channel, close, is_awaited=False, where=where(), scope=self._scope
        )

    def current(self) -> CurrentAttempt:
        """Inside a step: which attempt of which step this is."""
        return current_attempt()


class Group(Step):
    """What `step.group(name)` gives: a Step whose steps are in the group, and a context manager (`with`, `async with`)
    in which all steps are, those of tasks that are made in it too."""

    __slots__ = ("_place", "_state", "_token")

    def __init__(self, run: runtime.RunRuntime, path: str, place: str) -> None:
        super().__init__(run, path)
        self._place = place
        self._state: Literal["", "entered", "left"] = ""
        self._token: Token[str] | None = None

    def __enter__(self) -> Step:
        if self._state:
            raise RuntimeError(f"group {self._scope!r} was entered before; ask for another: step.group(name)")
        self._state = "entered"
        self._token = runtime.current_scope.set(self._scope or "")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._state = "left"
        token, self._token = self._token, None
        if token is not None:
            try:
                runtime.current_scope.reset(token)
            except ValueError:  # closed from elsewhere: the run is thrown away
                return
        self._runtime.end_group(self._scope or "", self._place)

    async def __aenter__(self) -> Step:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)
