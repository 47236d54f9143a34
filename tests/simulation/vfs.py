"""A SQLite VFS that puts a simulated disk under the files of one folder. What it does is in `disk.py`."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import TracebackType

import apsw

from tests.simulation.disk import Disk

_numbers = itertools.count()


class DiskVFS(apsw.VFS):
    """Shared memory, locks and reads are the system's own; writes, fsyncs and deletions are the disk's."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.name = f"simulated-{next(_numbers)}"
        super().__init__(self.name, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        if path is None or not Path(path).is_relative_to(self.disk.root):
            return apsw.VFSFile("", name, flags)
        return _File(self.disk, path, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        if Path(filename).is_relative_to(self.disk.root):
            self.disk.delete(filename, lambda: super(DiskVFS, self).xDelete(filename, False), is_durable=syncdir)
        else:
            super().xDelete(filename, syncdir)

    def excepthook(self, etype: type[BaseException], evalue: BaseException, etraceback: TracebackType | None) -> None:
        """What fails while SQLite closes a file of a dead machine is nobody's concern."""


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, path: str, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self._disk = disk
        self._path = path
        disk.before_read(path)
        disk.opened(path)
        super().__init__("", name, flags)

    def xRead(self, amount: int, offset: int) -> bytes:
        self._disk.before_read(self._path)
        return super().xRead(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:
        base = super().xWrite
        self._disk.write(self._path, offset, bytes(data), lambda part: base(part, offset))

    def xTruncate(self, newsize: int) -> None:
        base = super().xTruncate
        self._disk.truncate(self._path, newsize, lambda: base(newsize))

    def xSync(self, flags: int) -> None:
        self._disk.sync(self._path)

    def excepthook(self, etype: type[BaseException], evalue: BaseException, etraceback: TracebackType | None) -> None:
        """See DiskVFS."""
