"""What `step.do` was given, and what can be known of a step's function without calling it."""

from __future__ import annotations

import contextvars
import functools
import inspect
import types
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import msgspec

from executor.core import values
from executor.workflow.options import StepOptions

_DECLARED_KEPT_MAX = 4_096
_declared_of: dict[tuple[Any, str], Any] = {}

NO_KEYWORDS: dict[str, Any] = {}
"""Of all calls that have none. Never changed: it is only ever unpacked."""


class StepCall(msgspec.Struct, eq=False):
    """What `step.do` was given, kept until the step has its outcome. `key_seed` is the instance's own."""

    path: str
    name: str
    asked: bytes
    where: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: StepOptions
    context: contextvars.Context
    key_seed: bytes

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of the step, and for no other step."""
        key, person = self.key_seed[:64], b"perdure steps"
        return blake2b(self.path.encode(), key=key, digest_size=16, person=person).hexdigest()


def declared_result(function: Callable[..., Any]) -> Any:
    """The return annotation of a step's function, resolved; `values.UNDECLARED` if there is none to go by."""
    if type(function) is types.FunctionType and not function.__annotations__ and not function.__dict__:
        return values.UNDECLARED  # the rule; a wrapper would have `__wrapped__` in its dict
    while isinstance(function, functools.partial):
        function = function.func
    target = inspect.unwrap(getattr(function, "__func__", function))
    annotation = getattr(target, "__annotations__", {}).get("return", values.UNDECLARED)
    if not isinstance(annotation, str):
        return annotation
    key = (getattr(target, "__code__", target), annotation)
    if key not in _declared_of:
        if len(_declared_of) >= _DECLARED_KEPT_MAX:
            _declared_of.clear()
        try:
            hints = inspect.get_annotations(target, eval_str=True)
        except Exception:  # tenant code: a name that only a type checker knows
            hints = {}
        _declared_of[key] = hints.get("return", values.UNDECLARED)
    return _declared_of[key]


def is_async(function: Callable[..., Any]) -> bool:
    """Whether a call of it gives a coroutine, as far as can be known without calling it."""
    if type(function) is types.FunctionType and not function.__dict__:
        return bool(function.__code__.co_flags & inspect.CO_COROUTINE)
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004  # the method itself is wanted: an object with async __call__
    )
