"""A tenant's code, as callers see it: versions, and the channels that are on them."""

from __future__ import annotations

from typing import Any

import msgspec


class WorkflowView(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    path: str
    line: int
    schedule: list[Any] = []
    """What its class declares: each a cron text, or the arguments of `Schedule`."""
    flow: dict[str, Any] | None = None
    """The arguments of the `Flow` that its class declares."""


class DeploymentView(msgspec.Struct, frozen=True, kw_only=True):
    """A commit checked and made ready. `channel` None: it was stored without moving a channel."""

    id: int
    tenant: str
    commit: str
    tree: str
    branch: str
    channel: str | None
    workflows: list[WorkflowView]
    warnings: list[str]
    checks: list[str]
    who: str
    message: str
    created_at_ms: int
    live_on: list[str]
    """Channels that are on this commit now."""


class ChannelView(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    commit: str
    pinned: bool
    moved_at_ms: int
    who: str


class ChannelMoveView(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    channel: str
    from_commit: str | None
    to_commit: str
    kind: str
    who: str
    why: str
    at_ms: int


class GarbageView(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of the tenant's packs before and after, and how many commits were kept for instances."""

    bytes_before: int
    bytes_after: int
    kept_for_instances: int
