"""Calls of steps: by decorator, with options, over many items, again and again."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Literal, ParamSpec, TypedDict, TypeVar, overload

from executor.workflow import mapping, polling, runtime
from executor.workflow.durations import Duration
from executor.workflow.errors import StepFailed
from executor.workflow.options import OPTIONS, OPTIONS_LATER, Backoff, Retry, StepOptions, Undo

_P = ParamSpec("_P")
_T = TypeVar("_T")
_A = TypeVar("_A")


class OptionsGiven(TypedDict, total=False):
    """What `step.options(…)` and `@step.do(name, …)` take; docs/workflows.md has their meaning."""

    retry: Retry
    timeout: Duration | None
    undo: Callable[..., Any] | Undo | None
    sensitive: bool
    heartbeat: Duration | None
    stream: bool
    grace: Duration


class StepDecorator:
    """What `step.do("name", retry=…)` returns: put it over a function, and calls of it become steps."""

    __slots__ = ("_name", "_options", "_runtime", "_scope")

    def __init__(self, run: runtime.RunRuntime, name: str, options: StepOptions, scope: str | None) -> None:
        self._runtime = run
        self._name = name
        self._options = options
        self._scope = scope

    @overload
    def __call__(self, function: Callable[_P, Awaitable[_T]], /) -> Callable[_P, Coroutine[Any, Any, _T]]: ...

    @overload
    def __call__(self, function: Callable[_P, _T], /) -> Callable[_P, Coroutine[Any, Any, _T]]: ...

    def __call__(self, function: Callable[..., Any], /) -> Callable[..., Coroutine[Any, Any, Any]]:
        check_function(self._name, function)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
            return self._runtime.do(self._name, function, args, kwargs, self._options, where(), self._scope)

        return call


class Calls:
    """Steps with options, in a scope (None: that of the group which the code is in)."""

    __slots__ = ("_options", "_runtime", "_scope")

    def __init__(self, run: runtime.RunRuntime, options: StepOptions, scope: str | None = None) -> None:
        self._runtime = run
        self._options = options
        self._scope = scope

    @overload
    def map(
        self,
        name: str,
        function: Callable[[_A], Awaitable[_T]],
        items: Iterable[_A],
        *,
        concurrency: int | None = None,
        stop_on: Literal["error"] = "error",
    ) -> Coroutine[Any, Any, list[_T]]: ...

    @overload
    def map(
        self,
        name: str,
        function: Callable[[_A], Awaitable[_T]],
        items: Iterable[_A],
        *,
        concurrency: int | None = None,
        stop_on: Literal["never"],
    ) -> Coroutine[Any, Any, list[_T | StepFailed]]: ...

    @overload
    def map(
        self,
        name: str,
        function: Callable[[_A], _T],
        items: Iterable[_A],
        *,
        concurrency: int | None = None,
        stop_on: Literal["error"] = "error",
    ) -> Coroutine[Any, Any, list[_T]]: ...

    @overload
    def map(
        self,
        name: str,
        function: Callable[[_A], _T],
        items: Iterable[_A],
        *,
        concurrency: int | None = None,
        stop_on: Literal["never"],
    ) -> Coroutine[Any, Any, list[_T | StepFailed]]: ...

    def map(
        self,
        name: str,
        function: Callable[[Any], Any],
        items: Iterable[Any],
        *,
        concurrency: int | None = None,
        stop_on: Literal["error", "never"] = "error",
    ) -> Coroutine[Any, Any, list[Any]]:
        """One step `name[i]` for each item, at most `concurrency` at once; the results in the order of the items.

        `stop_on="error"`: the first failure cancels the others and is raised. "never": all are made, and a failure
        stands in its place as a StepFailed.
        """
        check_function(name, function)
        mapping.check(concurrency, stop_on)
        given = list(items)
        place, scope = where(), runtime.scope_of(self._scope)

        def step(index: int) -> Coroutine[Any, Any, Any]:
            return self._runtime.do(f"{name}[{index}]", function, (given[index],), {}, self._options, place, scope)

        def work() -> Coroutine[Any, Any, list[Any]]:
            return mapping.run_map(step, len(given), concurrency, stops=stop_on == "error")

        return self._runtime.combined(name, work, place)

    @overload
    def poll(
        self,
        name: str,
        function: Callable[..., Awaitable[_T]],
        *args: Any,
        until: Callable[[_T], object],
        every: Duration,
        backoff: Backoff = "constant",
        max_every: Duration | None = None,
        timeout: Duration | None = None,
    ) -> Coroutine[Any, Any, _T]: ...

    @overload
    def poll(
        self,
        name: str,
        function: Callable[..., _T],
        *args: Any,
        until: Callable[[_T], object],
        every: Duration,
        backoff: Backoff = "constant",
        max_every: Duration | None = None,
        timeout: Duration | None = None,
    ) -> Coroutine[Any, Any, _T]: ...

    def poll(
        self,
        name: str,
        function: Callable[..., Any],
        *args: Any,
        until: Callable[[Any], object],
        every: Duration,
        backoff: Backoff = "constant",
        max_every: Duration | None = None,
        timeout: Duration | None = None,
    ) -> Coroutine[Any, Any, Any]:
        """Make the step `function(*args)` again and again; gives its first result for which `until(result)` is true.

        Pauses last `every`, or grow with `backoff` up to `max_every`. Raises PollTimeout, with the last result, when
        `timeout` has passed: at its end one last step is made; one that executes is never interrupted.
        """
        check_function(name, function)
        pauses = polling.Pauses.of(every, backoff, max_every, timeout)
        if not callable(until):
            raise TypeError(f"until= of step.poll() is of type {type(until).__name__}; write a function of the result")
        place, scope = where(), runtime.scope_of(self._scope)
        run, options = self._runtime, self._options

        def work() -> Coroutine[Any, Any, Any]:
            return polling.run_poll(
                run,
                name,
                lambda inside: run.do("check", function, args, {}, options, place, inside),
                until,
                pauses,
                place,
                scope,
            )

        return run.combined(name, work, place)


class StepWithOptions(Calls):
    """`step.options(retry=…, timeout=…)`: its `do`, `map` and `poll` are the step's with these options."""

    __slots__ = ()

    @overload
    def do(
        self, name: str, function: Callable[_P, Awaitable[_T]], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Coroutine[Any, Any, _T]: ...

    @overload
    def do(
        self, name: str, function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Coroutine[Any, Any, _T]: ...

    def do(self, name: str, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        check_function(name, function)
        check_misplaced_options(function, kwargs)
        return self._runtime.do(name, function, args, kwargs, self._options, where(), self._scope)


def where() -> str:
    """The line that called the public method which calls this."""
    frame = sys._getframe(2)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def check_function(name: object, function: object) -> None:
    """Raises TypeError for what is no function, above all for a coroutine."""
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


def check_misplaced_options(function: Callable[..., Any], kwargs: dict[str, Any]) -> None:
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
