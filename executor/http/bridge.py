"""The application on trio, as one that an asyncio web server can call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import trio
from starlette.types import ASGIApp, Receive, Scope, Send

from executor.core.errors import Unavailable
from executor.http.errors import answer_of
from executor.http.exchange import Exchange, Outbox

logger = logging.getLogger(__name__)

SMALL_BODY_BYTES = 64 * 1024
"""A body whose declared length is no more is collected first: then the request crosses once."""
CUT = "perdure.cut"
"""Key of `scope["extensions"]`, set by the web server: drops the connection, so that nobody takes what was sent for a
whole answer."""


class Bridge:
    """`app` on trio; `__call__` is the same application on asyncio. Made on trio; `attach` comes before any request.

    Requests run in the nursery of `run`. More than `requests_max` at a time are answered 503 `busy`.
    """

    def __init__(self, app: ASGIApp, *, requests_max: int) -> None:
        self._app = app
        self._requests_max = requests_max
        self._open = 0
        self._nursery: trio.Nursery | None = None
        self._trio_token = trio.lowlevel.current_trio_token()
        self._before_wait = _BeforeWait()
        self._loop: asyncio.AbstractEventLoop
        self._to_trio: Outbox
        self._to_asyncio: Outbox

    # --- on asyncio

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._to_trio = Outbox(wake=self._wake_trio, flush_soon=lambda: loop.call_soon(self._to_trio.flush))
        self._to_asyncio = Outbox(wake=self._wake_asyncio, flush_soon=self._before_wait.ask)
        self._before_wait.flush = self._to_asyncio.flush

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", scope["type"]
        if self._open >= self._requests_max:
            await _refuse(send, self._requests_max)
            return
        self._open += 1
        try:
            body = None
            if _has_small_body(scope):
                body = await _whole_body(receive)
                if body is None:
                    return
            exchange = Exchange(
                scope, receive, loop=self._loop, to_trio=self._to_trio, to_asyncio=self._to_asyncio, body=body
            )
            self._to_trio.put(self._begin, exchange)
            is_whole = False
            try:
                is_whole = await _answer(exchange, send)
            finally:
                exchange.stop(is_whole=is_whole)
            if not is_whole:
                scope["extensions"][CUT]()
                while (await receive())["type"] != "http.disconnect":
                    pass
        finally:
            self._open -= 1

    def _wake_trio(self, call: Callable[[], None]) -> None:
        try:
            self._trio_token.run_sync_soon(call)
        except trio.RunFinishedError:
            logger.debug("a request came after the end")

    # --- on trio

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take requests until cancelled; then those under way are cancelled, and their connections cut."""
        trio.lowlevel.add_instrument(self._before_wait)
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    def detach(self) -> None:
        """When the asyncio loop has ended."""
        trio.lowlevel.remove_instrument(self._before_wait)

    def _begin(self, exchange: Exchange) -> None:
        if self._nursery is None:
            exchange.close()
        else:
            self._nursery.start_soon(self._run_app, exchange)

    async def _run_app(self, exchange: Exchange) -> None:
        try:
            await self._app(exchange.scope, exchange.receive, exchange.send)
        except Exception:  # the border has told and logged it, and only cutting the connection is left
            logger.debug("an answer is cut", exc_info=True)
        finally:
            exchange.close()

    def _wake_asyncio(self, call: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:  # the loop has ended, and its connections with it
            logger.debug("an answer came after the end")


class _BeforeWait(trio.abc.Instrument):
    """Calls `flush` at the end of a turn of trio's loop in which it was asked to."""

    def __init__(self) -> None:
        self.flush: Callable[[], None]
        self._is_asked = False

    def ask(self) -> None:
        self._is_asked = True

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - trio's
        if self._is_asked:
            self._is_asked = False
            self.flush()


async def _answer(exchange: Exchange, send: Send) -> bool:
    """Send what the application answers; whether that was whole."""
    while (message := await exchange.next_answer()) is not None:
        await send(message)
        if message["type"] == "http.response.body":
            if not message.get("more_body", False):
                return True
            exchange.tell_written(len(message.get("body", b"")))
    return False


async def _whole_body(receive: Receive) -> bytes | None:
    """None: the client went away."""
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body", False):
        message = await receive()
        body += message.get("body", b"")
    return None if message["type"] == "http.disconnect" else body


def _has_small_body(scope: Scope) -> bool:
    """Whether the body is small by its declared length, and comes without being asked for."""
    for name, value in scope["headers"]:
        if name in (b"transfer-encoding", b"expect"):
            return False
        if name == b"content-length" and (not value.isdigit() or int(value) > SMALL_BODY_BYTES):
            return False
    return True


async def _refuse(send: Send, requests_max: int) -> None:
    status, headers, body = answer_of(
        Unavailable(
            f"This server answers {requests_max} requests already.",
            code="busy",
            hint="Ask again after a moment.",
            retry_after_s=1,
        )
    )
    # Its body, if any, was not read.
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})
