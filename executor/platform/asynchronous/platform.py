"""AsyncPlatform: where everything begins."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from executor.config import load
from executor.platform.asynchronous.caller import AsyncCaller, AsyncTransport
from executor.platform.asynchronous.remote import AsyncRemote
from executor.platform.asynchronous.tenant import AsyncTenant
from executor.views import Health


class AsyncPlatform:
    """The platform, embedded in this process or remote. Use it as a context manager, or call close() at the end."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._caller = AsyncCaller(transport)

    @classmethod
    def local(cls, dir: str | os.PathLike[str], *, unconfined: bool = False, **settings: Any) -> Self:
        """The executor on its own thread of this process, over the data directory `dir` (made if missing).

        `settings` are fields of `executor.config.Config`; environment and DIR/config.toml count as for the server.
        `unconfined`: run tenant code without confinement; only where every tenant is trusted like yourself.
        Opening raises Refused: `data_in_use` (another executor has it open), `not_confined`, `schema_too_new`.
        """
        # trio and the whole platform: 0.4 s that a program with a remote platform need not wait for.
        from executor.platform.embedded import AsyncEmbedded  # noqa: PLC0415
        from executor.platform.host import Host  # noqa: PLC0415

        flags: dict[str, Any] = {"data_dir": Path(dir), **settings}
        if unconfined:
            flags["unconfined"] = True
        return cls(AsyncEmbedded(Host(load(flags))))

    @classmethod
    def connect(cls, url: str, *, token: str | None = None) -> Self:
        """A server, with the platform's or a tenant's token. Nothing is sent before the first call."""
        return cls(AsyncRemote(url, token=token))

    async def __aenter__(self) -> Self:
        await self._caller.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Release everything. Instances go on when the platform is opened again."""
        await self._caller.close()

    async def create_tenant(self, name: str) -> AsyncTenant:
        """Raises Conflict (`tenant_exists`), Refused (`invalid_name`)."""
        return AsyncTenant(self, await self._caller.call("create_tenant", name=name))

    async def tenant(self, name: str) -> AsyncTenant:
        """Raises NotFound (`tenant_not_found`)."""
        return AsyncTenant(self, await self._caller.call("tenant", name))

    async def tenants(self) -> list[AsyncTenant]:
        return [AsyncTenant(self, view) for view in await self._caller.call("tenants")]

    async def set_tenant(self, name: str, *, weight: int = 1, concurrency: int | None = None) -> AsyncTenant:
        """Set what a tenant gets; what is not given is the default. Durable on return.

        `weight`: turns when instances wait for places, relative to other tenants, 1 to 100. `concurrency`: runs at
        once, within the share that no tenant can exceed (None: that share).
        """
        return AsyncTenant(self, await self._caller.call("set_tenant", name, weight=weight, concurrency=concurrency))

    async def delete_tenant(self, name: str) -> None:
        """Delete a tenant with its code, tokens and instances, for good."""
        await self._caller.call("delete_tenant", name)

    async def health(self) -> Health:
        found: Health = await self._caller.call("health")
        return found

    async def backup(self, target: str | os.PathLike[str]) -> None:
        """Copy everything, consistently, to a directory (on the server's machine) that does not exist yet."""
        await self._caller.call("backup", target=os.fspath(target))

    async def verify(self) -> list[str]:
        """Check everything stored against its digests and invariants; each problem is a line."""
        found: list[str] = await self._caller.call("check")
        return found
