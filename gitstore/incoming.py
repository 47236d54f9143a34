"""Folders of incoming packs: made, locked for as long as their process lives, and removed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from .errors import Unavailable
from .parts import Parts

INCOMING_PREFIX = "incoming-"


def sweep(parts: Parts) -> int:
    """Remove quarantines whose process has ended; returns how many. Running pushes, of any process, are not touched."""
    folders = (parts.root / "repositories").glob(f"*.git/objects/{INCOMING_PREFIX}*")
    return sum(remove_if_abandoned(folder) for folder in folders)


def remove_if_abandoned(folder: Path) -> bool:
    """Remove the folder if its process has ended; whether it was."""
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # its push has just ended
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove_folder(folder)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
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


def locked_folder(objects: Path) -> tuple[Path, int]:
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
            remove_folder(folder)
            os.close(lock)
            raise
        os.close(lock)


def remove_folder(folder: Path) -> None:
    """As `shutil.rmtree`, without complaint about what is gone already."""
    shutil.rmtree(folder, ignore_errors=True)
