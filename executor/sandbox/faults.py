"""Exceptions of tenant code as ErrorFacts: text only, with the frames of the tenant's own files.

Reading an exception is executing tenant code: `__str__`, `__notes__`, properties of every name. Whatever that raises is
caught here, SystemExit and KeyboardInterrupt too: an outcome that could not be told would leave its step executing for
ever. Causes, groups and type names are read past the tenant's overrides, and bounded: a chain may be without end.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Container
from typing import Any, cast

from executor.core.errors import PerdureError
from executor.core.failure import ErrorFact
from executor.workflow import HeartbeatTimeout, NonRetryableError, StepFailed, StepTimeout

CHAIN_MAX = 8
"""Causes behind causes, or groups in groups, that a traceback shows."""
ERROR_COUNT_MAX = 64
"""Exceptions that one traceback shows, all causes and members of groups together."""
GROUP_COUNT_MAX = 15
NOTE_COUNT_MAX = 32


def _plain(text: object) -> str | None:
    """Exactly `str`, and encodable: a subclass could override any method. None if it is no text."""
    return str.encode(text, errors="backslashreplace").decode() if issubclass(type(text), str) else None  # type: ignore[arg-type]  # issubclass says so


def type_name(kind: type[BaseException]) -> str:
    """ "ValueError", "workflows.PaymentError". Never raises."""
    module, name = _module(kind), _of_type(kind, "__qualname__")
    return name if module == "builtins" else f"{module}.{name}"


def _module(kind: type[BaseException]) -> str:
    return _of_type(kind, "__module__") or "<unknown>"


def _of_type(kind: type[BaseException], name: str) -> str:
    """Past the metaclass, which may be a tenant's."""
    return _plain(type.__dict__[name].__get__(kind)) or ""


TIMEOUTS: dict[str, type[StepTimeout]] = {type_name(kind): kind for kind in (StepTimeout, HeartbeatTimeout)}
"""What `run()` sees of an attempt that failed by one of these."""


def fact(error: BaseException, files: Container[str], *, code: str) -> ErrorFact:
    """`files`: names of the tenant's files, as they stand in its code objects. Never raises."""
    kind = type(error)  # isinstance() would ask `__class__`, which a tenant can override
    if issubclass(kind, PerdureError):
        # A value that is refused, a bound that is passed: another try changes nothing, and no tenant line raised it.
        message, hint = _attribute(error, "message"), _attribute(error, "hint")
        message = text_of(error) if message is None else message + (f". {hint}" if hint else "")
        own = _attribute(error, "code") or code
        return ErrorFact(_of_type(kind, "__name__"), message, "", retryable=False, code=own).bounded()
    if issubclass(kind, StepFailed) and code == "workflow_failed":
        code = "step_failed"
    retryable = not issubclass(kind, NonRetryableError)
    return ErrorFact(type_name(kind), text_of(error), tenant_traceback(error, files), retryable, code).bounded()


def text_of(error: BaseException) -> str:
    """`str(error)`, which is tenant code and may fail. Never raises."""
    try:
        text = _plain(str(error))
    except BaseException:  # tenant code; see the module
        text = None
    return f"<the message of {_of_type(type(error), '__name__')} could not be read>" if text is None else text


def tenant_traceback(error: BaseException, files: Container[str]) -> str:
    """The traceback, causes included, reduced to frames of `files`. "" if it cannot be formatted. Never raises."""
    try:
        summary = traceback.TracebackException.from_exception(_Copies().of(error, CHAIN_MAX), compact=True)
        _reduce(summary, files)
        text = _plain("".join(summary.format())) or ""
    except BaseException:  # source lines come through the tenant's loaders; see the module
        return ""
    if issubclass(type(error), StepFailed):
        original = _attribute(error, "error_traceback")
        if original:
            return f"{original}\nThe step's error above is what run() saw:\n\n{text}"
    return text


class _Copies:
    """Harmless stand-ins of an exception and of what it rests on: plain texts, plain types, bounded in number."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def of(self, error: BaseException, depth: int) -> BaseException:
        self._seen.add(id(error))
        copy = self._alone(error, depth)
        copy.__traceback__ = _own(BaseException, "__traceback__", error)
        for note in _notes(error):
            copy.add_note(note)
        cause = _own(BaseException, "__cause__", error)
        if cause is not None and self._has_room(cause, depth):
            copy.__cause__ = self.of(cause, depth - 1)
        elif not _own(BaseException, "__suppress_context__", error):
            context = _own(BaseException, "__context__", error)
            if context is not None and self._has_room(context, depth):
                copy.__context__ = self.of(context, depth - 1)
        return copy

    def _has_room(self, error: BaseException, depth: int) -> bool:
        return depth > 0 and len(self._seen) < ERROR_COUNT_MAX and id(error) not in self._seen

    def _alone(self, error: BaseException, depth: int) -> BaseException:
        kind = type(error)
        text = text_of(error)
        names = {
            "__module__": _module(kind),
            "__qualname__": _of_type(kind, "__qualname__"),
            "__str__": lambda _self: text,
        }
        if issubclass(kind, BaseExceptionGroup):
            members = []
            for member in _own(BaseExceptionGroup, "exceptions", error)[:GROUP_COUNT_MAX]:
                if self._has_room(member, depth):
                    members.append(self.of(member, depth - 1))  # noqa: PERF401  # each one takes of the room
            if members:
                group: BaseException = type("Copy", (BaseExceptionGroup,), names)(text, members)
                return group
        copy: BaseException
        if issubclass(kind, SyntaxError):
            message, *place = (
                _plain_or_number(_own(SyntaxError, name, error))
                for name in ("msg", "filename", "lineno", "offset", "text", "end_lineno", "end_offset")
            )
            made = cast("Callable[..., BaseException]", type("Copy", (SyntaxError,), names))
            copy = made(message, tuple(place))
        else:
            copy = type("Copy", (Exception,), names)(text)
        return copy


def _notes(error: BaseException) -> list[str]:
    try:
        notes = getattr(error, "__notes__", None)
    except BaseException:  # tenant code; see the module
        return []
    found: list[str] = []
    for note in notes[:NOTE_COUNT_MAX] if type(notes) is list else ():
        try:
            text = _plain(str(note))
        except BaseException:  # tenant code; see the module
            text = None
        found.append("<this note could not be read>" if text is None else text)
    return found


def _own(kind: type[BaseException], name: str, error: BaseException) -> Any:
    """What the interpreter itself keeps in an exception, past any override."""
    return kind.__dict__[name].__get__(error)


def _attribute(error: BaseException, name: str) -> str | None:
    """A text attribute; None if it is none."""
    try:
        return _plain(getattr(error, name))
    except BaseException:  # tenant code; see the module
        return None


def _reduce(summary: traceback.TracebackException, files: Container[str]) -> None:
    summary.stack[:] = [frame for frame in summary.stack if frame.filename in files]
    for other in (summary.__cause__, summary.__context__, *(summary.exceptions or ())):
        if other is not None:
            _reduce(other, files)


def _plain_or_number(value: object) -> str | int | None:
    return value if type(value) is int else _plain(value)
