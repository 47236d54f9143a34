"""The header lines of commits and tags."""

from __future__ import annotations

import re

from .objects import Wrong

_PERSON = re.compile(rb"[^<>\n\0]*<[^<>\n\0]*> [0-9]{1,12} [+-][0-9]{4}")


def header_lines(content: bytes) -> list[bytes]:
    """The header of a commit or tag, last line first, to be popped in order."""
    header, _, _ = content.partition(b"\n\n")
    if b"\0" in header:
        raise Wrong("its header contains a NUL")
    return header.split(b"\n")[::-1]


def line_of(lines: list[bytes], name: bytes) -> bytes:
    line = lines.pop() if lines else b""
    if not line.startswith(name + b" "):
        raise Wrong(f"its {name.decode()} line is missing")
    return line[len(name) + 1 :]


def id_line(lines: list[bytes], name: bytes) -> bytes:
    value = line_of(lines, name)
    if re.fullmatch(rb"[0-9a-f]{40}", value) is None:
        raise Wrong(f"its {name.decode()} line is malformed")
    return bytes.fromhex(value.decode())


def person_line(lines: list[bytes], name: bytes) -> None:
    if _PERSON.fullmatch(line_of(lines, name)) is None:
        raise Wrong(f"its {name.decode()} line is malformed")
