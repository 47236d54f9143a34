"""Handlers of a workflow class, as its version's code declares them: what they take and give."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from executor.core import values
from executor.workflow import Step, Workflow
from executor.workflow.handlers import Handler


@dataclass(frozen=True, slots=True)
class HandlerCode:
    """An update's or query's method; `argument_count` says how many of (payload, step) it takes."""

    name: str
    function: Callable[..., Any]
    validate: Callable[..., Any] | None
    payload_type: Any
    result_type: Any
    argument_count: int

    def payload(self, data: bytes) -> Any:
        """Raises Refused for one that does not fit the declared type."""
        return values.decode(data, declared=self.payload_type, what="payload")

    def call(self, workflow: Workflow[Any, Any], payload: Any, step: Step | None) -> Any:
        """What the method gives: for an async one, a coroutine."""
        return self.function(workflow, *(payload, step)[: self.argument_count])


def handlers_of(workflow: type[Workflow[Any, Any]], kind: str) -> dict[str, HandlerCode]:
    """The class's updates or queries by name, those of its bases too. Raises TypeError for one that cannot be
    called."""
    found: dict[str, HandlerCode] = {}
    for name in dir(workflow):
        handler = inspect.getattr_static(workflow, name, None)
        if isinstance(handler, Handler) and handler.kind == kind:
            found[handler.name] = _read(workflow, handler)
    return found


def _read(workflow: type, handler: Handler[Any]) -> HandlerCode:
    parameters = [
        parameter
        for parameter in inspect.signature(handler.function).parameters.values()
        if parameter.kind in {parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD}
    ][1:]
    most = 2 if handler.kind == "update" else 1
    if len([parameter for parameter in parameters if parameter.default is parameter.empty]) > most:
        takes = "(self, payload, step)" if most == 2 else "(self, payload)"
        raise TypeError(f"{handler.kind} {workflow.__name__}.{handler.name} has to take {takes}")
    try:
        hints = typing.get_type_hints(handler.function)
    except Exception:  # tenant code: names that only a type checker knows
        hints = {}
    payload_type = hints.get(parameters[0].name, values.UNDECLARED) if parameters else values.UNDECLARED
    result_type = hints.get("return", values.UNDECLARED)
    return HandlerCode(
        handler.name,
        handler.function,
        handler.validate,
        values.UNDECLARED if payload_type is Any else payload_type,
        values.UNDECLARED if result_type is Any else result_type,
        min(len(parameters), most),
    )
