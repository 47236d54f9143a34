"""A fetch request of either protocol version as a value: parsed completely, under limits, before anything is answered.

Source: gitprotocol-pack, "Packfile Negotiation"; gitprotocol-v2, "fetch".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from dulwich.protocol import extract_want_line_capabilities

from . import pktline
from .errors import Refused
from .history import Deepen
from .pktline import Mark, PacketReader

__all__ = ["REQUEST_BYTES_MAX", "FetchRequest", "parse_v0", "parse_v2", "request_lines", "shown_line"]

# 100,000 lines of haves; git's own clients stop at some thousands.
REQUEST_BYTES_MAX: Final = 5_000_000
_OID = re.compile(rb"[0-9a-f]{40}\Z")


@dataclass(slots=True)
class FetchRequest:
    """One request of either protocol, parsed."""

    wants: dict[str, None] = field(default_factory=dict)
    haves: list[str] = field(default_factory=list)
    client_shallow: set[str] = field(default_factory=set)
    deepen: Deepen = field(default_factory=Deepen)
    capabilities: frozenset[bytes] = frozenset()
    is_done: bool = False
    # Version 0: the body ended right after the first flush, so only the shallow list is asked for.
    is_ended: bool = False


def _oid(value: bytes, line: bytes) -> str:
    if not _OID.match(value):
        raise pktline.malformed(f"the fetch request names no object id: {shown_line(line)}")
    return value.decode()


def shown_line(line: bytes) -> str:
    return repr(line[:80].decode("ascii", "replace"))


def _number(value: bytes, line: bytes) -> int:
    if not value.isdigit() or len(value) > 15:
        raise pktline.malformed(f"the fetch request holds no number: {shown_line(line)}")
    return int(value)


def _take_shallow_line(request: FetchRequest, line: bytes) -> bool:
    """`shallow`, `deepen`, `deepen-since`, `deepen-relative`: alike in both versions."""
    word, _, value = line.partition(b" ")
    deepen = request.deepen
    if word == b"shallow":
        request.client_shallow.add(_oid(value, line))
    elif word == b"deepen":
        depth = _number(value, line)
        if depth < 1:
            raise pktline.malformed("the depth of a fetch must be at least 1")
        request.deepen = Deepen(depth=depth, is_relative=deepen.is_relative)
    elif word == b"deepen-since":
        request.deepen = Deepen(since_s=_number(value, line), is_relative=deepen.is_relative)
    elif line == b"deepen-relative":
        request.deepen = Deepen(depth=deepen.depth, since_s=deepen.since_s, is_relative=True)
    else:
        return False
    return True


def request_lines(reader: PacketReader) -> Iterator[bytes | Mark]:
    """Packets without their newline, under the bound on the whole request; the last one is Mark.END."""
    while True:
        item = reader.read()
        if reader.bytes_read > REQUEST_BYTES_MAX:
            raise Refused(
                f"the fetch request is larger than {REQUEST_BYTES_MAX} bytes",
                code="request_too_large",
                hint="fetch fewer branches at once, or clone again",
            )
        yield item.removesuffix(b"\n") if isinstance(item, bytes) else item
        if item is Mark.END:
            return


def parse_v0(reader: PacketReader) -> FetchRequest:
    request = FetchRequest()
    lines = request_lines(reader)
    for line in lines:
        if not isinstance(line, bytes):
            break
        if line.startswith(b"want "):
            if not request.wants:
                _, names = extract_want_line_capabilities(line)
                request.capabilities = frozenset(names)
                request.wants[_oid(line[5:45], line)] = None
            else:
                request.wants[_oid(line[5:], line)] = None
        elif not _take_shallow_line(request, line):
            raise pktline.malformed(f"unexpected line in a fetch request: {shown_line(line)}")
    if b"deepen-relative" in request.capabilities and request.deepen.depth is not None:
        request.deepen = Deepen(depth=request.deepen.depth, is_relative=True)
    request.is_ended = True
    for line in lines:
        if not isinstance(line, bytes):
            request.is_ended = line is Mark.END and request.is_ended
            break
        request.is_ended = False
        if line == b"done":
            request.is_done = True
            break
        if not line.startswith(b"have "):
            raise pktline.malformed(f"unexpected line in a fetch request: {shown_line(line)}")
        request.haves.append(_oid(line[5:], line))
    return request


def parse_v2(arguments: list[bytes]) -> FetchRequest:
    request = FetchRequest()
    words: set[bytes] = set()
    for line in arguments:
        if line.startswith(b"want "):
            request.wants[_oid(line[5:], line)] = None
        elif line.startswith(b"have "):
            request.haves.append(_oid(line[5:], line))
        elif line == b"done":
            request.is_done = True
        elif line in {b"thin-pack", b"ofs-delta", b"no-progress", b"include-tag"}:
            words.add(line)
        elif not _take_shallow_line(request, line):
            raise pktline.malformed(f"unexpected argument of a version 2 fetch: {shown_line(line)}")
    request.capabilities = frozenset(words)
    return request
