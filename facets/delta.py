"""Deltas: the exact change between two page images, as bytes that run both ways.

An image is read as blocks of BLOCK_BYTES, followed by endless zeros. A delta holds, for each block that differs, the
old block XOR the new one, and a Stamp (size and checksum) of the image at either end. So it is its own inverse (swap
the stamps), deltas compose by XOR, and growing or cutting the image needs no case of its own: what is cut is XORed to
zeros.

    byte  0          0xD1: a delta, format 1
          1          flags: bit 0 = the body is raw deflate; every other bit is 0
          2          size before    varint (LEB128, shortest form, at most 5 bytes), bytes of the whole image
          .          size after     varint
          .          checksum before, checksum after     2 x uint32, little-endian (see `Stamp`)
          .          block count    varint, at least 1
          .          body length    varint, bytes after inflating
          .          body           to the end
    body             block count x gap (varint: blocks skipped since the last one named, first counted from block 0)
                     block count x BLOCK_BYTES of old XOR new

b"" is the delta of no change. Deltas come out of sandboxes: any bytes are accepted or give a FacetError, in memory
bounded by `bytes_max`. The checksum covers the whole image, so a delta that was skipped, doubled or taken from
another instance is found even if it touches other blocks. It guards against mistakes, not against a forger, who can
only spoil his own image.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from operator import mul
from typing import NamedTuple

from facets.errors import Corrupt, Refused

BLOCK_BYTES = 1024
"""Also the page size of new facets (image.py): a changed page is a changed block, and nothing is cut or glued."""

FORMAT = 0xD1
DEFLATED = 1
ZERO_BLOCK = bytes(BLOCK_BYTES)
_CHECKSUM_PRIME = 4_294_967_291  # the largest prime below 2**32: no factor can vanish, so swapped blocks are seen too
_SIZE_WEIGHT = 0x9E3779B1  # zeros add nothing to the sum, so a wrong size must
_ZERO_CRC = zlib.crc32(ZERO_BLOCK)
# Mostly-zero blocks: level 3 gives 205 bytes in 9 µs where level 6 gives 190 in 30; a small window keeps the set-up
# cheap.
_LEVEL = 3
_SMALL_BODY_BYTES = 16 * 1024


class Stamp(NamedTuple):
    """What identifies an image: its size in bytes, and a checksum.

    The checksum is size * _SIZE_WEIGHT + sum of (block number + 1) * (crc32(block) - crc32(zeros)), modulo
    _CHECKSUM_PRIME: it can be brought forward from the changed blocks alone.
    """

    size: int
    checksum: int


class Header(NamedTuple):
    """A delta's facts that can be read without its body."""

    before: Stamp
    after: Stamp
    block_count: int
    body_bytes: int
    body_offset: int
    is_deflated: bool


class Change(NamedTuple):
    """One block that differs; both sides are BLOCK_BYTES long, padded with zeros beyond the image's end."""

    block: int
    old: bytes
    new: bytes


EMPTY = Stamp(0, 0)


def stamp_of(image: bytes) -> Stamp:
    """The stamp of a whole image; about half a millisecond for each MiB."""
    view = memoryview(image)
    whole = len(image) // BLOCK_BYTES
    blocks = [view[at : at + BLOCK_BYTES] for at in range(0, whole * BLOCK_BYTES, BLOCK_BYTES)]
    if len(image) % BLOCK_BYTES:
        blocks.append(memoryview(bytes(view[whole * BLOCK_BYTES :]).ljust(BLOCK_BYTES, b"\0")))
    weights = len(blocks) * (len(blocks) + 1) // 2
    checksum = sum(map(mul, map(zlib.crc32, blocks), count(1))) - _ZERO_CRC * weights + len(image) * _SIZE_WEIGHT
    return Stamp(len(image), checksum % _CHECKSUM_PRIME)


def weigh(content: bytes, block: int) -> int:
    """What whole blocks, the first of them numbered `block`, add to the checksum of their image; see `stamp_from`."""
    view = memoryview(content)
    blocks = (view[at : at + BLOCK_BYTES] for at in range(0, len(content), BLOCK_BYTES))
    return sum((zlib.crc32(each) - _ZERO_CRC) * number for number, each in enumerate(blocks, block + 1))


def stamp_from(weights: int, size: int) -> Stamp:
    """The stamp of an image, from the sum of what its parts weigh."""
    return Stamp(size, (weights + size * _SIZE_WEIGHT) % _CHECKSUM_PRIME)


def advance(stamp: Stamp, size: int, changes: Iterable[Change]) -> Stamp:
    """The stamp after `changes` and a change of size, without reading the rest of the image."""
    checksum = stamp.checksum + (size - stamp.size) * _SIZE_WEIGHT
    for block, old, new in changes:
        checksum += (zlib.crc32(new) - zlib.crc32(old)) * (block + 1)
    return Stamp(size, checksum % _CHECKSUM_PRIME)


def encode(before: Stamp, after: Stamp, changes: list[Change]) -> bytes:
    """The delta of `changes`, which are in ascending order of block and really differ; b"" if nothing changed."""
    old = b"".join([change.old for change in changes])
    new = b"".join([change.new for change in changes])
    return _encode(before, after, [change.block for change in changes], xor(old, new))


def between(old: bytes, new: bytes) -> bytes:
    """The delta from one whole image to another; reads both."""
    changes = []
    for block, at in enumerate(range(0, max(len(old), len(new)), BLOCK_BYTES)):
        change = Change(block, _padded(old, at), _padded(new, at))
        if change.old != change.new:
            changes.append(change)
    return encode(stamp_of(old), stamp_of(new), changes)


def read_header(delta: bytes, *, bytes_max: int) -> Header | None:
    """The sizes and stamps of a delta, its body unread; None for b"".

    Raises Corrupt (`facet_delta_corrupt`) if it is no delta, Refused (`facet_too_large`) if either image is over
    `bytes_max`.
    """
    if not delta:
        return None
    if delta[0] != FORMAT:
        raise _corrupt(f"it begins with {delta[0]:#04x}, not {FORMAT:#04x}")
    if len(delta) < 2 or delta[1] & ~DEFLATED:
        raise _corrupt("its flags are missing or unknown")
    size_before, at = _read_varint(delta, 2)
    size_after, at = _read_varint(delta, at)
    if len(delta) < at + 8:
        raise _corrupt("it ends inside its header")
    before = Stamp(size_before, int.from_bytes(delta[at : at + 4], "little"))
    after = Stamp(size_after, int.from_bytes(delta[at + 4 : at + 8], "little"))
    block_count, at = _read_varint(delta, at + 8)
    body_bytes, at = _read_varint(delta, at)
    size = max(size_before, size_after)
    if size > bytes_max:
        raise Refused(
            f"A facet of {size} bytes is over the limit of {bytes_max} bytes.",
            code="facet_too_large",
            hint="Delete rows, or keep large values outside the facet.",
            details={"size": size, "bytes_max": bytes_max},
        )
    if not 0 < block_count <= _block_count(size):
        raise _corrupt(f"it names {block_count} blocks of an image that has {_block_count(size)}")
    if not block_count * (BLOCK_BYTES + 1) <= body_bytes <= block_count * (BLOCK_BYTES + 5):
        raise _corrupt(f"a body of {body_bytes} bytes cannot hold {block_count} blocks")
    return Header(before, after, block_count, body_bytes, at, bool(delta[1] & DEFLATED))


def check(delta: bytes, *, bytes_max: int, body_bytes_max: int | None = None) -> Header | None:
    """Read the whole delta and return its header; afterwards only a wrong base or a false checksum can make it fail.

    Raises what `read_header` raises, and Refused (`facet_delta_too_large`) if it would inflate to more than
    `body_bytes_max`. Cost grows with the delta, not with the image.
    """
    header = read_header(delta, bytes_max=bytes_max)
    if header is not None:
        if body_bytes_max is not None and header.body_bytes > body_bytes_max:
            raise too_large(header.block_count, body_bytes_max)
        changes_of(delta, header)
    return header


def too_large(block_count: int, body_bytes_max: int) -> Refused:
    """The error for a step that changes more than it may."""
    return Refused(
        f"The step changed {block_count * BLOCK_BYTES} bytes of the facet; {body_bytes_max} are allowed.",
        code="facet_delta_too_large",
        hint="Write less in one step.",
        details={"delta_bytes": block_count * BLOCK_BYTES, "delta_bytes_max": body_bytes_max},
    )


def body_bytes_of(block_count: int) -> int:
    """The most bytes that a delta of so many blocks has before it is deflated."""
    return block_count * (BLOCK_BYTES + 5)


def apply(image: bytes, delta: bytes, *, bytes_max: int) -> bytes:
    """The image after `delta`. Raises Corrupt (`facet_delta_mismatch`) if it was not made on this image."""
    return apply_all(image, (delta,), bytes_max=bytes_max)


def apply_backwards(image: bytes, delta: bytes, *, bytes_max: int) -> bytes:
    """The image before `delta`. Raises Corrupt (`facet_delta_mismatch`) if it does not lead to this image."""
    return apply_all(image, (invert(delta, bytes_max=bytes_max),), bytes_max=bytes_max)


def apply_all(base: bytes, deltas: Iterable[bytes], *, bytes_max: int) -> bytes:
    """The image after `deltas` in their order; b"" is the facet that does not exist yet, and the delta of no change.

    Memory: the base, the result and one inflated delta, each at most about `bytes_max`. Raises Corrupt
    (`facet_delta_corrupt`: not a delta; `facet_delta_mismatch`: made on another image), Refused (`facet_too_large`).
    """
    stamp: Stamp | None = None
    work = bytearray()
    for delta in deltas:
        header = read_header(delta, bytes_max=bytes_max)
        if header is None:
            continue
        if stamp is None:
            if header.before.size != len(base):  # before the whole base is read
                raise mismatch(header.before, Stamp(len(base), -1))
            stamp = stamp_of(base)
            work += base
        if header.before != stamp:
            raise mismatch(header.before, stamp)
        work.extend(bytes(_block_count(max(stamp.size, header.after.size)) * BLOCK_BYTES - len(work)))
        stamp = _apply_to(work, delta, header)
        if stamp != header.after:
            raise _corrupt("its changes do not lead to the image that it promises")
        if work.count(0, stamp.size) != len(work) - stamp.size:
            raise _corrupt("it leaves bytes beyond the end of the image")
        del work[stamp.size :]
    return base if stamp is None else bytes(work)


def invert(delta: bytes, *, bytes_max: int) -> bytes:
    """The delta that leads back. Its body is the same, unread; raises what `read_header` raises."""
    header = read_header(delta, bytes_max=bytes_max)
    if header is None:
        return b""
    head = _head(header.after, header.before, header.block_count, header.body_bytes, is_deflated=header.is_deflated)
    return head + delta[header.body_offset :]


def compose(deltas: Iterable[bytes], *, bytes_max: int) -> bytes:
    """One delta that does what `deltas` do in their order; b"" if they undo each other.

    Raises Corrupt (`facet_delta_mismatch`) if one does not begin where the one before it ended, and what `check`
    raises.
    """
    first: Stamp | None = None
    last = EMPTY
    changes: dict[int, bytes] = {}
    for delta in deltas:
        header = read_header(delta, bytes_max=bytes_max)
        if header is None:
            continue
        if first is None:
            first = header.before
        elif header.before != last:
            raise mismatch(header.before, last)
        last = header.after
        for block, change in changes_of(delta, header):
            known = changes.get(block)
            changes[block] = change if known is None else xor(known, change)
    if first is None:
        return b""
    return encode_sparse(first, last, changes)


def encode_sparse(before: Stamp, after: Stamp, changes: Mapping[int, bytes]) -> bytes:
    """The delta of blocks and their old XOR new."""
    blocks = [block for block in sorted(changes) if changes[block] != ZERO_BLOCK]
    return _encode(before, after, blocks, b"".join([changes[block] for block in blocks]))


def _encode(before: Stamp, after: Stamp, blocks: list[int], xored: bytes) -> bytes:
    if not blocks:
        if before == after:
            return b""
        # An image that only gained or lost zeros: name its first block with no change, so that the sizes are recorded.
        blocks, xored = [0], ZERO_BLOCK
    gaps = bytearray()
    following = 0
    for block in blocks:
        gaps += _varint(block - following)
        following = block + 1
    body = bytes(gaps) + xored
    if len(body) > _SMALL_BODY_BYTES:
        packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -15)
    else:
        packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -12, 5)
    packed = packer.compress(body) + packer.flush()
    is_deflated = len(packed) < len(body)
    head = _head(before, after, len(blocks), len(body), is_deflated=is_deflated)
    return head + (packed if is_deflated else body)


def _head(before: Stamp, after: Stamp, block_count: int, body_bytes: int, *, is_deflated: bool) -> bytes:
    return b"".join(
        (
            bytes((FORMAT, DEFLATED if is_deflated else 0)),
            _varint(before.size),
            _varint(after.size),
            before.checksum.to_bytes(4, "little"),
            after.checksum.to_bytes(4, "little"),
            _varint(block_count),
            _varint(body_bytes),
        )
    )


def _apply_to(work: bytearray, delta: bytes, header: Header) -> Stamp:
    """XOR a delta's blocks into `work`, which holds whole blocks for either size; the stamp of what came out."""
    changes = []
    for block, change in changes_of(delta, header):
        at = block * BLOCK_BYTES
        old = bytes(work[at : at + BLOCK_BYTES])
        new = xor(old, change)
        work[at : at + BLOCK_BYTES] = new
        changes.append(Change(block, old, new))
    return advance(header.before, header.after.size, changes)


def changes_of(delta: bytes, header: Header) -> list[tuple[int, bytes]]:
    """The blocks of a delta, ascending, and their XOR; inflates at most what the header's block count allows.

    Raises Corrupt (`facet_delta_corrupt`).
    """
    body = delta[header.body_offset :]
    if header.is_deflated:
        unpacker = zlib.decompressobj(-15)
        try:
            body = unpacker.decompress(body, header.body_bytes + 1)
        except zlib.error:
            raise _corrupt("its body cannot be inflated") from None
        if not unpacker.eof or unpacker.unused_data:
            raise _corrupt("its body does not end where it should")
    if len(body) != header.body_bytes:
        raise _corrupt(f"its body has {len(body)} bytes, not {header.body_bytes}")
    blocks = []
    at = following = 0
    end = _block_count(max(header.before.size, header.after.size))
    for _ in range(header.block_count):
        gap, at = _read_varint(body, at)
        block = following + gap
        if block >= end:
            raise _corrupt(f"it names block {block} of an image that has {end}")
        blocks.append(block)
        following = block + 1
    if len(body) - at != header.block_count * BLOCK_BYTES:
        raise _corrupt(f"its body has no room for {header.block_count} blocks")
    return list(zip(blocks, _slices(body, at), strict=True))


def _slices(body: bytes, start: int) -> Iterator[bytes]:
    return (body[at : at + BLOCK_BYTES] for at in range(start, len(body), BLOCK_BYTES))


def _block_count(size: int) -> int:
    return -(-size // BLOCK_BYTES)


def _padded(image: bytes, at: int) -> bytes:
    return image[at : at + BLOCK_BYTES].ljust(BLOCK_BYTES, b"\0")


def xor(left: bytes, right: bytes) -> bytes:
    """Of two strings of one length."""
    # The fastest XOR of long strings in the standard library: both conversions are linear and run in C.
    return (int.from_bytes(left, "little") ^ int.from_bytes(right, "little")).to_bytes(len(left), "little")


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """A varint and the position behind it."""
    value = 0
    for place in range(5):
        if at + place >= len(data):
            raise _corrupt("it ends inside a number")
        byte = data[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            if place and not byte:
                break
            return value, at + place + 1
    raise _corrupt("a number is not in its shortest form")


def _corrupt(reason: str) -> Corrupt:
    return Corrupt(
        f"A facet's delta is damaged: {reason}.",
        code="facet_delta_corrupt",
        hint="The record that carries it cannot be used; the images before it are intact.",
    )


def mismatch(expected: Stamp, found: Stamp) -> Corrupt:
    """The error for a delta that was made on another image than this one."""
    return Corrupt(
        f"A facet's delta was made on another image: of {expected.size} bytes, checksum {expected.checksum:08x}; "
        f"this one has {found.size} bytes" + (f", checksum {found.checksum:08x}." if found.checksum >= 0 else "."),
        code="facet_delta_mismatch",
        hint="A delta was skipped, doubled or put in the wrong order.",
        details={"expected_size": expected.size, "size": found.size},
    )
