"""Moving channels and keeping commits, by hand: rollback, undo, pin. Pushes move channels in `Database.commit_push`.

Each move is a new row of the channel's history with who, when, from, to and why; none is ever changed or removed.
What "previous" means is told in channels.py. All changes are durable on return, and the mirror is written after.
"""

from __future__ import annotations

from typing import Final, Literal

import apsw

from . import channels, deployments, mirror, refs
from .errors import ChannelMoved, LimitExceeded, NotFound, Refused, VersionNotFound
from .names import DEFAULT_CHANNEL, parse_channel, parse_prefix
from .parts import Parts
from .repository import Repositories
from .rows import ChannelMove, Deployment, MoveKind

PREVIOUS: Final = "previous"
_FULL: Final = 40


class Versions:
    """Channel moves and pins of a store. Thread-safe."""

    def __init__(self, parts: Parts, repositories: Repositories) -> None:
        self._parts = parts
        self._repositories = repositories

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
        """Move a channel to a deployed version (full id or unique prefix), making the channel if it is new.

        With kind "pin" pushes do not move it any more, until `unpin_channel`.
        `expected`: the full commit it must be on now, else ChannelMoved; None asks nothing. A channel that is there
        already stays, and its last move is returned. Raises VersionNotFound, InvalidName, TenantNotFound.
        """
        parse_channel(channel)
        with self._parts.lock(tenant):
            database = self._parts.database
            with database.connections.write() as connection:
                tenant_id = database.tenant_id(connection, tenant)
                current = channels.top(connection, tenant_id, channel)
                self._expect(channel, current, expected)
                target = deployments.find(connection, (tenant_id, tenant), to)
                move = self._move(connection, tenant_id, channel, current, target, kind=kind, who=who, why=why)
            mirror.refresh(self._parts, tenant)
        return move

    def unpin_channel(self, tenant: str, channel: str, *, who: str, why: str) -> ChannelMove:
        """Let pushes move a pinned channel again; it stays where it is until then. Unpinned already: nothing happens.

        Raises NotFound `channel_not_found`, TenantNotFound.
        """
        database = self._parts.database
        with database.connections.write() as connection:
            tenant_id = database.tenant_id(connection, tenant)
            current = self._current(connection, tenant_id, tenant, channel)
            target = deployments.find(connection, (tenant_id, tenant), current.move.to_commit)
            return self._move(connection, tenant_id, channel, current, target, kind="unpin", who=who, why=why)

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
        """Move a channel back: to the version that was in effect before the present one, or to a version by its id.

        Rolling back twice goes back two versions. A channel that is at `to` already stays, and its last move is
        returned. Branches and running instances stay where they are. Raises NotFound `channel_not_found`, Refused
        `no_previous_version`, VersionNotFound, ChannelMoved (see `move_channel`).
        """
        with self._parts.lock(tenant):
            database = self._parts.database
            with database.connections.write() as connection:
                tenant_id = database.tenant_id(connection, tenant)
                current = self._current(connection, tenant_id, tenant, channel)
                self._expect(channel, current, expected)
                if to == PREVIOUS:
                    before = channels.below(connection, current)
                    if before is None:
                        raise Refused(
                            f"Channel {channel!r} of tenant {tenant!r} has no version before "
                            f"{current.move.to_commit[:12]}.",
                            code="no_previous_version",
                            hint="Name a version to go to.",
                            details={"tenant": tenant, "channel": channel, "commit": current.move.to_commit},
                        )
                    to = before.move.to_commit
                target = deployments.find(connection, (tenant_id, tenant), to)
                move = self._move(connection, tenant_id, channel, current, target, kind="rollback", who=who, why=why)
            mirror.refresh(self._parts, tenant)
        return move

    def undo(self, tenant: str, move_id: int, *, who: str, why: str = "") -> ChannelMove:
        """Take back a channel's latest move: the channel and its "previous" are what they were before it.

        Undoing an undo brings the move back. Raises NotFound `move_not_found`, ChannelMoved (a later move exists),
        Refused `no_previous_version` (the channel's first move), VersionNotFound (collected meanwhile).
        """
        with self._parts.lock(tenant):
            database = self._parts.database
            with database.connections.write() as connection:
                tenant_id = database.tenant_id(connection, tenant)
                undone = channels.find_move(connection, tenant_id, move_id)
                if undone is None:
                    raise NotFound(
                        f"Tenant {tenant!r} has no channel move {move_id}.",
                        code="move_not_found",
                        details={"tenant": tenant, "move": move_id},
                    )
                channel = undone.move.channel
                current = self._current(connection, tenant_id, tenant, channel)
                if current.move.id != move_id:
                    raise ChannelMoved(
                        f"Move {move_id} of channel {channel!r} cannot be undone: move {current.move.id} came after.",
                        hint="Undo the latest move, or roll back to a version.",
                        details={"channel": channel, "expected": move_id, "found": current.move.id},
                    )
                before = channels.before_move(connection, tenant_id, undone)
                if before is None:
                    raise Refused(
                        f"Move {move_id} is the first of channel {channel!r}; there is nothing before it.",
                        code="no_previous_version",
                        details={"tenant": tenant, "channel": channel},
                    )
                target = deployments.find(connection, (tenant_id, tenant), before.move.to_commit)
                move = self._move(connection, tenant_id, channel, current, target, kind="undo", who=who, why=why)
            mirror.refresh(self._parts, tenant)
        return move

    def pin(self, tenant: str, commit: str, *, reason: str) -> None:
        """Keep a commit (full id, or unique prefix of a deployed one) through garbage collection, for a reason.

        Pinning again for the same reason changes nothing. Raises VersionNotFound, LimitExceeded (reason).
        """
        database, limits = self._parts.database, self._parts.limits
        size = len(reason.encode(errors="replace"))
        if size > limits.label_bytes_max:
            raise LimitExceeded("The reason", limit="label_bytes_max", bound=limits.label_bytes_max, found=size)
        reason, commit = database.text(reason), self._full(tenant, commit)
        if database.has_pin(tenant, commit, reason):
            return
        # Under the lock, so that no collection can take the object between the look and the row.
        with self._parts.lock(tenant):
            self._require_object(tenant, commit)
            database.add_pin(tenant, commit, reason)
            mirror.refresh(self._parts, tenant)

    def unpin(self, tenant: str, commit: str, *, reason: str) -> None:
        """Take back `pin` for this reason; other reasons still keep the commit. Without such a pin nothing happens."""
        database = self._parts.database
        with self._parts.lock(tenant):
            if database.remove_pin(tenant, self._full(tenant, commit), database.text(reason)):
                mirror.refresh(self._parts, tenant)

    def _full(self, tenant: str, commit: str) -> str:
        prefix = parse_prefix(commit)
        return prefix if len(prefix) == _FULL else self._parts.database.deployment(tenant, prefix).commit

    def _current(self, connection: apsw.Connection, tenant_id: int, tenant: str, channel: str) -> channels.Node:
        current = channels.top(connection, tenant_id, channel)
        if current is None:
            raise NotFound(
                f"Tenant {tenant!r} has no channel {channel!r}.",
                code="channel_not_found",
                hint="A channel begins with its first deployment.",
                details={"tenant": tenant, "channel": channel},
            )
        return current

    def _expect(self, channel: str, current: channels.Node | None, expected: str | None) -> None:
        found = None if current is None else current.move.to_commit
        if expected is not None and found != expected:
            raise ChannelMoved(
                f"Channel {channel!r} is at {found[:12] if found else 'nothing'}, not at {expected[:12]}.",
                hint="Somebody moved it; look again, then decide.",
                details={"channel": channel, "expected": expected, "found": found},
            )

    def _move(
        self,
        connection: apsw.Connection,
        tenant_id: int,
        channel: str,
        current: channels.Node | None,
        target: Deployment,
        *,
        kind: MoveKind,
        who: str,
        why: str,
    ) -> ChannelMove:
        database = self._parts.database
        if current is None or current.move.to_commit != target.commit:
            self._require_object(target.tenant, target.commit)
        move = channels.add_move(
            connection,
            tenant_id,
            channel,
            to_commit=target.commit,
            deployment_id=target.id,
            kind=kind,
            who=database.text(who),
            why=database.text(why),
            at_ms=self._parts.now_ms(),
        )
        if move is None:
            assert current is not None, "only a channel that exists can be there already"
            return current.move
        refs.bump_version(connection, tenant_id)
        return move

    def _require_object(self, tenant: str, commit: str) -> None:
        """The row of a version outlives its objects, which garbage collection may have removed."""
        if not self._repositories.get(tenant).has_commit(commit):
            raise VersionNotFound(
                f"Commit {commit[:12]} of tenant {tenant!r} is not in its repository.",
                hint="It was never pushed, or garbage collection removed it; push it again.",
                details={"tenant": tenant, "commit": commit},
            )
