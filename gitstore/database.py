"""The rows of one store: tenants, refs, deployments, channels, pins; every change is one transaction.

What must stay true:
- a push's refs, its deployment, its channel move and its pins are committed together or not at all;
- every change of a ref, of a pin or of a channel's history grows the tenant's `refs_version` in the same
  transaction, so that a packed-refs mirror older than the rows is found at open, whatever crashed;
- objects are on disk before a row names them (the caller's duty: publish, then commit_push).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import apsw

from . import bundle_keys, channels, deployments, pins, pushes, refs
from .connections import Connections
from .errors import LimitExceeded, TenantExists, TenantNotFound
from .limits import Limits
from .names import parse_channel, parse_commit, parse_tenant
from .rows import (
    Channel,
    ChannelMove,
    Deployment,
    NewDeployment,
    Pin,
    PushCommitted,
    RefUpdate,
    TenantRow,
)

PUSH_PIN_REASON: Final = "push"


@dataclass(frozen=True, slots=True)
class MirrorContent:
    """What packed-refs should show: refs and kept commits, as of `version`."""

    version: int
    refs: dict[bytes, bytes]
    kept: frozenset[str]


class Database:
    """All rows of one store. Thread-safe; what returns has been committed and is on disk."""

    def __init__(self, path: Path, limits: Limits, now_ms: Callable[[], int], *, deploy_pin: str | None = None) -> None:
        """Open or make the file. `deploy_pin`: see `GitStore.open`.

        Raises Refused (foreign or newer file), Corrupt, Unavailable.
        """
        self.deploy_pin = deploy_pin
        self.connections = Connections(path)
        self._limits = limits
        self._now_ms = now_ms

    def close(self) -> None:
        """Safe to call twice."""
        self.connections.close()

    def check(self) -> list[str]:
        """SQLite's integrity check over the whole file: problems in words."""
        return self.connections.check()

    # -- tenants -------------------------------------------------------------------------------------------------

    def create_tenant(self, name: str) -> TenantRow:
        """Raises InvalidName, TenantExists."""
        row = TenantRow(parse_tenant(name), self._now_ms())
        with self.connections.write() as connection:
            try:
                connection.execute("INSERT INTO tenants (name, created_at_ms) VALUES (?, ?)", (name, row.created_at_ms))
            except apsw.ConstraintError:
                raise TenantExists(name) from None
        return row

    def tenant(self, name: str) -> TenantRow:
        """Raises TenantNotFound."""
        with self.connections.read() as connection:
            row = connection.execute(
                "SELECT name, created_at_ms, settings FROM tenants WHERE name = ?", (name,)
            ).fetchone()
        if row is None:
            raise TenantNotFound(name)
        return TenantRow(*row)

    def tenants(self) -> list[TenantRow]:
        """All tenants by name."""
        with self.connections.read() as connection:
            rows = connection.execute("SELECT name, created_at_ms, settings FROM tenants ORDER BY name")
            return [TenantRow(*row) for row in rows]

    def set_settings(self, name: str, settings: str) -> TenantRow:
        """Replace the tenant's settings. Raises TenantNotFound."""
        with self.connections.write() as connection:
            tenant_id = self.tenant_id(connection, name)
            connection.execute("UPDATE tenants SET settings = ? WHERE id = ?", (settings, tenant_id))
        return self.tenant(name)

    def delete_tenant(self, name: str, *, remove_bundle: Callable[[str], None]) -> None:
        """Remove the tenant with all its rows, and by `remove_bundle` the bundles that no other tenant uses.

        Raises TenantNotFound.
        """
        with self.connections.write() as connection:
            tenant_id = self.tenant_id(connection, name)
            keys = bundle_keys.of_tenant(connection, tenant_id)
            connection.execute("DELETE FROM tenants WHERE id = ?", (tenant_id,))
            bundle_keys.remove_unused(connection, keys, remove_bundle)

    def tenant_id(self, connection: apsw.Connection, name: str) -> int:
        """The row number of a tenant, inside a transaction. Never reused. Raises TenantNotFound."""
        row = connection.execute("SELECT id FROM tenants WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise TenantNotFound(name)
        return int(row[0])

    # -- refs and pushes -----------------------------------------------------------------------------------------

    def refs(self, tenant: str) -> dict[bytes, bytes]:
        """All branches and tags, sorted by name: full name → 40 hex digits. Raises TenantNotFound."""
        with self.connections.read() as connection:
            return refs.all_refs(connection, self.tenant_id(connection, tenant))

    def ref(self, tenant: str, name: bytes) -> str | None:
        """Where one ref is: 40 hex digits, or None. Raises TenantNotFound."""
        with self.connections.read() as connection:
            return refs.find(connection, self.tenant_id(connection, tenant), name)

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
        """Check every `old`, move the refs, add the deployment, move the channel, pin: one transaction.

        `atomic`: all updates or none. Else each stands alone. Deletions go first, so `a` may give way to `a/b`.
        The deployment and its channel move happen unless the update of its branch, where `updates` has one, failed.
        `channel` None: deploy without moving a channel; a pinned one is not moved either.
        `pins`: commits to keep, if anything of the push was accepted.
        What cannot be updated comes back as an outcome with a reason for the client's terminal, not as an exception.
        Durable on return. The caller holds the tenant's lock and has published the objects.
        Raises TenantNotFound, LimitExceeded (too many updates), InvalidName (channel or ids).
        """
        if len(updates) > self._limits.ref_updates_max:
            raise LimitExceeded(
                "The number of ref updates in one push",
                limit="ref_updates_max",
                bound=self._limits.ref_updates_max,
                found=len(updates),
            )
        if channel is not None:
            parse_channel(channel)
        for oid in (*pins, *(oid for update in updates for oid in (update.old, update.new) if oid is not None)):
            parse_commit(oid)
        push = pushes.Push(
            updates=updates,
            is_atomic=atomic,
            deployment=deployment,
            channel=channel,
            who=self.text(who),
            message=self.text(message),
            pins=tuple((commit, PUSH_PIN_REASON) for commit in pins),
            kind=kind,
            at_ms=self._now_ms(),
            deploy_pin=self.deploy_pin,
        )
        with self.connections.write() as connection:
            names = (self.tenant_id(connection, tenant), tenant)
            return pushes.commit(connection, names, push, ref_count_max=self._limits.ref_count_max)

    # -- deployments and channels --------------------------------------------------------------------------------

    def deployments(self, tenant: str, *, limit: int = 100, before_id: int | None = None) -> list[Deployment]:
        """Newest first; `before_id`: only older ones, for the next page. Raises TenantNotFound."""
        with self.connections.read() as connection:
            return deployments.page(connection, self.tenant_id(connection, tenant), limit=limit, before_id=before_id)

    def deployment(self, tenant: str, commit: str) -> Deployment:
        """The newest deployment of a commit, given in full or by a unique prefix of at least 7 digits.

        Raises VersionNotFound, Refused `version_ambiguous`, TenantNotFound.
        """
        with self.connections.read() as connection:
            return deployments.find(connection, (self.tenant_id(connection, tenant), tenant), commit)

    def channels(self, tenant: str) -> list[Channel]:
        """All channels by name. Raises TenantNotFound."""
        with self.connections.read() as connection:
            return channels.channels(connection, self.tenant_id(connection, tenant))

    def channel(self, tenant: str, name: str) -> Channel | None:
        """Where the channel is; None if nothing was ever deployed to it. Raises TenantNotFound."""
        with self.connections.read() as connection:
            found = channels.channels(connection, self.tenant_id(connection, tenant), name)
        return found[0] if found else None

    def channel_history(self, tenant: str, name: str, *, limit: int = 100) -> list[ChannelMove]:
        """The moves of a channel, newest first; none for a channel that does not exist. Raises TenantNotFound."""
        with self.connections.read() as connection:
            return channels.history(connection, self.tenant_id(connection, tenant), name, limit)

    # -- pins, bundles, what collection keeps --------------------------------------------------------------------

    def pins(self, tenant: str) -> list[Pin]:
        """All pins by commit and reason. Raises TenantNotFound."""
        with self.connections.read() as connection:
            return pins.of_tenant(connection, self.tenant_id(connection, tenant))

    def has_pin(self, tenant: str, commit: str, reason: str) -> bool:
        """Raises TenantNotFound."""
        with self.connections.read() as connection:
            return pins.has(connection, self.tenant_id(connection, tenant), commit, reason)

    def add_pin(self, tenant: str, commit: str, reason: str) -> None:
        """Keep a commit for a reason; nothing happens if it is kept for it. The caller has seen the commit's object."""
        with self.connections.write() as connection:
            tenant_id = self.tenant_id(connection, tenant)
            pins.add(connection, tenant_id, parse_commit(commit), reason, self._now_ms())

    def remove_pin(self, tenant: str, commit: str, reason: str) -> bool:
        """Whether there was such a pin; it is gone. Raises TenantNotFound."""
        with self.connections.write() as connection:
            return pins.remove(connection, self.tenant_id(connection, tenant), commit, reason)

    def bundle_key(self, tenant: str, commit: str) -> str | None:
        """The key last recorded for the commit's bundle; None if none was. Raises TenantNotFound."""
        with self.connections.read() as connection:
            return bundle_keys.find(connection, self.tenant_id(connection, tenant), commit)

    def record_bundle(self, tenant: str, commit: str, key: str) -> None:
        """Remember which bundle a commit uses, so that collection keeps its file: record, then look for the file."""
        with self.connections.write() as connection:
            bundle_keys.record(connection, self.tenant_id(connection, tenant), parse_commit(commit), key)

    def forget_bundles(self, tenant: str, *, keep: Collection[str], remove_bundle: Callable[[str], None]) -> None:
        """Forget the bundles of all commits but `keep`, and remove those that nobody uses then.

        They can be built again from git. Raises TenantNotFound.
        """
        with self.connections.write() as connection:
            gone = bundle_keys.forget(connection, self.tenant_id(connection, tenant), keep)
            bundle_keys.remove_unused(connection, gone, remove_bundle)

    def remove_unused_bundles(self, keys: Collection[str], remove_bundle: Callable[[str], None]) -> None:
        """Remove those of `keys` that no commit uses."""
        with self.connections.write() as connection:
            bundle_keys.remove_unused(connection, set(keys), remove_bundle)

    # -- the mirror ----------------------------------------------------------------------------------------------

    def mirror_content(self, tenant: str) -> MirrorContent:
        """What packed-refs should show now. Raises TenantNotFound."""
        with self.connections.read() as connection:
            tenant_id = self.tenant_id(connection, tenant)
            row = connection.execute("SELECT refs_version FROM tenants WHERE id = ?", (tenant_id,)).fetchall()[0]
            kept = pins.commits(connection, tenant_id)
            kept |= channels.kept(connection, tenant_id, self._limits.channel_history_kept)
            version = row[0]
            assert isinstance(version, int)
            return MirrorContent(version, refs.all_refs(connection, tenant_id), frozenset(kept))

    def mark_mirrored(self, tenant: str, version: int) -> None:
        """Note that packed-refs shows `version`. Not durable by itself: losing it costs one rewrite at open."""
        with self.connections.write(durable=False) as connection:
            connection.execute("UPDATE tenants SET mirrored_version = ? WHERE name = ?", (version, tenant))

    def is_mirrored(self, tenant: str) -> bool:
        """Whether packed-refs shows the rows as they are. Raises TenantNotFound."""
        with self.connections.read() as connection:
            tenant_id = self.tenant_id(connection, tenant)
            row = connection.execute(
                "SELECT refs_version = mirrored_version FROM tenants WHERE id = ?", (tenant_id,)
            ).fetchall()[0]
        return bool(row[0])

    def unmirrored(self) -> list[str]:
        """Tenants whose packed-refs may be older than their rows."""
        with self.connections.read() as connection:
            rows = connection.execute("SELECT name FROM tenants WHERE refs_version <> mirrored_version ORDER BY name")
            return [str(row[0]) for row in rows]

    def text(self, value: str) -> str:
        """`value` as it is stored: valid Unicode of at most `message_bytes_max` bytes; the rest is cut off."""
        return value.encode(errors="replace")[: self._limits.message_bytes_max].decode(errors="ignore")
