"""Packs byte by byte, honest and hostile, and repositories made by real git, for the tests of what is pushed."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import zlib
from collections.abc import Sequence
from pathlib import Path

COMMIT, TREE, BLOB, TAG, OFS_DELTA, REF_DELTA = 1, 2, 3, 4, 6, 7
NAMES = {COMMIT: b"commit", TREE: b"tree", BLOB: b"blob", TAG: b"tag"}
PERSON = b"A <a@example.com> 1700000000 +0000"


def oid(kind: int, content: bytes) -> bytes:
    """The 20 bytes of an object's id."""
    return hashlib.sha1(NAMES[kind] + b" %d\0" % len(content) + content).digest()


def tree(*entries: tuple[bytes, bytes, bytes]) -> bytes:
    """A tree of (mode, name, id), in the order given."""
    return b"".join(mode + b" " + name + b"\0" + of for mode, name, of in entries)


def commit(root: bytes, *parents: bytes, author: bytes = PERSON, message: bytes = b"m\n") -> bytes:
    lines = [b"tree " + root.hex().encode()]
    lines += [b"parent " + parent.hex().encode() for parent in parents]
    return b"\n".join([*lines, b"author " + author, b"committer " + PERSON, b"", message])


def size_bytes(size: int, *, kind: int) -> bytes:
    """The type and size that head an object of a pack."""
    out, rest = (kind << 4) | (size & 15), size >> 4
    encoded = bytearray()
    while rest:
        encoded.append(out | 0x80)
        out, rest = rest & 0x7F, rest >> 7
    encoded.append(out)
    return bytes(encoded)


def varint(value: int) -> bytes:
    """A size as deltas write it."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append((value & 0x7F) | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def back(distance: int) -> bytes:
    """How far behind it an offset delta's base begins."""
    encoded = [distance & 0x7F]
    distance >>= 7
    while distance:
        distance -= 1
        encoded.append((distance & 0x7F) | 0x80)
        distance >>= 7
    return bytes(reversed(encoded))


def entry(kind: int, content: bytes, *, base: bytes = b"", size: int | None = None) -> bytes:
    """One object of a pack; `base`: what stands between header and zlib stream; `size`: a lie about the size."""
    return size_bytes(len(content) if size is None else size, kind=kind) + base + zlib.compress(content)


def pack(*entries: bytes, count: int | None = None) -> bytes:
    """A pack of ready entries with a right checksum."""
    body = b"PACK\0\0\0\2" + (len(entries) if count is None else count).to_bytes(4, "big") + b"".join(entries)
    return body + hashlib.sha1(body).digest()


def pack_of(*objects: tuple[int, bytes]) -> bytes:
    """A pack of whole objects."""
    return pack(*(entry(kind, content) for kind, content in objects))


def copy_delta(base_size: int, times: int) -> bytes:
    """A delta whose result is its base, `times` over."""
    copy = bytearray([0x80])
    for position in range(3):
        byte = (base_size >> (8 * position)) & 0xFF
        if byte:
            copy[0] |= 0x10 << position
            copy.append(byte)
    # Base sizes are chosen below 16 MiB and such that they have a byte to write.
    return varint(base_size) + varint(base_size * times) + bytes(copy) * times


def zip_bomb(size: int) -> bytes:
    """A pack with one blob of `size` zeros, about a thousandth of that long."""
    packer = zlib.compressobj(9)
    head = packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    # After a full flush each block stands alone, so one can be repeated. The end: an empty last block, and Adler-32,
    # which for n zeros is 1 in its low half and n in its high one.
    end = b"\x03\0" + (((size % 65521) << 16) | 1).to_bytes(4, "big")
    return pack(size_bytes(size, kind=BLOB) + head + block * (size >> 20) + end)


def delta_bomb(rounds: int) -> bytes:
    """A chain of offset deltas; each result is 16 times its base, from 4 KiB on. A pack of about 1 KB."""
    size = 4096
    entries = [entry(BLOB, bytes(size))]
    for _ in range(rounds):
        entries.append(entry(OFS_DELTA, _repeat(size), base=back(len(entries[-1]))))
        size *= 16
    return pack(*entries)


def _repeat(base_size: int) -> bytes:
    if base_size < 1 << 24:
        return copy_delta(base_size, 16)
    # A copy moves at most 2^24 - 1 bytes, here 2^23.
    pieces = b"".join(bytes([0xCC, offset >> 16 & 0xFF, offset >> 24, 0x80]) for offset in range(0, base_size, 1 << 23))
    return varint(base_size) + varint(base_size * 16) + pieces * 16


def tree_bomb(*, width: int, depth: int) -> tuple[bytes, str]:
    """A pack whose one commit unfolds to width ** depth files, and that commit's id."""
    objects = [(BLOB, b"x")]
    mode, below = b"100644", oid(BLOB, b"x")
    for _ in range(depth):
        content = tree(*((mode, b"%03d" % number, below) for number in range(width)))
        objects.append((TREE, content))
        mode, below = b"40000", oid(TREE, content)
    head = commit(below)
    return pack_of(*objects, (COMMIT, head)), oid(COMMIT, head).hex()


class Repository:
    """A work tree of real git, with no settings of the machine that runs the test."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self.git("init", "-q", "-b", "main")

    def git(self, *arguments: str, stdin: bytes = b"") -> bytes:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.path),
            "GIT_CONFIG_NOSYSTEM": "1",
            **{f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in _IDENTITY.items()},
        }
        done = subprocess.run(
            ["git", "-C", str(self.path), *arguments], input=stdin, capture_output=True, check=True, env=environment
        )
        return done.stdout

    def commit(self, files: dict[str, str | bytes]) -> str:
        """Write the files, commit everything, return the id."""
        for name, content in files.items():
            path = self.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "a change")
        return self.head()

    def head(self) -> str:
        return self.git("rev-parse", "HEAD").decode().strip()

    def pack(
        self, tip: str, *, without: Sequence[str] = (), options: Sequence[str] = ("--delta-base-offset",)
    ) -> bytes:
        """What a push of `tip` sends to somebody who has `without`: thin, as git does it."""
        revisions = "\n".join([tip, *(f"^{commit}" for commit in without)]) + "\n"
        return self.git("pack-objects", "--revs", "--thin", "--stdout", "-q", *options, stdin=revisions.encode())


_IDENTITY = {"NAME": "A", "EMAIL": "a@example.com", "DATE": "1700000000 +0000"}


def stream(body: bytes) -> io.BufferedReader:
    return io.BufferedReader(io.BytesIO(body))  # type: ignore[arg-type]  # BytesIO is raw enough
