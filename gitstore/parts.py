"""What the parts of one open store share: the folder, the rows, the bounds, the clock, and one lock per tenant."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Self
from weakref import WeakValueDictionary

from .database import Database
from .limits import Limits
from .names import ensure_repository, parse_tenant, repository_path
from .rows import WorkflowFound
from .worker import WorkerPool

WORKER_COUNT = 2
"""Limited children at work at a time: indexing and compiling use a processor each; further pushes wait for one of
them."""

CheckWorkflow = Callable[[WorkflowFound], str | None]


class TenantLock:
    """Sole right to publish objects into one repository or to remove some; the same thread may take it again.

    A push takes it from its last look at which objects exist until its rows are committed and mirrored, garbage
    collection for its whole run: so nothing that a push relied on can disappear under it.
    `collections` counts the collections of this process: whoever looked at objects before taking the lock compares
    it and looks again if it has grown.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.collections = 0

    def __enter__(self) -> Self:
        self._lock.acquire()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._lock.release()


class Parts:
    """Shared by all threads; every method is thread-safe."""

    def __init__(
        self,
        root: Path,
        database: Database,
        limits: Limits,
        now_ms: Callable[[], int],
        *,
        check_workflow: CheckWorkflow = lambda _found: None,
    ) -> None:
        """`check_workflow`: see `GitStore.open`."""
        self.check_workflow = check_workflow
        self.root = root
        self.database = database
        self.limits = limits
        self.now_ms = now_ms
        # Held by whoever removes objects, and by a backup while it copies what the rows name.
        self.removing = threading.RLock()
        self._guard = threading.Lock()
        self._locks: WeakValueDictionary[str, TenantLock] = WeakValueDictionary()
        self.workers = WorkerPool(WORKER_COUNT)

    def repository_path(self, tenant: str) -> Path:
        """Where the tenant's repository is or will be; see `names.repository_path`."""
        return repository_path(self.root, tenant)

    def ensure_repository(self, tenant: str) -> Path:
        """The tenant's repository, made if missing. Raises TenantNotFound: no row, no repository."""
        self.database.tenant(tenant)
        return ensure_repository(self.root, tenant)

    def lock(self, tenant: str) -> AbstractContextManager[TenantLock]:
        """The tenant's lock, for a `with` statement."""
        name = parse_tenant(tenant)
        with self._guard:
            lock = self._locks.get(name)
            if lock is None:
                lock = self._locks[name] = TenantLock()
            return lock

    def close(self) -> None:
        """Stop the workers, then close the database."""
        self.workers.close()
        self.database.close()
