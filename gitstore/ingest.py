"""The job of a limited child that takes a pack in: index and complete it, check its objects and the tips."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec
from dulwich.object_format import SHA1
from dulwich.pack import PackData, PackIndexer, extend_pack, load_pack_index, write_pack_index_v2

from .check import ObjectChecks
from .errors import Refused
from .limits import Limits
from .objects import Objects
from .unfold import check_tips

_PACK_MODE = 0o444


class IngestRequest(msgspec.Struct, frozen=True):
    """To the limited child: index what is not indexed yet, then check. Paths are absolute."""

    quarantine: str
    is_indexed: bool
    tips: list[tuple[bytes, str]]
    limits: Limits


class IngestAnswer(msgspec.Struct, frozen=True):
    """`pack`: the checksum that names the indexed pack, "" if no object was sent."""

    pack: str


def run_ingest(request: IngestRequest, report: Callable[[str], None]) -> IngestAnswer:
    """The job: the pack indexed and completed, its objects and the tips checked."""
    folder = Path(request.quarantine)
    spool = folder / "incoming.pack"
    if not request.is_indexed and spool.exists():
        report("indexing the pack")
        with spool.open("r+b") as stream:
            index_pack(folder, stream)
    report("checking the objects of the push")
    objects = Objects(folder)
    name = ""
    for index in (folder / "pack").glob("pack-*.idx"):
        name = index.stem.removeprefix("pack-")
        ObjectChecks(objects, list(_indexed(index)), request.limits).run()
    report("unfolding the trees of the push")
    check_tips(objects, request.tips, request.limits)
    return IngestAnswer(name)


def index_pack(quarantine: Path, stream: BinaryIO) -> None:
    """Complete the scanned pack `stream` (a file in `quarantine`, open for update), name it and write its index.

    The seam for other indexers: whatever does this must resolve deltas against the quarantine and what is behind it,
    and leave `pack/pack-<checksum>.pack` and `.idx`. Raises Refused `pack_malformed`.
    """
    behind = Objects(quarantine)

    def base(oid: bytes) -> tuple[int, list[bytes]]:
        kind, content = behind.read(oid)  # raises KeyError as dulwich wants it
        return int(kind), [content]

    path = Path(stream.name)
    try:
        with PackData(str(path), file=stream, object_format=SHA1) as pack:
            indexer = PackIndexer.for_pack_data(pack, resolve_ext_ref=base)
            entries = list(indexer)
        present = {entry[0] for entry in entries}
        if len(present) < len(entries):
            raise ValueError("an object is in it twice")  # git reads no index of such a pack
        checksum, bases = extend_pack(
            stream,
            # A base can be outside and also in the pack, behind a delta that was resolved later.
            set(indexer.ext_refs()) - present,
            get_raw=lambda oid: (base(oid)[0], base(oid)[1][0]),
            object_format=SHA1,
        )
    except (OSError, MemoryError):
        raise
    except Exception as error:
        # The library has no common error for damaged packs: deltas that do not apply, bases that are missing,
        # checksums, zlib, and plain ValueError, KeyError, AssertionError were all seen.
        text = str(error).strip().rstrip(".") or type(error).__name__
        raise Refused(
            f"The pack is damaged: {type(error).__name__}: {text[:200]}.",
            code="pack_malformed",
            hint="Run `git fsck`, then push again.",
        ) from None
    stream.close()
    entries += bases
    entries.sort()
    target = quarantine / "pack" / f"pack-{checksum.hex()}"
    with target.with_suffix(".idx").open("xb") as index:
        write_pack_index_v2(index, entries, checksum)
    path.rename(target.with_suffix(".pack"))
    for suffix in (".pack", ".idx"):
        target.with_suffix(suffix).chmod(_PACK_MODE)


def _indexed(index: Path) -> Iterator[bytes]:
    with contextlib.closing(load_pack_index(str(index), SHA1)) as entries:
        for oid, _, _ in entries.iterentries():
            yield bytes(oid)
