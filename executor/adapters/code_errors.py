"""Errors of the code store, and of its disk, in the platform's families and codes."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import gitstore
from executor.core.errors import CODES, Conflict, Corrupt, NotFound, PerdureError, Refused, Unavailable

P = ParamSpec("P")
R = TypeVar("R")
_CODES = {
    "newer_schema": "schema_too_new",
    "invalid_path": "bad_request",
    "invalid_access": "bad_request",
    "no_files": "bad_request",
    "foreign_file": "bad_request",
    "git_protocol_error": "bad_request",
    "unknown_service": "route_not_found",
    "request_too_large": "payload_too_large",
}
_DEFAULT_CODES: list[tuple[type[gitstore.GitStoreError], type[PerdureError], str]] = [
    (gitstore.NotFound, NotFound, "version_not_found"),
    (gitstore.Refused, Refused, "push_refused"),
    (gitstore.Conflict, Conflict, "ref_conflict"),
    (gitstore.Unavailable, Unavailable, "busy"),
    (gitstore.Corrupt, Corrupt, "corrupt_store"),
]


def public_error(error: gitstore.GitStoreError) -> PerdureError:
    """The same error in the platform's families and codes; diagnostics go into the details."""
    details = {str(key): value for key, value in error.details.items()}
    code = _CODES.get(error.code, error.code)
    if isinstance(error, gitstore.Refused) and error.diagnostics:
        details["diagnostics"] = [
            {"path": found.path, "line": found.line, "column": found.column, "message": found.message}
            for found in error.diagnostics
        ]
        code = "deploy_refused"
    for theirs, ours, default in _DEFAULT_CODES:
        if isinstance(error, theirs):
            return ours(error.message, code=code if code in CODES else default, hint=error.hint, **details)
    return Corrupt(error.message, code="corrupt_store", hint=error.hint, **details)


def disk_error(error: OSError) -> PerdureError:
    """What the disk of the code store could not do. Nothing was made visible; the same call works again later."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Unavailable(
            "the disk is full: nothing was deployed or changed",
            code="storage_full",
            hint="Free disk space and try again.",
        )
    return Unavailable(f"the code store cannot be worked on: {error}", code="busy", hint="Look at the disk.")


def translated(method: Callable[P, R]) -> Callable[P, R]:
    """Let no GitStoreError and no OSError out of `method`."""

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except gitstore.GitStoreError as error:
            raise public_error(error) from error
        except OSError as error:
            raise disk_error(error) from error

    return call
