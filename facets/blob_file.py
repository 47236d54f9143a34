"""The file of blobs: made when it is first needed, opened, brought home, copied, and given up when a write fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from facets import schema
from facets.database import connect, copy_database, reading, store_failed, transaction
from facets.errors import Refused, StoreFailed

PAGE_BYTES = 8192
WAL_PAGES_MAX = 8 * 1024 * 1024 // PAGE_BYTES


class BlobFile:
    """The base of BlobStore. After StoreFailed it refuses everything."""

    def __init__(self, path: Path, *, vfs: str | None) -> None:
        """Opens nothing."""
        self.path = path
        self._vfs = vfs
        self._lock = threading.RLock()
        self._connection: apsw.Connection | None = None
        self._failure: StoreFailed | None = None
        self._wal_pages = 0
        self._is_closed = False

    def copy_to(self, target: Path) -> None:
        """Writers do not wait."""
        with reading(self.path):
            connection = connect(self.path, vfs=self._vfs)
        try:
            copy_database(connection, self.path, target)
        finally:
            connection.close()

    @property
    def is_there(self) -> bool:
        return self._connection is not None

    def checkpoint(self, *, truncate: bool) -> None:
        """Bring the write-ahead file home. Raises StoreFailed."""
        with self._lock:
            if self._connection is not None and self._failure is None and (truncate or self._wal_pages):
                mode = apsw.SQLITE_CHECKPOINT_TRUNCATE if truncate else apsw.SQLITE_CHECKPOINT_PASSIVE
                self._checkpoint(self._connection, mode)

    def make(self) -> None:
        """The file, without a blob."""
        self._ready()
        self.close()

    def close(self) -> None:
        with self._lock:
            self._is_closed = True
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def _ready(self) -> apsw.Connection:
        self._refuse_if_failed()
        if self._is_closed:
            raise Refused("The store is closed.", code="store_closed")
        if self._connection is None:
            self._open()
        assert self._connection is not None
        return self._connection

    def _open(self) -> None:
        with reading(self.path):
            if not self.path.exists() or not self.path.stat().st_size:
                self._make()
            connection = connect(self.path, vfs=self._vfs, synchronous="FULL", create=True)
        try:
            schema.migrate(connection, self.path, schema.BLOBS)
            connection.pragma("secure_delete", True)
            connection.set_wal_hook(self._count_wal_pages)
            with reading(self.path):
                self._load(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _load(self, connection: apsw.Connection) -> None:
        """Take note of what is in a file that has just been opened."""
        raise NotImplementedError

    def _make(self) -> None:
        """The empty file: what a file can give back to the disk is decided before its first table, and before WAL."""
        connection = apsw.Connection(str(self.path), vfs=self._vfs)
        try:
            connection.pragma("page_size", PAGE_BYTES)
            connection.pragma("auto_vacuum", "incremental")
            with transaction(connection, self.path):
                connection.pragma("user_version", 0)
        finally:
            connection.close()

    @contextmanager
    def _writing(self, connection: apsw.Connection) -> Iterator[None]:
        try:
            with transaction(connection, self.path):
                yield
        except StoreFailed as failure:
            self._failure = failure
            raise

    def _checkpoint(self, connection: apsw.Connection, mode: int) -> None:
        try:
            connection.wal_checkpoint(mode=mode)
        except (apsw.BusyError, apsw.LockedError, apsw.FullError):
            return  # the next one does it
        except apsw.Error as error:
            self._failure = store_failed(self.path, error)
            raise self._failure from error
        self._wal_pages = 0

    def _count_wal_pages(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def _refuse_if_failed(self) -> None:
        if self._failure is not None:
            raise StoreFailed(self._failure.message, hint=self._failure.hint, details=self._failure.details)
