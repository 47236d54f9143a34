"""A load of one HTTP request over keep-alive connections, from a process of its own; no pipelining.

    python -m tools.bench.http_load HOST PORT PATH --token T --body JSON --connections 64 --count 3000

Prints one JSON object: seconds, CPU of this client, the slowest answers, and how many answers of each status came.
A minimal HTTP/1.1 client on bare sockets: what is measured is the server.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import time

from tools.bench.common import latency_ms

END_OF_HEAD = b"\r\n\r\n"


class Connection(asyncio.Protocol):
    """Sends the request again as soon as it is answered, until the load has sent enough."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._received = b""
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.send()

    def send(self) -> None:
        if self._load.left == 0:
            self._transport.close()
            return
        self._load.left -= 1
        self._sent_at = time.perf_counter()
        self._transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(END_OF_HEAD)
        if not found or len(body) < _content_length(head):
            return
        assert len(body) == _content_length(head), "one answer to one request"
        self._received = b""
        self._load.took.append(time.perf_counter() - self._sent_at)
        self._load.statuses[head[9:12].decode()] += 1
        self.send()

    def connection_lost(self, error: Exception | None) -> None:
        self._load.closed(error)


class Load:
    """`count` requests over `connections`; `run` returns when all are answered. Raises the error of a connection that
    was lost."""

    def __init__(self, request: bytes, *, count: int) -> None:
        self.request = request
        self.left = count
        self.took: list[float] = []
        self.statuses: collections.Counter[str] = collections.Counter()

    async def run(self, host: str, port: int, *, connections: int) -> float:
        """Seconds from the first byte sent to the last answer."""
        loop = asyncio.get_running_loop()
        self._open = connections
        self._over = loop.create_future()
        begun = time.perf_counter()
        for _ in range(connections):
            await loop.create_connection(lambda: Connection(self), host, port)
        await self._over
        return time.perf_counter() - begun

    def closed(self, error: Exception | None) -> None:
        self._open -= 1
        if not self._over.done():
            if error is not None:
                self._over.set_exception(error)
            elif self._open == 0:
                self._over.set_result(None)


def _content_length(head: bytes) -> int:
    lowered = head.lower()
    return int(lowered.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0])


def post(host: str, port: int, path: str, *, token: str, body: str) -> bytes:
    """The bytes of one request."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body.encode())}\r\n\r\n"
    )
    return (head + body).encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("--token", default="")
    parser.add_argument("--body", default="{}")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--count", type=int, default=3000)
    asked = parser.parse_args()
    load = Load(post(asked.host, asked.port, asked.path, token=asked.token, body=asked.body), count=asked.count)
    before = time.process_time()
    seconds = asyncio.run(load.run(asked.host, asked.port, connections=asked.connections))
    found = {
        "seconds": round(seconds, 4),
        "client_cpu_s": round(time.process_time() - before, 3),
        "statuses": dict(load.statuses),
        **latency_ms(load.took, "answer"),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
