"""The CodeSource port over `gitstore`. Errors of gitstore become PerdureErrors here and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Literal

import gitstore
from executor.adapters.code_errors import disk_error, public_error, translated
from executor.adapters.code_views import channel_view, deployment_view, move_view, tenant_view, token_view
from executor.core import flow, schedule
from executor.core.errors import NotFound, Refused
from executor.views import (
    ChannelMoveView,
    ChannelView,
    DeploymentView,
    GarbageView,
    TenantView,
    TokenView,
)

INSTANCES_REASON = "instances"
"""Why a commit is pinned in the code store: instances of it exist."""
NAMES_KEPT_MAX = 10_000


def problem_of(found: gitstore.WorkflowFound) -> str | None:
    """What is wrong with the declarations of a workflow that is about to be deployed."""
    declared = json.loads(found.declared) if found.declared else {}
    try:
        if "schedule" in declared:
            schedule.parse_declarations(declared["schedule"])
    except Refused as error:
        return f"{error.message}. {error.hint}".removesuffix(".")  # whoever tells it ends the sentence
    return flow.problem(found.declared)


class GitCodeSource:
    """See `executor.ports.CodeSource`."""

    def __init__(self, store: gitstore.GitStore) -> None:
        self._store = store
        self._names: dict[tuple[str, str], dict[str, str]] = {}
        """Workflows with their declarations, by tenant and deployed commit: a commit's workflows never change."""

    @classmethod
    @translated
    def open(cls, path: Path, *, pack_bytes_max: int) -> GitCodeSource:
        """Raises Refused (`data_in_use`, `schema_too_new`), Corrupt."""
        limits = gitstore.Limits(pack_bytes_max=pack_bytes_max)
        # Pinned with the deployment: the first start on a version then needs no write in the code store.
        return cls(gitstore.GitStore.open(path, limits=limits, deploy_pin=INSTANCES_REASON, check_workflow=problem_of))

    # --- tenants and tokens

    @translated
    def create_tenant(self, name: str) -> TenantView:
        return tenant_view(self._store.create_tenant(name))

    @translated
    def tenant(self, name: str) -> TenantView:
        return tenant_view(self._store.tenant(name))

    @translated
    def tenants(self) -> list[TenantView]:
        return [tenant_view(row) for row in self._store.tenants()]

    @translated
    def set_tenant(self, name: str, *, weight: int, concurrency: int | None) -> TenantView:
        return tenant_view(self._store.set_settings(name, json.dumps({"weight": weight, "concurrency": concurrency})))

    @translated
    def delete_tenant(self, name: str) -> None:
        self._store.delete_tenant(name)

    @translated
    def create_token(
        self, tenant: str, *, access: Literal["read", "write"], expires_at_ms: int | None, label: str
    ) -> TokenView:
        token = self._store.create_token(tenant, access=access, expires_at_ms=expires_at_ms, label=label)
        return token_view(token)

    @translated
    def verify_token(self, secret: str) -> TokenView | None:
        row = self._store.verify_token(secret)
        return None if row is None else token_view(row)

    @translated
    def tokens(self, tenant: str) -> list[TokenView]:
        return [token_view(row) for row in self._store.tokens(tenant)]

    @translated
    def revoke_token(self, tenant: str, token_id: str) -> None:
        if not (token_id.isascii() and token_id.isdigit() and len(token_id) < 19):
            raise NotFound(f'tenant "{tenant}" has no token "{token_id[:40]}"', code="token_not_found")
        self._store.revoke_token(tenant, int(token_id))

    # --- versions

    @translated
    def deploy(self, tenant: str, files: Mapping[str, bytes], *, message: str, who: str, branch: str) -> DeploymentView:
        return self._deployment(
            self._store.commit_files(tenant, files, message=message, who=who, branch=branch, replace=True)
        )

    @translated
    def versions(self, tenant: str, *, limit: int, before: int | None) -> list[DeploymentView]:
        live = self._live(tenant)
        found = self._store.deployments(tenant, limit=limit, before_id=before)
        return [deployment_view(deployment, live) for deployment in found]

    @translated
    def version(self, tenant: str, commit: str) -> DeploymentView:
        return self._deployment(self._store.deployment(tenant, self._resolve(tenant, commit)))

    def _resolve(self, tenant: str, commit: str) -> str:
        """A channel's name stands for the commit that it is on."""
        channel = self._store.channel(tenant, commit) if commit.isidentifier() else None
        return commit if channel is None else channel.commit

    def _live(self, tenant: str) -> dict[str, list[str]]:
        live: dict[str, list[str]] = {}
        for channel in self._store.channels(tenant):
            live.setdefault(channel.commit, []).append(channel.name)
        return live

    def _deployment(self, deployment: gitstore.Deployment) -> DeploymentView:
        return deployment_view(deployment, self._live(deployment.tenant))

    @translated
    def files(self, tenant: str, commit: str) -> dict[str, int]:
        full = self._store.deployment(tenant, self._resolve(tenant, commit)).commit
        return {entry.path: entry.size for entry in self._store.repository(tenant).files(full)}

    @translated
    def file(self, tenant: str, commit: str, path: str) -> bytes:
        full = self._store.deployment(tenant, self._resolve(tenant, commit)).commit
        return self._store.repository(tenant).read_file(full, path)

    @translated
    def channels(self, tenant: str) -> list[ChannelView]:
        return [channel_view(channel) for channel in self._store.channels(tenant)]

    @translated
    def startable(self, tenant: str, *, channel: str, commit: str | None) -> tuple[str, Mapping[str, str]]:
        if commit is not None:
            deployment = self._store.deployment(tenant, self._resolve(tenant, commit))
            return deployment.commit, _names(deployment)
        on = self._channel_commit(tenant, channel)
        names = self._names.get((tenant, on))
        if names is None:
            if len(self._names) >= NAMES_KEPT_MAX:
                self._names.clear()
            names = self._names[(tenant, on)] = _names(self._store.deployment(tenant, on))
        return on, names

    def _channel_commit(self, tenant: str, channel: str) -> str:
        found = self._store.channel(tenant, channel)
        if found is not None:
            return found.commit
        if self._store.channels(tenant):
            raise NotFound(f'tenant "{tenant}" has no channel "{channel}"', code="channel_not_found")
        raise Refused(
            f'tenant "{tenant}" has no deployment yet',
            code="not_deployed",
            hint="Push code to the default branch, or deploy files.",
        )

    @translated
    def channel_history(self, tenant: str, channel: str, *, limit: int) -> list[ChannelMoveView]:
        moves = self._store.channel_history(tenant, channel, limit=limit)
        if not moves:
            raise NotFound(f'tenant "{tenant}" has no channel "{channel[:80]}"', code="channel_not_found")
        return [move_view(move) for move in moves]

    @translated
    def rollback(self, tenant: str, *, to: str, channel: str, who: str, why: str) -> ChannelMoveView:
        return move_view(self._store.rollback(tenant, to=to, channel=channel, who=who, why=why))

    @translated
    def pin_channel(self, tenant: str, commit: str, *, channel: str, who: str, why: str) -> ChannelView:
        full = self._store.deployment(tenant, self._resolve(tenant, commit)).commit
        return channel_view(self._store.pin_channel(tenant, full, channel=channel, who=who, why=why))

    @translated
    def unpin_channel(self, tenant: str, *, channel: str, who: str, why: str) -> ChannelView:
        return channel_view(self._store.unpin_channel(tenant, channel=channel, who=who, why=why))

    @translated
    def keep_for_instances(self, tenant: str, commit: str) -> None:
        self._store.pin(tenant, commit, reason=INSTANCES_REASON)

    @translated
    def bundle(self, tenant: str, commit: str) -> Path:
        return self._store.bundle(tenant, commit).path

    @translated
    def collect_garbage(self, tenant: str, *, keep: Collection[str]) -> GarbageView:
        for pin in self._store.pins(tenant):
            if pin.reason == INSTANCES_REASON and pin.commit not in keep:
                self._store.unpin(tenant, pin.commit, reason=INSTANCES_REASON)
        report = self._store.collect_garbage(tenant, keep=keep)
        return GarbageView(
            bytes_before=report.bytes_before, bytes_after=report.bytes_after, kept_for_instances=len(set(keep))
        )

    # --- git conversations

    @translated
    def git_advertise(self, tenant: str, service: str, *, protocol: str | None) -> bytes:
        return self._store.advertise(tenant, _service(service), protocol=protocol)

    def git_exchange(
        self, tenant: str, service: str, body: BinaryIO, *, who: str, protocol: str | None
    ) -> Iterator[bytes]:
        try:
            if _service(service) == "git-receive-pack":
                yield from self._store.receive_pack(tenant, body, who=who)
            else:
                yield from self._store.upload_pack(tenant, body, protocol=protocol)
        except gitstore.GitStoreError as error:
            raise public_error(error) from error
        except OSError as error:
            raise disk_error(error) from error

    def backup(self, target: Path) -> None:
        """A consistent copy of rows and packs."""
        self._store.backup(target)

    @translated
    def close(self) -> None:
        self._store.close()


def _names(deployment: gitstore.Deployment) -> dict[str, str]:
    return {found.name: found.declared for found in deployment.workflows}


def _service(service: str) -> Literal["git-receive-pack", "git-upload-pack"]:
    if service == "git-receive-pack":
        return "git-receive-pack"
    if service == "git-upload-pack":
        return "git-upload-pack"
    raise NotFound(f"there is no git service {service[:40]!r}", code="route_not_found")
