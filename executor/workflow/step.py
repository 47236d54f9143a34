"""Step: what `run(self, event, step)` calls."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, ParamSpec, TypedDict, TypeVar, Unpack, overload

from executor.workflow import runtime
from executor.workflow.blob import Blob
from executor.workflow.durations import Duration, duration_ms
from executor.workflow.errors import NotHere
from executor.workflow.options import OPTIONS, OPTIONS_LATER, Retry, StepOptions, Undo
from executor.workflow.runtime import ReceivedEvent

_P = ParamSpec("_P")
_T = TypeVar("_T")


class _Missing:
    """Marks an argument that was not given."""


_MISSING = _Missing()


class OptionsGiven(TypedDict, total=False):
    """What `step.options(…)` and `@step.do(name, …)` take; docs/workflows.md has their meaning."""

    retry: Retry
    timeout: Duration | None
    undo: Callable[..., Any] | Undo | None
    sensitive: bool
    heartbeat: Duration | None
    stream: bool
    grace: Duration


@dataclass(frozen=True, slots=True)
class CurrentAttempt:
    """The attempt that executes now. `idempotency_key` is the same for all attempts of a step and for no other step."""

    name: str
    attempt: int
    deadline: datetime | None
    idempotency_key: str
    last_heartbeat: Any = None
    """Details of the last heartbeat of the attempt before this one, or of this one before it was lost; else None."""
    _runtime: runtime.AttemptRuntime | None = field(default=None, repr=False, compare=False)

    def heartbeat(self, details: Any = None) -> None:
        """Say that the attempt is alive; from any thread, as often as you like.

        `details`: a value of up to 64 KiB for the next attempt (`last_heartbeat`); without it the last ones stay.
        Raises NotHere once the attempt is over: a thread, which cannot be cancelled, ends by that.
        """
        if self._runtime is None:
            raise NotHere("heartbeat() works inside a step, while its attempt executes")
        self._runtime.heartbeat(details)


class StepDecorator:
    """What `step.do("name", retry=…)` returns: put it over a function, and calls of it become steps."""

    __slots__ = ("_name", "_options", "_runtime")

    def __init__(self, run: runtime.RunRuntime, name: str, options: StepOptions) -> None:
        self._runtime = run
        self._name = name
        self._options = options

    @overload
    def __call__(self, function: Callable[_P, Awaitable[_T]], /) -> Callable[_P, Coroutine[Any, Any, _T]]: ...

    @overload
    def __call__(self, function: Callable[_P, _T], /) -> Callable[_P, Coroutine[Any, Any, _T]]: ...

    def __call__(self, function: Callable[..., Any], /) -> Callable[..., Coroutine[Any, Any, Any]]:
        _check_function(self._name, function)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
            return self._runtime.do(self._name, function, args, kwargs, self._options, _where())

        return call


class StepWithOptions:
    """`step.options(retry=…, timeout=…)`: its `do` is `step.do` with these options."""

    __slots__ = ("_options", "_runtime")

    def __init__(self, run: runtime.RunRuntime, options: StepOptions) -> None:
        self._runtime = run
        self._options = options

    @overload
    def do(
        self, name: str, function: Callable[_P, Awaitable[_T]], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Coroutine[Any, Any, _T]: ...

    @overload
    def do(
        self, name: str, function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Coroutine[Any, Any, _T]: ...

    def do(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        _check_function(name, function)
        _check_misplaced_options(function, kwargs)
        return self._runtime.do(name, function, args, kwargs, self._options, _where())


class Step:
    """The durable operations of one run. Each call is recorded under its name; on replay the record answers.

    Names may repeat: the n-th use of a name is its own step. Every call must be awaited.
    """

    __slots__ = ("_runtime",)

    def __init__(self, run: runtime.RunRuntime) -> None:
        self._runtime = run

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
    ) -> Coroutine[Any, Any, Any] | StepDecorator:
        """Run `function(*args, **kwargs)` once, however often the run is replayed, and give its result.

        Sync or async. Without a function it is a decorator, and the keyword arguments are the step's options.
        Raises StepFailed when the retries are used up (StepTimeout: the last attempt took too long). The result must be
        made of JSON types, bytes, dates and datetimes, or be of the dataclass or model that the function declares.
        """
        if isinstance(function, _Missing):
            return StepDecorator(self._runtime, name, StepOptions().changed(kwargs))
        _check_function(name, function)
        if kwargs:
            _check_misplaced_options(function, kwargs)
        return self._runtime.do(name, function, args, kwargs, _DEFAULT_OPTIONS, _where())

    def options(self, **options: Unpack[OptionsGiven]) -> StepWithOptions:
        """Options for the direct form: `await step.options(retry=Retry(limit=2)).do("name", function, argument)`."""
        return StepWithOptions(self._runtime, StepOptions().changed(options))

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
        return self._runtime.sleep(name, duration_ms(duration, of="duration of step.sleep()"), _where())

    def sleep_until(self, name: str, until: datetime) -> Coroutine[Any, Any, None]:
        """Sleep durably until a point in time (with a time zone); one in the past ends at once."""
        if not isinstance(until, datetime):
            raise TypeError(f"step.sleep_until() takes a datetime, not {type(until).__name__}")
        if until.utcoffset() is None:
            raise ValueError("step.sleep_until() takes a datetime with a time zone; add tzinfo=timezone.utc")
        return self._runtime.sleep_until(name, until, _where())

    def wait_for_event(
        self, name: str, *, type: str, timeout: Duration | None = None
    ) -> Coroutine[Any, Any, ReceivedEvent]:
        """Wait for an event of this type sent to this instance; one that came before the wait counts.

        Raises EventTimeout. Without a timeout it waits for ever. Each event answers one wait.
        """
        timeout_ms = None if timeout is None else duration_ms(timeout, of="timeout of step.wait_for_event()")
        return self._runtime.wait_for_event(name, type, timeout_ms, _where())

    def current(self) -> CurrentAttempt:
        """Inside a step: which attempt of which step this is."""
        attempt = None if runtime.in_run() else runtime.current_attempt.get()
        if attempt is None:
            raise NotHere("step.current() works inside a step; in run() there is no attempt to tell of")
        return CurrentAttempt(
            attempt.name,
            attempt.attempt,
            attempt.deadline,
            attempt.idempotency_key,
            attempt.last_heartbeat,
            attempt,
        )


_DEFAULT_OPTIONS = StepOptions()


def _where() -> str:
    """The line that called the public method which calls this."""
    frame = sys._getframe(2)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _check_function(name: object, function: object) -> None:
    if callable(function):
        return
    if inspect.isawaitable(function):
        if inspect.iscoroutine(function):
            function.close()  # or the interpreter would complain about it as well
        raise TypeError(
            f"step {name!r} was given a coroutine that is already called; "
            "give the function and its arguments apart: step.do(name, function, argument)"
        )
    raise TypeError(f"step {name!r} was given a {type(function).__name__}, which cannot be called")


def _check_misplaced_options(function: Callable[..., Any], kwargs: dict[str, Any]) -> None:
    """In the direct form all arguments go to the function: say so to whoever meant an option."""
    for name in (OPTIONS | OPTIONS_LATER).intersection(kwargs):
        try:
            inspect.signature(function).bind_partial(**{name: kwargs[name]})
        except TypeError:
            raise TypeError(
                f"{name}= would go to the step's function, which does not take it. Options go to the decorator form, "
                f"@step.do(name, {name}=…), or to step.options({name}=…).do(name, function)"
            ) from None
        except ValueError:  # no signature to be had: a builtin
            continue
