"""The outermost layer: request ids, errors to answers, counters. Pure ASGI, so that streams pass through untouched."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections import Counter

import trio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from executor.http.errors import as_perdure_error, response_of

logger = logging.getLogger(__name__)

DRAIN_BYTES_MAX = 256 * 1024
DRAIN_S = 1.0

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex.encode()
        status = 0
        body = _Body(receive)

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", []), (b"x-request-id", request_id)]
                if not await body.drained():
                    headers.append((b"connection", b"close"))
                message = {**message, "headers": headers}
            await send(message)

        began = time.monotonic()
        self.metrics.open += 1
        try:
            await self.app(scope, body.receive, answer)
        except Exception as error:  # the border: whatever it is, the client gets an answer, and bugs are logged
            public = as_perdure_error(error)
            if status:
                # Part of the answer is out: only cutting the connection tells the client that the rest is missing.
                logger.warning("an answer was cut short", extra={"code": public.code, "request": request_id.decode()})
                raise
            await response_of(public, is_git=scope["path"].startswith("/git/"))(scope, body.receive, answer)
        finally:
            self.metrics.open -= 1
            self.metrics.seconds += time.monotonic() - began
            self.metrics.requests[_method(scope["method"]), status] += 1
            logger.debug(
                "request",
                extra={
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "request": request_id.decode(),
                    "ms": round((time.monotonic() - began) * 1000, 1),
                },
            )


class _Body:
    """Whether the request's body was read to its end.

    An answer that comes earlier (a wrong token, say) leaves the rest of the body on the connection, and the server
    must close it: a client that was not told so would lose its next request. So the rest is read if it is small and
    quick, and else the answer says that the connection closes.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._is_complete = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._is_complete = True
        return message

    async def drained(self) -> bool:
        read = 0
        with trio.move_on_after(DRAIN_S):
            while not self._is_complete and read <= DRAIN_BYTES_MAX:
                read += len((await self.receive()).get("body", b""))
        return self._is_complete


def _method(method: str) -> str:
    """Strangers may send any word as a method; the counters' labels must stay few."""
    return method if method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} else "other"
