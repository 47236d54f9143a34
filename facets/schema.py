"""Numbered migrations of the platform's own databases, checked against the version stored in each file.

The version is SQLite's `user_version`; `application_id` says which of the three files it is, so that files that were
swapped are refused instead of misread. A migration is never edited once released: append another.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import apsw

from facets.database import reading, transaction
from facets.errors import Corrupt, SchemaTooNew

_LOG_1 = """
    -- One row, changed by every append and claim, and never touched by trim: the condition on it is the fence. (A fence
    -- made of "this position is still free" stops fencing once the position was trimmed; seen, findings on the state.)
    CREATE TABLE head(id INTEGER PRIMARY KEY CHECK (id = 1), position INTEGER NOT NULL, epoch INTEGER NOT NULL);
    INSERT INTO head VALUES(1, 0, 0);
    CREATE TABLE batch(position INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, content BLOB NOT NULL);
"""

_STATE_1 = """
    CREATE TABLE progress(
        id INTEGER PRIMARY KEY CHECK (id = 1),
        folded INTEGER NOT NULL,                    -- position of the log up to which everything is in this file
        next_key INTEGER NOT NULL,                  -- never goes back, so a key is never used twice
        epoch INTEGER NOT NULL                      -- the owner that may fold
    );
    INSERT INTO progress VALUES(1, 0, 1, 0);
    CREATE TABLE instance(
        key INTEGER PRIMARY KEY,                    -- its generation: in the order of creation
        tenant TEXT NOT NULL,
        instance TEXT NOT NULL,
        shard INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        state TEXT NOT NULL,
        wake_at_ms INTEGER,
        workflow TEXT NOT NULL,
        "commit" TEXT NOT NULL,
        created_at_ms INTEGER NOT NULL,
        updated_at_ms INTEGER NOT NULL,
        summary BLOB NOT NULL,
        facet_bytes INTEGER NOT NULL
    );
    CREATE UNIQUE INDEX instance_name ON instance(tenant, instance);
    CREATE INDEX instance_wake ON instance(wake_at_ms) WHERE wake_at_ms IS NOT NULL;
    CREATE INDEX instance_state ON instance(state);
    CREATE INDEX tenant_state ON instance(tenant, state);
    CREATE INDEX tenant_workflow ON instance(tenant, workflow);
    CREATE INDEX tenant_commit ON instance(tenant, "commit");

    -- Journal entries in chunks; id = instance key << 24 | sequence of the first entry in it. See chunks.py.
    CREATE TABLE chunk(id INTEGER PRIMARY KEY, content BLOB NOT NULL);
    -- Facet deltas; id = instance key << 24 | sequence of their record.
    CREATE TABLE delta(id INTEGER PRIMARY KEY, content BLOB NOT NULL);
    -- A small facet's image as of `sequence`, deflated, and what has gathered behind it.
    CREATE TABLE base(
        key INTEGER PRIMARY KEY,
        sequence INTEGER NOT NULL,
        content BLOB NOT NULL,
        delta_count INTEGER NOT NULL,
        delta_bytes INTEGER NOT NULL
    );
    -- A large facet instead: its image as of `sequence` is in chunks (see paged.py), and this is what is known of it.
    CREATE TABLE paged(
        key INTEGER PRIMARY KEY,
        sequence INTEGER NOT NULL,
        size INTEGER NOT NULL,                      -- of the image, and its checksum: a Stamp of delta.py
        checksum INTEGER NOT NULL,
        broken_at INTEGER,                          -- sequence of the first delta that does not fit, if there is one
        delta_count INTEGER NOT NULL,
        delta_bytes INTEGER NOT NULL
    );
    -- id = instance key << 20 | number of the chunk; a chunk of zeros has no row. See pages.py.
    CREATE TABLE paged_chunk(id INTEGER PRIMARY KEY, content BLOB NOT NULL);
"""

_OUTPUT_1 = """
    CREATE TABLE line(
        id INTEGER PRIMARY KEY AUTOINCREMENT,       -- the reader's cursor: never used twice
        key INTEGER NOT NULL,                       -- of the instance, so that an id used again starts empty
        position INTEGER NOT NULL,
        number INTEGER NOT NULL,
        step TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        at_ms INTEGER NOT NULL,
        stream TEXT NOT NULL,
        level TEXT NOT NULL,
        text TEXT NOT NULL
    );
    CREATE UNIQUE INDEX line_identity ON line(key, position, number, step, attempt);
    CREATE INDEX line_of_instance ON line(key);
    CREATE TABLE usage(key INTEGER PRIMARY KEY, bytes INTEGER NOT NULL, is_cut INTEGER NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Schema:
    """One kind of file: its name, the mark in its header, and its migrations in order."""

    kind: str
    application_id: int
    migrations: tuple[str, ...]

    @property
    def version(self) -> int:
        return len(self.migrations)


LOG = Schema("log", 0x50444C47, (_LOG_1,))
STATE = Schema("state", 0x50445354, (_STATE_1,))
OUTPUT = Schema("output", 0x50444F55, (_OUTPUT_1,))


def migrate(connection: apsw.Connection, path: Path, schema: Schema) -> None:
    """Bring the file to the version that this code knows, each step whole or not at all.

    Raises SchemaTooNew (nothing is changed), Corrupt (`wrong_database`: it is some other file).
    """
    with reading(path):
        found = int(connection.pragma("user_version"))
        mark = int(connection.pragma("application_id"))
        is_new = connection.execute("SELECT count(*) FROM sqlite_schema").get == 0
    if mark != schema.application_id and not (is_new and mark == 0 and found == 0):
        raise Corrupt(
            f"{path.name} is not a {schema.kind} database of this platform.",
            code="wrong_database",
            hint="Put the right file in its place; nothing was changed.",
            details={"path": str(path)},
        )
    if found > schema.version:
        raise SchemaTooNew(
            f"{path.name} has schema version {found}; this program knows versions up to {schema.version}.",
            hint="Run the version that wrote it, or a newer one; nothing was changed.",
            details={"path": str(path), "found": found, "known": schema.version},
        )
    for number in range(found, schema.version):
        with transaction(connection, path):
            connection.execute(schema.migrations[number])
            connection.pragma("user_version", number + 1)
            connection.pragma("application_id", schema.application_id)
