"""Small values for the tests of the store."""

from __future__ import annotations

from facets import InstanceRow, Record, RowUpdate

COMMIT = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"


def row(
    state: str = "waiting",
    *,
    wake: int | None = None,
    workflow: str = "Onboarding",
    commit: str = COMMIT,
    at: int = 1000,
    summary: bytes = b"",
) -> RowUpdate:
    return RowUpdate(state, wake, workflow, commit, 1000, at, summary)


def record(
    instance: str,
    sequence: int,
    entry: bytes | None = None,
    *,
    tenant: str = "acme",
    delta: bytes | None = None,
    state: str = "waiting",
    wake: int | None = None,
    workflow: str = "Onboarding",
    commit: str = COMMIT,
    at: int = 1000,
    summary: bytes = b"",
) -> Record:
    """A record whose entry names it; sequence 0 carries none."""
    if entry is None:
        entry = f"{instance}:{sequence}".encode() if sequence else b""
    return Record(
        tenant,
        instance,
        sequence,
        entry,
        delta,
        row(state, wake=wake, workflow=workflow, commit=commit, at=at, summary=summary),
    )


def names(rows: list[InstanceRow]) -> list[str]:
    return [row.instance for row in rows]
