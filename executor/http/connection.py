"""One connection: uvicorn's HTTP/1.1 over httptools, with the bounds that it lacks, and errors in our form."""

from __future__ import annotations

import asyncio
import http
import math
from collections.abc import Callable

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from executor.core.errors import PerdureError, Refused, Unavailable
from executor.http.bridge import CUT
from executor.http.errors import answer_of

HEADER_BYTES_MAX = 32 * 1024
HEAD_S = 30.0
"""From the connection, or a request's first byte, to the end of its headers."""
STALL_S = 60.0
"""A body that we wait for brings STALL_BYTES in this time, and a client takes some of an answer that waits for it."""
STALL_BYTES = 16 * 1024
KEEP_ALIVE_S = 30
REFUSED_MAX = 256
"""Connections over their bound that are told so; more are dropped without a word."""
LINGER_S = 2.0
"""How long what a client still sends after its last answer is read and dropped, so that it comes to read the answer:
closing at once would reset the connection, and with it what is on its way."""


class State(ServerState):
    """What the connections of one server share. `on_lost` is called when one of them has ended."""

    def __init__(self, *, connections_max: int, on_lost: Callable[[], None]) -> None:
        super().__init__()
        self.connections_max = connections_max
        self.on_lost = on_lost


class _LastWords:
    """A transport for answers, whose `close` lets the client read the answer first."""

    def __init__(self, transport: asyncio.Transport, connection: Connection) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = connection.close_after_answer


class Connection(HttpToolsProtocol):
    """Limits: the bytes of a head, the time for a head, for each part of a body, and for taking an answer."""

    def __init__(self, config: Config, state: State, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(config, state, {}, loop)
        self._state = state
        self._is_lingering = False
        # Since when something is waited for; infinite: it is not.
        self._head_since = math.inf
        self._body_since = math.inf
        self._write_since = math.inf
        self._head_bytes = 0  # of a head that is not complete, less those that came with its beginning
        self._body_bytes = 0

    # --- asyncio's calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._last_words = _LastWords(transport, self)
        self._await_head()
        excess = len(self.connections) - self._state.connections_max
        if excess > REFUSED_MAX:
            self.transport.abort()
        elif excess > 0:
            self._refuse(
                Unavailable(
                    "This server has as many connections as it takes.",
                    code="busy",
                    hint="Ask again after a moment, and keep fewer connections open.",
                    retry_after_s=1,
                ),
                503,
            )

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._state.on_lost()

    def data_received(self, data: bytes) -> None:
        if self._is_lingering:
            return
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_since < math.inf and self._head_bytes > HEADER_BYTES_MAX and not self._is_lingering:
            self._refuse_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_since = self.loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._write_since = math.inf

    # --- the parser's calls

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {CUT: self.transport.abort}  # type: ignore[dict-item]  # ours, not a standard one
        self._await_head()

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > HEADER_BYTES_MAX:
            self._refuse_head()
            raise ValueError("the head is too large")  # which the parser turns into an error of its own
        super().on_headers_complete()
        self.cycle.transport = self._last_words  # type: ignore[assignment]  # as much of one as a cycle needs
        self._head_since = math.inf
        self._body_since = self.loop.time()
        self._body_bytes = 0

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._body_bytes += len(body)
        if self._body_bytes >= STALL_BYTES:
            self._body_bytes = 0
            self._body_since = self.loop.time()

    def on_message_complete(self) -> None:
        self._body_since = math.inf
        super().on_message_complete()
        if self.cycle.response_complete:
            self._await_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._body_since == math.inf:
            self._await_head()

    def _await_head(self) -> None:
        # uvicorn's own timer for idle connections ends at any byte, be it one that begins nothing.
        self._head_since = self.loop.time()
        self._head_bytes = 0

    # --- refusals

    def send_400_response(self, msg: str) -> None:
        """uvicorn's own refusal of what is not HTTP, in our form."""
        if not self._is_lingering:
            self._refuse(
                Refused(msg, hint="Send HTTP/1.1 (RFC 9112); a proxy in front of it does TLS and HTTP/2."), 400
            )

    def _refuse_head(self) -> None:
        self._refuse(
            Refused(
                f"The request's head is larger than {HEADER_BYTES_MAX} bytes.", hint="Send fewer or shorter headers."
            ),
            431,
        )

    def _refuse(self, error: PerdureError, status: int) -> None:
        """Answer, and end the connection."""
        if self.cycle is not None and not self.cycle.response_complete:
            # An answer is under way, and a second one would be taken for a part of it.
            self.transport.abort()
            return
        status, headers, body = answer_of(error, status=status)
        lines = [f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\n".encode()]
        lines += [name + b": " + value + b"\r\n" for name, value in [*self._state.default_headers, *headers]]
        self.transport.write(b"".join([*lines, b"connection: close\r\n\r\n", body]))
        self._linger()

    def _linger(self) -> None:
        self._is_lingering = True
        self.transport.write_eof()
        self._head_since = self.loop.time() - HEAD_S + LINGER_S

    def close_after_answer(self) -> None:
        """Called when an answer was the last one. Its request may not have been read to the end."""
        if self._body_since < math.inf:
            self._linger()
        else:
            self.transport.close()

    # --- time

    def reap(self, now_s: float) -> None:
        """End the connection if its client lets us wait too long. `now_s` is of the loop's clock."""
        is_body_ours = self.flow.read_paused or (self.cycle is not None and self.cycle.waiting_for_100_continue)
        if now_s - self._write_since > STALL_S or (now_s - self._body_since > STALL_S and not is_body_ours):
            self.transport.abort()
        elif now_s - self._head_since > HEAD_S and (self.cycle is None or self.cycle.response_complete):
            self.transport.close()
