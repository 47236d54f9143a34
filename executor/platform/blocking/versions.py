# Generated from executor/platform/asynchronous/versions.py by tools/unasync.py. Edit that file, and run the tool.
"""A tenant's code: versions, and the channels that are on them."""

from __future__ import annotations

from collections.abc import Mapping

from executor.platform import payloads
from executor.platform.blocking.caller import OfTenant
from executor.views import ChannelMoveView, ChannelView, DeploymentView, GarbageView


class Versions(OfTenant):
    """Part of Tenant."""

    def deploy(self, files: Mapping[str, str | bytes], *, message: str = "", branch: str = "main") -> DeploymentView:
        """Commit `files` as the whole tree of `branch` and deploy the commit, as a push does. Durable on return.

        Raises Refused: `deploy_refused` (`details["diagnostics"]` names file, line and reason), `push_refused`.
        """
        contents = payloads.file_contents(files)
        found: DeploymentView = self._call("deploy", files=contents, message=message, branch=branch)
        return found

    def versions(self, *, limit: int = 50, before: int | None = None) -> list[DeploymentView]:
        """Deployments, newest first; `before` is the id of the last one seen."""
        found: list[DeploymentView] = self._call("versions", limit=limit, before=before)
        return found

    def version(self, commit: str) -> DeploymentView:
        """Raises NotFound (`version_not_found`). `commit` may be a unique prefix of 7 digits or more."""
        found: DeploymentView = self._call("version", commit)
        return found

    def files(self, commit: str) -> dict[str, int]:
        """Paths and sizes in bytes at a version."""
        found: dict[str, int] = self._call("files", commit)
        return found

    def file(self, commit: str, path: str) -> bytes:
        """Raises NotFound (`file_not_found`)."""
        found: bytes = self._call("file", commit, path)
        return found

    def channels(self) -> list[ChannelView]:
        found: list[ChannelView] = self._call("channels")
        return found

    def channel_history(self, channel: str = "live", *, limit: int = 50) -> list[ChannelMoveView]:
        """Every move, newest first."""
        found: list[ChannelMoveView] = self._call("channel_history", channel, limit=limit)
        return found

    def rollback(self, *, to: str = "previous", channel: str = "live", why: str = "") -> ChannelMoveView:
        """Move a channel back. Branches, history and running instances stay as they are. Durable on return."""
        found: ChannelMoveView = self._call("rollback", to=to, channel=channel, why=why)
        return found

    def pin(self, commit: str = "live", *, channel: str = "live", why: str = "") -> ChannelView:
        """Keep the channel on that commit: pushes still deploy, but do not move it, until `unpin`."""
        found: ChannelView = self._call("pin", commit=commit, channel=channel, why=why)
        return found

    def unpin(self, *, channel: str = "live", why: str = "") -> ChannelView:
        found: ChannelView = self._call("unpin", channel=channel, why=why)
        return found

    def collect_garbage(self) -> GarbageView:
        """Drop what no branch, tag, channel history, pin or instance needs."""
        found: GarbageView = self._call("collect_garbage")
        return found
