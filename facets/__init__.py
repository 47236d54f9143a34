"""facets: SQLite state of instances and the log that makes it durable; synchronous, without an event loop.

Two halves. On the host, `StateStore` keeps journals, facet deltas and the index of instances. In the sandbox, `Facet`
is one instance's database over a `PageImage`. Between them travel deltas: the host never opens a tenant's SQLite.
"""

from facets import delta
from facets.backup import restore
from facets.database import renew_write_ahead
from facets.errors import (
    Conflict,
    ConstraintFailed,
    Corrupt,
    DataInUse,
    FacetError,
    Fenced,
    NotFound,
    PositionConflict,
    Refused,
    SchemaTooNew,
    SequenceConflict,
    StorageFull,
    StoreFailed,
    Unavailable,
)
from facets.facet import Facet, prepare_process
from facets.image import PageImage
from facets.limits import Limits
from facets.log import CommitLog, Head, Log
from facets.moment import Moment
from facets.records import InstanceRow, JournalRecord, OutputLine, Record, RowUpdate
from facets.row import Row
from facets.search import Condition, Query
from facets.shard import SHARD_COUNT, shard_of
from facets.store import StateStore

__all__ = [
    "SHARD_COUNT",
    "CommitLog",
    "Condition",
    "Conflict",
    "ConstraintFailed",
    "Corrupt",
    "DataInUse",
    "Facet",
    "FacetError",
    "Fenced",
    "Head",
    "InstanceRow",
    "JournalRecord",
    "Limits",
    "Log",
    "Moment",
    "NotFound",
    "OutputLine",
    "PageImage",
    "PositionConflict",
    "Query",
    "Record",
    "Refused",
    "Row",
    "RowUpdate",
    "SchemaTooNew",
    "SequenceConflict",
    "StateStore",
    "StorageFull",
    "StoreFailed",
    "Unavailable",
    "delta",
    "prepare_process",
    "renew_write_ahead",
    "restore",
    "shard_of",
]
