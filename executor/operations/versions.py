"""Operations on a tenant's code: versions, and the channels that are on them."""

from __future__ import annotations

from typing import Any

import msgspec

from executor.operations.operation import TENANT, Arguments, Limit, Operation, Position
from executor.views import ChannelMoveView, ChannelView, DeploymentView, GarbageView


class Base64File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file that is not UTF-8 text."""

    base64: bytes


class Deploy(Arguments, frozen=True):
    """`files`: path to text, or to `{"base64": "…"}`. They replace the whole tree of `branch`."""

    files: dict[str, str | Base64File]
    message: str = ""
    branch: str = "main"

    def keywords(self) -> dict[str, Any]:
        """As the service's method takes them: contents as bytes."""
        contents = {
            path: content.encode() if isinstance(content, str) else content.base64
            for path, content in self.files.items()
        }
        return {**super().keywords(), "files": contents}


class ListVersions(Arguments, frozen=True):
    """`before`: deployment id of the last row seen."""

    limit: Limit = 50
    before: Position | None = None


class ListMoves(Arguments, frozen=True):
    limit: Limit = 50


class Rollback(Arguments, frozen=True):
    """`to`: "previous", a full commit, or a prefix of 7 digits or more."""

    to: str = "previous"
    channel: str = "live"
    why: str = ""


class Pin(Arguments, frozen=True):
    commit: str = "live"
    channel: str = "live"
    why: str = ""


class Unpin(Arguments, frozen=True):
    channel: str = "live"
    why: str = ""


VERSIONS = [
    Operation(
        name="deploy",
        method="POST",
        path=TENANT + "/deployments",
        arguments=Deploy,
        result=DeploymentView,
        status=201,
        access="write",
        body="deploy",
        summary="Commit files and deploy them, as a push does",
    ),
    Operation(
        name="versions",
        method="GET",
        path=TENANT + "/versions",
        arguments=ListVersions,
        result=list[DeploymentView],
        summary="List deployments, newest first",
    ),
    Operation(
        name="version",
        method="GET",
        path=TENANT + "/versions/{commit}",
        result=DeploymentView,
        summary="Show a deployment",
    ),
    Operation(
        name="files",
        method="GET",
        path=TENANT + "/versions/{commit}/files",
        result=dict[str, int],
        summary="Paths and sizes in bytes of a version's files",
    ),
    Operation(
        name="file",
        method="GET",
        path=TENANT + "/versions/{commit}/files/{path:path}",
        result=bytes,
        summary="One file at a version",
    ),
    Operation(
        name="channels", method="GET", path=TENANT + "/channels", result=list[ChannelView], summary="List channels"
    ),
    Operation(
        name="channel_history",
        method="GET",
        path=TENANT + "/channels/{channel}/history",
        arguments=ListMoves,
        result=list[ChannelMoveView],
        summary="Every move of a channel, newest first",
    ),
    Operation(
        name="rollback",
        method="POST",
        path=TENANT + "/rollback",
        arguments=Rollback,
        result=ChannelMoveView,
        access="write",
        summary="Move a channel back; history and branches stay as they are",
    ),
    Operation(
        name="pin",
        method="POST",
        path=TENANT + "/pin",
        arguments=Pin,
        result=ChannelView,
        access="write",
        summary="Keep a channel on a commit, whatever is pushed",
    ),
    Operation(
        name="unpin",
        method="POST",
        path=TENANT + "/unpin",
        arguments=Unpin,
        result=ChannelView,
        access="write",
        summary="Let pushes move the channel again",
    ),
    Operation(
        name="collect_garbage",
        method="POST",
        path=TENANT + "/collect-garbage",
        result=GarbageView,
        access="write",
        summary="Drop commits that no branch, channel history, pin or instance needs",
    ),
]
