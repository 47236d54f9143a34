"""One owner per store: locks between pushes and garbage collection live in one process, so a second one is refused.

The lock is POSIX's (`lockf`): it dies with its process, whatever killed it, and children of a fork do not have it.
It does not keep out the same process, so a set of open folders does.
"""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path
from typing import Final

from .errors import Conflict

_guard: Final = threading.Lock()
_open: Final[set[str]] = set()


class Owner:
    """The sole right to use the store in a folder, until `release()` or the end of the process."""

    def __init__(self, root: Path) -> None:
        """Raises Conflict `data_in_use`, with the other process' id if it is known."""
        self._name = os.path.realpath(root)
        with _guard:
            if self._name in _open:
                raise _in_use(root, os.getpid())
            # Opened only after that look: closing any descriptor of the file would drop this process' lock.
            self._descriptor = os.open(root / "owner", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                written = os.read(self._descriptor, 32)
                os.close(self._descriptor)
                raise _in_use(root, int(written) if written.strip().isdigit() else None) from None
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
            _open.add(self._name)

    def release(self) -> None:
        """Let others in; safe to call twice."""
        with _guard:
            if self._name in _open:
                _open.discard(self._name)
                os.close(self._descriptor)


def _in_use(root: Path, pid: int | None) -> Conflict:
    who = "another process" if pid is None else "this process" if pid == os.getpid() else f"process {pid}"
    return Conflict(
        f"The git store in {root} is in use by {who}.",
        code="data_in_use",
        hint="Stop it first, or talk to its server.",
        details={"path": str(root), "pid": pid},
    )
