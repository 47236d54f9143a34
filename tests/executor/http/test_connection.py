"""Laws of one connection: how long a client may let us wait, and how much it may send. The clock is the test's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from executor.http.connection import (
    HEAD_S,
    HEADER_BYTES_MAX,
    LINGER_S,
    STALL_BYTES,
    STALL_S,
    Connection,
    State,
)

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"


class Transport:
    """What the connection did to its client."""

    def __init__(self) -> None:
        self.written = b""
        self.ends: list[str] = []
        self.is_reading = True

    def write(self, part: bytes) -> None:
        self.written += part

    def write_eof(self) -> None:
        self.ends.append("eof")

    def close(self) -> None:
        self.ends.append("close")

    def abort(self) -> None:
        self.ends.append("abort")

    def is_closing(self) -> bool:
        return "close" in self.ends or "abort" in self.ends

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def get_extra_info(self, _name: str) -> None:
        return None


async def _reads(scope: Any, receive: Any, send: Any) -> None:
    if scope["path"] == "/ignores":
        await asyncio.Event().wait()
    while scope["path"] != "/early" and (await receive()).get("more_body", False):
        pass
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


class Client:
    """A connection made at second 0 of a clock that `at` sets."""

    def __init__(self, loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
        self._loop = loop
        self.now_s = 0.0
        monkeypatch.setattr(loop, "time", lambda: self.now_s)
        config = uvicorn.Config(_reads, ws="none", lifespan="off", log_config=None, interface="asgi3")
        config.load()
        self.transport = Transport()
        self.connection = Connection(config, State(connections_max=1, on_lost=lambda: None), loop)
        self.connection.connection_made(self.transport)  # type: ignore[arg-type]

    def sends(self, *parts: bytes) -> None:
        for part in parts:
            self.connection.data_received(part)
            self.turn()

    def turn(self) -> None:
        """What is ready on the loop runs; nothing waits."""
        for _ in range(5):
            self._loop.call_soon(self._loop.stop)
            self._loop.run_forever()

    def at(self, now_s: float) -> list[str]:
        self.now_s = now_s
        self.connection.reap(now_s)
        return self.transport.ends


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        made = Client(loop, monkeypatch)
        yield made
        made.connection.connection_lost(ConnectionResetError())
    finally:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks))
        loop.close()
        asyncio.set_event_loop(None)


def _told(client: Client) -> tuple[bytes, dict[str, Any]]:
    head, _, body = client.transport.written.partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head
    return head.partition(b"\r\n")[0], json.loads(body)


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n"], ids=["silent", "begun"])
def test_a_head_has_thirty_seconds_however_slowly_it_drips(client: Client, begun: bytes) -> None:
    if begun:
        client.sends(begun)
    assert client.at(HEAD_S) == []
    if begun:
        client.sends(b"X-Slow: 1\r\n")
    assert client.at(HEAD_S + 0.1) == ["close"]


def test_a_second_request_has_its_own_time(client: Client) -> None:
    client.sends(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert client.transport.written.startswith(b"HTTP/1.1 204 ")
    client.now_s = 100.0
    client.sends(b"GET / HTTP/1.1\r\n")
    assert client.at(100 + HEAD_S) == []
    assert client.at(100 + HEAD_S + 0.1) == ["close"]


def test_bytes_that_begin_nothing_keep_no_connection_open(client: Client) -> None:
    client.sends(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n")
    assert client.at(HEAD_S) == []
    assert client.at(HEAD_S + 0.1) == ["close"]


def test_what_is_left_of_a_body_after_its_answer_is_no_head(client: Client) -> None:
    client.sends(HEAD.replace(b"POST / ", b"POST /early "))
    assert client.transport.written.startswith(b"HTTP/1.1 204 ")
    client.sends(b"x" * 50_000, b"x" * 50_000, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert client.transport.written.count(b"HTTP/1.1 204 ") == 2
    assert client.transport.ends == []


def test_a_body_that_drips_is_cut_and_one_that_moves_is_not(client: Client) -> None:
    client.sends(HEAD)
    client.now_s = STALL_S - 1
    client.sends(b"x" * STALL_BYTES)
    assert client.at(2 * STALL_S - 2) == []
    client.sends(b"x" * (STALL_BYTES - 1))
    assert client.at(2 * STALL_S - 1) == []
    assert client.at(2 * STALL_S) == ["abort"]


def test_a_body_that_we_do_not_read_is_not_the_clients_delay(client: Client) -> None:
    client.sends(HEAD.replace(b"POST / ", b"POST /ignores "), b"x" * 70_000)
    assert not client.transport.is_reading
    assert client.at(10 * STALL_S) == []


def test_a_client_that_waits_for_100_continue_is_not_late(client: Client) -> None:
    client.sends(HEAD.replace(b"POST / ", b"POST /ignores ").replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
    assert client.at(10 * STALL_S) == []


def test_a_request_that_is_complete_may_take_its_time(client: Client) -> None:
    client.sends(b"GET /ignores HTTP/1.1\r\nHost: x\r\n\r\n")
    assert client.at(1e9) == []


def test_a_client_that_takes_nothing_of_an_answer_is_cut(client: Client) -> None:
    client.sends(b"GET /ignores HTTP/1.1\r\nHost: x\r\n\r\n")
    client.now_s = 1000.0
    client.connection.pause_writing()
    assert client.at(1000 + STALL_S) == []
    client.connection.resume_writing()
    assert client.at(1001 + STALL_S) == []
    client.connection.pause_writing()
    assert client.at(1002 + 2 * STALL_S) == ["abort"]


@pytest.mark.parametrize("how", ["at-once", "dripping", "endless"])
def test_a_head_over_the_limit_is_refused_however_it_comes(client: Client, how: str) -> None:
    head = b"GET / HTTP/1.1\r\nX-Long: " + b"a" * HEADER_BYTES_MAX + (b"aa" if how == "endless" else b"\r\n\r\n")
    client.sends(*([head] if how == "at-once" else [head[start : start + 20] for start in range(0, len(head), 20)]))
    line, body = _told(client)
    assert line == b"HTTP/1.1 431 Request Header Fields Too Large"
    assert (body["code"], body["message"]) == ("bad_request", "The request's head is larger than 32768 bytes.")
    assert client.transport.ends == ["eof"]


def test_many_small_heads_on_one_connection_are_no_large_one(client: Client) -> None:
    for _ in range(10):
        client.sends(b"GET / HTTP/1.1\r\nX-Long: " + b"a" * (HEADER_BYTES_MAX // 2) + b"\r\n\r\n")
    assert client.transport.written.count(b"HTTP/1.1 204 ") == 10
    assert client.transport.ends == []


def test_a_refused_client_has_a_moment_to_read_why(client: Client) -> None:
    """Whatever it still sends meanwhile is dropped: closing at once would reset the connection under the answer."""
    client.sends(b"\x16\x03\x01\x02\x00")
    line, body = _told(client)
    assert (line, body["code"]) == (b"HTTP/1.1 400 Bad Request", "bad_request")
    written = client.transport.written
    client.sends(*[b"GET / HTTP/1.1\r\n\r\n" * 1000] * 10)
    assert (client.transport.written, client.transport.ends) == (written, ["eof"])
    assert client.at(LINGER_S + 0.1) == ["eof", "close"]


def test_a_last_answer_before_the_bodys_end_can_be_read_too(client: Client) -> None:
    client.sends(HEAD.replace(b"POST / ", b"POST /early ").replace(b"Host: x", b"Host: x\r\nConnection: close"))
    assert client.transport.written.startswith(b"HTTP/1.1 204 ")
    client.sends(b"x" * 90_000)
    assert client.transport.ends == ["eof"]
    assert client.at(LINGER_S + 0.1) == ["eof", "close"]


def test_a_last_answer_after_the_bodys_end_closes(client: Client) -> None:
    client.sends(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert client.transport.ends == ["close"]


def test_what_comes_after_a_request_and_is_none_does_not_spoil_its_answer(client: Client) -> None:
    """A second answer beside the one under way would be taken for a part of it."""
    client.sends(b"GET /ignores HTTP/1.1\r\nHost: x\r\n\r\nnonsense\r\n\r\n")
    assert (client.transport.written, client.transport.ends) == (b"", ["abort"])
