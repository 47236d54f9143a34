"""Room for when the disk is full: a deletion has to be written before it frees anything.

A file of zeros takes the room, and is cut when a deletion finds none. While it is cut, records are refused even if they
would fit: they must not take what deletions need. It is made whole again as soon as there is room.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path


class Reserve:
    """Thread-safe."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size
        self._lock = threading.Lock()
        self.is_whole = False
        self.fill()

    def fill(self) -> bool:
        """Take the room if there is as much; whether the reserve is whole now."""
        with self._lock:
            if self.is_whole:
                return True
            try:
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError:
                return False
            try:
                if self._size:
                    os.posix_fallocate(descriptor, 0, self._size)
                self.is_whole = True
            except OSError:
                # Part of it is worth less than the room that it takes from those who need some.
                with suppress(OSError):
                    os.ftruncate(descriptor, 0)
            finally:
                os.close(descriptor)
            return self.is_whole

    def release(self) -> bool:
        """Give the room back to the disk. False: that has been done already, and there is no more."""
        with self._lock:
            if not self.is_whole:
                return False
            self.is_whole = False
            with suppress(OSError):
                os.truncate(self._path, 0)
            return True
