"""Connections to the platform's own SQLite files: how they are opened, and what their errors mean to a caller.

Rules for a reader of these files in the same process: never `open()` one of them directly. POSIX locks belong to the
process, and closing any descriptor of a file drops SQLite's locks on it (https://sqlite.org/howtocorrupt.html, 2.2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import apsw
import msgspec

from facets.errors import Corrupt, StorageFull, StoreFailed, Unavailable

BUSY_MS = 10_000
RENEW_BYTES = 64 * 1024  # SQLite writes no more than 128 KiB at once


def connect(
    path: Path,
    *,
    vfs: str | None = None,
    synchronous: Literal["FULL", "NORMAL", "OFF"] = "NORMAL",
    create: bool = False,
    cache_kib: int = 2048,
) -> apsw.Connection:
    """A connection in WAL mode without automatic checkpoints: who owns the file decides when they happen.

    `create`: this is the owner's first one. The file is made if it is missing; what is found is made durable anew.
    """
    flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)
    connection = apsw.Connection(str(path), flags=flags, vfs=vfs)
    try:
        connection.set_busy_timeout(BUSY_MS)
        mode = connection.pragma("journal_mode", "wal")
        if mode != "wal":
            raise Unavailable(
                f"{path.name} cannot be used in WAL mode (SQLite says {mode}).",
                code="storage_unsuitable",
                hint="Put the data directory on a local file system with shared memory.",
            )
        connection.pragma("synchronous", synchronous)
        connection.pragma("cache_size", -cache_kib)
        connection.pragma("temp_store", 2)  # in memory: no bytes of a tenant in stray temporary files
        connection.pragma("trusted_schema", False)
        connection.pragma("cell_size_check", True)
        connection.wal_autocheckpoint(0)
        # Nor when the last connection is closed: after a failed fsync that would copy pages which the kernel may have
        # given up already, and call it a success.
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        if create:
            renew_write_ahead(connection, path, vfs)
    except BaseException:
        connection.close()
        raise
    return connection


def renew_write_ahead(connection: apsw.Connection, path: Path, vfs: str | None) -> None:
    """Write the write-ahead file once more, as it is, and fsync it.

    What is found may be in the kernel's memory only: if the process before died of a failed fsync, its pages count as
    clean there, and no later fsync writes them. Whatever was appended behind them, or copied from them to the database,
    would rest on a hole that the next power cut shows. (Both seen in the simulation.) Writing the same bytes makes the
    pages dirty again. Nobody else writes meanwhile: the transaction keeps the lock.
    """
    write_ahead = path.with_name(f"{path.name}-wal")
    if not write_ahead.exists():
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_WAL
        file = apsw.VFSFile(vfs or "", str(write_ahead), [flags, 0])
        try:
            size = file.xFileSize()
            for at in range(0, size, RENEW_BYTES):
                file.xWrite(file.xRead(min(RENEW_BYTES, size - at), at), at)
            if size:
                file.xSync(apsw.SQLITE_SYNC_NORMAL)
        finally:
            file.xClose()
    finally:
        connection.execute("ROLLBACK")


def bring_home(connection: apsw.Connection, path: Path) -> None:
    """Write all that the write-ahead file holds into the database, fsync it, and empty the write-ahead file.

    Raises Corrupt, Unavailable (also while another connection reads or writes).
    """
    with reading(path):
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)


def query(connection: apsw.Connection, sql: str, bindings: Sequence[Any] = ()) -> Iterator[Any]:
    """Rows, read as they are asked for. Their types are the schema's, which the driver cannot know: a border."""
    return connection.execute(sql, tuple(bindings))


def listed(values: Sequence[object]) -> str:
    """For json_each."""
    return msgspec.json.encode(values).decode()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say in this package's errors what went wrong while `path` was only read."""
    try:
        yield
    except (apsw.CorruptError, apsw.NotADBError, apsw.FormatError) as error:
        raise Corrupt(
            f"{path.name} is damaged: {error}.",
            code="database_corrupt",
            hint="Stop the server, keep the files, and restore the last backup.",
            details={"path": str(path)},
        ) from error
    except (apsw.BusyError, apsw.IOError, apsw.CantOpenError, apsw.FullError, apsw.NoMemError) as error:
        raise Unavailable(f"{path.name} could not be read: {error}.", code="storage_unavailable") from error


def copy_database(connection: apsw.Connection, path: Path, target: Path) -> None:
    """Copy to the new file `target` as of one moment; writers do not wait. Not fsynced.

    Raises Corrupt, StorageFull, Unavailable.
    """
    with reading(path):
        try:
            connection.execute("VACUUM INTO ?", (str(target),))
        except (apsw.FullError, apsw.IOError) as error:
            kind = StorageFull if isinstance(error, apsw.FullError) else Unavailable
            raise kind(
                f"{path.name} could not be copied to {target.parent}: {error}.", code="target_unavailable"
            ) from error


@contextmanager
def transaction(connection: apsw.Connection, path: Path) -> Iterator[None]:
    """One write transaction: committed at the end, or rolled back whole.

    Raises StorageFull when the disk is full and Unavailable when the file is locked by a stranger: nothing was
    written, and the same thing may be tried again. Any other failure of the file is StoreFailed: whether the bytes are
    on disk cannot be known any more (after a failed fsync the kernel may have dropped them and yet report success the
    next time), so the caller must not use the file again.
    """
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("COMMIT")
    except apsw.FullError as error:
        _roll_back(connection, path)
        raise storage_full(path, error) from error
    except apsw.BusyError as error:
        _roll_back(connection, path)
        raise Unavailable(
            f"{path.name} is locked by another program.",
            code="storage_busy",
            hint="Close the program that has it open; nothing was written.",
        ) from error
    except apsw.Error as error:
        _roll_back(connection, path, failed=True)
        raise store_failed(path, error) from error
    except BaseException:
        _roll_back(connection, path)
        raise


def _roll_back(connection: apsw.Connection, path: Path, *, failed: bool = False) -> None:
    """SQLite rolls back by itself after some errors; a rollback that fails makes the file unusable."""
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except apsw.Error as error:
        if not failed:
            raise store_failed(path, error) from error


def storage_full(path: Path, error: Exception) -> StorageFull:
    return StorageFull(
        f"{path.name} cannot grow: {error}.",
        hint="Free disk space; nothing was written, and the same call works again then.",
        details={"path": str(path)},
    )


def store_failed(path: Path, error: Exception) -> StoreFailed:
    return StoreFailed(
        f"Writing {path.name} failed: {error}.",
        hint="What reached the disk is unknown: stop this process, look at the disk, start again.",
        details={"path": str(path)},
    )
