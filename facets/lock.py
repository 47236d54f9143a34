"""One process at a time: a lock file held with flock, let go of by the kernel when the process dies.

The file holds the owner's process id, for the message only. The lock keeps honest processes apart; the fence against
the others is the log's epoch (log.py).
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from facets.errors import DataInUse, Unavailable


class OwnerLock:
    def __init__(self, path: Path) -> None:
        """Take the lock. Raises DataInUse with the pid of who has it, as far as it can be told."""
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Unavailable(f"{path} cannot be opened: {error.strerror}.", code="storage_unavailable") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            text = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            pid = int(text) if text.isdigit() else None
            owner = "another process" if pid is None else f"process {pid}"
            raise DataInUse(
                f"{path.parent} is in use by {owner}.",
                hint="Stop it first, or choose another data directory.",
                details={"path": str(path.parent), "pid": pid},
            ) from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Idempotent. The file stays: removing it would let two processes lock two files of one name."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
