"""The values that cross gitstore's borders: one frozen dataclass per row or request. No behaviour.

Commit and tree ids are full lower-case hex `str`. Times are milliseconds since the Unix epoch. Ref names are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Access = Literal["read", "write"]
MoveKind = Literal["push", "deploy", "rollback", "pin", "unpin", "undo"]


@dataclass(frozen=True, slots=True)
class TenantRow:
    """`settings`: what `GitStore.set_settings` was given, "" at first; nothing here reads it."""

    name: str
    created_at_ms: int
    settings: str = ""


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A token without its secret."""

    id: int
    tenant: str
    access: Access
    label: str
    created_at_ms: int
    expires_at_ms: int | None
    revoked_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token at its creation: the only time that `secret` is known."""

    id: int
    tenant: str
    access: Access
    label: str
    created_at_ms: int
    expires_at_ms: int | None
    secret: str

    def __repr__(self) -> str:  # a secret must not reach a log by accident
        return f"NewToken(id={self.id}, tenant={self.tenant!r}, access={self.access!r}, label={self.label!r})"


@dataclass(frozen=True, slots=True)
class RefUpdate:
    """One asked-for change of a ref. `old` None: it must not exist; `new` None: delete it. Ids are 40 hex digits."""

    name: bytes
    old: str | None
    new: str | None


@dataclass(frozen=True, slots=True)
class RefOutcome:
    """What became of a RefUpdate; `reason` is one line for the client's terminal when `ok` is false."""

    name: bytes
    ok: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class WorkflowFound:
    """A workflow class found by reading the source. `name` is the class name; `module` is dotted.

    `declared`: what the class says about itself, a JSON object of `gitstore.declared`; "" if it says nothing.
    """

    name: str
    path: str
    line: int
    module: str
    declared: str = ""


@dataclass(frozen=True, slots=True)
class NewDeployment:
    """A checked commit, ready to become a deployment with the push that brings it."""

    commit: str
    tree: str
    branch: str
    workflows: tuple[WorkflowFound, ...]
    warnings: tuple[str, ...]
    bundle_key: str


@dataclass(frozen=True, slots=True)
class Deployment:
    """A commit that was checked and made ready; immutable. `channel` is the one it moved at its birth, "" if none."""

    id: int
    tenant: str
    commit: str
    tree: str
    branch: str
    channel: str
    workflows: tuple[WorkflowFound, ...]
    warnings: tuple[str, ...]
    bundle_key: str
    who: str
    message: str
    created_at_ms: int


@dataclass(frozen=True, slots=True)
class Channel:
    """Where a channel is now. A pinned channel is not moved by pushes."""

    name: str
    commit: str
    deployment_id: int
    moved_at_ms: int
    who: str
    is_pinned: bool


@dataclass(frozen=True, slots=True)
class ChannelMove:
    """One row of a channel's history. `from_commit` None: the channel's first move; it may equal `to_commit` in a
    "pin" or "unpin".
    """

    id: int
    channel: str
    from_commit: str | None
    to_commit: str
    kind: MoveKind
    who: str
    why: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class PushCommitted:
    """What one transaction of `Database.commit_push` did; outcomes in the order of the updates.

    `pinned`: the channel that would have moved but for its pin.
    """

    outcomes: tuple[RefOutcome, ...]
    deployment: Deployment | None
    move: ChannelMove | None
    pinned: Channel | None = None


@dataclass(frozen=True, slots=True)
class Pin:
    """A commit kept through garbage collection, once per reason."""

    commit: str
    reason: str
    pinned_at_ms: int


@dataclass(frozen=True, slots=True)
class BundleRef:
    """A bundle on disk: `key` is 64 hex digits, `path` a read-only file."""

    key: str
    path: Path


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of a tree. `kind`: "file", "executable" or "symlink"; `size` in bytes."""

    path: str
    kind: Literal["file", "executable", "symlink"]
    size: int
    oid: str


@dataclass(frozen=True, slots=True)
class CommitMeta:
    """`author` is "Name <mail>", `at_ms` the committer's time, `parents` full hex in git's order."""

    commit: str
    tree: str
    author: str
    message: str
    at_ms: int
    parents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GarbageReport:
    """What one collection found and removed; sizes are bytes of the repository's packs and loose objects."""

    commits_kept: int
    objects_kept: int
    objects_removed: int
    packs_removed: int
    leftovers_removed: int
    bundles_removed: int
    bytes_before: int
    bytes_after: int
