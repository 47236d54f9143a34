"""What a test puts in the place of steps, and which waits it ends at once.

A rule is for the steps that its text names: "charge" is every step of that name, wherever it is; "audit/hash" the one
in that group; with "#2" at the end, the second use only. Rules are asked in the order in which they were made; one that
has been used `times` times makes room for the next.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from executor.sandbox.step_attempt import Attempt
from executor.sandbox.step_calls import declared_result, is_async
from executor.sandbox.steps import Steps
from executor.testing.failures import NotMocked
from executor.workflow import StepTimeout as _PublicTimeout

UNDO = "undo/"
NONE_EXECUTES = 1 << 62
"""A place that is behind all others."""
_COUNTS = re.compile(r"#\d+(?=/|$)")


class _Missing:
    """Marks an argument that was not given."""


MISSING: Any = _Missing()


class StepTimeout(Exception):
    """A timeout that the test forces: to the journal it is the same type as a real one."""

    __module__ = _PublicTimeout.__module__
    __qualname__ = _PublicTimeout.__qualname__


class Mock:
    """A rule for steps. `calls` are the arguments of each attempt it answered: (args, kwargs)."""

    def __init__(self, step: str, occurrence: int | None, times: int | None) -> None:
        if times is not None and times < 1:
            raise ValueError(f"times={times}; a mock is for one attempt at least (None: for all)")
        self.step = step
        self.occurrence = occurrence
        self.times = times
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    @property
    def count(self) -> int:
        """How many attempts it answered."""
        return len(self.calls)

    @property
    def is_used_up(self) -> bool:
        return self.times is not None and len(self.calls) >= self.times

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.step!r})"

    def answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the attempt returns. May raise."""
        raise NotImplementedError

    @property
    def function(self) -> Callable[..., Any] | None:
        """What is called as the step's own function would be; None: `answer` says."""
        return None


class _Result(Mock):
    value: Any = None

    def answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        del args, kwargs
        return self.value


class _Error(Mock):
    error: BaseException | type[BaseException] = RuntimeError

    def answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        del args, kwargs
        error = self.error() if isinstance(self.error, type) else self.error
        raise error.with_traceback(None)


class _Timeout(Mock):
    def answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        del args, kwargs
        raise StepTimeout("the attempt did not end in time (forced by the test)")


class _Function(Mock):
    replacement: Callable[..., Any]

    @property
    def function(self) -> Callable[..., Any]:
        return self.replacement


_R = TypeVar("_R", bound=Mock)


class Rules(Generic[_R]):
    """Rules for one kind of thing, in the order of their making."""

    def __init__(self) -> None:
        self._rules: list[_R] = []

    def add(self, rule: _R) -> None:
        """After the others; one for all times takes the place of an older one for the same steps."""
        if rule.times is None:
            self._rules = [old for old in self._rules if old.times is not None or not _are_for_the_same(old, rule)]
        self._rules.append(rule)

    def find(self, path: str) -> _R | None:
        """The rule for a step of that path."""
        for rule in self._rules:
            if not rule.is_used_up and names(rule.step, rule.occurrence, path):
                return rule
        return None

    def unused(self) -> list[_R]:
        """Those that were never asked for."""
        return [rule for rule in self._rules if not rule.count]


def _are_for_the_same(one: Mock, other: Mock) -> bool:
    return (one.step, one.occurrence) == (other.step, other.occurrence)


def names(step: str, occurrence: int | None, path: str) -> bool:
    """Whether `step` (and `occurrence`) name the step of that path; see the module."""
    if path.startswith(UNDO) != step.startswith(UNDO):
        return False  # what undoes a step is not meant by the step's name
    name, _, number = path.rpartition("#")
    if occurrence is not None and number != str(occurrence):
        return False
    if step in (path, name):
        return True
    plain = _COUNTS.sub("", path)
    return step in (plain, plain.rpartition("/")[2])


def made(
    step: str,
    function: Callable[..., Any] | None,
    *,
    result: Any = MISSING,
    error: BaseException | type[BaseException] | None = None,
    times: int | None = None,
    occurrence: int | None = None,
) -> Mock:
    """The rule that `mock_step` is asked for. Raises TypeError unless exactly one of the three is given."""
    given = (result is not MISSING, error is not None, function is not None)
    if sum(given) != 1:
        raise TypeError(f"mock_step({step!r}, …) takes one of result=, error= and a function")
    if function is not None:
        if not callable(function):
            raise TypeError(f"mock_step({step!r}, …) was given a {type(function).__name__}, which cannot be called")
        by_function = _Function(step, occurrence, times)
        by_function.replacement = function
        return by_function
    if error is not None:
        failing = _Error(step, occurrence, times)
        failing.error = error
        return failing
    giving = _Result(step, occurrence, times)
    giving.value = result
    return giving


def timeout(step: str, times: int | None, occurrence: int | None) -> Mock:
    """The rule that `force_timeout` is asked for."""
    return _Timeout(step, occurrence, times)


def instead(rule: Mock, original: Callable[..., Any]) -> Callable[..., Any]:
    """A function that answers by `rule` what `original` would: its declared result is that of `original`.

    A plain answer is given on the event loop; a function is called there or in a thread, as the original would be.
    """
    replacement = rule.function
    if replacement is not None and not is_async(replacement):

        @functools.wraps(replacement, updated=())
        def answer(*args: Any, **kwargs: Any) -> Any:
            rule.calls.append((args, kwargs))
            return replacement(*args, **kwargs)

        return _declared_as(answer, original)

    async def answer_on_loop(*args: Any, **kwargs: Any) -> Any:
        rule.calls.append((args, kwargs))
        if replacement is not None:
            return await replacement(*args, **kwargs)
        return rule.answer(args, kwargs)

    return _declared_as(answer_on_loop, original)


def _declared_as(function: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    function.__dict__.pop("__wrapped__", None)
    function.__annotations__ = {"return": declared_result(original)}
    return function


class MockedSteps(Steps):
    """The process's attempts, those that a rule is for answered by it; and the order in which they began."""

    def __init__(self, *arguments: Any, rules: Rules[Mock], only_mocks: bool) -> None:
        super().__init__(*arguments)
        self.rules = rules
        self.refusals: list[NotMocked] = []
        """Steps that would have executed for real, and must not."""
        self._only_mocks = only_mocks
        self._begun: dict[int, dict[str, tuple[int, Attempt]]] = {}
        self._count = 0

    def begin(self, owner: Any, call: Any, *rest: Any, **options: Any) -> Attempt:
        """As `Steps.begin`."""
        rule = self.rules.find(call.path)
        if rule is not None:
            call = msgspec.structs.replace(call, function=instead(rule, call.function))
        elif self._only_mocks:
            refusal = NotMocked(
                f"step {call.path!r} was about to execute for real; mock it, or leave out only_mocks=True"
            )
            self.refusals.append(refusal)
            call = msgspec.structs.replace(call, function=_raising(refusal))
        self._count += 1
        place = self._count
        attempt = super().begin(owner, call, *rest, **options)
        self._begun.setdefault(owner.number, {})[call.path] = (place, attempt)
        return attempt

    def place(self, run: int, path: str) -> int:
        """When the run's latest attempt at a step began, among all."""
        begun = self._begun.get(run, {}).get(path)
        return 0 if begun is None else begun[0]

    def first_executing(self, run: int) -> int:
        """The place of the run's first attempt that executes still; a large number if none does."""
        begun = self._begun.get(run, {})
        return min((place for place, attempt in begun.values() if not attempt.is_over), default=NONE_EXECUTES)

    def forget(self, run: int, path: str | None = None) -> None:
        """Its outcome is journaled; or the run is gone."""
        if path is None:
            self._begun.pop(run, None)
        else:
            self._begun.get(run, {}).pop(path, None)


def _raising(error: Exception) -> Callable[..., Any]:
    async def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail
