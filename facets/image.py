"""PageImage: a SQLite database that lives in memory, and knows exactly what each commit changed.

A small one is here as one byte string. A large one is not here as a whole: what it has not written itself it reads
through `Pages` (pages.py), which fetches; a small one that has grown becomes one of those.

SQLite reads and writes the image through a VFS of this module, which keeps the old bytes of every block that is written
for the first time since the last delta. It is the only code that opens a tenant's SQLite, and it runs inside the
sandbox.

Invariants:
- an image plus the deltas taken from it, applied in order, equals the live image, byte for byte;
- nothing but the image is ever opened: rollback journals and temporary tables stay in memory, any other file is
  refused;
- one connection at a time, which holds its lock for life (locking_mode EXCLUSIVE): nothing is read twice, and SQLite
  need not rewrite the change counter on page 1 at each commit, which is what keeps the delta of a small write small.
"""

from __future__ import annotations

import itertools
import os
import threading
from typing import NamedTuple, cast

import apsw

from facets import delta
from facets.delta import BLOCK_BYTES, ZERO_BLOCK, Change
from facets.errors import Refused
from facets.pages import Fetch, PageCache, Pages

PAGE_BYTES = BLOCK_BYTES
"""Page size of new images. Others work too (an imported file), a little slower."""

CACHE_KIB = 512
"""SQLite's page cache. Small: a page comes back from the image in a microsecond, and the memory is spent twice."""

_VFS_NAME = "perdure-image"
_SHIFT = BLOCK_BYTES.bit_length() - 1
_MASK = BLOCK_BYTES - 1

_numbers = itertools.count(1)
_opening: dict[str, PageImage] = {}
_vfs: _ImageVFS | None = None
_vfs_lock = threading.Lock()


class StepTooLarge(apsw.FullError):
    """A step changes more of a large facet than one delta may hold."""


class Paging(NamedTuple):
    """How an image can do without being here as a whole: over `bytes_min`, it is fetched in pages."""

    fetch: Fetch
    cache: PageCache
    bytes_min: int


class PageImage:
    """One database image, of at most `bytes_max` bytes, with the changes since the last `take_delta`."""

    def __init__(
        self,
        data: bytes = b"",
        *,
        bytes_max: int,
        stamp: delta.Stamp | None = None,
        paging: Paging | None = None,
        step_bytes_max: int | None = None,
    ) -> None:
        """`data` is an ordinary SQLite file, or b"" for a new one. It is neither copied nor read before it is needed.

        `stamp` instead of `data`: what `paging` fetches is an image of this stamp. `step_bytes_max`: what may be
        changed between two deltas of a large image; a small one may change as a whole.
        Raises Refused (`facet_too_large`).
        """
        size = len(data) if stamp is None else stamp.size
        if size > bytes_max:
            raise Refused(
                f"A facet of {size} bytes is over the limit of {bytes_max} bytes.",
                code="facet_too_large",
                hint="Delete rows, or keep large values outside the facet.",
                details={"size": size, "bytes_max": bytes_max},
            )
        self.bytes_max = bytes_max
        self.size = size
        self.pages: Pages | None = None
        self._paging = paging
        self._step_blocks_max = None if step_bytes_max is None else max(1, step_bytes_max // delta.body_bytes_of(1))
        if stamp is not None:
            assert paging is not None, "a stamp says nothing without a way to fetch"
            self.pages = Pages(paging.fetch, paging.cache, stamp, size=size)
        self._base = data
        self._blocks: dict[
            int, bytes
        ] = {}  # every block written since the base, in front of it; a block that was cut is zeros
        self._old: dict[int, bytes] = {}  # blocks as they were at the last delta, if written since
        self._stamp = stamp  # of the image at the last delta; None: it is still the base, not yet read
        self._size_taken = size

    def connect(self, *, page_bytes: int = PAGE_BYTES, read_only: bool = False) -> apsw.Connection:
        """Open the image. The caller closes the connection before it opens another one.

        `page_bytes` counts for a new image only. Raises what APSW raises (NotADBError and others come with the first
        read).
        """
        _register()
        name = f"/{next(_numbers)}"
        flags = apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        _opening[name] = self
        try:
            connection = apsw.Connection(name, flags=flags, vfs=_VFS_NAME)
        finally:
            del _opening[name]
        pragmas = f"pragma locking_mode=exclusive;pragma temp_store=memory;pragma cache_size=-{CACHE_KIB};"
        if not read_only:
            pragmas += f"pragma page_size={page_bytes};pragma journal_mode=memory;pragma synchronous=off;"
        try:
            # Not cached: a tenant's statement of the same text must be prepared anew, under the authorizer.
            for _ in connection.cursor().execute(pragmas, can_cache=False):
                pass
        except BaseException:
            connection.close(force=True)
            raise
        return connection

    def take_delta(self, *, delta_bytes_max: int | None = None) -> bytes:
        """The delta of everything since the last call (or since the beginning); b"" if nothing changed.

        Call it between transactions only: a large one writes some pages before it commits. Raises Refused
        (`facet_delta_too_large`), and what fetching raises; then nothing was taken, and `revert` is still possible.
        """
        if self.pages is not None:
            self.pages.settle(self._blocks, busy=self._old)
        changes = self._changes()
        if not changes and self.size == self._size_taken:
            self._old.clear()
            return b""
        if delta_bytes_max is not None and delta.body_bytes_of(len(changes)) > delta_bytes_max:
            raise delta.too_large(len(changes), delta_bytes_max)
        before = self._stamp if self._stamp is not None else delta.stamp_of(self._base)
        after = delta.advance(before, self.size, changes)
        encoded = delta.encode(before, after, changes)
        self._stamp = after
        self._size_taken = self.size
        self._old.clear()
        if self.pages is not None:
            self.pages.committed(after, [change.block for change in changes])
        elif self._paging is not None and self.size > self._paging.bytes_min:
            self._begin_paging(self._paging, after)
        return encoded

    def _begin_paging(self, paging: Paging, stamp: delta.Stamp) -> None:
        """A small image has grown: what it was opened with is fetched from now on, and what it wrote leaves in time."""
        self.pages = Pages(paging.fetch, paging.cache, None, size=len(self._base))
        self.pages.committed(stamp, self._blocks)
        self._base = b""

    def revert(self) -> None:
        """Go back to the last delta. If `is_changed`, no connection may be open: its cache would hold what is gone."""
        for block, old in self._old.items():
            self._blocks[block] = old
        self.size = self._size_taken
        self._old.clear()

    @property
    def is_changed(self) -> bool:
        """Whether a delta taken now would not be empty."""
        return self.size != self._size_taken or any(self._block(block) != old for block, old in self._old.items())

    def data(self) -> bytes:
        """The whole image: an ordinary SQLite file. Between transactions only, as for `take_delta`.

        A large one is fetched for it.
        """
        if self.pages is not None:
            return b"".join([self._block(block) for block in range(-(-self.size >> _SHIFT))])[: self.size]
        if self._blocks or self.size != len(self._base):
            if self._stamp is None:
                # The base is about to be replaced; the next delta still begins where the last one ended.
                self._stamp = delta.stamp_of(self._base)
            self._base = b"".join([self._block(block) for block in range(-(-self.size >> _SHIFT))])[: self.size]
            self._blocks.clear()
        return self._base

    def _changes(self) -> list[Change]:
        changes = []
        for block in sorted(self._old):
            old, new = self._old[block], self._block(block)
            if old != new:
                changes.append(Change(block, old, new))
        return changes

    def _block(self, block: int) -> bytes:
        """A block's present bytes, zeros beyond the end of the image."""
        content = self._blocks.get(block)
        if content is not None:
            return content
        if self.pages is not None:
            return self.pages.block(block)
        at = block << _SHIFT
        return self._base[at : at + BLOCK_BYTES].ljust(BLOCK_BYTES, b"\0")

    def _put(self, block: int, content: bytes) -> None:
        if block not in self._old:
            old = self._block(block)
            if self.pages is not None and self._step_blocks_max is not None and len(self._old) >= self._step_blocks_max:
                if content == old:
                    return  # SQLite rolls back, with what it meant to change and had not written yet
                raise StepTooLarge("the step changes too much")
            self._old[block] = old
        self._blocks[block] = content

    def _read(self, amount: int, offset: int) -> bytes:
        """At most `amount` bytes; fewer at the end of the image."""
        if offset & _MASK == 0 and amount == BLOCK_BYTES and offset + BLOCK_BYTES <= self.size:
            return self._block(offset >> _SHIFT)
        end = min(offset + amount, self.size)
        if end <= offset:
            return b""
        blocks = range(offset >> _SHIFT, -(-end >> _SHIFT))
        start = blocks.start << _SHIFT
        return b"".join([self._block(block) for block in blocks])[offset - start : end - start]

    def _write(self, content: bytes, offset: int) -> None:
        end = offset + len(content)
        if end > self.bytes_max:
            # `max_page_count` stops a statement before it comes to this; here is the wall behind it.
            raise apsw.FullError(f"the image would be {end} bytes long, {self.bytes_max} are allowed")
        self.size = max(self.size, end)
        if offset & _MASK == 0 and len(content) == BLOCK_BYTES:
            self._put(offset >> _SHIFT, content)
            return
        for block in range(offset >> _SHIFT, -(-end >> _SHIFT)):
            at = block << _SHIFT
            merged = bytearray(self._block(block))
            start, stop = max(offset, at), min(end, at + BLOCK_BYTES)
            merged[start - at : stop - at] = content[start - offset : stop - offset]
            self._put(block, bytes(merged))

    def _truncate(self, size: int) -> None:
        if size > self.bytes_max:
            raise apsw.FullError(f"the image would be {size} bytes long, {self.bytes_max} are allowed")
        if size < self.size:
            first = -(-size >> _SHIFT)
            if size & _MASK:
                kept = self._block(first - 1)[: size & _MASK]
                self._put(first - 1, kept.ljust(BLOCK_BYTES, b"\0"))
            for block in range(first, -(-self.size >> _SHIFT)):
                self._put(block, ZERO_BLOCK)
        self.size = size


class _ImageFile:
    """The face of a PageImage that SQLite sees. Locks and syncs are nothing: there is one connection, and no disk."""

    __slots__ = ("_image",)

    def __init__(self, image: PageImage) -> None:
        self._image = image

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802 - SQLite's names
        return self._image._read(amount, offset)

    def xWrite(self, content: bytes, offset: int) -> None:  # noqa: N802
        self._image._write(bytes(content), offset)

    def xTruncate(self, size: int) -> None:  # noqa: N802
        self._image._truncate(size)

    def xFileSize(self) -> int:  # noqa: N802
        return self._image.size

    def xSync(self, flags: int) -> None:  # noqa: N802
        pass

    def xLock(self, level: int) -> None:  # noqa: N802
        pass

    def xUnlock(self, level: int) -> None:  # noqa: N802
        pass

    def xCheckReservedLock(self) -> bool:  # noqa: N802
        return False

    def xSectorSize(self) -> int:  # noqa: N802
        return BLOCK_BYTES

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        # Writes do not tear, and what a write does not cover stays: SQLite need not journal neighbouring pages.
        return apsw.SQLITE_IOCAP_POWERSAFE_OVERWRITE | apsw.SQLITE_IOCAP_SAFE_APPEND

    def xFileControl(self, op: int, pointer: int) -> bool:  # noqa: ARG002, N802
        return False

    def xClose(self) -> None:  # noqa: N802
        pass


class _ImageVFS(apsw.VFS):
    """Opens exactly the images that `connect` is opening; the clock and randomness are the machine's."""

    def __init__(self) -> None:
        super().__init__(_VFS_NAME, base="")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        image = None
        if flags[0] & apsw.SQLITE_OPEN_MAIN_DB and name is not None:
            image = _opening.get(name.filename() if isinstance(name, apsw.URIFilename) else name)
        flags[1] = flags[0]  # how it was really opened: SQLite would write to a read-only image otherwise
        if image is None:
            raise apsw.CantOpenError("a facet has no other files than its image")
        return cast("apsw.VFSFile", _ImageFile(image))  # APSW takes any object with the methods of a VFSFile

    def xAccess(self, pathname: str, flags: int) -> bool:  # noqa: ARG002, N802
        return False

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        pass

    def xFullPathname(self, name: str) -> str:  # noqa: N802
        return name


def _register() -> None:
    """Make the VFS known to SQLite, once and not before a facet is used (or this process is prepared for forking)."""
    global _vfs  # noqa: PLW0603 - SQLite's list of VFSes is the process's
    if _vfs is None:
        with _vfs_lock:
            if _vfs is None:
                # SQLite seeds its random() once: without this, processes forked after the first draw would share the
                # rest.
                os.register_at_fork(after_in_child=_reseed)
                _vfs = _ImageVFS()


def _reseed() -> None:
    """Forget the inherited seed and draw a new one at once, while /dev/urandom can still be opened."""
    apsw.randomness(0)
    apsw.randomness(1)
