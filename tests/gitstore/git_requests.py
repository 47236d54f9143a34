"""Raw requests of git's protocol, built and read byte by byte: what real clients would never send, too."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dulwich.objects import Blob, Commit, ShaFile, Tag, Tree

from gitstore.database import Database
from gitstore.limits import Limits
from gitstore.names import database_path
from gitstore.parts import Parts
from gitstore.pktline import pack_stream

NOW_MS = 1_700_000_000_000
NONE = "0" * 40
CAPABILITIES = "report-status side-band-64k push-options"
SOURCE = b"from executor.workflow import Workflow\n\n\nclass Job(Workflow):\n    async def run(self, event, step):\n        pass\n"


@contextmanager
def open_parts(root: Path, limits: Limits | None = None) -> Iterator[Parts]:
    root.mkdir(exist_ok=True)
    limits = limits or Limits()
    parts = Parts(root, Database(database_path(root), limits, lambda: NOW_MS), limits, lambda: NOW_MS)
    try:
        yield parts
    finally:
        parts.close()


@dataclass
class Objects:
    """Objects for one pack."""

    all: dict[str, ShaFile] = field(default_factory=dict)

    def add(self, made: ShaFile) -> str:
        self.all[made.id.decode()] = made
        return made.id.decode()

    def tree(self, files: dict[str, bytes]) -> str:
        """A flat tree; `a/b` makes one folder."""
        tree = Tree()
        folders: dict[str, dict[str, bytes]] = {}
        for path, content in files.items():
            if "/" in path:
                folder, _, name = path.partition("/")
                folders.setdefault(folder, {})[name] = content
            else:
                tree.add(path.encode(), 0o100644, self.add(Blob.from_string(content)).encode())
        for folder, below in folders.items():
            tree.add(folder.encode(), 0o040000, self.tree(below).encode())
        return self.add(tree)

    def commit(self, tree: str, *parents: str, message: str = "m", at_s: int = 1_700_000_000) -> str:
        commit = Commit()
        commit.tree = tree.encode()
        commit.parents = [parent.encode() for parent in parents]
        commit.author = commit.committer = b"Kim <kim@example.com>"
        commit.author_time = commit.commit_time = at_s
        commit.author_timezone = commit.commit_timezone = 0
        commit.message = message.encode() + b"\n"
        return self.add(commit)

    def tag(self, target: str, kind: type[ShaFile] = Commit, name: str = "v1") -> str:
        tag = Tag()
        tag.name = name.encode()
        tag.tagger = b"Kim <kim@example.com>"
        tag.tag_time, tag.tag_timezone = 1_700_000_000, 0
        tag.object = (kind, target.encode())
        tag.message = b"tagged\n"
        return self.add(tag)

    def pack(self) -> bytes:
        return b"".join(
            pack_stream(len(self.all), ((o.type_name.decode(), o.as_raw_string()) for o in self.all.values()))
        )


def line(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return f"{len(data) + 4:04x}".encode() + data


def push_request(
    commands: Iterable[tuple[str, str, str]],
    pack: bytes = b"",
    *,
    capabilities: str = CAPABILITIES,
    options: Iterable[str] = (),
    shallow: Iterable[str] = (),
) -> bytes:
    """(old, new, ref) commands, push options if the capability is among `capabilities`, and the pack."""
    body = b"".join(line(f"shallow {oid}") for oid in shallow)
    for number, (old, new, ref) in enumerate(commands):
        body += line(f"{old} {new} {ref}" + (f"\0 {capabilities}" if number == 0 else ""))
    body += b"0000"
    if "push-options" in capabilities:
        body += b"".join(line(option) for option in options) + b"0000"
    return body + pack


def packets(data: bytes) -> list[bytes | None]:
    """All packets; None for flush, delimiter and response-end."""
    found: list[bytes | None] = []
    stream = io.BytesIO(data)
    while digits := stream.read(4):
        length = int(digits, 16)
        found.append(stream.read(length - 4) if length > 4 else (b"" if length == 4 else None))
    return found


@dataclass
class Answer:
    """What came back: `remote` lines, unpack status, and a status for each ref ("ok" or the reason)."""

    remote: list[str]
    unpack: str
    refs: dict[str, str]


def read_answer(data: bytes) -> Answer:
    bands: dict[int, bytes] = {1: b"", 2: b"", 3: b""}
    for packet in packets(data):
        if packet is not None:
            bands[packet[0]] += packet[1:]
    assert data.endswith(b"0000"), "the answer ends with a flush"
    assert bands[3] == b""
    unpack, refs = "", {}
    for packet in packets(bands[1]):
        text = (packet or b"").decode().removesuffix("\n")
        if text.startswith("unpack "):
            unpack = text.removeprefix("unpack ")
        elif text.startswith("ok "):
            refs[text.removeprefix("ok ")] = "ok"
        elif text.startswith("ng "):
            name, _, reason = text.removeprefix("ng ").partition(" ")
            refs[name] = reason
    return Answer(bands[2].decode("ascii").splitlines(), unpack, refs)
