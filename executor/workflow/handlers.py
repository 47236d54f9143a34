"""`@Workflow.update` and `@Workflow.query`: methods that answer requests from outside while an instance runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Generic, Literal, TypeVar, overload

_F = TypeVar("_F", bound=Callable[..., Any])
_V = TypeVar("_V", bound=Callable[..., Any])


class Handler(Generic[_F]):
    """A method that answers requests. On an instance it is the plain method."""

    def __init__(self, kind: Literal["update", "query"], function: _F) -> None:
        if not callable(function):
            raise TypeError(f"@Workflow.{kind} goes over a method, not over a {type(function).__name__}")
        if kind == "query" and (inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)):
            raise TypeError(
                f"query {function.__name__}() is async; a query only looks: write it with `def`, "
                "or make it an update: @Workflow.update"
            )
        self.kind = kind
        self.function = function
        self.name = str(getattr(function, "__name__", kind))
        self.validate: Callable[..., Any] | None = None
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> Handler[_F]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Callable[..., Any]: ...
    def __get__(self, instance: object, owner: type) -> Any:
        return self if instance is None else self.function.__get__(instance, owner)

    def validator(self, function: _V) -> _V:
        """A sync method `(self, payload)` that raises to refuse a request, before anything of it is recorded."""
        if self.kind != "update":
            raise TypeError(f"query {self.name}() has no validator: it changes nothing that would have to be refused")
        if inspect.iscoroutinefunction(function):
            raise TypeError(f"the validator of update {self.name}() is async; write it with `def`")
        self.validate = function
        return self if getattr(function, "__name__", "") == self.name else function  # type: ignore[return-value]


def update(function: _F) -> Handler[_F]:
    """The method answers requests `run.update(name, payload)`: `(self, payload)` or `(self, payload, step)`.

    `def` or `async def`. It may change `self` and make steps: a request that was accepted is part of the journal, and
    on replay it is handled at the same place. `@name.validator` over a sync method can refuse it before.
    """
    return Handler("update", function)


def query(function: _F) -> Handler[_F]:
    """The method answers questions `run.ask(name, payload)`: sync, `(self, payload)`; it only looks, and nothing is
    recorded."""
    return Handler("query", function)
