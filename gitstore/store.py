"""GitStore: one folder of many tenants' code. A thin composition: each method's work is in the module it names."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Literal, Self

from . import backup, bundle, files, maintenance, mirror, transport
from .database import Database
from .errors import Unavailable
from .limits import Limits
from .names import DEFAULT_BRANCH, DEFAULT_CHANNEL, bundles_root, database_path, parse_tenant, trash_root
from .owner import Owner
from .parts import CheckWorkflow, Parts
from .repository import Repositories, Repository
from .rows import (
    Access,
    BundleRef,
    Channel,
    ChannelMove,
    Deployment,
    GarbageReport,
    NewToken,
    Pin,
    TenantRow,
    TokenRow,
)
from .tokens import Tokens
from .transport import Service
from .versions import PREVIOUS, Versions


def _wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class GitStore:
    """All methods are thread-safe, block, and are durable on return. Each may raise TenantNotFound and Unavailable."""

    def __init__(self, root: Path, owner: Owner, parts: Parts) -> None:
        """Use `GitStore.open`."""
        self.root = root
        self.limits = parts.limits
        self._owner = owner
        self._parts = parts
        self._repositories = Repositories(parts)
        self._tokens = Tokens(parts)
        self._versions = Versions(parts, self._repositories)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        limits: Limits | None = None,
        now_ms: Callable[[], int] = _wall_clock_ms,
        deploy_pin: str | None = None,
        check_workflow: CheckWorkflow = lambda _found: None,
    ) -> GitStore:
        """Open the store in the folder `path`, made if missing, and put right what a crash left half done.

        `limits` None: the defaults. `deploy_pin`: a reason for which every deployed commit is pinned in the transaction
        of its deployment, so that whoever begins work on it later finds it pinned already. `check_workflow`: what is
        wrong with a workflow that was found (for its `declared`), or None; a commit with such a one is not deployed.
        Raises Conflict `data_in_use` (one process at a time), Refused `schema_too_new` or `foreign_file`, Corrupt,
        Unavailable.
        """
        root = Path(path).absolute()
        limits = limits or Limits()
        try:
            for folder in (root, root / "repositories", bundles_root(root), trash_root(root)):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(f"The folder {root} cannot be used: {error}.", code="storage_failed") from error
        owner = Owner(root)
        try:
            database = Database(database_path(root), limits, now_ms, deploy_pin=deploy_pin)
            parts = Parts(root, database, limits, now_ms, check_workflow=check_workflow)
            try:
                maintenance.sweep(parts)
                mirror.heal(parts)
            except BaseException:
                parts.close()
                raise
        except BaseException:
            owner.release()
            raise
        return cls(root, owner, parts)

    def close(self) -> None:
        """Let go of everything; safe to call twice. Calls that are still running finish or fail with Unavailable."""
        self._repositories.close()
        self._parts.close()
        self._owner.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # -- tenants and tokens --------------------------------------------------------------------------------------

    def create_tenant(self, name: str) -> TenantRow:
        """A new tenant: a row; its repository is made at the first push. Raises InvalidName, TenantExists."""
        with self._parts.lock(parse_tenant(name)):
            row = self._parts.database.create_tenant(name)
            maintenance.discard_repository(self._parts, name)  # of a former tenant, if a crash left it
            return row

    def tenant(self, name: str) -> TenantRow:
        """Raises TenantNotFound."""
        return self._parts.database.tenant(name)

    def tenants(self) -> list[TenantRow]:
        """All tenants by name."""
        return self._parts.database.tenants()

    def set_settings(self, name: str, settings: str) -> TenantRow:
        """Keep a text of the caller's with the tenant, in place of the one before. Raises TenantNotFound."""
        return self._parts.database.set_settings(name, settings)

    def delete_tenant(self, name: str) -> None:
        """Remove the tenant, its repository, tokens, versions, and the bundles that nobody else uses."""
        maintenance.delete_tenant(self._parts, self._repositories, name)

    def create_token(
        self, tenant: str, *, access: Access = "write", expires_at_ms: int | None = None, label: str = ""
    ) -> NewToken:
        """A new token; see `Tokens.create`."""
        return self._tokens.create(tenant, access=access, expires_at_ms=expires_at_ms, label=label)

    def verify_token(self, secret: str) -> TokenRow | None:
        """Whose token this is; None when it is unknown, expired or revoked."""
        return self._tokens.verify(secret)

    def tokens(self, tenant: str) -> list[TokenRow]:
        """All tokens of the tenant, expired and revoked ones too, oldest first."""
        return self._tokens.list(tenant)

    def revoke_token(self, tenant: str, token_id: int) -> None:
        """Raises NotFound `token_not_found`."""
        self._tokens.revoke(tenant, token_id)

    # -- git conversations, and code without a git client ---------------------------------------------------------

    def advertise(self, tenant: str, service: Service, *, protocol: str | None = None) -> bytes:
        """The body of `info/refs`; see `transport.advertise`."""
        return transport.advertise(self._parts, tenant, service, protocol=protocol)

    def receive_pack(self, tenant: str, body: BinaryIO, *, who: str) -> Iterator[bytes]:
        """A push: request body in, chunks of the response out; see `transport.receive_pack`."""
        return transport.receive_pack(self._parts, tenant, body, who=who)

    def upload_pack(self, tenant: str, body: BinaryIO, *, protocol: str | None = None) -> Iterator[bytes]:
        """A fetch: request body in, chunks of the response out; see `transport.upload_pack`."""
        return transport.upload_pack(self._parts, tenant, body, protocol=protocol)

    def commit_files(
        self,
        tenant: str,
        files_by_path: Mapping[str, bytes],
        *,
        message: str,
        who: str,
        branch: str = DEFAULT_BRANCH,
        replace: bool = True,
    ) -> Deployment:
        """A commit and its deployment without a git client, by the pipeline of every push; see `files.commit_files`."""
        return files.commit_files(
            self._parts, tenant, files_by_path, message=message, who=who, branch=branch, replace=replace
        )

    def repository(self, tenant: str) -> Repository:
        """The tenant's code for reading."""
        return self._repositories.get(tenant)

    def bundle(self, tenant: str, commit: str) -> BundleRef:
        """The bundle of a commit (full id), built again from git if its file is missing; see `bundle.ensure`."""
        return bundle.ensure(self._parts, tenant, commit)

    # -- versions --------------------------------------------------------------------------------------------------

    def refs(self, tenant: str) -> dict[bytes, bytes]:
        """All branches and tags: full name → 40 hex digits, sorted by name."""
        return self._parts.database.refs(tenant)

    def deployments(self, tenant: str, *, limit: int = 100, before_id: int | None = None) -> list[Deployment]:
        """Newest first; `before_id`: only older ones, for the next page."""
        return self._parts.database.deployments(tenant, limit=limit, before_id=before_id)

    def deployment(self, tenant: str, commit: str) -> Deployment:
        """The newest deployment of a commit (full id or unique prefix of at least 7 digits). Raises VersionNotFound."""
        return self._parts.database.deployment(tenant, commit)

    def channel(self, tenant: str, name: str = DEFAULT_CHANNEL) -> Channel | None:
        """Where the channel is; None before its first deployment."""
        return self._parts.database.channel(tenant, name)

    def channels(self, tenant: str) -> list[Channel]:
        """All channels by name."""
        return self._parts.database.channels(tenant)

    def channel_history(self, tenant: str, name: str = DEFAULT_CHANNEL, *, limit: int = 100) -> list[ChannelMove]:
        """The channel's moves, newest first."""
        return self._parts.database.channel_history(tenant, name, limit=limit)

    def move_channel(
        self,
        tenant: str,
        channel: str,
        *,
        to: str,
        who: str,
        why: str,
        expected: str | None = None,
        kind: Literal["deploy", "rollback", "pin"] = "deploy",
    ) -> ChannelMove:
        """Compare-and-set of a channel; see `Versions.move_channel`."""
        return self._versions.move_channel(tenant, channel, to=to, who=who, why=why, expected=expected, kind=kind)

    def rollback(
        self,
        tenant: str,
        *,
        to: str = PREVIOUS,
        channel: str = DEFAULT_CHANNEL,
        who: str,
        why: str = "",
        expected: str | None = None,
    ) -> ChannelMove:
        """Move a channel back to the version before, or to a named one; see `Versions.rollback`."""
        return self._versions.rollback(tenant, to=to, channel=channel, who=who, why=why, expected=expected)

    def undo(self, tenant: str, move_id: int, *, who: str, why: str = "") -> ChannelMove:
        """Take back a channel's latest move; see `Versions.undo`."""
        return self._versions.undo(tenant, move_id, who=who, why=why)

    def pin_channel(self, tenant: str, commit: str, *, channel: str = DEFAULT_CHANNEL, who: str, why: str) -> Channel:
        """Move a channel to a version and fasten it there: pushes do not move it until `unpin_channel`."""
        self._versions.move_channel(tenant, channel, to=commit, who=who, why=why, kind="pin")
        return self._existing_channel(tenant, channel)

    def unpin_channel(self, tenant: str, *, channel: str = DEFAULT_CHANNEL, who: str, why: str) -> Channel:
        """Let pushes move the channel again; see `Versions.unpin_channel`."""
        self._versions.unpin_channel(tenant, channel, who=who, why=why)
        return self._existing_channel(tenant, channel)

    def _existing_channel(self, tenant: str, channel: str) -> Channel:
        found = self._parts.database.channel(tenant, channel)
        assert found is not None, "a channel is never removed while its tenant exists"
        return found

    def pin(self, tenant: str, commit: str, *, reason: str) -> None:
        """Keep a commit through garbage collection; idempotent; see `Versions.pin`."""
        self._versions.pin(tenant, commit, reason=reason)

    def unpin(self, tenant: str, commit: str, *, reason: str) -> None:
        """Take back one reason to keep a commit."""
        self._versions.unpin(tenant, commit, reason=reason)

    def pins(self, tenant: str) -> list[Pin]:
        """All pins by commit and reason."""
        return self._parts.database.pins(tenant)

    # -- maintenance -----------------------------------------------------------------------------------------------

    def collect_garbage(self, tenant: str, *, keep: Collection[str]) -> GarbageReport:
        """Remove what neither refs, channel history, pins nor `keep` need; see `maintenance.collect_garbage`."""
        return maintenance.collect_garbage(self._parts, self._repositories, tenant, keep=keep)

    def rewrite_mirror(self, tenant: str) -> None:
        """Write packed-refs from the rows."""
        mirror.rewrite(self._parts, tenant)

    def backup(self, target: str | Path) -> None:
        """A consistent copy of the whole store in the new folder `target`; opening it restores; see `backup.py`."""
        backup.backup(self._parts, Path(target).absolute())

    def verify(self, tenant: str) -> list[str]:
        """Problems of the tenant's rows, mirror and objects in words; none if sound."""
        return maintenance.verify(self._parts, tenant)
