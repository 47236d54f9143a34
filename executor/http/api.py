"""Routes under /api/v1, made from the table of operations; and the two live streams of an instance."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import trio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from executor import wire
from executor.config import Config
from executor.core.errors import Refused, Unavailable
from executor.core.values import DEPTH_MAX
from executor.http import bodies, openapi, streams
from executor.operations import API_PREFIX, OPERATIONS, Arguments, Operation, ResultView
from executor.views import FINAL_STATES, JournalItem, LogLine, Status

if TYPE_CHECKING:
    from executor.service import Caller, Service

Endpoint = Callable[[Request], Awaitable[Response]]

BATCH_BYTES_MAX = 32 * 1024 * 1024
KEEP_ALIVE_S = 15.0
"""Shorter than the usual 30 to 60 s after which proxies give up a silent connection."""
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
            _endpoint(service, operation, limits[operation.body], closing),
            methods=[operation.method],
        )
        for operation in OPERATIONS.values()
    ]
    instance = API_PREFIX + OPERATIONS["status"].path
    document = openapi.document()
    return [
        *found,
        Route(instance + "/logs/stream", _stream(service, closing, _log_events), methods=["GET"]),
        Route(instance + "/stream", _stream(service, closing, _journal_events), methods=["GET"]),
        Route(API_PREFIX + "/openapi.json", _constant(document), methods=["GET"]),
    ]


def bearer(request: Request) -> str | None:
    """The token of `Authorization: Bearer …`, or None."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def _endpoint(service: Service, operation: Operation, body_bytes_max: int, closing: trio.Event) -> Endpoint:
    call = getattr(service, operation.name)

    async def endpoint(request: Request) -> Response:
        # Who asks comes first: a stranger learns nothing about what a good request would be.
        before: list[Any] = [] if operation.access == "none" else [await service.authenticate(bearer(request))]
        before += [request.path_params[name] for name in operation.parameters]
        arguments = await _arguments(request, operation, body_bytes_max)
        keywords = operation.keywords(arguments)
        if any(keywords.get(name) for name in ("timeout_s", "wait_s")):
            value = await _unless_closing(closing, lambda: call(*before, **keywords))
        else:
            value = await call(*before, **keywords)
        return _answer(operation, value)

    return endpoint


async def _arguments(request: Request, operation: Operation, body_bytes_max: int) -> Arguments:
    """The checked arguments. Raises Refused: `bad_request` names the place, `bad_payload`, `payload_too_large`."""
    try:
        if operation.method == "POST":
            body = await bodies.read_body(request, limit=body_bytes_max)
            return wire.payload_inward(msgspec.json.decode(body or b"{}", type=operation.arguments))
        query = request.query_params.multi_items()
        names = [name for name, _ in query]
        for name in names:
            if names.count(name) > 1:
                raise Refused(f"The query has {name[:40]!r} twice.")
        return msgspec.convert(dict(query), operation.arguments, strict=False)
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


def _answer(operation: Operation, value: Any) -> Response:
    if operation.result is None:
        return Response(status_code=204)
    headers = {"Cache-Control": "no-store"}
    if operation.result is bytes:
        # A tenant's file is never shown as a page of this origin, whatever it contains.
        headers |= {"X-Content-Type-Options": "nosniff", "Content-Disposition": "attachment"}
        return Response(value, operation.status, headers, operation.media_type)
    if operation.result is ResultView:
        value = ResultView(output=value)
    return Response(wire.encode(value), operation.status, headers, "application/json")


def _constant(document: dict[str, Any]) -> Endpoint:
    async def endpoint(_request: Request) -> Response:
        return JSONResponse(document)

    return endpoint


async def _unless_closing(closing: trio.Event, call: Callable[[], Awaitable[Any]]) -> Any:
    """What `call` returns or raises; Unavailable (`shutting_down`) if the server closes while it waits."""
    outcome: list[Any] = []
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:

        async def stop() -> None:
            await closing.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(stop)
        try:
            outcome.append(await call())
        except Exception as error:  # raised again below, outside the nursery, which would wrap it in a group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if not outcome:
        raise Unavailable(
            "The server is stopping.", code="shutting_down", hint="Ask again when it is back.", retry_after_s=1
        )
    return outcome[0]


# --- live streams


@dataclass(frozen=True)
class _Watch:
    """Who watches which instance."""

    service: Service
    secret: str | None = field(repr=False)
    caller: Caller
    tenant: str
    instance: str

    async def status(self) -> Status:
        return await self.service.status(self.caller, self.tenant, self.instance)

    async def still_allowed(self) -> None:
        """Raises Refused (`unauthorized`) once the token is revoked or has expired."""
        await self.service.authenticate(self.secret)


Events = Callable[[_Watch, int], AsyncGenerator[bytes, None]]


def _stream(service: Service, closing: trio.Event, events: Events) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        secret = bearer(request)
        caller = await service.authenticate(secret)
        watch = _Watch(service, secret, caller, request.path_params["tenant"], request.path_params["id"])
        items = events(watch, streams.last_event_id(request))
        return streams.Streamed(streams.told(items), media_type="text/event-stream", closing=closing)

    return endpoint


async def _log_events(watch: _Watch, after: int) -> AsyncGenerator[bytes, None]:
    """`log` events whose ids are cursors, then `end` once the instance has ended and all is told."""

    async def lines(after: int, wait_s: float) -> list[tuple[int, LogLine]]:
        found = await watch.service.logs(
            watch.caller, watch.tenant, watch.instance, after=after, limit=1000, wait_s=wait_s
        )
        return [(line.cursor, line) for line in found]

    async with aclosing(_events("log", lines, watch, after)) as events:
        async for item in events:
            yield item


async def _journal_events(watch: _Watch, after: int) -> AsyncGenerator[bytes, None]:
    """`entry` events whose ids are sequence numbers, then `end` once the instance has ended and all is told."""

    async def entries(after: int, wait_s: float) -> list[tuple[int, JournalItem]]:
        found = await watch.service.journal(
            watch.caller, watch.tenant, watch.instance, after=after, limit=1000, wait_s=wait_s
        )
        return [(item.sequence, item) for item in found]

    async with aclosing(_events("entry", entries, watch, after)) as events:
        async for item in events:
            yield item


async def _events(
    name: str,
    read: Callable[[int, float], Awaitable[Sequence[tuple[int, LogLine | JournalItem]]]],
    watch: _Watch,
    after: int,
) -> AsyncGenerator[bytes, None]:
    """What `read(after, wait_s)` gives, until the instance has ended and nothing is left.

    The token is looked at again in every turn, before anything is told.
    """
    await watch.status()
    yield streams.KEEP_ALIVE
    while True:
        items = await read(after, KEEP_ALIVE_S)
        await watch.still_allowed()
        for position, item in items:
            after = position
            yield streams.event(wire.encode(item), name=name, id=position)
        if items:
            continue
        now = await watch.status()
        if now.state not in FINAL_STATES:
            yield streams.KEEP_ALIVE
        elif not await read(after, 0):
            yield streams.event(wire.encode(now), name="end")
            return
