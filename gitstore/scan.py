"""A pack's headers and sizes under Limits, before anything is indexed.

The cost of a pack is decided by numbers that its sender wrote into it: how many objects, how large each becomes, how
large each delta's result becomes. Indexers believe those numbers and work; a pack of 2 KB can cost gigabytes of memory
(a chain of deltas) and one of 1 MB a gigabyte of output (a zip bomb). The scanner reads the numbers first and refuses
at the first one over a limit, before the bytes behind it are inflated.

What must stay true:
- no more than `WINDOW_BYTES` of output exist at a time, whatever the stream says;
- each byte fed is looked at once, so the work is linear in the pack plus what it inflates to, and that sum is limited;
- any bytes end in exactly one of: finished, more bytes wanted, Refused.

Format: gitformat-pack(5). `PACK`, version 2, object count; then per object a type and size (little-endian base 128,
four bits in the first byte), for deltas their base (an offset back, or 20 bytes of id), and a zlib stream; then SHA-1
of all before.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass

from .errors import LimitExceeded, Refused
from .limits import Limits

WINDOW_BYTES = 256 * 1024
CHAIN_DEPTH_MAX = 4095
"""The longest chain git itself writes (`pack.depth` is capped there); a longer one only makes reading slow."""

_HEADER_BYTES = 12
_TRAILER_BYTES = 20
# Ten groups of seven bits hold any 64-bit number; a longer one is not a size.
_VARINT_BYTES_MAX = 10
_COMMIT, _TREE, _BLOB, _TAG, _OFS_DELTA, _REF_DELTA = 1, 2, 3, 4, 6, 7


@dataclass(frozen=True, slots=True)
class PackSummary:
    """What the scanner read: counts, and bytes as they arrived and as they unfold (results of deltas included)."""

    object_count: int
    delta_count: int
    pack_bytes: int
    inflated_bytes: int
    checksum: str


class PackScanner:
    """Feed it a pack in pieces of any size. Not thread-safe; one per pack."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._rest = b""
        self._digest = hashlib.sha1(usedforsecurity=False)
        self._position = 0  # offset in the pack of the first byte not yet looked at
        self._object_count = -1  # unknown until the header is read
        self._objects_done = 0
        self._delta_count = 0
        self._inflated_bytes = 0
        # Result size and chain depth of each object by its offset: what an offset delta may rest on.
        self._known: dict[int, tuple[int, int]] = {}
        self._inflating: _Inflating | None = None
        self._summary: PackSummary | None = None

    @property
    def summary(self) -> PackSummary | None:
        """None until the trailer was read and agrees."""
        return self._summary

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes of the pack; returns those that follow its trailer, b"" while it is not finished.

        Raises Refused (`pack_malformed`), LimitExceeded (`pack_bytes_max`, `object_count_max`, `object_bytes_max`,
        `inflated_bytes_max`). After either, the scanner is of no further use.
        """
        if self._summary is not None:
            return chunk
        data = self._rest + chunk if self._rest else chunk
        position = 0
        start = self._position
        while True:
            if self._inflating is not None:
                position = self._inflate(data, position)
                if self._inflating is not None:
                    break
            elif self._object_count < 0:
                if len(data) < _HEADER_BYTES:
                    self._check_magic(data)
                    break
                self._read_pack_header(data)
                position = _HEADER_BYTES
            elif self._objects_done == self._object_count:
                if len(data) - position < _TRAILER_BYTES:
                    break
                self._digest.update(memoryview(data)[:position])
                self._check_pack_bytes(start + position + _TRAILER_BYTES)
                self._read_trailer(data[position : position + _TRAILER_BYTES], start + position + _TRAILER_BYTES)
                self._rest = b""
                return data[position + _TRAILER_BYTES :]
            else:
                after = self._read_object_header(data, position, start + position)
                if after is None:
                    break
                position = after
        self._digest.update(memoryview(data)[:position])
        self._position = start + position
        self._rest = data[position:]
        self._check_pack_bytes(start + len(data))
        return b""

    def finish(self) -> PackSummary:
        """What was read. Raises Refused (`pack_malformed`) if the pack ended before its trailer."""
        if self._summary is None:
            done = "before its header" if self._object_count < 0 else self._place_done()
            raise Refused(f"The pack is truncated: it ends {done}.", code="pack_malformed", hint="Push again.")
        return self._summary

    def _place_done(self) -> str:
        if self._objects_done == self._object_count:
            return "before its checksum"
        return f"in {self._object_name()}"

    def _malformed(self, why: str) -> Refused:
        where = f"{self._object_name()}: " if self._object_count >= 0 else ""
        return Refused(
            f"The pack is damaged: {where}{why}.", code="pack_malformed", hint="Run `git fsck`, then push again."
        )

    def _object_name(self) -> str:
        return f"object {self._objects_done + 1} of {self._object_count}"

    def _check_pack_bytes(self, seen: int) -> None:
        limit = self._limits.pack_bytes_max
        if seen > limit:
            raise LimitExceeded(
                "The size of the pack in bytes",
                limit="pack_bytes_max",
                bound=limit,
                hint="Push in smaller parts, or keep large files elsewhere.",
            )

    def _check_magic(self, data: bytes) -> None:
        if not b"PACK\0\0\0\2".startswith(data[:8]):
            raise self._malformed("it does not begin with a version 2 pack header")

    def _read_pack_header(self, data: bytes) -> None:
        self._check_magic(data)
        count = int.from_bytes(data[8:12], "big")
        limit = self._limits.object_count_max
        if count > limit:
            raise LimitExceeded(
                "The number of objects in the pack",
                limit="object_count_max",
                bound=limit,
                found=count,
                hint="Push in smaller parts: an older commit first.",
            )
        self._object_count = count

    def _read_trailer(self, trailer: bytes, pack_bytes: int) -> None:
        if trailer != self._digest.digest():
            raise Refused(
                "The pack is damaged: its checksum does not match its bytes.",
                code="pack_malformed",
                hint="Push again; the connection may have altered it.",
            )
        self._summary = PackSummary(
            self._object_count, self._delta_count, pack_bytes, self._inflated_bytes, trailer.hex()
        )

    def _read_object_header(self, data: bytes, position: int, offset: int) -> int | None:
        """Returns the position after the header, None if not all of it is there yet."""
        end = len(data)
        cursor = position
        if cursor >= end:
            return None
        byte = data[cursor]
        cursor += 1
        kind = (byte >> 4) & 7
        size = byte & 15
        shift = 4
        while byte & 0x80:
            if cursor - position >= _VARINT_BYTES_MAX:
                raise self._malformed("its size is not a number")
            if cursor >= end:
                return None
            byte = data[cursor]
            cursor += 1
            size |= (byte & 0x7F) << shift
            shift += 7
        if kind in (0, 5):
            raise self._malformed(f"type {kind} does not exist")
        base: tuple[int, int] | None = None
        if kind == _OFS_DELTA:
            back, digits = 0, 0
            while True:
                if digits >= _VARINT_BYTES_MAX:
                    raise self._malformed("its delta offset is not a number")
                if cursor >= end:
                    return None
                byte = data[cursor]
                cursor += 1
                back = ((back + 1) << 7 if digits else 0) | (byte & 0x7F)
                digits += 1
                if not byte & 0x80:
                    break
            base = self._known.get(offset - back)
            if base is None:
                raise self._malformed("its delta names a place where no earlier object begins")
            if base[1] >= CHAIN_DEPTH_MAX:
                raise self._malformed(f"its chain of deltas is longer than {CHAIN_DEPTH_MAX}")
        elif kind == _REF_DELTA:
            if end - cursor < 20:
                return None
            cursor += 20
        # Nothing above has side effects, so a header that was cut short is read again; from here on it counts as read.
        self._add_size(size)
        is_delta = kind >= _OFS_DELTA
        if not is_delta:
            self._known[offset] = (size, 0)
        self._inflating = _Inflating(offset=offset, size=size, is_delta=is_delta, base=base)
        return cursor

    def _add_size(self, size: int) -> None:
        limits = self._limits
        if size > limits.object_bytes_max:
            raise LimitExceeded(
                f"The size in bytes of {self._object_name()} in the pack",
                limit="object_bytes_max",
                bound=limits.object_bytes_max,
                found=size,
                hint="Remove the large file from every commit that is pushed.",
            )
        self._inflated_bytes += size
        if self._inflated_bytes > limits.inflated_bytes_max:
            raise LimitExceeded(
                f"What the pack unfolds to, in bytes, up to {self._object_name()}",
                limit="inflated_bytes_max",
                bound=limits.inflated_bytes_max,
                found=self._inflated_bytes,
                hint="Push in smaller parts: an older commit first.",
            )

    def _inflate(self, data: bytes, position: int) -> int:
        """Inflate as far as `data` goes; on the end of the object `_inflating` is None. Returns the position after."""
        state = self._inflating
        assert state is not None
        end = len(data)
        while position < end:
            left = state.size - state.done
            # zlib copies what follows the end of a stream, so a small object gets a small window.
            window = data[position : position + min(left + 64, WINDOW_BYTES)]
            try:
                output = state.stream.decompress(window, min(left + 1, WINDOW_BYTES))
            except zlib.error:
                raise self._malformed("its compressed bytes cannot be read") from None
            # At the end of a stream zlib may name the same rest in both places.
            rest = state.stream.unused_data if state.stream.eof else state.stream.unconsumed_tail
            position += len(window) - len(rest)
            state.done += len(output)
            if state.done > state.size:
                raise self._malformed(f"it inflates to more than the {state.size} bytes its header says")
            if state.is_delta and len(state.head) < 2 * _VARINT_BYTES_MAX:
                state.head += output[: 2 * _VARINT_BYTES_MAX]
                if not state.sizes_read and (len(state.head) >= 2 * _VARINT_BYTES_MAX or state.stream.eof):
                    self._read_delta_sizes(state)
            if state.stream.eof:
                if state.done != state.size:
                    raise self._malformed(f"it inflates to {state.done} bytes, its header says {state.size}")
                self._objects_done += 1
                self._inflating = None
                return position
        return position

    def _read_delta_sizes(self, state: _Inflating) -> None:
        """A delta begins with the size of its base and of its result; the result counts like an object of that size."""
        sizes: list[int] = []
        value, shift = 0, 0
        for byte in state.head:
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                sizes.append(value)
                value, shift = 0, 0
                if len(sizes) == 2:
                    break
            elif shift >= 7 * _VARINT_BYTES_MAX:
                break
        if len(sizes) < 2:
            raise self._malformed("its delta does not say how large its base and its result are")
        if state.base is not None and state.base[0] != sizes[0]:
            raise self._malformed(f"its delta is for a base of {sizes[0]} bytes, the object there has {state.base[0]}")
        state.sizes_read = True
        self._delta_count += 1
        self._add_size(sizes[1])
        self._known[state.offset] = (sizes[1], state.base[1] + 1 if state.base is not None else 1)


class _Inflating:
    """The object whose compressed bytes are being read."""

    __slots__ = ("base", "done", "head", "is_delta", "offset", "size", "sizes_read", "stream")

    def __init__(self, *, offset: int, size: int, is_delta: bool, base: tuple[int, int] | None) -> None:
        self.offset = offset
        self.size = size
        self.is_delta = is_delta
        self.base = base
        self.stream = zlib.decompressobj()
        self.done = 0
        self.head = b""
        self.sizes_read = False
