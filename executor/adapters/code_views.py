"""Rows of the code store as callers see them."""

from __future__ import annotations

import json
from collections.abc import Mapping

import gitstore
from executor.views import (
    ChannelMoveView,
    ChannelView,
    DeploymentView,
    TenantView,
    TokenView,
    WorkflowView,
)


def tenant_view(row: gitstore.TenantRow) -> TenantView:
    settings = json.loads(row.settings) if row.settings else {}
    return TenantView(
        name=row.name,
        created_at_ms=row.created_at_ms,
        git_path=f"/git/{row.name}.git",
        weight=settings.get("weight", 1),
        concurrency=settings.get("concurrency"),
    )


def token_view(row: gitstore.TokenRow | gitstore.NewToken) -> TokenView:
    """With its secret, if that is known."""
    return TokenView(
        id=str(row.id),
        tenant=row.tenant,
        access=row.access,
        label=row.label,
        created_at_ms=row.created_at_ms,
        expires_at_ms=row.expires_at_ms,
        secret=row.secret if isinstance(row, gitstore.NewToken) else None,
    )


def deployment_view(deployment: gitstore.Deployment, live: Mapping[str, list[str]]) -> DeploymentView:
    return DeploymentView(
        id=deployment.id,
        tenant=deployment.tenant,
        commit=deployment.commit,
        tree=deployment.tree,
        branch=deployment.branch,
        channel=deployment.channel or None,
        workflows=[workflow_view(found) for found in deployment.workflows],
        warnings=list(deployment.warnings),
        checks=[],
        who=deployment.who,
        message=deployment.message,
        created_at_ms=deployment.created_at_ms,
        live_on=live.get(deployment.commit, []),
    )


def workflow_view(found: gitstore.WorkflowFound) -> WorkflowView:
    declared = json.loads(found.declared) if found.declared else {}
    schedules = declared.get("schedule", [])
    return WorkflowView(
        name=found.name,
        path=found.path,
        line=found.line,
        schedule=schedules if isinstance(schedules, list) else [schedules],
        flow=declared.get("flow"),
    )


def channel_view(channel: gitstore.Channel) -> ChannelView:
    return ChannelView(
        name=channel.name,
        commit=channel.commit,
        pinned=channel.is_pinned,
        moved_at_ms=channel.moved_at_ms,
        who=channel.who,
    )


def move_view(move: gitstore.ChannelMove) -> ChannelMoveView:
    return ChannelMoveView(
        id=move.id,
        channel=move.channel,
        from_commit=move.from_commit,
        to_commit=move.to_commit,
        kind=move.kind,
        who=move.who,
        why=move.why,
        at_ms=move.at_ms,
    )
