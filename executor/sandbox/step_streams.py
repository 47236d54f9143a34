"""`stream=True`: bytes that a step gives, kept in its facet and committed with it.

They lie in the table `perdure_streams`, which the tenant's SQL can read but not change, in parts of PART_BYTES. What is
journaled describes them: id, size and SHA-256.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import msgspec

from executor.core import values
from executor.core.errors import Refused
from executor.sandbox.facets_inside import AttemptFacet
from executor.workflow.blob import PART_BYTES, Blob
from facets.errors import Refused as FacetRefused
from facets.limits import Limits

CHUNK_BYTES_MAX = 16 * 1024 * 1024
_CREATE = "create table if not exists perdure_streams (id integer, part integer, data blob, primary key (id, part))"
_CLEAR = "delete from perdure_streams where id = ?"
_INSERT = "insert into perdure_streams (id, part, data) values (?, ?, ?)"
_PART = "select data from perdure_streams where id = ? and part = ?"


class _Described(msgspec.Struct, frozen=True):
    """The journaled value."""

    id: int
    size: int
    sha256: str


def blob_of(value: bytes) -> Blob:
    """The Blob that a journaled value describes. Raises Refused for other bytes."""
    described = values.decode(value, what="result")
    try:
        found = msgspec.convert(described, _Described)
    except msgspec.ValidationError as error:
        raise Refused(f"the result is not that of a step with stream=True: {error}", code="value_refused") from None
    return Blob(found.id, found.size, found.sha256)


class StreamWriter:
    """Writes one stream into the facet that the attempt holds."""

    def __init__(self, facet: AttemptFacet, id: int, limits: Limits) -> None:
        self._facet = facet
        self._id = id
        self._limits = limits
        self._digest = sha256()
        self._buffer = bytearray()
        self._size = 0
        self._parts = 0
        facet.execute_as_platform(_CREATE)
        facet.execute_as_platform(_CLEAR, [id])

    def add(self, chunk: object) -> None:
        """Raises TypeError for anything but bytes, Refused (`payload_too_large`, facet codes)."""
        if not isinstance(chunk, bytes | bytearray | memoryview):
            raise TypeError(f"a step with stream=True gave a piece of type {type(chunk).__name__}; give bytes")
        size = chunk.nbytes if isinstance(chunk, memoryview) else len(chunk)
        if size > CHUNK_BYTES_MAX:
            raise Refused(
                f"a piece of a stream is {size} bytes, the limit is {CHUNK_BYTES_MAX}",
                code="payload_too_large",
                hint="Give it in smaller pieces: a generator, or a file opened for reading bytes.",
            )
        if self._size + size > min(self._limits.delta_bytes_max, self._limits.facet_bytes_max):
            raise self._does_not_fit()
        self._size += size
        self._digest.update(chunk)
        self._buffer += chunk
        while len(self._buffer) >= PART_BYTES:
            self._write(bytes(self._buffer[:PART_BYTES]))
            del self._buffer[:PART_BYTES]

    def end(self) -> bytes:
        """The value to be journaled."""
        if self._buffer:
            self._write(bytes(self._buffer))
            self._buffer.clear()
        return values.encode({"id": self._id, "size": self._size, "sha256": self._digest.hexdigest()})

    def _write(self, part: bytes) -> None:
        try:
            self._facet.execute_as_platform(_INSERT, [self._id, self._parts, part])
        except FacetRefused as refused:
            if refused.code in {"facet_full", "facet_delta_too_large"}:
                raise self._does_not_fit() from None
            raise
        self._parts += 1

    def _does_not_fit(self) -> Refused:
        limits = self._limits
        return Refused(
            f"a stream does not fit into the facet: one step may change {limits.delta_bytes_max} bytes of it, "
            f"and it may have {limits.facet_bytes_max}",
            code="payload_too_large",
            hint="Give less, in parts by several steps, or keep it outside and return a reference.",
        )


def is_async_source(source: Any) -> bool:
    """Whether it has to be read on a loop."""
    return hasattr(source, "__aiter__") or inspect.iscoroutinefunction(getattr(source, "read", None))


def store(writer: StreamWriter, source: Any) -> bytes:
    """Write all of `source`; the value to be journaled."""
    try:
        for chunk in _pieces(source):
            writer.add(chunk)
    finally:
        close = getattr(source, "close", None)
        if close is not None:
            close()
    return writer.end()


async def store_async(writer: StreamWriter, source: Any) -> bytes:
    """As `store`, for what is read asynchronously too."""
    if not is_async_source(source):
        return store(writer, source)
    try:
        if hasattr(source, "__aiter__"):
            async for chunk in source:
                writer.add(chunk)
        else:
            while chunk := await source.read(PART_BYTES):
                writer.add(chunk)
    finally:
        close = getattr(source, "aclose", None) or getattr(source, "close", None)
        closing = close() if close is not None else None
        if inspect.isawaitable(closing):
            await closing
    return writer.end()


def part(facet: AttemptFacet, id: int, number: int) -> bytes | None:
    """A part of a stream of this facet; None if there is none."""
    try:
        rows = facet.execute_as_platform(_PART, [id, number])
    except FacetRefused as refused:
        if refused.code == "facet_sql_error":  # no step of this instance gave a stream: there is no table
            return None
        raise
    return bytes(rows[0][0]) if rows else None


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
