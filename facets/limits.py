"""Limits: every bound of this package in one frozen value; each has its unit in its name, a default and a reason."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from facets.errors import Refused

KIB = 1024
MIB = 1024 * KIB
FACET_BYTES_MOST = 1024 * MIB
"""No configuration may allow more: numbers of blocks and chunks in deltas, row ids and frames are sized for it."""


def _bound(default: int, reason: str) -> int:
    """A dataclass field that remembers why its default is what it is (shown by the documents through `reasons()`)."""
    return field(default=default, metadata={"reason": reason})


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one facet and of the store behind it: inclusive maxima, sizes in bytes, times in milliseconds."""

    # --- one facet, enforced inside the sandbox (facet.py, image.py) and again on its deltas outside (delta.py)
    facet_bytes_max: int = _bound(8 * MIB, "what a tenant may keep per instance; up to 1 GiB is allowed and works")
    delta_bytes_max: int = _bound(
        9 * MIB, "what one step may change, uncompressed: a facet of the default size; it must fit one message"
    )
    paged_bytes_min: int = _bound(
        4 * MIB, "a facet over this is fetched page by page as SQL touches it; up to it, whole, in one go"
    )
    page_cache_bytes_max: int = _bound(
        16 * MIB, "pages of large facets kept in one sandbox process, for all its instances together"
    )
    value_bytes_max: int = _bound(MIB, "one string or blob, of a row or in between; SQLite's own bound is 1 GB")
    sql_bytes_max: int = _bound(100_000, "no hand-written statement is longer; parsing happens before any timer")
    column_count_max: int = _bound(200, "some of SQLite's planning is quadratic in the columns of a table or result")
    parameter_count_max: int = _bound(1_000, "a statement's parameters; more rows belong into executemany")
    result_row_count_max: int = _bound(100_000, "rows of one execute() are handed out as one list")
    result_bytes_max: int = _bound(32 * MIB, "values of one execute(), before they fill the sandbox's memory")
    statement_ms_max: int = _bound(5_000, "a step's statement that runs longer is a runaway; it also holds the sandbox")
    sqlite_heap_bytes_max: int = _bound(
        64 * MIB, "all SQLite memory of one sandbox process: caches, sorts, temp tables"
    )

    # --- the store, enforced on the host
    journal_entry_bytes_max: int = _bound(2 * MIB, "one journal entry: a value of 1 MiB, its names and an error's text")
    summary_bytes_max: int = _bound(64 * KIB, "the executor's blob in an instance's row, read with every listing")
    batch_bytes_max: int = _bound(64 * MIB, "one append; a start reads the log batch by batch into memory")
    log_bytes_max: int = _bound(8 * MIB, "folded records kept in the log; trimming them costs a few fsyncs each time")
    tail_bytes_max: int = _bound(
        64 * MIB, "records in memory before appends wait for the fold; a slow disk, not memory"
    )
    fold_interval_ms: int = _bound(
        2_000, "records folded at once: what began and ended within it is written once; 8 MiB are folded sooner"
    )
    facet_history_bytes_max: int = _bound(
        16 * MIB, "deltas kept per instance behind its base image, for the facet as of an older record"
    )
    disk_reserve_bytes: int = _bound(
        MIB, "room kept in a file for when the disk is full: what deletions need to write before they free any"
    )
    blobs_bytes_max: int = _bound(256 * MIB, "byte streams of one instance together; they cost disk and no memory")
    output_bytes_max: int = _bound(MIB, "printed output kept per instance; a last line says that it was cut")

    def __post_init__(self) -> None:
        if not 0 < self.facet_bytes_max <= FACET_BYTES_MOST:
            raise Refused(
                f"A facet's limit of {self.facet_bytes_max} bytes is out of range: 1 to {FACET_BYTES_MOST}.",
                code="limit_invalid",
            )

    @classmethod
    def reasons(cls) -> dict[str, str]:
        """Why each default is what it is, by field name, in the order of declaration."""
        return {item.name: str(item.metadata["reason"]) for item in fields(cls)}
