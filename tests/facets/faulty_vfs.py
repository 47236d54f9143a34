"""A SQLite VFS that counts fsyncs and fails on demand.

Fault model: from a chosen moment on, every fsync of files whose name contains `failing_sync` (and not `spared_sync`)
fails (as after a disk error), or every write that would make such a file longer fails with "disk is full". What was written before stays.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import apsw

_numbers = itertools.count()


class FaultyVFS(apsw.VFS):
    def __init__(self) -> None:
        self.name = f"faulty-{next(_numbers)}"
        self.syncs: list[str] = []
        self.failing_sync: str | None = None
        self.spared_sync: str | None = None
        self.full: str | None = None
        super().__init__(self.name, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return _File(self, name, flags)


class _File(apsw.VFSFile):
    def __init__(self, vfs: FaultyVFS, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._vfs = vfs
        self._name = Path(path).name if path else ""
        super().__init__("", name, flags)

    def xSync(self, flags: int) -> None:
        self._vfs.syncs.append(self._name)
        failing, spared = self._vfs.failing_sync, self._vfs.spared_sync
        if failing is not None and failing in self._name and not (spared and spared in self._name):
            raise apsw.IOError("the disk does not answer")
        super().xSync(flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        if self._vfs.full is not None and self._vfs.full in self._name and offset + len(data) > self.xFileSize():
            raise apsw.FullError("no space left")
        super().xWrite(data, offset)
