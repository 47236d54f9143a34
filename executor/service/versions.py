"""Use cases of code: deployments, versions, channels, garbage collection, and git over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import BinaryIO, TypeVar

import trio

from executor.service.access import Access, Caller, in_thread, limit_of
from executor.views import (
    ChannelMoveView,
    ChannelView,
    DeploymentView,
    GarbageView,
)

T = TypeVar("T")


class Versions(Access):
    """Part of Service."""

    async def deploy(
        self, caller: Caller, tenant: str, files: Mapping[str, bytes], *, message: str = "", branch: str = "main"
    ) -> DeploymentView:
        """Commit `files` as the whole tree and deploy it, through the same checks as a push. Durable on return.

        Raises Refused (`deploy_refused` with diagnostics, `push_refused`, `limit_exceeded`).
        """
        self.may(caller, tenant, "write")
        return await self._moving(
            tenant, lambda: self._code.deploy(tenant, files, message=message, who=caller.who, branch=branch)
        )

    async def versions(
        self, caller: Caller, tenant: str, *, limit: int = 50, before: int | None = None
    ) -> list[DeploymentView]:
        """Deployments, newest first."""
        self.may(caller, tenant, "read")
        bound = limit_of(limit)
        return await in_thread(lambda: self._code.versions(tenant, limit=bound, before=before))

    async def version(self, caller: Caller, tenant: str, commit: str) -> DeploymentView:
        """By full commit, unique prefix, or channel name."""
        self.may(caller, tenant, "read")
        return await in_thread(self._code.version, tenant, commit)

    async def files(self, caller: Caller, tenant: str, commit: str) -> dict[str, int]:
        """Paths and sizes in bytes."""
        self.may(caller, tenant, "read")
        return await in_thread(self._code.files, tenant, commit)

    async def file(self, caller: Caller, tenant: str, commit: str, path: str) -> bytes:
        """One file at a version."""
        self.may(caller, tenant, "read")
        return await in_thread(self._code.file, tenant, commit, path)

    async def channels(self, caller: Caller, tenant: str) -> list[ChannelView]:
        """Where each channel is."""
        self.may(caller, tenant, "read")
        return await in_thread(self._code.channels, tenant)

    async def channel_history(
        self, caller: Caller, tenant: str, channel: str = "live", *, limit: int = 50
    ) -> list[ChannelMoveView]:
        """Every move, newest first."""
        self.may(caller, tenant, "read")
        bound = limit_of(limit)
        return await in_thread(lambda: self._code.channel_history(tenant, channel, limit=bound))

    async def rollback(
        self, caller: Caller, tenant: str, *, to: str = "previous", channel: str = "live", why: str = ""
    ) -> ChannelMoveView:
        """Move a channel back. Running instances, branches and history stay as they are. Durable on return."""
        self.may(caller, tenant, "write")
        return await self._moving(
            tenant, lambda: self._code.rollback(tenant, to=to, channel=channel, who=caller.who, why=why)
        )

    async def pin(
        self, caller: Caller, tenant: str, commit: str = "live", *, channel: str = "live", why: str = ""
    ) -> ChannelView:
        """Move the channel to `commit` and keep it there: pushes deploy but do not move it, until `unpin`."""
        self.may(caller, tenant, "write")
        return await self._moving(
            tenant, lambda: self._code.pin_channel(tenant, commit, channel=channel, who=caller.who, why=why)
        )

    async def unpin(self, caller: Caller, tenant: str, *, channel: str = "live", why: str = "") -> ChannelView:
        """Let pushes move the channel again; it stays where it is for now."""
        self.may(caller, tenant, "write")
        return await self._moving(
            tenant, lambda: self._code.unpin_channel(tenant, channel=channel, who=caller.who, why=why)
        )

    async def collect_garbage(self, caller: Caller, tenant: str) -> GarbageView:
        """Drop what no branch, tag, channel history, pin or stored instance needs."""
        self.may(caller, tenant, "write")
        await self.known(tenant)
        async with self._gate.alone():
            keep = await self._instances.commits(tenant)
            self._kept = {kept for kept in self._kept if kept[0] != tenant}
            return await self._moving(tenant, lambda: self._code.collect_garbage(tenant, keep=keep))

    async def _moving(self, tenant: str, work: Callable[[], T]) -> T:
        """Run `work`, which may move channels; whoever starts an instance afterwards sees where they are then."""
        try:
            return await in_thread(work)
        finally:
            self._moved(tenant)

    # --- git over HTTP

    async def git_advertise(self, caller: Caller, tenant: str, service: str, *, protocol: str | None) -> bytes:
        """The answer to `GET info/refs`."""
        self.may(caller, tenant, "write" if service == "git-receive-pack" else "read")
        return await in_thread(lambda: self._code.git_advertise(tenant, service, protocol=protocol))

    async def git_exchange(
        self, caller: Caller, tenant: str, service: str, body: BinaryIO, *, protocol: str | None
    ) -> AsyncIterator[bytes]:
        """The answer to a POST, in chunks. Close the iterator if the client goes away."""
        self.may(caller, tenant, "write" if service == "git-receive-pack" else "read")
        await self.known(tenant)
        chunks = self._code.git_exchange(tenant, service, body, who=caller.who, protocol=protocol)
        return self._chunks(tenant, chunks, is_push=service == "git-receive-pack")

    async def _chunks(self, tenant: str, chunks: Iterator[bytes], *, is_push: bool) -> AsyncIterator[bytes]:
        """A synchronous generator's items, each made in a worker thread; closed whatever happens.

        A push is told of in one of them, so channels are looked up anew before each is handed out.
        """
        try:
            while True:
                try:
                    chunk = await trio.to_thread.run_sync(next, chunks, None)
                finally:
                    if is_push:
                        self._moved(tenant)
                if chunk is None:
                    return
                yield chunk
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(close)
                if is_push:
                    self._moved(tenant)
