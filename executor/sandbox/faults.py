"""Exceptions of tenant code as ErrorFacts: text only, with the frames of the tenant's own files."""

from __future__ import annotations

import traceback
from collections.abc import Container

from executor.core.errors import PerdureError
from executor.core.failure import ErrorFact
from executor.workflow import NonRetryableError, StepFailed, StepTimeout

CHAIN_MAX = 8


def type_name(kind: type[BaseException]) -> str:
    """ "ValueError", "workflows.PaymentError"."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


STEP_TIMEOUT = type_name(StepTimeout)


def fact(error: BaseException, files: Container[str], *, code: str) -> ErrorFact:
    """`files`: names of the tenant's files, as they stand in its code objects. Never raises."""
    retryable = not isinstance(error, NonRetryableError)
    message = text_of(error)
    if isinstance(error, PerdureError):
        # A value that is refused, a bound that is passed: another try changes nothing, and no tenant line raised it.
        message = error.message + (f". {error.hint}" if error.hint else "")
        return ErrorFact(type(error).__name__, message, "", retryable=False, code=error.code).bounded()
    if isinstance(error, StepFailed) and code == "workflow_failed":
        code = "step_failed"
    return ErrorFact(type_name(type(error)), message, tenant_traceback(error, files), retryable, code).bounded()


def text_of(error: BaseException) -> str:
    """`str(error)`, which is tenant code and may fail."""
    try:
        return _clean(str(error))
    except Exception:  # tenant code
        return f"<the message of {type(error).__name__} could not be read>"


def tenant_traceback(error: BaseException, files: Container[str]) -> str:
    """The traceback, causes included, reduced to frames of `files`. "" if it cannot be formatted."""
    try:
        summary = traceback.TracebackException.from_exception(error, compact=True)
        _reduce(summary, files, CHAIN_MAX)
        text = _clean("".join(summary.format()))
    except Exception:  # tenant code in __str__ of some cause
        return ""
    original = getattr(error, "error_traceback", "")
    if isinstance(error, StepFailed) and original:
        return f"{original}\nThe step's error above is what run() saw:\n\n{text}"
    return text


def _reduce(summary: traceback.TracebackException, files: Container[str], chain: int) -> None:
    summary.stack[:] = [frame for frame in summary.stack if frame.filename in files]
    if chain == 0:
        summary.__cause__ = summary.__context__ = None
        return
    for other in (summary.__cause__, summary.__context__, *(summary.exceptions or ())):
        if other is not None:
            _reduce(other, files, chain - 1)


def _clean(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
