"""The one table from errors to HTTP status, and their bodies: `PerdureError.to_json()`, or plain text for git."""

from __future__ import annotations

import logging
import math

import msgspec
from starlette.responses import PlainTextResponse, Response

from executor.core.errors import Conflict, Corrupt, NotFound, PerdureError, Refused, TenantError, Unavailable
from executor.wire import innermost

logger = logging.getLogger(__name__)

STATUS_OF_FAMILY: dict[type[PerdureError], int] = {
    Refused: 400,
    NotFound: 404,
    Conflict: 409,
    Unavailable: 503,
    Corrupt: 500,
    TenantError: 422,
    PerdureError: 500,
}
STATUS_OF_CODE: dict[str, int] = {
    "unauthorized": 401,
    "forbidden": 403,
    "payload_too_large": 413,
    "push_refused": 422,
    "deploy_refused": 422,
    "limit_exceeded": 422,
    "unreachable": 502,
    "timeout": 504,
    "storage_full": 507,
}
"""Codes whose status differs from their family's."""


def status_of(error: PerdureError) -> int:
    return STATUS_OF_CODE.get(error.code, STATUS_OF_FAMILY[type(error)])


def as_perdure_error(error: Exception) -> PerdureError:
    """The public error behind `error`: itself, the only one inside a group, or `internal` (which is logged here)."""
    inner = innermost(error)
    if isinstance(inner, PerdureError):
        return inner
    logger.error("a request failed by a fault of ours", exc_info=error)
    return PerdureError(
        "A fault of the platform stopped this request.",
        hint="Its log has the details under this request's id.",
    )


def headers_of(error: PerdureError, *, is_git: bool) -> dict[str, str]:
    headers = {"Cache-Control": "no-store"}
    if error.code == "unauthorized":
        headers["WWW-Authenticate"] = 'Basic realm="Perdure", charset="UTF-8"' if is_git else 'Bearer realm="Perdure"'
    retry_after_s = error.details.get("retry_after_s")
    if isinstance(retry_after_s, int | float):
        headers["Retry-After"] = str(max(1, math.ceil(retry_after_s)))
    return headers


def answer_of(error: PerdureError, *, status: int | None = None) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers and body, for where there is no application to answer (the web server itself)."""
    headers = {**headers_of(error, is_git=False), "Content-Type": "application/json"}
    body = msgspec.json.encode(error.to_json())
    headers["Content-Length"] = str(len(body))
    return (
        status or status_of(error),
        [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        body,
    )


def response_of(error: PerdureError, *, is_git: bool = False) -> Response:
    """The answer that tells `error`. git shows a plain text body to the person as `remote: …`."""
    headers = headers_of(error, is_git=is_git)
    if is_git:
        return PlainTextResponse(f"{error}\n", status_of(error), headers)
    return Response(msgspec.json.encode(error.to_json()), status_of(error), headers, "application/json")
