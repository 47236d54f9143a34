"""The outermost layer: request ids, errors to answers, counters. Pure ASGI, so that streams pass through untouched."""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from itertools import count
from secrets import token_hex

import trio
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from executor.core.errors import NotFound
from executor.http.errors import as_perdure_error, response_of
from executor.http.requests import header

logger = logging.getLogger(__name__)

DRAIN_BYTES_MAX = 256 * 1024
DRAIN_S = 1.0

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Metrics:
    """Counters since the start; nothing in them names a tenant."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.seconds = 0.0
        self.open = 0

    def text(self, gauges: dict[str, float]) -> str:
        """The text form of Prometheus (exposition format 0.0.4)."""
        lines = ["# HELP perdure_http_requests_total Requests answered.", "# TYPE perdure_http_requests_total counter"]
        lines += [
            f'perdure_http_requests_total{{method="{method}",status="{status}"}} {count}'
            for (method, status), count in sorted(self.requests.items())
        ]
        lines += ["# TYPE perdure_http_request_seconds_total counter"]
        lines += [f"perdure_http_request_seconds_total {self.seconds:.6f}"]
        for name, value in {"http_requests_open": float(self.open), **gauges}.items():
            lines += [f"# TYPE perdure_{name} gauge", f"perdure_{name} {value:g}"]
        return "\n".join(lines) + "\n"


class Border:
    """Every request gets an id (the client's, if it is a sane one), every error an answer, every answer is counted."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics
        # Unique, not secret: randomness for each request is a system call, at which other threads take the turn.
        self._ids = token_hex(10)
        self._numbers = count()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = header(scope, b"x-request-id")
        request_id = given if given and _REQUEST_ID.fullmatch(given) else f"{self._ids}{next(self._numbers):012x}"
        status = 0
        body = _Body(receive, is_asked_for=header(scope, b"expect") is not None)

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
                if not body.is_complete and not await body.drained():
                    headers.append((b"connection", b"close"))
                message = {"type": "http.response.start", "status": status, "headers": headers}
            await send(message)

        metrics = self.metrics
        began = time.monotonic()
        metrics.open += 1
        try:
            await self.app(scope, body.receive, answer)
        except Exception as error:  # the border: whatever it is, the client gets an answer, and bugs are logged
            if status:
                # Part of the answer is out: only cutting the connection tells the client that the rest is missing.
                code = as_perdure_error(error).code
                logger.warning("an answer was cut short", extra={"code": code, "request": request_id})
                raise
            await _error_answer(scope, error)(scope, body.receive, answer)
        finally:
            took_s = time.monotonic() - began
            metrics.open -= 1
            metrics.seconds += took_s
            metrics.requests[_method(scope["method"]), status] += 1
            if logger.isEnabledFor(logging.DEBUG):
                facts = {"method": scope["method"], "path": scope["path"], "status": status, "request": request_id}
                logger.debug("request", extra={**facts, "ms": round(took_s * 1000, 1)})


def _error_answer(scope: Scope, error: Exception) -> Response:
    """Starlette's own 404 and 405 are in our shape too."""
    is_git = scope["path"].startswith("/git/")
    if not isinstance(error, HTTPException):
        return response_of(as_perdure_error(error), is_git=is_git)
    answer = response_of(
        NotFound(
            f"There is no {scope['method'][:20]} {scope['path'][:200]}.",
            hint="The routes are listed at /api/v1/openapi.json.",
        ),
        is_git=is_git,
    )
    if error.status_code == 405:
        answer.status_code = 405
        answer.headers["Allow"] = (error.headers or {}).get("Allow", "")
    return answer


class _Body:
    """Whether the request's body was read to its end.

    An answer that comes earlier (a wrong token, say) leaves the rest of the body on the connection, and the server
    must close it: a client that was not told so would lose its next request. So the rest is read if it is small and
    quick, and else the answer says that the connection closes. A body that waits to be asked for (`Expect`) is not
    asked for only to be dropped.
    """

    def __init__(self, receive: Receive, *, is_asked_for: bool) -> None:
        self._receive = receive
        self._is_asked_for = is_asked_for
        self._has_begun = False
        self.is_complete = False

    async def receive(self) -> Message:
        self._has_begun = True
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self.is_complete = True
        return message

    async def drained(self) -> bool:
        if self._is_asked_for and not self._has_begun:
            return False
        read = 0
        with trio.move_on_after(DRAIN_S):
            while not self.is_complete and read <= DRAIN_BYTES_MAX:
                read += len((await self.receive()).get("body", b""))
        return self.is_complete


def _method(method: str) -> str:
    """Strangers may send any word as a method; the counters' labels must stay few."""
    return method if method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} else "other"
