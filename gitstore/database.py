"""The rows: tenants, refs, deployments, channels, pins; compare-and-set in one transaction. (Skeleton; filling now.)"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from .limits import Limits
from .rows import Channel, Deployment, NewDeployment, Pin, PushCommitted, RefUpdate, TenantRow


class Database:
    """All rows of one store."""

    def __init__(self, path: Path, limits: Limits, now_ms: Callable[[], int]) -> None:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def tenant(self, name: str) -> TenantRow:
        """Raises TenantNotFound."""
        raise NotImplementedError

    def refs(self, tenant: str) -> dict[bytes, bytes]:
        """All refs, sorted by name: name → 40 hex digits."""
        raise NotImplementedError

    def commit_push(
        self,
        tenant: str,
        updates: Sequence[RefUpdate],
        *,
        atomic: bool,
        deployment: NewDeployment | None,
        channel: str | None,
        who: str,
        message: str,
        pins: Sequence[str] = (),
        kind: Literal["push", "deploy"] = "push",
    ) -> PushCommitted:
        """Check every `old`, move the refs, add the deployment, move the channel, pin: ONE transaction, durable on return.

        `atomic`: all updates or none. Else each stands alone. The deployment (with its channel move) happens only if
        the update of refs/heads/<deployment.branch>, where there is one among `updates`, succeeded. `channel` None:
        deploy without moving a channel. Conflicting updates come back as outcomes with a reason, not as exceptions.
        """
        raise NotImplementedError

    def deployment(self, tenant: str, commit: str) -> Deployment:
        """The newest deployment of the commit (full hex). Raises VersionNotFound."""
        raise NotImplementedError

    def channel(self, tenant: str, name: str) -> Channel | None:
        raise NotImplementedError

    def pins(self, tenant: str) -> list[Pin]:
        raise NotImplementedError

    def bundle_key(self, tenant: str, commit: str) -> str | None:
        """The key last recorded for the commit's bundle; None if none was."""
        raise NotImplementedError

    def record_bundle(self, tenant: str, commit: str, key: str) -> None:
        """Remember that the commit uses this bundle, so that collection keeps its file. Call it before using the file."""
        raise NotImplementedError
