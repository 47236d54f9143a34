"""A tenant's code: versions, and the channels that are on them."""

from __future__ import annotations

from collections.abc import Mapping

from executor.platform import payloads
from executor.platform.asynchronous.caller import AsyncOfTenant
from executor.views import ChannelMoveView, ChannelView, DeploymentView, GarbageView


class AsyncVersions(AsyncOfTenant):
    """Part of AsyncTenant."""

    async def deploy(
        self, files: Mapping[str, str | bytes], *, message: str = "", branch: str = "main"
    ) -> DeploymentView:
        """Commit `files` as the whole tree of `branch` and deploy the commit, as a push does. Durable on return.

        Raises Refused: `deploy_refused` (`details["diagnostics"]` names file, line and reason), `push_refused`.
        """
        contents = payloads.file_contents(files)
        found: DeploymentView = await self._call("deploy", files=contents, message=message, branch=branch)
        return found

    async def versions(self, *, limit: int = 50, before: int | None = None) -> list[DeploymentView]:
        """Deployments, newest first; `before` is the id of the last one seen."""
        found: list[DeploymentView] = await self._call("versions", limit=limit, before=before)
        return found

    async def version(self, commit: str) -> DeploymentView:
        """Raises NotFound (`version_not_found`). `commit` may be a unique prefix of 7 digits or more."""
        found: DeploymentView = await self._call("version", commit)
        return found

    async def files(self, commit: str) -> dict[str, int]:
        """Paths and sizes in bytes at a version."""
        found: dict[str, int] = await self._call("files", commit)
        return found

    async def file(self, commit: str, path: str) -> bytes:
        """Raises NotFound (`file_not_found`)."""
        found: bytes = await self._call("file", commit, path)
        return found

    async def channels(self) -> list[ChannelView]:
        found: list[ChannelView] = await self._call("channels")
        return found

    async def channel_history(self, channel: str = "live", *, limit: int = 50) -> list[ChannelMoveView]:
        """Every move, newest first."""
        found: list[ChannelMoveView] = await self._call("channel_history", channel, limit=limit)
        return found

    async def rollback(self, *, to: str = "previous", channel: str = "live", why: str = "") -> ChannelMoveView:
        """Move a channel back. Branches, history and running instances stay as they are. Durable on return."""
        found: ChannelMoveView = await self._call("rollback", to=to, channel=channel, why=why)
        return found

    async def pin(self, commit: str = "live", *, channel: str = "live", why: str = "") -> ChannelView:
        """Keep the channel on that commit: pushes still deploy, but do not move it, until `unpin`."""
        found: ChannelView = await self._call("pin", commit=commit, channel=channel, why=why)
        return found

    async def unpin(self, *, channel: str = "live", why: str = "") -> ChannelView:
        found: ChannelView = await self._call("unpin", channel=channel, why=why)
        return found

    async def collect_garbage(self) -> GarbageView:
        """Drop what no branch, tag, channel history, pin or instance needs."""
        found: GarbageView = await self._call("collect_garbage")
        return found
