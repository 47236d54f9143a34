"""One request and its answer, between two event loops; and the outboxes by which the loops speak.

asyncio, where the web server lives               trio, where the application does
  head and small body   ──────── begin ────────►    app(scope, receive, send)
  reads on when asked   ◄──────── pull ─────────    receive(): at most READ_AHEAD parts on their way
                        ──────── arrived ──────►
  writes at its pace    ◄─────── answer ───────     send(): at most WINDOW_BYTES not yet written
                        ──────── written ──────►
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import trio
from starlette.types import Message, Receive, Scope

READ_AHEAD = 4
"""Parts of a large body on their way to the application; each is what one read takes, at most some 300 KiB."""
WINDOW_BYTES = 256 * 1024
"""Bytes of a streamed answer that the application may be ahead of its client."""


class Outbox:
    """Calls for the other loop, made there in order. All that one turn of this loop puts goes over with one wake-up:
    under load a hundred requests cost two of them, not two hundred.

    `flush_soon` is called at the first put of a turn and sees to it that `flush` is called at the turn's end; `wake`
    runs its argument on the other loop.
    """

    def __init__(self, *, wake: Callable[[Callable[[], None]], object], flush_soon: Callable[[], object]) -> None:
        self._calls: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._wake = wake
        self._flush_soon = flush_soon
        self._is_announced = False

    def put(self, call: Callable[..., None], *arguments: Any) -> None:
        self._calls.append((call, arguments))
        if not self._is_announced:
            self._is_announced = True
            self._flush_soon()

    def flush(self) -> None:
        self._wake(self._deliver)

    def _deliver(self) -> None:
        # A put that still sees the flag has appended before, so the loop below delivers it.
        self._is_announced = False
        while self._calls:
            call, arguments = self._calls.popleft()
            call(*arguments)


class Exchange:
    """One request. Each of its fields is touched by one side only; the outboxes carry everything between them."""

    def __init__(
        self,
        scope: Scope,
        client_receive: Receive,
        *,
        loop: asyncio.AbstractEventLoop,
        to_trio: Outbox,
        to_asyncio: Outbox,
        body: bytes | None,
    ) -> None:
        """`body`: the whole of it, if it is there already; else it is read when the application asks."""
        self.scope = scope
        self._to_trio = to_trio
        self._to_asyncio = to_asyncio
        # asyncio's
        self._client_receive = client_receive
        self._loop = loop
        self._answer: deque[Message | None] = deque()
        self._answered: asyncio.Future[None] | None = None
        self._reader: asyncio.Task[None] | None = None
        self._pulls: asyncio.Semaphore | None = None
        self._is_body_read = body is not None
        # trio's
        self._parts: deque[Message] = deque()
        self._changed: trio.Event | None = None
        self._has_pulled = False
        self._is_gone = False
        self._unwritten_bytes = 0
        self._head: Message | None = None
        self._is_complete = False
        if body is not None:
            self._parts.append({"type": "http.request", "body": body, "more_body": False})

    # --- on asyncio

    async def next_answer(self) -> Message | None:
        """What to send next; None: nothing more comes, and the answer is not whole."""
        while not self._answer:
            self._answered = self._loop.create_future()
            await self._answered
        return self._answer.popleft()

    def tell_written(self, byte_count: int) -> None:
        self._to_trio.put(self._written, byte_count)

    def stop(self, *, is_whole: bool) -> None:
        """The answer has been sent, or will not be."""
        if self._reader is not None:
            self._reader.cancel()
        if not is_whole:
            self._to_trio.put(self._arrived, {"type": "http.disconnect"})

    def _take_answer(self, messages: tuple[Message | None, ...]) -> None:
        self._answer.extend(messages)
        if self._answered is not None and not self._answered.done():
            self._answered.set_result(None)

    def _pull(self, count: int) -> None:
        if self._pulls is None:
            self._pulls = asyncio.Semaphore(0)
            self._reader = self._loop.create_task(self._read())
        for _ in range(count):
            self._pulls.release()

    async def _read(self) -> None:
        """A part for each pull, then, once the body has ended, the news that the client is gone."""
        assert self._pulls is not None
        while True:
            if not self._is_body_read:
                await self._pulls.acquire()
            message = await self._client_receive()
            if message["type"] == "http.disconnect":
                self._to_trio.put(self._arrived, message)
                return
            if not self._is_body_read:
                self._is_body_read = not message.get("more_body", False)
                self._to_trio.put(self._arrived, message)

    # --- on trio

    async def receive(self) -> Message:
        """ASGI's. The client is asked for its body (`100 Continue`) no sooner than the application asks."""
        if not self._parts and not self._has_pulled:
            self._has_pulled = True
            self._to_asyncio.put(self._pull, READ_AHEAD)
        while not self._parts:
            await self._change()
        message = self._parts[0]
        if message["type"] != "http.disconnect":  # that one stays: who asks again is told again
            self._parts.popleft()
            if self._has_pulled:
                self._to_asyncio.put(self._pull, 1)
        return message

    async def send(self, message: Message) -> None:
        """ASGI's. The head waits for the first bytes of the body, so that a small answer crosses once."""
        if message["type"] == "http.response.start":
            self._head = message
            return
        has_more = message.get("more_body", False)
        self._to_asyncio.put(self._take_answer, (message,) if self._head is None else (self._head, message))
        self._head = None
        self._is_complete = not has_more
        if has_more:
            self._unwritten_bytes += len(message.get("body", b""))
            while self._unwritten_bytes > WINDOW_BYTES and not self._is_gone:
                await self._change()

    def close(self) -> None:
        """Nothing more comes from the application."""
        if not self._is_complete:
            self._to_asyncio.put(self._take_answer, (None,))

    async def _change(self) -> None:
        if self._changed is None:
            self._changed = trio.Event()
        await self._changed.wait()

    def _tell_change(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def _arrived(self, message: Message) -> None:
        self._parts.append(message)
        self._is_gone = self._is_gone or message["type"] == "http.disconnect"
        self._tell_change()

    def _written(self, byte_count: int) -> None:
        self._unwritten_bytes -= byte_count
        self._tell_change()
