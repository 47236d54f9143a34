"""Streamed answers: bytes from an iterator that is always closed, and server-sent events with resume.

Source of the event form: WHATWG HTML, section 9.2 (server-sent events).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing

import msgspec
import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from executor.core.errors import Refused
from executor.http.errors import as_perdure_error


class Streamed(Response):
    """An answer made while it is sent. The iterator is closed when the client goes away, and when `closing` is set.

    The first item is made before the status is sent, so that an error before it is an ordinary error answer.
    """

    def __init__(
        self,
        items: AsyncGenerator[bytes, None],
        *,
        media_type: str,
        headers: Mapping[str, str] | None = None,
        closing: trio.Event | None = None,
    ) -> None:
        self.status_code = 200
        self.background = None
        # Named as a header, so that no charset is added: git compares the whole text.
        self.init_headers({"Content-Type": media_type, "Cache-Control": "no-store", **(headers or {})})
        self._items = items
        self._closing = closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's
        async with aclosing(self._items):
            first = await anext(self._items, b"")
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            failure: Exception | None = None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cancel_when_gone, receive, nursery.cancel_scope)
                if self._closing is not None:
                    nursery.start_soon(cancel_when_closed, self._closing, nursery.cancel_scope)
                try:
                    await send({"type": "http.response.body", "body": first, "more_body": True})
                    async for item in self._items:
                        await send({"type": "http.response.body", "body": item, "more_body": True})
                except Exception as error:  # raised again below, outside the nursery, which would wrap it in a group
                    failure = error
                nursery.cancel_scope.cancel()
            if failure is not None:
                raise failure
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def cancel_when_gone(receive: Receive, scope: trio.CancelScope) -> None:
    """The body must have been read, or must not be wanted."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def cancel_when_closed(closing: trio.Event, scope: trio.CancelScope) -> None:
    await closing.wait()
    scope.cancel()


async def closing_iterator(items: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Any iterator as one that can be closed."""
    try:
        async for item in items:
            yield item
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            with trio.CancelScope(shield=True):
                await close()


def event(data: bytes, *, name: str, id: int | None = None) -> bytes:
    """One server-sent event; `data` is JSON in one line."""
    head = f"id: {id}\n" if id is not None else ""
    return f"{head}event: {name}\ndata: ".encode() + data + b"\n\n"


KEEP_ALIVE = b": keep-alive\n\n"
"""A comment: proxies and clients see that the connection lives."""


def last_event_id(request: Request) -> int:
    """Where to go on: the `Last-Event-ID` header (a browser sends it when it reconnects), else `?after=`, else 0."""
    text = request.headers.get("last-event-id") or request.query_params.get("after") or "0"
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise Refused(f"{text[:40]!r} is no position in this stream.", hint="Send the id of the last event seen.")
    return int(text)


async def told(items: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The stream, where an error after the first event becomes a last event named `error`, in the errors' shape."""
    began = False
    async with aclosing(items):
        try:
            async for item in items:
                yield item
                began = True
        except Exception as error:  # the border of a stream: its status is already sent
            if not began:
                raise
            yield event(msgspec.json.encode(as_perdure_error(error).to_json()), name="error")
