"""Numbered migrations of the platform's own databases, checked against the version stored in each file.

The version is SQLite's `user_version`; `application_id` says which of the files it is, so that files that were
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
    -- Names that repeat, once each (see dictionary.py). A row of one of them is there while an instance needs it.
    CREATE TABLE state(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
    CREATE TABLE tenant(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
    CREATE TABLE version(
        id INTEGER PRIMARY KEY,
        tenant INTEGER NOT NULL,
        workflow TEXT NOT NULL,
        "commit" TEXT NOT NULL
    );
    CREATE UNIQUE INDEX version_name ON version(tenant, workflow, "commit");
    -- Instances that are gone but for what they have in the tables below this one. See erasure.py.
    CREATE TABLE doomed(key INTEGER PRIMARY KEY);
    -- How many instances there are of each version in each state, kept by the fold; a row of none may be left.
    CREATE TABLE tally(
        version INTEGER NOT NULL,
        state INTEGER NOT NULL,
        number INTEGER NOT NULL,
        PRIMARY KEY (version, state)
    ) WITHOUT ROWID;

    CREATE TABLE instance(
        key INTEGER PRIMARY KEY,                    -- its generation: in the order of creation
        tenant INTEGER NOT NULL,                    -- also in its version; here for the indexes
        instance TEXT NOT NULL,
        version INTEGER NOT NULL,
        state INTEGER NOT NULL,
        shard INTEGER NOT NULL,
        sequence INTEGER NOT NULL,
        wake_at_ms INTEGER,
        created_at_ms INTEGER NOT NULL,
        updated_at_ms INTEGER NOT NULL,
        facet_bytes INTEGER NOT NULL,
        summary BLOB NOT NULL,
        tail_first INTEGER NOT NULL,                -- sequence of the first entry in `tail`; older ones are in chunks
        tail BLOB NOT NULL                          -- the newest entries while they are few bytes; see chunks.py
    );
    -- Each index is paid for by every start and change of state. No more than these: a tenant's instances by id; what
    -- is due; a tenant's listing, also of all tenants (in_states); the listing by workflow or commit.
    CREATE UNIQUE INDEX instance_name ON instance(tenant, instance);
    CREATE INDEX instance_wake ON instance(wake_at_ms) WHERE wake_at_ms IS NOT NULL;
    CREATE INDEX instance_state ON instance(tenant, state);
    CREATE INDEX instance_version ON instance(version, state);

    -- Older journal entries in chunks; id = instance key << 24 | sequence of the first entry in it. See chunks.py.
    CREATE TABLE chunk(id INTEGER PRIMARY KEY, content BLOB NOT NULL);
    -- Facet deltas; id = instance key << 24 | sequence of their record.
    CREATE TABLE delta(id INTEGER PRIMARY KEY, content BLOB NOT NULL);
    -- A small facet's image as of `sequence`, deflated, and what has gathered behind it.
    CREATE TABLE base(
        key INTEGER PRIMARY KEY,
        sequence INTEGER NOT NULL,
        content BLOB NOT NULL,
        delta_count INTEGER NOT NULL,               -- of what is behind it
        delta_bytes INTEGER NOT NULL,
        is_packed INTEGER NOT NULL                  -- 1: deflated as well as can be; 0: quickly, to be done again
    );
    CREATE INDEX base_quick ON base(key) WHERE is_packed = 0;
    -- What is kept of deltas that a base has taken in: how much, and the record up to which they have been dropped.
    CREATE TABLE history(key INTEGER PRIMARY KEY, bytes INTEGER NOT NULL, oldest INTEGER NOT NULL);
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

_STATE_2 = """
    -- What instances can be found by; only those that have attributes are in these two. See attributes.py.
    CREATE TABLE attribute_set(key INTEGER PRIMARY KEY, content BLOB NOT NULL);
    CREATE TABLE attribute(
        tenant INTEGER NOT NULL,
        name TEXT NOT NULL,
        kind INTEGER NOT NULL,
        value NOT NULL,                             -- no type: SQLite keeps it as it is
        key INTEGER NOT NULL,
        PRIMARY KEY (tenant, name, kind, value, key)
    ) WITHOUT ROWID;
    -- For the listing by time of change. Measured: 18 bytes an instance, 1.3 of the 8 µs in which a start is folded.
    CREATE INDEX instance_updated ON instance(tenant, updated_at_ms);
"""

_STATE_3 = """
    -- What is gone of journals on purpose, and how far it was looked at. See forgetting.py.
    CREATE TABLE forgotten(
        key INTEGER PRIMARY KEY,
        reached INTEGER NOT NULL,
        counted INTEGER NOT NULL,
        bytes INTEGER NOT NULL,
        had_delta INTEGER NOT NULL,                 -- 1: the facet changed with an entry that is gone
        gaps BLOB NOT NULL
    );
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

_BLOBS_1 = """
    -- Byte streams of instances. See blobs.py.
    CREATE TABLE blob(
        number INTEGER PRIMARY KEY AUTOINCREMENT,   -- in the order in which they were begun, never used twice
        key INTEGER NOT NULL,                       -- of the instance; 0: gone, but for what has to be erased
        id INTEGER NOT NULL,                        -- by which journals name it
        size INTEGER NOT NULL,
        parts INTEGER NOT NULL
    );
    CREATE INDEX blob_of_instance ON blob(key, id);
    -- id = number of the blob << 24 | number of the part, from 0.
    CREATE TABLE part(id INTEGER PRIMARY KEY, checksum INTEGER NOT NULL, content BLOB NOT NULL);
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
STATE = Schema("state", 0x50445354, (_STATE_1, _STATE_2, _STATE_3))
OUTPUT = Schema("output", 0x50444F55, (_OUTPUT_1,))
BLOBS = Schema("blobs", 0x5044424C, (_BLOBS_1,))


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
