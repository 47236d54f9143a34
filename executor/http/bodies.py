"""Request bodies under a limit: small ones in memory, git's spooled to disk and un-gzipped on the way."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from typing import BinaryIO, cast

import trio
from starlette.requests import ClientDisconnect, Request

from executor.core.errors import Refused, Unavailable

SPOOL_MEMORY_BYTES = 1024 * 1024
_INFLATE_BYTES = 1024 * 1024


def too_large(limit: int) -> Refused:
    return Refused(
        f"The request's body is larger than {limit} bytes.",
        code="payload_too_large",
        hint="Send less, or ask the operator to raise the limit.",
        bytes_max=limit,
    )


def check_declared(request: Request, limit: int) -> None:
    """Refuse by Content-Length before a byte is read."""
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > limit:
        raise too_large(limit)


async def read_body(request: Request, *, limit: int) -> bytes:
    """The whole body. Raises Refused (`payload_too_large`) as soon as it is over `limit`."""
    check_declared(request, limit)
    parts = bytearray()
    try:
        async with aclosing(request.stream()) as stream:
            async for part in stream:
                parts += part
                if len(parts) > limit:
                    raise too_large(limit)
    except ClientDisconnect:
        raise Refused("The client went away before its request was complete.") from None
    return bytes(parts)


@asynccontextmanager
async def spooled_body(request: Request, *, limit: int) -> AsyncIterator[BinaryIO]:
    """The body as a file at its start, un-gzipped; on disk once it is over 1 MiB. `limit` bounds what is unpacked too.

    Raises Refused: too large, a broken gzip stream, an unknown encoding; Unavailable (`storage_full`).
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip"):
        raise Refused(f"Content-Encoding {encoding[:40]!r} is not understood.", hint="Send gzip or identity.")
    check_declared(request, limit)
    inflate = zlib.decompressobj(wbits=31) if encoding != "identity" else None
    size = 0
    with tempfile.SpooledTemporaryFile(max_size=SPOOL_MEMORY_BYTES) as file:
        try:
            async with aclosing(request.stream()) as stream:
                async for part in stream:
                    for plain in _plain(part, inflate):
                        size += len(plain)
                        if size > limit:
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
