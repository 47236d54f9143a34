"""Request bodies under a limit: small ones in memory, git's spooled to disk and un-gzipped on the way."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import BinaryIO, cast

import trio
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope

from executor.core.errors import Refused, Unavailable
from executor.http.requests import header

SPOOL_MEMORY_BYTES = 1024 * 1024
_INFLATE_BYTES = 1024 * 1024
EXCESS_BYTES_KEPT = 1024 * 1024
"""Kept beyond the limit, so that whoever reads the body sees that it is over it, and where."""
EXCESS_FACTOR = 4
"""A body of more than so many times its limit is not read to its end."""


def too_large(limit: int) -> Refused:
    return Refused(
        f"The request's body is larger than {limit} bytes.",
        code="payload_too_large",
        hint="Send less, or ask the operator to raise the limit.",
        bytes_max=limit,
    )


def check_declared(scope: Scope, limit: int, *, bound: int | None = None) -> None:
    """Refuse by Content-Length before a byte is read: what is over `bound` (default: `limit`, which is told)."""
    declared = header(scope, b"content-length") or "0"
    if declared.isdigit() and int(declared) > (limit if bound is None else bound):
        raise too_large(limit)


async def read_body(scope: Scope, receive: Receive, *, limit: int) -> bytes:
    """The whole body. Raises Refused (`payload_too_large`) as soon as it is over `limit`."""
    check_declared(scope, limit)
    parts = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refused("The client went away before its request was complete.")
        parts += message.get("body", b"")
        if len(parts) > limit:
            raise too_large(limit)
        if not message.get("more_body", False):
            return bytes(parts)


@asynccontextmanager
async def spooled_body(request: Request, *, limit: int, cut: bool = False) -> AsyncIterator[BinaryIO]:
    """The body as a file at its start, un-gzipped; on disk once it is over 1 MiB. `limit` bounds what is unpacked too.

    With `cut`, a body over the limit, up to EXCESS_FACTOR times it, is read to its end and its beginning is given
    (EXCESS_BYTES_KEPT more than the limit): the reader holds it to the same limit and says precisely what is too
    large, and a client that reads no answer before it has sent everything gets to see that.

    Raises Refused: too large, a broken gzip stream, an unknown encoding; Unavailable (`storage_full`).
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip"):
        raise Refused(f"Content-Encoding {encoding[:40]!r} is not understood.", hint="Send gzip or identity.")
    bound = EXCESS_FACTOR * limit if cut else limit
    kept = limit + EXCESS_BYTES_KEPT
    check_declared(request.scope, limit, bound=bound)
    inflate = zlib.decompressobj(wbits=31) if encoding != "identity" else None
    size = received = 0
    with tempfile.SpooledTemporaryFile(max_size=SPOOL_MEMORY_BYTES) as file:
        try:
            async with aclosing(request.stream()) as stream:
                async for part in stream:
                    received += len(part)
                    if received > bound:  # gzip may unpack to nothing for ever
                        raise too_large(limit)
                    for whole in _plain(part, inflate):
                        plain = whole[: max(0, kept - size)]
                        size += len(whole)
                        if size > bound:
                            raise too_large(limit)
                        # Memory first; once on disk, writes may block and go to a worker thread.
                        if size > SPOOL_MEMORY_BYTES:
                            await trio.to_thread.run_sync(file.write, plain)
                        else:
                            file.write(plain)
            if inflate is not None and not inflate.eof:
                raise Refused("The gzip stream of the request's body ends too early.")
        except zlib.error as error:
            raise Refused(f"The request's body is not gzip: {error}.") from None
        except ClientDisconnect:
            raise Refused("The client went away before its request was complete.") from None
        except OSError as error:
            raise Unavailable(
                f"The request's body cannot be kept: {error.strerror}.",
                code="storage_full",
                hint="Free space in the server's temporary directory.",
            ) from error
        file.seek(0)
        yield cast("BinaryIO", file)  # it has every method of one; typeshed derives it from IO[bytes] only


def _plain(part: bytes, inflate: zlib._Decompress | None) -> Iterator[bytes]:
    """The unpacked pieces of one part, a MiB at a time: a small bomb must not become memory at once."""
    if inflate is None:
        yield part
        return
    while not inflate.eof:
        plain = inflate.decompress(part, _INFLATE_BYTES)
        yield plain
        part = inflate.unconsumed_tail
        if not part and len(plain) < _INFLATE_BYTES:
            return
