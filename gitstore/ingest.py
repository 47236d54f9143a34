"""Quarantine for an incoming pack: scan, index, check objects, then make it visible in one move.

    <tenant>.git/objects/incoming-<random>/
        incoming.pack          the bytes as they came, until indexed
        pack/pack-<sum>.pack   completed (a thin pack's bases added), with its .idx; <sum> is its own trailer
        info/alternates        the repository's objects: what the new ones may rest on

Nobody looks into an incoming folder but the push that made it. `publish()` moves .pack before .idx, because an index
is what readers look for: they see all of a pack or nothing. The name is the checksum of the bytes, so two packs of one
name are equal and an index can never meet another's pack.

The folder is locked (flock) by the process that made it, for as long as that lives: what a crash leaves behind is
known by its free lock, and `sweep()` removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import msgspec
from dulwich.object_format import SHA1
from dulwich.pack import PackData, PackIndexer, extend_pack, load_pack_index, write_pack_index_v2

from .check import ObjectChecks, Objects, check_tips
from .errors import LimitExceeded, Refused, Unavailable
from .limits import Limits
from .names import sync_folder
from .parts import Parts
from .scan import PackScanner, PackSummary
from .worker import JobLimits, WorkerPool

INCOMING_PREFIX = "incoming-"
WORKER_COUNT = 2
"""Children at work at a time: indexing and compiling use a processor each; further pushes wait for one of them."""

_READ_BYTES = 64 * 1024
_PACK_MODE = 0o444


@dataclass(frozen=True, slots=True)
class NewTip:
    """A ref and the object that the push wants it to name: a full name (`refs/heads/…`) and 40 hex digits."""

    ref: bytes
    oid: str


class IngestRequest(msgspec.Struct, frozen=True):
    """To the limited child: index what is not indexed yet, then check. Paths are absolute."""

    quarantine: str
    is_indexed: bool
    tips: list[tuple[bytes, str]]
    limits: Limits


class IngestAnswer(msgspec.Struct, frozen=True):
    """`pack`: the checksum that names the indexed pack, "" if no object was sent."""

    pack: str


class Quarantine:
    """One push's objects, invisible to everyone else until `publish()`.

    A context manager: leaving it discards what was not published. Used by one thread.
    """

    def __init__(self, parts: Parts, repository: Path) -> None:
        """Raises Unavailable (`storage_full`, `storage_failed`), nothing left behind."""
        self._parts = parts
        self._repository_objects = repository / "objects"
        self._summary: PackSummary | None = None
        self._pack = ""
        self._is_checked = False
        with _disk_errors():
            self.objects_path, self._lock = _locked_folder(self._repository_objects)
            try:
                (self.objects_path / "pack").mkdir()
                (self.objects_path / "info").mkdir()
                (self.objects_path / "info" / "alternates").write_bytes(os.fsencode(self._repository_objects) + b"\n")
            except BaseException:
                self.discard()
                raise

    @property
    def pack_bytes(self) -> int:
        """Bytes of the pack as it came; 0 if none did."""
        return self._summary.pack_bytes if self._summary is not None else 0

    @property
    def object_count(self) -> int:
        """Objects in the pack as it came; 0 if none did."""
        return self._summary.object_count if self._summary is not None else 0

    def add_pack(self, body: BinaryIO) -> None:
        """Read exactly one pack from `body`, scanning while spooling. At most once, before `check`.

        Reading stops at the pack's trailer: over some transports no end of file follows.
        Raises Refused (`pack_malformed`, limits of the pack, `repository_bytes_max`), Unavailable (`storage_full`,
        `storage_failed`), OSError of `body`.
        """
        assert self._summary is None, "one pack per push"
        limits = self._parts.limits
        scanner = PackScanner(limits)
        # read() of a buffered stream waits for all the bytes asked for; read1() hands out what is there.
        read: Callable[[int], bytes] = getattr(body, "read1", body.read)
        with _disk_errors():
            spool = self._spool.open("xb")
        try:
            while scanner.summary is None:
                chunk = read(_READ_BYTES)
                if not chunk:
                    break
                if scanner.feed(chunk):
                    raise Refused(
                        "The pack is damaged: more bytes follow its checksum.",
                        code="pack_malformed",
                        hint="Push again.",
                    )
                with _disk_errors():
                    spool.write(chunk)
            summary = scanner.finish()
            with _disk_errors():
                spool.flush()
        finally:
            # What a full disk did not take is still in the buffer: closing tries once more, and closes all the same.
            with contextlib.suppress(OSError):
                spool.close()
        with _disk_errors():
            used = _pack_bytes(self._repository_objects / "pack") + summary.pack_bytes
        if used > limits.repository_bytes_max:
            raise LimitExceeded(
                "The size of the repository in bytes, with this push,",
                limit="repository_bytes_max",
                bound=limits.repository_bytes_max,
                found=used,
                hint="Delete branches and tags that are no longer needed and have the garbage collected.",
            )
        self._summary = summary

    def check(self, new_tips: Sequence[NewTip]) -> None:
        """Index and check in a limited child: every new object, connectivity, and what each tip unfolds to.

        Without `add_pack` it checks that the tips are in the repository already. It may be called again, for
        instance after a garbage collection in between.
        Raises Refused naming the path and why, LimitExceeded, Unavailable (`worker_failed`, `storage_full`).
        """
        self._is_checked = False
        if self._summary is not None and self._summary.object_count == 0:
            self._spool.unlink(missing_ok=True)
        limits = self._parts.limits
        answer = workers(self._parts).run(
            "ingest",
            IngestRequest(
                quarantine=str(self.objects_path),
                is_indexed=self._pack != "",
                tips=[(tip.ref, tip.oid) for tip in new_tips],
                limits=limits,
            ),
            IngestAnswer,
            JobLimits(
                cpu_s=limits.ingest_cpu_s,
                cpu_limit="ingest_cpu_s",
                memory_bytes=limits.ingest_memory_bytes,
                memory_limit="ingest_memory_bytes",
                # A thin pack grows by the bases it rests on, which the repository holds already.
                file_bytes=limits.pack_bytes_max + limits.inflated_bytes_max,
                file_limit="pack_bytes_max + inflated_bytes_max",
            ),
        )
        self._pack = answer.pack
        self._is_checked = True

    def publish(self) -> None:
        """Make the checked objects part of the repository. Durable on return; without new objects nothing happens.

        The caller holds the tenant's lock from its last check until its refs are committed.
        """
        assert self._is_checked, "only checked objects are published"
        if not self._pack:
            return
        source = self.objects_path / "pack" / f"pack-{self._pack}"
        target = self._repository_objects / "pack" / source.name
        if not (target.with_suffix(".pack").exists() and target.with_suffix(".idx").exists()):
            for suffix in (".pack", ".idx"):
                _sync_file(source.with_suffix(suffix))
            for suffix in (".pack", ".idx"):
                source.with_suffix(suffix).rename(target.with_suffix(suffix))
            sync_folder(target.parent)
        self._pack = ""

    def discard(self) -> None:
        """Remove the quarantine with whatever is in it. Safe to call twice."""
        if self._lock >= 0:
            _remove_folder(self.objects_path)
            os.close(self._lock)
            self._lock = -1

    @property
    def _spool(self) -> Path:
        return self.objects_path / "incoming.pack"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


def start(parts: Parts, tenant: str) -> Quarantine:
    """Begin a push; the tenant's repository is made if this is its first. Raises TenantNotFound."""
    return Quarantine(parts, parts.ensure_repository(tenant))


def workers(parts: Parts) -> WorkerPool:
    """The store's limited children, started at first use and closed with the store."""
    return parts.shared(WorkerPool, lambda: WorkerPool(WORKER_COUNT))


def sweep(parts: Parts) -> int:
    """Remove quarantines whose process has ended; returns how many. Running pushes, of any process, are not touched."""
    folders = (parts.root / "repositories").glob(f"*.git/objects/{INCOMING_PREFIX}*")
    return sum(_try_lock_and_remove(folder) for folder in folders)


def _try_lock_and_remove(folder: Path) -> bool:
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # its push has just ended
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove_folder(folder)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    """What the disk would not do, as Unavailable: the push can simply be tried again."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Unavailable(
                "There is no space left on the disk.", code="storage_full", hint="Nothing was changed."
            ) from error
        raise Unavailable(
            f"The incoming pack cannot be written: {error.strerror or error}.",
            code="storage_failed",
            hint="Nothing was changed. Look at the disk, then try again.",
        ) from error


def _locked_folder(objects: Path) -> tuple[Path, int]:
    """A new incoming folder and the descriptor that holds its lock."""
    while True:
        folder = objects / f"{INCOMING_PREFIX}{secrets.token_hex(8)}"
        folder.mkdir(mode=0o700)
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # a sweep came between the two calls
            continue
        except OSError:  # out of descriptors, for one: what needs none of them removes the empty folder
            with contextlib.suppress(OSError):
                folder.rmdir()
            raise
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.fstat(lock).st_nlink:  # 0: the sweep held the lock, and removed the folder
                return folder, lock
        except OSError:
            _remove_folder(folder)
            os.close(lock)
            raise
        os.close(lock)


def _remove_folder(folder: Path) -> None:
    """As `shutil.rmtree`, without complaint about what is gone already."""
    shutil.rmtree(folder, ignore_errors=True)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _pack_bytes(folder: Path) -> int:
    with os.scandir(folder) as entries:
        return sum(entry.stat().st_size for entry in entries if entry.name.endswith(".pack"))


# What follows runs in the limited child.


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
