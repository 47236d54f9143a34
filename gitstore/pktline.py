"""Git's framing: pkt-lines in and out, side bands, and whole packs written as a stream.

A pkt-line is four hexadecimal digits (length including themselves) and a payload; lengths 0, 1 and 2 are the
flush, delimiter and response-end packets. Everything read here comes from strangers: a length is checked before
anything is read, and a body that ends inside a packet is Refused, never an exception of another kind.
Source: gitprotocol-common, section "pkt-line Format"; gitprotocol-pack, "Packfile Data"; gitformat-pack.
"""

from __future__ import annotations

import hashlib
import re
import textwrap
import unicodedata
import zlib
from collections.abc import Generator, Iterable, Iterator
from enum import Enum
from typing import Final, Protocol

from dulwich.object_format import SHA1
from dulwich.pack import pack_header_chunks, pack_object_header
from dulwich.protocol import pkt_line

from .errors import Refused

__all__ = [
    "AGENT",
    "DELIMITER",
    "FLUSH",
    "PACKET_BYTES_MAX",
    "Mark",
    "PacketReader",
    "Readable",
    "malformed",
    "nothing",
    "pack_stream",
    "packet",
    "remote_lines",
    "sideband",
]

AGENT: Final = b"agent=perdure"
FLUSH: Final = b"0000"
DELIMITER: Final = b"0001"
# Git's LARGE_PACKET_MAX: the longest packet with its four digits.
PACKET_BYTES_MAX: Final = 65_520
# With `side-band` (without -64k) a packet may be 1000 bytes in all.
SMALL_PACKET_BYTES_MAX: Final = 1_000
REMOTE_LINE_CHARACTERS_MAX: Final = 72
# `  Warning   ` and its like (report.py): two spaces, a word, two or more spaces.
_LABEL = re.compile(r"  (?:[A-Z][a-z]+)? {2,}")
_HEX = frozenset(b"0123456789abcdefABCDEF")
_TYPE_NUMBERS: Final = {"commit": 1, "tree": 2, "blob": 3, "tag": 4}


class Mark(Enum):
    """The packets without a payload, and the end of the body."""

    FLUSH = 0
    DELIMITER = 1
    RESPONSE_END = 2
    END = -1


class Readable(Protocol):
    """What a body must offer; short reads are allowed, b"" is the end."""

    def read(self, size: int, /) -> bytes: ...


def malformed(message: str) -> Refused:
    """The answer to bytes that are not git's protocol."""
    return Refused(message, code="git_protocol_error", hint="use a git client, version 1.8 or later")


class PacketReader:
    """Reads packets from one request body; remembers how many bytes it has taken."""

    def __init__(self, body: Readable) -> None:
        self._body = body
        self.bytes_read = 0

    def _exactly(self, size: int) -> bytes:
        chunks: list[bytes] = []
        missing = size
        while missing:
            chunk = self._body.read(missing)
            if not chunk:
                break
            chunks.append(chunk)
            missing -= len(chunk)
        taken = b"".join(chunks)
        self.bytes_read += len(taken)
        return taken

    def read(self) -> bytes | Mark:
        """The payload of the next packet, or a Mark. Raises Refused `git_protocol_error` for anything else."""
        digits = self._exactly(4)
        if not digits:
            return Mark.END
        if len(digits) < 4:
            raise malformed("the request ends inside the length of a packet")
        if not _HEX.issuperset(digits):
            raise malformed("a packet of the request has no valid length")
        length = int(digits, 16)
        if length < 3:
            return Mark(length)
        if length == 3 or length > PACKET_BYTES_MAX:
            raise malformed(f"a packet of the request claims {length} bytes; 4 to {PACKET_BYTES_MAX} are allowed")
        payload = self._exactly(length - 4)
        if len(payload) != length - 4:
            raise malformed(f"the request ends inside a packet ({len(payload)} of {length - 4} bytes)")
        return payload


def packet(payload: bytes) -> bytes:
    """One pkt-line."""
    assert len(payload) <= PACKET_BYTES_MAX - 4
    return pkt_line(payload)


def nothing() -> Generator[bytes, None, None]:
    """The empty answer, with the `close()` that every answer has."""
    yield from ()


def sideband(channel: int, data: bytes, *, packet_bytes_max: int = PACKET_BYTES_MAX) -> Iterator[bytes]:
    """`data` in packets of one band: 1 pack or report, 2 text for the person, 3 a fatal error."""
    room = packet_bytes_max - 5
    for start in range(0, len(data), room):
        yield pkt_line(bytes([channel]) + data[start : start + room])


def remote_lines(text: str) -> list[str]:
    """`text` as lines that any terminal shows safely after `remote: `: ASCII, no control characters, ≤ 72 wide.

    Names and messages of tenants end up here, so an escape sequence must not reach the pusher's terminal.
    Longer lines are folded, and continue below their own text.
    """
    lines: list[str] = []
    for line in text.split("\n"):
        bare = "".join(c for c in unicodedata.normalize("NFKD", line.expandtabs(4)) if not unicodedata.combining(c))
        plain = bare.encode("ascii", "replace").decode("ascii")
        plain = "".join(c if c.isprintable() else "?" for c in plain).rstrip()
        if len(plain) <= REMOTE_LINE_CHARACTERS_MAX:
            lines.append(plain)
            continue
        # Continue under the text, not under its label.
        label = _LABEL.match(plain)
        indent = " " * min(label.end() if label else len(plain) - len(plain.lstrip()) + 2, 30)
        lines += textwrap.wrap(
            plain,
            width=REMOTE_LINE_CHARACTERS_MAX,
            subsequent_indent=indent,
            break_on_hyphens=False,
        )
    return lines


def pack_stream(count: int, objects: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    """A version 2 pack of `count` whole objects (type name, content), as chunks; one object in memory at a time.

    No deltas: a tenant's sources are small, and a stream that starts at once and can be dropped anywhere is worth
    more here than a smaller pack. (libgit2's PackBuilder writes only to files in this binding, and inflates its own
    deltas again to index them.)
    """
    digest = hashlib.sha1(usedforsecurity=False)
    written = 0
    for chunk in pack_header_chunks(count):
        digest.update(chunk)
        yield chunk
    for kind, content in objects:
        header = bytes(pack_object_header(_TYPE_NUMBERS[kind], None, len(content), object_format=SHA1))
        chunk = header + zlib.compress(content)
        digest.update(chunk)
        written += 1
        yield chunk
    assert written == count, f"{written} objects written, {count} announced"
    yield digest.digest()
