"""What a push changes, inside a transaction: refs, a deployment, its channel move and pins, all or none of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import apsw

from . import channels, deployments, pins, refs
from .names import HEADS
from .rows import Channel, ChannelMove, Deployment, NewDeployment, PushCommitted, RefUpdate


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """See `Database.commit_push`. `pins`: commits with reasons; `deploy_pin`: the reason to keep what is deployed."""

    updates: Sequence[RefUpdate]
    is_atomic: bool
    deployment: NewDeployment | None
    channel: str | None
    who: str
    message: str
    pins: Sequence[tuple[str, str]]
    deploy_pin: str | None
    kind: Literal["push", "deploy"]
    at_ms: int


def commit(connection: apsw.Connection, tenant: tuple[int, str], push: Push, *, ref_count_max: int) -> PushCommitted:
    """Make the changes of `push` for `tenant` (id and name)."""
    tenant_id, _ = tenant
    outcomes = refs.update(connection, tenant_id, push.updates, atomic=push.is_atomic, count_max=ref_count_max)
    by_name = {outcome.name: outcome.ok for outcome in outcomes}
    if push.deployment is None:
        is_accepted = any(by_name.values()) or not push.updates
    else:
        is_accepted = by_name.get(HEADS + push.deployment.branch.encode(), all(by_name.values()))
    row: Deployment | None = None
    move: ChannelMove | None = None
    fastened: Channel | None = None
    if is_accepted and push.deployment is not None:
        row, move, fastened = _deploy(connection, tenant, push, push.deployment)
    if is_accepted:
        for oid, reason in push.pins:
            pins.add(connection, tenant_id, oid, reason, push.at_ms)
        if row is not None and push.deploy_pin is not None:
            pins.add(connection, tenant_id, row.commit, push.deploy_pin, push.at_ms)
    refs.bump_version(connection, tenant_id)
    return PushCommitted(tuple(outcomes), row, move, fastened)


def _deploy(
    connection: apsw.Connection, tenant: tuple[int, str], push: Push, deployment: NewDeployment
) -> tuple[Deployment, ChannelMove | None, Channel | None]:
    """The deployment, and the move of its channel; or the channel itself where that is fastened and did not move."""
    channel, fastened = push.channel, None
    if channel is not None:
        fastened = next((one for one in channels.channels(connection, tenant[0], channel) if one.is_pinned), None)
        if fastened is not None:
            channel = None
    row = deployments.add(
        connection, tenant, deployment, channel=channel, who=push.who, message=push.message, at_ms=push.at_ms
    )
    if channel is None:
        return row, None, fastened
    move = channels.add_move(
        connection,
        tenant[0],
        channel,
        to_commit=row.commit,
        deployment_id=row.id,
        kind=push.kind,
        who=push.who,
        why=push.message.partition("\n")[0],
        at_ms=push.at_ms,
    )
    return row, move, None
