"""Large facets, inside the sandbox: which part of the image is here, and how the rest is fetched.

An image is cut into chunks of CHUNK_BYTES, the last one filled up with zeros. A chunk is stored and sent as

    b""                            zeros
    u32 little-endian              crc32 of everything behind it
    u8  0: as it is, 1: raw deflate
    the chunk's CHUNK_BYTES, deflated if that is shorter

`Pages` is what lies behind a PageImage that is not here as a whole. The image keeps every block that it has written;
`Pages` gives those that it has not, from the cache or from the host, which answers with the image as of the last
*durable* record. So a block may leave the image only after the host has shown, by the Stamp of an answer, that it has
the delta which wrote it.

Invariant: what the cache or the host has of a block is its present content, or the image itself has that block.
"""

from __future__ import annotations

import itertools
import threading
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable, Container, Iterable
from typing import NamedTuple

from facets.delta import BLOCK_BYTES, ZERO_BLOCK, Stamp
from facets.errors import Corrupt

CHUNK_BYTES = 32 * 1024
"""A read of one row costs about four chunks, and 16 KiB more or less of each matters little on a local socket; what is
written anew for a changed block should be small, and a row of a few KiB wastes a third of its last page on disk."""
CHUNK_BLOCKS = CHUNK_BYTES // BLOCK_BYTES
ZERO_CHUNK = bytes(CHUNK_BYTES)
FETCH_COUNT_MAX = 16
"""Chunks in one answer. Read-ahead doubles from one to this while chunks are asked for in their order."""
OVERLAY_BLOCKS_MIN = 2048
"""So many written blocks (2 MiB) may gather in the image before those that are durable are let go."""

_BLOCK_COST_BYTES = BLOCK_BYTES + 256
PENDING_COUNT_MIN = 256
"""So many steps may be over before the host is asked which of them it has."""

_RAW, _DEFLATED = 0, 1
_owners = itertools.count(1)


def chunk_count(size: int) -> int:
    return -(-size // CHUNK_BYTES)


def pack_chunk(content: bytes) -> bytes:
    """A whole chunk as it is stored and sent."""
    if content == ZERO_CHUNK:
        return b""
    # Level 1: it is written again whenever one of its blocks has changed; level 6 is a tenth smaller at four times the
    # time.
    deflate = zlib.compressobj(1, zlib.DEFLATED, -15)
    packed = deflate.compress(content) + deflate.flush()
    body = bytes((_DEFLATED,)) + packed if len(packed) < len(content) else bytes((_RAW,)) + content
    return zlib.crc32(body).to_bytes(4, "little") + body


def raw_chunk(content: bytes) -> bytes:
    """A whole chunk as it may be sent: not deflated, as it goes no further than to another process."""
    body = bytes((_RAW,)) + content
    return zlib.crc32(body).to_bytes(4, "little") + body


def check_chunk(packed: bytes) -> None:
    """Whether these bytes are those that were packed. Raises Corrupt (`facet_chunk_corrupt`)."""
    if packed and (len(packed) < 6 or int.from_bytes(packed[:4], "little") != zlib.crc32(memoryview(packed)[4:])):
        raise _damaged("its checksum does not fit")


def unpack_chunk(packed: bytes) -> bytes:
    """The whole chunk. Raises Corrupt (`facet_chunk_corrupt`)."""
    if not packed:
        return ZERO_CHUNK
    check_chunk(packed)
    content = packed[5:]
    if packed[4] == _DEFLATED:
        try:
            content = zlib.decompressobj(-15).decompress(content, CHUNK_BYTES + 1)
        except zlib.error:
            raise _damaged("it cannot be inflated") from None
    elif packed[4] != _RAW:
        raise _damaged("its form is unknown")
    if len(content) != CHUNK_BYTES:
        raise _damaged(f"it has {len(content)} bytes, not {CHUNK_BYTES}")
    return content


class Fetched(NamedTuple):
    """Packed chunks from `first` on, and the stamp of the image that they are of; fewer than asked for at its end."""

    stamp: Stamp
    first: int
    chunks: list[bytes]


Fetch = Callable[[int, int], Fetched]
"""(first, count) → chunks; a count of 0 asks for the stamp only. Blocks; what it raises fails the statement."""


class PageCache:
    """What is here of all facets of this process: chunks just fetched, and single blocks that were used.

    The least recently used gives way. Blocks apart, as the pages of an index lie scattered over the chunks of a large
    image: whole chunks of them would need thirty times the memory. Thread-safe.
    """

    def __init__(self, bytes_max: int) -> None:
        self.chunk_count_max = max(2, bytes_max // 4 // CHUNK_BYTES)
        self.block_count_max = max(0, bytes_max - self.chunk_count_max * CHUNK_BYTES) // _BLOCK_COST_BYTES
        self._chunks: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._blocks: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Memory in use, about."""
        return len(self._chunks) * CHUNK_BYTES + len(self._blocks) * _BLOCK_COST_BYTES

    def chunk(self, owner: int, chunk: int) -> bytes | None:
        return self._get(self._chunks, (owner, chunk))

    def block(self, owner: int, block: int) -> bytes | None:
        return self._get(self._blocks, (owner, block))

    def put_chunk(self, owner: int, chunk: int, content: bytes) -> None:
        self._put(self._chunks, (owner, chunk), content, self.chunk_count_max)

    def put_block(self, owner: int, block: int, content: bytes) -> None:
        self._put(self._blocks, (owner, block), content, self.block_count_max)

    def drop(self, owner: int) -> None:
        """Forget all of a facet's."""
        with self._lock:
            for kept in (self._chunks, self._blocks):
                for key in [key for key in kept if key[0] == owner]:
                    del kept[key]

    def _get(self, kept: OrderedDict[tuple[int, int], bytes], key: tuple[int, int]) -> bytes | None:
        with self._lock:
            content = kept.get(key)
            if content is not None:
                kept.move_to_end(key)
            return content

    def _put(
        self, kept: OrderedDict[tuple[int, int], bytes], key: tuple[int, int], content: bytes, count_max: int
    ) -> None:
        with self._lock:
            kept[key] = content
            kept.move_to_end(key)
            while len(kept) > count_max:
                kept.popitem(last=False)


class Pages:
    """What a PageImage reads through when it is not here as a whole. Used by one thread at a time, as the image is."""

    def __init__(self, fetch: Fetch, cache: PageCache, stamp: Stamp | None, *, size: int) -> None:
        """`stamp`: of the image that the host has, which is `size` long; None: not known, but of an earlier one than
        the first that `committed` tells."""
        self.stamp = stamp
        self._fetch = fetch
        self._cache = cache
        self._end = -(-size // BLOCK_BYTES)
        self._pending: deque[tuple[Stamp, frozenset[int]]] = deque()
        self._overlay_max = OVERLAY_BLOCKS_MIN
        self._pending_max = PENDING_COUNT_MIN
        self._owner = next(_owners)
        self._following = -1
        self._ahead = 1
        # The chunk read last: SQLite asks for its neighbours, and for the same one, again and again.
        self._latest = (-1, ZERO_CHUNK)
        self._is_closed = False
        self.fetched_bytes = 0

    def take(self, fetched: Fetched) -> None:
        """Keep chunks that came without being asked for."""
        for chunk, packed in enumerate(fetched.chunks, fetched.first):
            self._keep(chunk, packed)

    def block(self, block: int) -> bytes:
        """A block that the image has not written; zeros beyond the end. Raises what fetching raises, and Corrupt."""
        if block >= self._end:
            return ZERO_BLOCK
        known = self._cache.block(self._owner, block)
        if known is not None:
            return known
        chunk, within = divmod(block, CHUNK_BLOCKS)
        if self._latest[0] != chunk:
            self._latest = (chunk, self._chunk(chunk))
        at = within * BLOCK_BYTES
        content = self._latest[1][at : at + BLOCK_BYTES]
        if self._ahead == 1 and not self._is_closed:  # what is read in its order is not soon read again
            self._cache.put_block(self._owner, block, content)
        return content

    def committed(self, stamp: Stamp, blocks: Iterable[int]) -> None:
        """The image wrote these blocks in a step that is over; once the host has that step, it may let them go."""
        self._pending.append((stamp, frozenset(blocks)))

    def settle(self, written: dict[int, bytes], *, busy: Container[int]) -> None:
        """Take out of `written` what the host has by now, if much has gathered there; `busy` stays in any case.

        May fetch, and raises what that raises; then nothing has changed.
        """
        if len(written) <= self._overlay_max and len(self._pending) <= self._pending_max:
            return
        if self._pending:
            self._learn(self._fetch(0, 0).stamp)
        kept = set[int]().union(*(blocks for _, blocks in self._pending))
        leaving: dict[int, list[int]] = {}
        for block in written:
            if block not in kept and block not in busy:
                leaving.setdefault(block // CHUNK_BLOCKS, []).append(block)
        self._latest = (-1, ZERO_CHUNK)
        for chunk, blocks in leaving.items():
            cached = self._cache.chunk(self._owner, chunk)
            if cached is not None:
                content = bytearray(cached)
                for block in blocks:
                    at = block % CHUNK_BLOCKS * BLOCK_BYTES
                    content[at : at + BLOCK_BYTES] = written[block]
                self._cache.put_chunk(self._owner, chunk, bytes(content))
            for block in blocks:
                content_now = written.pop(block)
                if not self._is_closed:
                    self._cache.put_block(self._owner, block, content_now)
        # What could not leave is not looked at again for every small step.
        self._overlay_max = max(OVERLAY_BLOCKS_MIN, 2 * len(written))
        self._pending_max = max(PENDING_COUNT_MIN, 2 * len(self._pending))

    def close(self) -> None:
        """Let the memory go."""
        self._is_closed = True
        self._cache.drop(self._owner)

    def _chunk(self, chunk: int) -> bytes:
        cached = self._cache.chunk(self._owner, chunk)
        if cached is not None:
            return cached
        self._ahead = (
            min(2 * self._ahead, FETCH_COUNT_MAX, self._cache.chunk_count_max // 2) if chunk == self._following else 1
        )
        fetched = self._fetch(chunk, self._ahead)
        self._learn(fetched.stamp)
        if fetched.first != chunk or not 0 < len(fetched.chunks) <= self._ahead:
            raise _damaged(f"chunk {chunk} was asked for, {len(fetched.chunks)} came from {fetched.first} on")
        self._following = chunk + len(fetched.chunks)
        for number, packed in enumerate(fetched.chunks[1:], chunk + 1):
            self._keep(number, packed)
        return self._keep(chunk, fetched.chunks[0])

    def _keep(self, chunk: int, packed: bytes) -> bytes:
        content = unpack_chunk(packed)
        self.fetched_bytes += len(packed)
        if not self._is_closed:
            self._cache.put_chunk(self._owner, chunk, content)
        return content

    def _learn(self, stamp: Stamp) -> None:
        """The host has the image of this stamp: every step up to the one that led to it is durable."""
        if stamp == self.stamp:
            return
        for index, (reached, _) in enumerate(self._pending):
            if reached == stamp:
                for _ in range(index + 1):
                    self._pending.popleft()
                self.stamp, self._end = stamp, -(-stamp.size // BLOCK_BYTES)
                return
        if self.stamp is not None:
            raise Corrupt(
                f"The pages of this facet are of another image: {stamp.size} bytes, checksum {stamp.checksum:08x}.",
                code="facet_delta_mismatch",
                hint="The instance goes on from its last durable record.",
            )


def _damaged(reason: str) -> Corrupt:
    return Corrupt(f"A chunk of a facet is damaged: {reason}.", code="facet_chunk_corrupt")
