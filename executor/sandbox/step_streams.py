"""`stream=True`: bytes that a step gives, which leave the sandbox portion by portion while they come.

They lie beside the journal, in parts of PART_BYTES, each portion durable before the next is taken. What is journaled
describes them: id, size and SHA-256. An attempt has an id of its own: what it wrote is of no use, and is swept, unless
it succeeds. The facet is not touched: what the step writes there is its own transaction, as with any step.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any

from executor.core import blobs
from executor.core.blobs import PART_BYTES
from executor.core.errors import Refused
from executor.sandbox.blobs_inside import Blobs
from executor.workflow.blob import Blob

CHUNK_BYTES_MAX = 16 * 1024 * 1024
PORTION_PARTS = 4
_PORTION_BYTES = PORTION_PARTS * PART_BYTES
_urandom = os.urandom
"""The real one, taken before `ambient` replaces the name."""


def blob_of(value: bytes) -> Blob:
    """The Blob that a journaled value describes. Raises Refused for other bytes."""
    found = blobs.described(value)
    return Blob(found.id, found.size, found.sha256)


class StreamWriter:
    """Writes one stream. `check` raises if its attempt is over."""

    def __init__(self, to: Blobs, run: int, path: str, check: Callable[[], None]) -> None:
        self._to = to
        self._run = run
        self._path = path
        self._check = check
        self._id = int.from_bytes(_urandom(8), "big") >> 1 or 1
        self._digest = sha256()
        self._buffer = bytearray()
        self._size = 0
        self._parts = 0

    def add(self, chunk: object) -> None:
        """Raises TypeError for anything but bytes, Refused (`payload_too_large`)."""
        self._check()
        if not isinstance(chunk, bytes | bytearray | memoryview):
            raise TypeError(f"a step with stream=True gave a piece of type {type(chunk).__name__}; give bytes")
        size = chunk.nbytes if isinstance(chunk, memoryview) else len(chunk)
        if size > CHUNK_BYTES_MAX:
            raise Refused(
                f"a piece of a stream is {size} bytes, the limit is {CHUNK_BYTES_MAX}",
                code="payload_too_large",
                hint="Give it in smaller pieces: a generator, or a file opened for reading bytes.",
            )
        self._size += size
        self._digest.update(chunk)
        self._buffer += chunk

    @property
    def is_full(self) -> bool:
        return len(self._buffer) >= _PORTION_BYTES

    def send(self) -> None:
        """The next portion, in a step thread. Raises Refused (`payload_too_large`), OSError (try again)."""
        self._check()
        self._to.put(self._run, self._path, self._id, *self._portion())

    async def send_async(self) -> None:
        """As `send`, on the loop."""
        self._check()
        await self._to.put_async(self._run, self._path, self._id, *self._portion())

    def _portion(self) -> tuple[int, list[bytes]]:
        first, end = self._parts, min(len(self._buffer), _PORTION_BYTES)
        parts = [bytes(self._buffer[at : min(at + PART_BYTES, end)]) for at in range(0, end, PART_BYTES)]
        del self._buffer[:end]
        self._parts += len(parts)
        return first, parts

    @property
    def has_rest(self) -> bool:
        return bool(self._buffer)

    def description(self) -> bytes:
        """The value to be journaled, when all is sent."""
        return blobs.encoded(blobs.Described(self._id, self._size, self._digest.hexdigest()))


def is_async_source(source: Any) -> bool:
    """Whether it has to be read on a loop."""
    return hasattr(source, "__aiter__") or inspect.iscoroutinefunction(getattr(source, "read", None))


def store(writer: StreamWriter, source: Any) -> bytes:
    """Write all of `source`, in a step thread; the value to be journaled."""
    try:
        for chunk in _pieces(source):
            writer.add(chunk)
            while writer.is_full:
                writer.send()
        if writer.has_rest:
            writer.send()
    finally:
        close = getattr(source, "close", None)
        if close is not None:
            close()
    return writer.description()


async def store_async(writer: StreamWriter, source: Any) -> bytes:
    """As `store`, on the loop, for what is read asynchronously too."""
    try:
        if hasattr(source, "__aiter__"):
            async for chunk in source:
                await _add(writer, chunk)
        elif is_async_source(source):
            while chunk := await source.read(PART_BYTES):
                await _add(writer, chunk)
        else:
            for chunk in _pieces(source):
                await _add(writer, chunk)
        if writer.has_rest:
            await writer.send_async()
    finally:
        close = getattr(source, "aclose", None) or getattr(source, "close", None)
        closing = close() if close is not None else None
        if inspect.isawaitable(closing):
            await closing
    return writer.description()


async def _add(writer: StreamWriter, chunk: object) -> None:
    writer.add(chunk)
    while writer.is_full:
        await writer.send_async()


def _pieces(source: Any) -> Iterator[Any]:
    if isinstance(source, bytes | bytearray | memoryview):
        view = memoryview(source).cast("B")
        for at in range(0, len(view), PART_BYTES):
            yield view[at : at + PART_BYTES]
        return
    if isinstance(source, str):
        raise TypeError("a step with stream=True returned a str; encode it: text.encode()")
    read = getattr(source, "read", None)
    if callable(read):
        while chunk := read(PART_BYTES):
            yield chunk
        return
    if not hasattr(source, "__iter__"):
        raise TypeError(
            f"a step with stream=True returned a {type(source).__name__}; "
            "return bytes, an iterator of bytes, or a file opened for reading bytes"
        )
    yield from source
