"""What the test gives and gets: values as bytes, and how a run, an update or a query ended.

Errors are those of the platform, and carry the original exception as their cause.
"""

from __future__ import annotations

from typing import Any

from executor.core import values
from executor.core.errors import CODES, NotFound, PerdureError, Refused, TenantError
from executor.core.failure import ErrorFact
from executor.workflow import StepFailed

Errors = dict[tuple[str, str], BaseException]
"""Original exceptions, by type and message of the fact that was made of them."""

_UNKNOWN = frozenset({"UnknownUpdate", "UnknownQuery"})


def encoded(value: Any, what: str, declared: Any = values.UNDECLARED) -> bytes:
    """A value of the test's as bytes; dataclasses and models too, whether or not their type is declared."""
    if declared is values.UNDECLARED and values.has_models(type(value)):
        declared = type(value)
    return values.encode(value, what=what, declared=declared)


def failed(id: str, fact: ErrorFact, errors: Errors) -> TenantError:
    """Of a run that failed."""
    return _tenant_error(f'instance "{id}" failed: {fact.type}: {fact.message}', fact, errors)


def of(value: bytes | None, fact: ErrorFact | None, errors: Errors) -> Any:
    """What a handler answered. Raises what it raised."""
    if fact is None:
        return None if value is None else values.decode(value)
    error: PerdureError
    if fact.type in _UNKNOWN and not fact.traceback:
        hint = "Mark a method with @Workflow.update or @Workflow.query."
        error = NotFound(fact.message, code="unknown_handler", hint=hint)
    elif fact.code == "update_refused":
        error = Refused(fact.message, code="update_refused", type=fact.type)
    else:
        error = _tenant_error(f"{fact.type}: {fact.message}", fact, errors)
    error.__cause__ = errors.get((fact.type, fact.message))
    raise error


def _tenant_error(message: str, fact: ErrorFact, errors: Errors) -> TenantError:
    error = TenantError(message, code=_known(fact.code), type=fact.type, text=fact.message, traceback=fact.traceback)
    cause = error.__cause__ = errors.get((fact.type, fact.message))
    if isinstance(cause, StepFailed) and cause.__cause__ is None:
        cause.__cause__ = errors.get((cause.error_type, cause.error_message))
    return error


def _known(code: str) -> str | None:
    """A code of the catalogue; None for what comes from tenant code and is not in it."""
    return code if code in CODES else None
