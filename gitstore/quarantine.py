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
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from .durable import sync
from .errors import LimitExceeded, Refused
from .incoming import disk_errors, locked_folder, remove_folder
from .ingest import IngestAnswer, IngestRequest
from .job_messages import JobLimits
from .parts import Parts
from .scan import PackScanner, PackSummary

_READ_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class NewTip:
    """A ref and the object that the push wants it to name: a full name (`refs/heads/…`) and 40 hex digits."""

    ref: bytes
    oid: str


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
        with disk_errors():
            self.objects_path, self._lock = locked_folder(self._repository_objects)
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
        with disk_errors():
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
                with disk_errors():
                    spool.write(chunk)
            summary = scanner.finish()
            with disk_errors():
                spool.flush()
        finally:
            # What a full disk did not take is still in the buffer: closing tries once more, and closes all the same.
            with contextlib.suppress(OSError):
                spool.close()
        with disk_errors():
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
        answer = self._parts.workers.run(
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
                sync(source.with_suffix(suffix))
            for suffix in (".pack", ".idx"):
                source.with_suffix(suffix).rename(target.with_suffix(suffix))
            sync(target.parent)
        self._pack = ""

    def discard(self) -> None:
        """Remove the quarantine with whatever is in it. Safe to call twice."""
        if self._lock >= 0:
            remove_folder(self.objects_path)
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


def _pack_bytes(folder: Path) -> int:
    with os.scandir(folder) as entries:
        return sum(entry.stat().st_size for entry in entries if entry.name.endswith(".pack"))
