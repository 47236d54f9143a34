"""Deployment rows inside a transaction: add, page, find by commit. A row never changes."""

from __future__ import annotations

import json
from typing import Final

import apsw

from .errors import InvalidName, Refused, VersionNotFound
from .names import parse_commit, parse_prefix
from .rows import Deployment, NewDeployment, WorkflowFound

_SELECT: Final = (
    "SELECT d.id, t.name, d.commit_oid, d.tree_oid, d.branch, d.channel, d.workflows, d.warnings, d.bundle_key, d.who,"
    " d.message, d.created_at_ms FROM deployments d JOIN tenants t ON t.id = d.tenant_id"
)


def add(
    connection: apsw.Connection,
    tenant: tuple[int, str],
    new: NewDeployment,
    *,
    channel: str | None,
    who: str,
    message: str,
    at_ms: int,
) -> Deployment:
    """A new row, and the note which bundle its commit uses. `tenant` is row number and name."""
    tenant_id, name = tenant
    commit, tree = parse_commit(new.commit), parse_commit(new.tree)
    workflows = [[found.name, found.path, found.line, found.module, found.declared] for found in new.workflows]
    connection.execute(
        "INSERT INTO deployments (tenant_id, commit_oid, tree_oid, branch, channel, workflows, warnings,"
        " bundle_key, who, message, created_at_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *(tenant_id, commit, tree, new.branch, channel or "", json.dumps(workflows), json.dumps(new.warnings)),
            *(new.bundle_key, who, message, at_ms),
        ),
    )
    deployment_id = connection.last_insert_rowid()
    connection.execute("INSERT OR REPLACE INTO bundles VALUES (?, ?, ?)", (tenant_id, commit, new.bundle_key))
    return Deployment(
        id=deployment_id,
        tenant=name,
        commit=commit,
        tree=tree,
        branch=new.branch,
        channel=channel or "",
        workflows=new.workflows,
        warnings=new.warnings,
        bundle_key=new.bundle_key,
        who=who,
        message=message,
        created_at_ms=at_ms,
    )


def page(connection: apsw.Connection, tenant_id: int, *, limit: int, before_id: int | None) -> list[Deployment]:
    """Newest first; `before_id`: only older ones."""
    rows = connection.execute(
        _SELECT + " WHERE d.tenant_id = ?1 AND (?2 IS NULL OR d.id < ?2) ORDER BY d.id DESC LIMIT ?3",
        (tenant_id, before_id, limit),
    )
    return [_deployment(row) for row in rows]


def find(connection: apsw.Connection, tenant: tuple[int, str], commit: str) -> Deployment:
    """The newest deployment of a commit, given in full or by a unique prefix of at least 7 digits.

    Raises VersionNotFound, Refused `version_ambiguous`.
    """
    tenant_id, name = tenant
    try:
        prefix = parse_prefix(commit)
    except InvalidName:
        prefix = "none"  # no id begins like this: the name of a thing that cannot exist is not found
    matches = connection.execute(
        "SELECT DISTINCT commit_oid FROM deployments WHERE tenant_id = ? AND commit_oid >= ? AND commit_oid < ?"
        " LIMIT 2",
        (tenant_id, prefix, prefix + "g"),
    ).fetchall()
    if not matches:
        raise VersionNotFound(
            f"Tenant {name!r} has no deployed version {commit!r}.",
            hint="List the versions to see which there are, and give at least the first 7 digits.",
            details={"tenant": name, "commit": commit},
        )
    if len(matches) > 1:
        raise Refused(
            f"{commit!r} is the beginning of several versions of tenant {name!r}.",
            code="version_ambiguous",
            hint="Give more digits.",
            details={"tenant": name, "commit": commit},
        )
    row = connection.execute(
        _SELECT + " WHERE d.tenant_id = ? AND d.commit_oid = ? ORDER BY d.id DESC LIMIT 1", (tenant_id, matches[0][0])
    ).fetchall()[0]
    return _deployment(row)


def _deployment(row: tuple[apsw.SQLiteValue, ...]) -> Deployment:
    values: list[object] = list(row)
    values[6] = tuple(WorkflowFound(*found) for found in json.loads(str(row[6])))
    values[7] = tuple(json.loads(str(row[7])))
    return Deployment(*values)  # type: ignore[arg-type]  # a STRICT table has the types
