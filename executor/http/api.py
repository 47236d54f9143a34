"""Routes under /api/v1, made from the table of operations; and the live streams of an instance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import msgspec
import trio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from executor import wire
from executor.config import Config
from executor.core.errors import Refused, Unavailable
from executor.core.values import DEPTH_MAX
from executor.http import bodies, live, openapi, streams
from executor.http.requests import bearer
from executor.operations import API_PREFIX, OPERATIONS, Arguments, Operation
from executor.views import ResultView

if TYPE_CHECKING:
    from executor.service import Service

Endpoint = Callable[[Request], Awaitable[Response]]

OFTEN = frozenset({"start", "send_event", "status", "result"})
"""What a platform under load does all day."""

BATCH_BYTES_MAX = 32 * 1024 * 1024
JSON_OVERHEAD = 2
"""A payload of so many bytes may take twice that as JSON (escapes, base64), plus its envelope."""


def routes(service: Service, config: Config, closing: trio.Event) -> list[Route]:
    """Every route below /api/v1."""
    limits = {
        "payload": JSON_OVERHEAD * config.payload_bytes_max + 64 * 1024,
        "deploy": config.deploy_bytes_max,
        "batch": BATCH_BYTES_MAX,
    }
    found = [
        Route(
            API_PREFIX + operation.path,
            _Operation(service, operation, limits[operation.body], closing),
            methods=[operation.method],
            name=operation.name,
        )
        # Routes are tried one after the other. Sorting is stable, and no two operations fit the same request.
        for operation in sorted(OPERATIONS.values(), key=lambda operation: operation.name not in OFTEN)
    ]
    instance = API_PREFIX + OPERATIONS["status"].path
    document = openapi.document()
    return [
        *found,
        *live.routes(service, instance, closing),
        Route(API_PREFIX + "/openapi.json", _constant(document), methods=["GET"]),
    ]


class _Operation:
    """One operation of the table as an ASGI application: nothing of the web framework but the route stands between."""

    def __init__(self, service: Service, operation: Operation, body_bytes_max: int, closing: trio.Event) -> None:
        self._service = service
        self._call = getattr(service, operation.name)
        self._operation = operation
        self._parameters = tuple(operation.parameters)
        self._body_bytes_max = body_bytes_max
        self._closing = closing
        self._headers = _headers(operation)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        operation = self._operation
        # Who asks comes first: a stranger learns nothing about what a good request would be.
        before: list[Any] = [] if operation.access == "none" else [await self._service.authenticate(bearer(scope))]
        before += [scope["path_params"][name] for name in self._parameters]
        keywords = (await self._arguments(scope, receive)).keywords()
        if keywords.get("timeout_s") or keywords.get("wait_s"):
            value = await _while_awaited(lambda: self._call(*before, **keywords), receive, self._closing)
        else:
            value = await self._call(*before, **keywords)
        if operation.result is not None and wire.is_large(value):
            body = await trio.to_thread.run_sync(_body, operation, value)
        else:
            body = _body(operation, value)
        headers = self._headers if operation.result is None else [*self._headers, _length(body)]
        await send({"type": "http.response.start", "status": operation.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _arguments(self, scope: Scope, receive: Receive) -> Arguments:
        """The checked arguments. Raises Refused: `bad_request` names the place, `bad_payload`, `payload_too_large`."""
        operation = self._operation
        try:
            if operation.method == "POST":
                body = await bodies.read_body(scope, receive, limit=self._body_bytes_max)
                if len(body) > wire.LARGE:
                    return await trio.to_thread.run_sync(_arguments_of, operation, body)
                return _arguments_of(operation, body or b"{}")
            query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            given = dict(query)
            if len(given) < len(query):
                counts = Counter(name for name, _ in query)
                name = next(name for name, count in counts.items() if count > 1)
                raise Refused(f"The query has {name[:40]!r} twice.")
            return msgspec.convert(given, operation.arguments, strict=False)
        except msgspec.ValidationError as error:
            raise Refused(
                f"The arguments of {operation.name} are wrong: {error}.", hint=f"See {API_PREFIX}/openapi.json."
            ) from None
        except RecursionError:
            raise Refused(
                f"The request's body is nested too deep: a payload may be {DEPTH_MAX} deep.",
                code="bad_payload",
                hint="Flatten it, or return it as text or bytes.",
            ) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Refused(f"The request's body is not JSON: {error}.", hint="Send one JSON object in UTF-8.") from None


def _arguments_of(operation: Operation, body: bytes) -> Arguments:
    return wire.payload_inward(msgspec.json.decode(body, type=operation.arguments))


def _headers(operation: Operation) -> list[tuple[bytes, bytes]]:
    if operation.result is None:
        return []
    if operation.result is not bytes:
        return [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    # A tenant's file is never shown as a page of this origin, whatever it contains.
    return [
        (b"content-type", operation.media_type.encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        (b"content-disposition", b"attachment"),
    ]


def _length(body: bytes) -> tuple[bytes, bytes]:
    return b"content-length", str(len(body)).encode()


def _body(operation: Operation, value: Any) -> bytes:
    if operation.result is None:
        return b""
    if operation.result is bytes:
        assert isinstance(value, bytes), type(value)
        return value
    return wire.encode(ResultView(output=value) if operation.result is ResultView else value)


def _constant(document: dict[str, Any]) -> Endpoint:
    async def endpoint(_request: Request) -> Response:
        return JSONResponse(document)

    return endpoint


async def _while_awaited(call: Callable[[], Awaitable[Any]], receive: Receive, closing: trio.Event) -> Any:
    """What `call` returns or raises. Raises Unavailable (`shutting_down`) if the server closes while it waits, and
    Refused if the client goes away: waits that nobody waits for would take the places of others."""
    outcome: list[Any] = []
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(streams.cancel_when_closed, closing, nursery.cancel_scope)
        nursery.start_soon(streams.cancel_when_gone, receive, nursery.cancel_scope)
        try:
            outcome.append(await call())
        except Exception as error:  # raised again below, outside the nursery, which would wrap it in a group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if outcome:
        return outcome[0]
    if not closing.is_set():
        raise Refused("The client went away before its answer came.")
    raise Unavailable(
        "The server is stopping.", code="shutting_down", hint="Ask again when it is back.", retry_after_s=1
    )
