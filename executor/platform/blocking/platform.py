# Generated from executor/platform/asynchronous/platform.py by tools/unasync.py. Edit that file, and run the tool.
"""Platform: where everything begins."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from executor.config import load
from executor.platform.blocking.caller import Caller, Transport
from executor.platform.blocking.remote import Remote
from executor.platform.blocking.tenant import Tenant
from executor.views import Health


class Platform:
    """The platform, embedded in this process or remote. Use it as a context manager, or call close() at the end."""

    def __init__(self, transport: Transport) -> None:
        self._caller = Caller(transport)

    @classmethod
    def local(cls, dir: str | os.PathLike[str], *, unconfined: bool = False, **settings: Any) -> Self:
        """The executor on its own thread of this process, over the data directory `dir` (made if missing).

        `settings` are fields of `executor.config.Config`; environment and DIR/config.toml count as for the server.
        `unconfined`: run tenant code without confinement; only where every tenant is trusted like yourself.
        Opening raises Refused: `data_in_use` (another executor has it open), `not_confined`, `schema_too_new`.
        """
        # trio and the whole platform: 0.4 s that a program with a remote platform need not wait for.
        from executor.platform.embedded import Embedded  # noqa: PLC0415
        from executor.platform.host import Host  # noqa: PLC0415

        flags: dict[str, Any] = {"data_dir": Path(dir), **settings}
        if unconfined:
            flags["unconfined"] = True
        return cls(Embedded(Host(load(flags))))

    @classmethod
    def connect(cls, url: str, *, token: str | None = None) -> Self:
        """A server, with the platform's or a tenant's token. Nothing is sent before the first call."""
        return cls(Remote(url, token=token))

    def __enter__(self) -> Self:
        self._caller.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release everything. Instances go on when the platform is opened again."""
        self._caller.close()

    def create_tenant(self, name: str) -> Tenant:
        """Raises Conflict (`tenant_exists`), Refused (`invalid_name`)."""
        return Tenant(self, self._caller.call("create_tenant", name=name))

    def tenant(self, name: str) -> Tenant:
        """Raises NotFound (`tenant_not_found`)."""
        return Tenant(self, self._caller.call("tenant", name))

    def tenants(self) -> list[Tenant]:
        return [Tenant(self, view) for view in self._caller.call("tenants")]

    def set_tenant(self, name: str, *, weight: int = 1, concurrency: int | None = None) -> Tenant:
        """Set what a tenant gets; what is not given is the default. Durable on return.

        `weight`: turns when instances wait for places, relative to other tenants, 1 to 100. `concurrency`: runs at
        once, within the share that no tenant can exceed (None: that share).
        """
        return Tenant(self, self._caller.call("set_tenant", name, weight=weight, concurrency=concurrency))

    def delete_tenant(self, name: str) -> None:
        """Delete a tenant with its code, tokens and instances, for good."""
        self._caller.call("delete_tenant", name)

    def health(self) -> Health:
        found: Health = self._caller.call("health")
        return found

    def backup(self, target: str | os.PathLike[str]) -> None:
        """Copy everything, consistently, to a directory (on the server's machine) that does not exist yet."""
        self._caller.call("backup", target=os.fspath(target))

    def verify(self) -> list[str]:
        """Check everything stored against its digests and invariants; each problem is a line."""
        found: list[str] = self._caller.call("check")
        return found
