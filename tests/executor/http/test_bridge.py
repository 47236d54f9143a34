"""Laws of the way between the web server's loop and the application's: nothing lost, nothing unbounded, an end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from executor.http import front, server
from executor.http.exchange import Outbox
from executor.wire import innermost

MIB = 1024 * 1024
App = Callable[..., Awaitable[None]]
OK = {"type": "http.response.start", "status": 200, "headers": []}


class Serving:
    """An application behind the real server, and bare sockets to it."""

    def __init__(self, port: int, shutdown: trio.Event) -> None:
        self.port = port
        self.shutdown = shutdown
        self.ended = trio.Event()

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def ask(self, request: bytes) -> bytes:
        """The whole answer on a connection that the request or the answer closes."""
        async with await self.connect() as stream:
            await stream.send_all(request)
            return b"".join([part async for part in stream])


@asynccontextmanager
async def served(app: App, **limits: int) -> AsyncGenerator[Serving]:
    async def with_state(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)

    with_state.state = SimpleNamespace(closing=trio.Event())  # type: ignore[attr-defined]
    shutdown = trio.Event()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            address = await nursery.start(partial(server.serve, with_state, shutdown=shutdown, **limits))
            found = Serving(int(address.rpartition(":")[2]), shutdown)
            try:
                yield found
            finally:
                shutdown.set()
                nursery.cancel_scope.cancel()


async def whole_body(receive: Any) -> bytes:
    parts = []
    while True:
        message = await receive()
        assert message["type"] == "http.request", "the client went away"
        parts.append(message["body"])
        if not message["more_body"]:
            return b"".join(parts)


async def answer(send: Any, body: bytes, status: int = 200) -> None:
    length = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": length})
    await send({"type": "http.response.body", "body": body})


async def echo(_scope: Any, receive: Any, send: Any) -> None:
    await answer(send, await whole_body(receive))


async def one_answer(stream: trio.SocketStream) -> tuple[bytes, bytes]:
    """Head and body of an answer with a Content-Length."""
    received = b""
    while b"\r\n\r\n" not in received:
        part = await stream.receive_some()
        assert part, received
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        part = await stream.receive_some()
        assert part, received
        body += part
    return head, body


def post(body: bytes, *headers: str) -> bytes:
    lines = ["POST / HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def test_of_many_requests_at_once_each_gets_its_own_answer() -> None:
    async with served(echo) as found:

        async def client(number: int) -> None:
            async with await found.connect() as stream:
                for turn in range(5):
                    body = f"{number}/{turn} ".encode() * (1 + number * 37 % 2000)
                    await stream.send_all(post(body))
                    assert (await one_answer(stream))[1] == body

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(client, number)


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    async with served(echo) as found, await found.connect() as stream:
        await stream.send_all(post(b"one") + post(b"two", "Connection: close"))
        received = b"".join([part async for part in stream])
    assert received.index(b"one") < received.index(b"two")


@pytest.mark.parametrize("how", ["declared", "chunked"])
async def test_a_large_body_arrives_whole(how: str) -> None:
    sent = hashlib.sha256()
    block = bytes(range(256)) * 1024

    async def digest(_scope: Any, receive: Any, send: Any) -> None:
        seen = hashlib.sha256()
        more = True
        while more:
            message = await receive()
            seen.update(message["body"])
            more = message["more_body"]
        await answer(send, seen.hexdigest().encode())

    async with served(digest) as found, await found.connect() as stream:
        kind = f"Content-Length: {64 * len(block)}" if how == "declared" else "Transfer-Encoding: chunked"
        await stream.send_all(f"POST / HTTP/1.1\r\nHost: x\r\n{kind}\r\n\r\n".encode())
        for _ in range(64):
            sent.update(block)
            await stream.send_all(block if how == "declared" else b"%x\r\n" % len(block) + block + b"\r\n")
        if how == "chunked":
            await stream.send_all(b"0\r\n\r\n")
        assert (await one_answer(stream))[1] == sent.hexdigest().encode()


async def test_a_client_sends_no_more_than_the_application_reads_and_some() -> None:
    """16 MiB beside what the kernel's buffers hold would be a push in memory."""
    gate = trio.Event()
    received = 0

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        nonlocal received
        if scope["method"] == "GET":
            await echo(scope, receive, send)
            return
        await receive()
        await gate.wait()
        received = len(await whole_body(receive))
        await answer(send, b"done")

    size = 128 * MIB
    sent = 0
    async with served(slow) as found, await found.connect() as stream:
        await stream.send_all(f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode())

        async def push() -> None:
            nonlocal sent
            while sent < size:
                sent += await stream.socket.send(b"x" * min(MIB, size - sent))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(push)
            await _settled(found, lambda: sent)
            assert sent < 32 * MIB
            gate.set()
        assert (await one_answer(stream))[1] == b"done"
    assert size - 2 * MIB < received <= size


async def test_an_application_writes_no_more_than_the_client_reads_and_some() -> None:
    written = 0

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        nonlocal written
        if scope["method"] == "GET":
            await echo(scope, receive, send)
            return
        await send(OK)
        for _ in range(2000):
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            written += 65536
        await send({"type": "http.response.body", "body": b""})

    async with served(endless) as found, await found.connect() as stream:
        await stream.send_all(post(b"", "Connection: close"))
        await _settled(found, lambda: written)
        assert 0 < written < 32 * MIB
        total = 0
        async for part in stream:
            total += len(part)
    assert written == 2000 * 65536 <= total


async def _settled(found: Serving, figure: Callable[[], int]) -> None:
    """Until it has not moved while another client was answered a hundred times."""
    async with await found.connect() as stream:
        before = -1
        while before != figure() or before == 0:
            before = figure()
            for _ in range(100):
                await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                await one_answer(stream)


@pytest.mark.parametrize("is_streaming", [True, False])
async def test_a_client_that_goes_away_is_told_to_the_application(is_streaming: bool) -> None:
    begun, gone = trio.Event(), trio.Event()

    async def waits(_scope: Any, receive: Any, send: Any) -> None:
        await whole_body(receive)
        if is_streaming:
            await send(OK)
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        begun.set()
        assert (await receive())["type"] == "http.disconnect"
        assert (await receive())["type"] == "http.disconnect"
        gone.set()

    async with served(waits) as found:
        async with await found.connect() as stream:
            await stream.send_all(post(b"{}"))
            await begun.wait()
        await gone.wait()


async def test_an_application_that_writes_for_a_client_that_went_away_does_not_wait_for_it() -> None:
    done = trio.Event()

    async def writes(_scope: Any, _receive: Any, send: Any) -> None:
        await send(OK)
        for _ in range(400):
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        done.set()

    async with served(writes) as found:
        async with await found.connect() as stream:
            await stream.send_all(post(b""))
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
        await done.wait()


async def test_an_application_whose_answer_cannot_be_sent_is_not_kept_waiting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    done = trio.Event()

    async def wrong(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"no name", b"x")]})
        for _ in range(8):
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        done.set()

    async with served(wrong) as found:
        assert await found.ask(post(b"")) == b""
        await done.wait()
    assert "Invalid HTTP header name." in caplog.text


@pytest.mark.parametrize("how", ["raises", "returns", "raises-at-once"])
async def test_an_answer_that_is_not_whole_is_cut_and_never_ended(how: str) -> None:
    async def breaks(_scope: Any, _receive: Any, send: Any) -> None:
        if how != "raises-at-once":
            await send(OK)
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
        if how != "returns":
            raise ValueError(how)

    async with served(breaks) as found, await found.connect() as stream:
        await stream.send_all(post(b""))
        received = b""
        try:
            async for part in stream:
                received += part
        except trio.BrokenResourceError:
            pass
    assert not received.endswith(b"0\r\n\r\n")
    assert not received.startswith(b"HTTP/1.1 5")


async def test_a_body_is_asked_for_when_the_application_wants_it() -> None:
    expecting = b"POST /%s HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"

    async def picky(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/no":
            await send({"type": "http.response.start", "status": 401, "headers": [(b"connection", b"close")]})
            await send({"type": "http.response.body", "body": b""})
        else:
            await echo(scope, receive, send)

    async with served(picky) as found:
        assert (await found.ask(expecting % b"no")).startswith(b"HTTP/1.1 401 ")
        async with await found.connect() as stream:
            await stream.send_all(expecting % b"yes")
            assert await stream.receive_some() == b"HTTP/1.1 100 Continue\r\n\r\n"
            await stream.send_all(b"hi")
            assert (await one_answer(stream))[1] == b"hi"


async def test_more_requests_than_the_bound_are_told_to_come_back() -> None:
    begun, gate = trio.Event(), trio.Event()

    async def waits(_scope: Any, receive: Any, send: Any) -> None:
        await whole_body(receive)
        begun.set()
        await gate.wait()
        await answer(send, b"done")

    async with served(waits, requests_max=1) as found, await found.connect() as first:
        await first.send_all(post(b""))
        await begun.wait()
        head, _, body = (await found.ask(post(b"{}"))).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in head
        assert (json.loads(body)["code"], json.loads(body)["family"]) == ("busy", "unavailable")
        gate.set()
        assert (await one_answer(first))[1] == b"done"
        assert b"200 OK" in await found.ask(post(b"{}", "Connection: close"))


async def test_more_connections_than_the_bound_are_told_to_come_back() -> None:
    async with served(echo, connections_max=1) as found, await found.connect() as first:
        await first.send_all(post(b"1"))
        assert (await one_answer(first))[1] == b"1"
        head, _, body = (await found.ask(b"")).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert json.loads(body)["code"] == "busy"
        await first.send_all(post(b"2"))
        assert (await one_answer(first))[1] == b"2"


async def test_a_stop_lets_requests_end_and_waits_for_nothing_else() -> None:
    begun, gate, served_until = trio.Event(), trio.Event(), trio.Event()

    async def waits(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/wait":
            begun.set()
            await gate.wait()
        await echo(scope, receive, send)

    waits.state = SimpleNamespace(closing=trio.Event())  # type: ignore[attr-defined]
    shutdown = trio.Event()
    async with trio.open_nursery() as nursery:

        async def serve(*, task_status: Any) -> None:
            await server.serve(waits, shutdown=shutdown, task_status=task_status)  # type: ignore[arg-type]
            served_until.set()

        address = await nursery.start(serve)
        found = Serving(int(address.rpartition(":")[2]), shutdown)
        async with await found.connect() as idle, await found.connect() as under_way:
            await idle.send_all(post(b""))
            await one_answer(idle)
            await under_way.send_all(post(b"x").replace(b"POST / ", b"POST /wait "))
            await begun.wait()
            shutdown.set()
            assert await idle.receive_some() == b""  # it waits for nothing, so it is closed at once
            assert waits.state.closing.is_set()  # type: ignore[attr-defined]
            with pytest.raises(OSError):
                await found.connect()
            assert not served_until.is_set()
            gate.set()
            assert (await one_answer(under_way))[1] == b"x"
            assert await under_way.receive_some() == b""
        with trio.fail_after(server.GRACE_S):
            await served_until.wait()


async def test_a_stop_cuts_what_does_not_end_within_the_time_of_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "GRACE_S", 0.01)
    begun, cancelled = trio.Event(), trio.Event()

    async def stays(_scope: Any, _receive: Any, send: Any) -> None:
        await send(OK)
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with served(stays) as found, await found.connect() as stream:
        await stream.send_all(post(b""))
        await begun.wait()
        found.shutdown.set()
        await cancelled.wait()
        received = b""
        try:
            async for part in stream:
                received += part
        except trio.BrokenResourceError:
            pass
        assert not received.endswith(b"0\r\n\r\n")


async def test_a_web_server_that_fails_ends_the_application_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that answers nobody must not look alive."""
    monkeypatch.setattr(front.Front, "_tick", lambda _front: 1 / 0)
    with pytest.raises(ExceptionGroup) as caught:
        async with served(echo):
            await trio.sleep_forever()
    assert isinstance(innermost(caught.value), ZeroDivisionError)


def test_what_one_turn_puts_out_crosses_with_one_wake_up_and_in_order() -> None:
    woken: list[Callable[[], None]] = []
    asked: list[str] = []
    seen: list[int] = []
    outbox = Outbox(wake=woken.append, flush_soon=lambda: asked.append("flush"))
    for number in range(100):
        outbox.put(seen.append, number)
    assert (asked, woken) == (["flush"], [])
    outbox.flush()
    outbox.put(seen.append, 100)  # before the other side has come: it goes along
    assert len(woken) == len(asked) == 1
    woken.pop()()
    assert seen == list(range(101))
    outbox.put(seen.append, 101)
    assert len(asked) == 2
