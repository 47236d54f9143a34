"""Service: the use cases, one method each. Every permission check of the platform is here.

Surfaces (HTTP, the Python API, the command line) call these methods and nothing below. All are trio coroutines; answers
are views; errors are PerdureErrors with the codes of `core.errors`. Another tenant's thing is "not found".
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from executor.core.errors import Conflict, Refused
from executor.service.access import ADMINISTRATOR, Caller, ServiceOptions, in_thread
from executor.service.asking import Asking
from executor.service.bulk import Bulk
from executor.service.schedules import Schedules
from executor.service.tenants import Tenants
from executor.service.versions import Versions
from executor.views import Health

SCHEDULES_FILE = "schedules.db"
"""In the data directory, and in a backup."""


class Service(Tenants, Versions, Schedules, Bulk, Asking):
    """See the module's text. Made by `executor.main.running`."""

    # --- the platform

    async def health(self) -> Health:
        """How the executor is. Needs no token."""
        vitals = await self._instances.vitals()
        return Health(
            ready=vitals.is_ready,
            version=self._options.version,
            epoch=vitals.epoch,
            isolation_level=self._options.isolation_level,
            active_runs=vitals.active_runs,
            sandboxes=vitals.sandboxes,
            pid=os.getpid(),
        )

    async def backup(self, caller: Caller, target: str) -> None:
        """A consistent copy of code and state into a new directory on the server's machine."""
        self.administrator(caller)
        path = await in_thread(_make, target)
        # Schedules first: in the copy a time may be due again whose instance is there, never the other way round.
        if self._schedule_store is not None:
            await in_thread(self._schedule_store.backup, path / SCHEDULES_FILE)
        # Code after state would miss nothing either way: instances pin commits before they are journaled,
        # so state first means that every commit an instance names is in the copy of the code.
        await self._instances.backup(path)
        await in_thread(self._backup_rest, path)

    def _backup_rest(self, target: Path) -> None:
        self._code.backup(target / "git")
        for path in self._options.kept_files:
            if path.exists():
                shutil.copy2(path, target / path.name)

    async def check(self, caller: Caller) -> list[str]:
        """Problems found in the stored state; []: none."""
        self.administrator(caller)
        found = await self._instances.check()
        if self._schedule_store is not None:
            found += await in_thread(self._schedule_store.check)
        return found


def _make(target: str) -> Path:
    path = Path(target)
    try:
        path.mkdir(parents=True, exist_ok=False)
    except FileExistsError:
        raise Conflict(f"{target} exists already", code="invalid_state", hint="Name a new directory.") from None
    except OSError as error:
        raise Refused(f"{target} cannot be made: {error.strerror}", code="bad_request") from None
    return path.absolute()


__all__ = ["ADMINISTRATOR", "SCHEDULES_FILE", "Caller", "Service", "ServiceOptions"]
