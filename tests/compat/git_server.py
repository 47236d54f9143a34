"""A small real HTTP server over gitstore's git conversations, for tests with real clients.

Threaded standard library only: the product's own HTTP layer has its own tests. It does what every server of smart
HTTP must: un-gzips bodies, joins chunked ones, maps refusals that come before the first byte to a status.
"""

from __future__ import annotations

import io
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from gitstore import transport
from gitstore.errors import NotFound, Refused
from gitstore.parts import Parts


class Body(io.RawIOBase):
    """A request's body: chunked or of known length, gzipped or not; b"" at its end or when the client is gone."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        headers = handler.headers
        self._file = handler.rfile
        self._chunked = headers.get("Transfer-Encoding", "").lower() == "chunked"
        self._left = 0 if self._chunked else int(headers.get("Content-Length") or 0)
        self._gzip = zlib.decompressobj(31) if headers.get("Content-Encoding") == "gzip" else None
        self._ready = b""
        self._ended = False

    def _raw(self, size: int) -> bytes:
        if self._chunked and self._left == 0 and not self._ended:
            line = self._file.readline(32)
            self._left = int(line.strip() or b"0", 16)
            if self._left == 0:
                self._ended = True
                self._file.readline(8)
                return b""
        data = self._file.read1(min(size, self._left)) if self._left else b""
        self._left -= len(data)
        if self._chunked and self._left == 0 and data:
            self._file.readline(8)
        return data

    def read(self, size: int = -1) -> bytes:
        if self._gzip is None:
            return self._raw(size if size >= 0 else 1 << 20)
        while not self._ready:
            raw = self._raw(1 << 16)
            if not raw:
                break
            self._ready = self._gzip.decompress(raw)
        size = len(self._ready) if size < 0 else size
        data, self._ready = self._ready[:size], self._ready[size:]
        return data


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # many small writes: else each answer waits 40 ms for an acknowledgement
    server: GitServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        service = parse_qs(url.query).get("service", [""])[0]
        try:
            answer = transport.advertise(
                self.server.parts,
                self._tenant(url.path, "/info/refs"),
                service,
                protocol=self.headers.get("Git-Protocol"),
            )
        except Refused as error:
            self._refuse(error)
            return
        self._head(200, f"application/x-{service}-advertisement", len(answer))
        self.wfile.write(answer)

    def do_POST(self) -> None:
        try:
            self._post()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            self.server.count_request()

    def _post(self) -> None:
        service = self.path.rpartition("/")[2]
        tenant = self._tenant(self.path, "/" + service)
        body = Body(self)
        try:
            if service == "git-receive-pack":
                chunks = transport.receive_pack(self.server.parts, tenant, body, who="tester")
            else:
                chunks = transport.upload_pack(
                    self.server.parts, tenant, body, protocol=self.headers.get("Git-Protocol")
                )
        except Refused as error:
            self.close_connection = True
            self._refuse(error)
            return
        try:
            self._head(200, f"application/x-{service}-result", None)
            for chunk in chunks:
                if chunk:
                    self.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
            while body.read(1 << 16):
                pass
            self.wfile.write(b"0\r\n\r\n")
        finally:
            chunks.close()

    @staticmethod
    def _tenant(path: str, suffix: str) -> str:
        return path.removesuffix(suffix).strip("/").removesuffix(".git")

    def _head(self, status: int, kind: str, length: int | None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", "no-cache")
        if length is None:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.flush()

    def _refuse(self, error: Refused) -> None:
        text = str(error).encode()
        self._head(404 if isinstance(error, NotFound) else 400, "text/plain; charset=utf-8", len(text))
        self.wfile.write(text)


class GitServer(ThreadingHTTPServer):
    """Serves `parts` on a free loopback port; `url(tenant)` is what git clones from."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, parts: Parts) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.parts = parts
        self._posts = 0
        self._changed = threading.Condition()

    def url(self, tenant: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{tenant}.git"

    def count_request(self) -> None:
        with self._changed:
            self._posts += 1
            self._changed.notify_all()

    @property
    def posts(self) -> int:
        return self._posts

    def wait_for_posts(self, count: int) -> None:
        """Until that many POSTs have been dealt with to their end."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._posts >= count, timeout=30)

    def handle_error(self, request: object, client_address: object) -> None:
        import sys

        if not isinstance(sys.exception(), (BrokenPipeError, ConnectionResetError)):
            super().handle_error(request, client_address)


@contextmanager
def serving(parts: Parts) -> Iterator[GitServer]:
    with GitServer(parts) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
