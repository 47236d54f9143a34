"""Channels inside a transaction: where they are, how they move, which version was before.

A channel's versions in effect form a stack, kept in the rows themselves: each move names the move below it.

- push, deploy and pin put their commit on top of the stack;
- a rollback takes versions off until its target is on top (a target that is not in the stack is put on top);
- an undo brings back the stack as it was before the move it undoes;
- a pin also fastens the channel: pushes do not move it until an unpin, whatever else does keeps it fastened.

So "previous" is the version that was in effect before the current one came, and what was rolled back is forgotten:
after pushes A, B, C two rollbacks give B and then A; after a push of D on B, previous is B and not C.
The history itself only grows. All functions run inside the caller's transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import apsw

from .rows import Channel, ChannelMove, MoveKind

_SELECT: Final = (
    "SELECT id, channel, from_commit, to_commit, kind, who, why, at_ms, deployment_id, below_id,"
    " is_pinned FROM channel_moves WHERE "
)


@dataclass(frozen=True, slots=True)
class Node:
    """A move as an element of the stack."""

    move: ChannelMove
    deployment_id: int
    below_id: int | None
    is_pinned: bool


def _node(row: tuple[apsw.SQLiteValue, ...]) -> Node:
    values: tuple[object, ...] = row
    *facts, deployment_id, below_id, is_pinned = values
    return Node(ChannelMove(*facts), deployment_id, below_id, bool(is_pinned))  # type: ignore[arg-type]  # a STRICT table has the types


def node(connection: apsw.Connection, move_id: int) -> Node:
    """The move with this id, which must exist."""
    row = connection.execute(_SELECT + "id = ?", (move_id,)).fetchone()
    assert row is not None, f"channel move {move_id} is missing"
    return _node(row)


def find_move(connection: apsw.Connection, tenant_id: int, move_id: int) -> Node | None:
    """The tenant's move with this id; None if the tenant has none."""
    row = connection.execute(_SELECT + "tenant_id = ? AND id = ?", (tenant_id, move_id)).fetchone()
    return None if row is None else _node(row)


def top(connection: apsw.Connection, tenant_id: int, channel: str) -> Node | None:
    """The move that the channel rests on; None for a channel that never moved."""
    row = connection.execute(
        "SELECT move_id FROM channels WHERE tenant_id = ? AND name = ?", (tenant_id, channel)
    ).fetchone()
    return None if row is None else node(connection, row[0])


def below(connection: apsw.Connection, above: Node) -> Node | None:
    """The version in effect before `above` came: the first below it with another commit; None at the bottom."""
    found: Node | None = above
    while found is not None and found.move.to_commit == above.move.to_commit:
        found = None if found.below_id is None else node(connection, found.below_id)
    return found


def find_below(connection: apsw.Connection, above: Node, commit: str) -> Node | None:
    """The nearest move to `commit` under `above`; None if the stack has none."""
    found: Node | None = above
    while found is not None and found.move.to_commit != commit:
        found = None if found.below_id is None else node(connection, found.below_id)
    return found


def add_move(
    connection: apsw.Connection,
    tenant_id: int,
    channel: str,
    *,
    to_commit: str,
    deployment_id: int,
    kind: MoveKind,
    who: str,
    why: str,
    at_ms: int,
) -> ChannelMove | None:
    """Move the channel and write the history row; None, and nothing written, when it is there already.

    With kind "pin" or "unpin" the row is written also if only the fastening changes.

    With kind "undo", `to_commit` is where the channel was before its latest move.
    """
    current = top(connection, tenant_id, channel)
    is_pinned = False if current is None else current.is_pinned
    if kind in {"pin", "unpin"}:
        is_pinned = kind == "pin"
    below_id = None if current is None else current.move.id
    if current is not None and current.move.to_commit == to_commit:
        if kind != "undo" and is_pinned == current.is_pinned:
            return None
        below_id = current.below_id
    if current is not None and kind == "rollback":
        target = find_below(connection, current, to_commit)
        if target is not None:
            below_id = target.below_id
    elif current is not None and kind == "undo":
        before = before_move(connection, tenant_id, current)
        if before is not None:
            below_id, is_pinned = before.below_id, before.is_pinned
    from_commit = None if current is None else current.move.to_commit
    facts = (channel, from_commit, to_commit, kind, who, why, at_ms, deployment_id, below_id, is_pinned)
    connection.execute(
        "INSERT INTO channel_moves (tenant_id, channel, from_commit, to_commit, kind, who, why, at_ms, deployment_id,"
        " below_id, is_pinned) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (tenant_id, *facts),
    )
    move_id = connection.last_insert_rowid()
    connection.execute("INSERT OR REPLACE INTO channels VALUES (?, ?, ?)", (tenant_id, channel, move_id))
    return ChannelMove(move_id, channel, from_commit, to_commit, kind, who, why, at_ms)


def before_move(connection: apsw.Connection, tenant_id: int, later: Node) -> Node | None:
    """The history row just before `later`, in time; None if it was the channel's first."""
    row = connection.execute(
        _SELECT + "tenant_id = ? AND channel = ? AND id < ? ORDER BY id DESC LIMIT 1",
        (tenant_id, later.move.channel, later.move.id),
    ).fetchone()
    return None if row is None else _node(row)


def history(connection: apsw.Connection, tenant_id: int, channel: str, limit: int) -> list[ChannelMove]:
    """The newest `limit` moves, newest first."""
    rows = connection.execute(
        _SELECT + "tenant_id = ? AND channel = ? ORDER BY id DESC LIMIT ?", (tenant_id, channel, limit)
    )
    return [_node(row).move for row in rows]


def channels(connection: apsw.Connection, tenant_id: int, name: str | None = None) -> list[Channel]:
    """All channels by name, or the one called `name`."""
    rows = connection.execute(
        "SELECT c.name, m.to_commit, m.deployment_id, m.at_ms, m.who, m.is_pinned FROM channels c"
        " JOIN channel_moves m ON m.id = c.move_id WHERE c.tenant_id = ? AND (?2 IS NULL OR c.name = ?2) ORDER BY 1",
        (tenant_id, name),
    )
    return [
        Channel(found, commit, deployment_id, at_ms, who, bool(is_pinned))
        for found, commit, deployment_id, at_ms, who, is_pinned in rows
    ]


def kept(connection: apsw.Connection, tenant_id: int, count: int) -> set[str]:
    """Commits that garbage collection keeps for the channels: the newest `count` moves' and versions' of each."""
    found: set[str] = set()
    for channel in channels(connection, tenant_id):
        for move in history(connection, tenant_id, channel.name, count):
            found.add(move.to_commit)
            if move.from_commit is not None:
                found.add(move.from_commit)
        element = top(connection, tenant_id, channel.name)
        for _ in range(count):
            if element is None:
                break
            found.add(element.move.to_commit)
            element = None if element.below_id is None else node(connection, element.below_id)
    return found
