"""The store of journals, facets and the index.

Structs, not dataclasses: several are made for every record, and these take a tenth of the time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import msgspec

from executor.core.search import Query
from executor.views import LogLine


class Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What the index knows of an instance, as of a record. `wake_at_ms` None: no timer wakes it. `attributes`: what it
    can be found by (`executor.core.attributes`)."""

    state: str
    wake_at_ms: int | None
    workflow: str
    commit: str
    created_at_ms: int
    updated_at_ms: int
    summary: bytes
    attributes: bytes = b""


class Append(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """One record to append. `sequence` 0 changes the row only, and has neither entry nor delta.

    Its shape is that of `facets.Record`, tag and all: the adapter hands it on as it is, and so the log has it.
    """

    tenant: str
    instance: str
    sequence: int
    entry: bytes
    delta: bytes | None
    row: Row


class StoredRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A row as stored, with its key, the sequence of its last entry, and a number that grows with each new instance."""

    tenant: str
    instance: str
    generation: int
    sequence: int
    row: Row


@dataclass(frozen=True, slots=True)
class OutputText:
    """A captured line on its way to the store; (position, number, step, attempt) identifies it."""

    tenant: str
    instance: str
    position: int
    number: int
    at_ms: int
    stream: Literal["stdout", "stderr", "log"]
    level: str
    step: str
    attempt: int
    text: str


class Pages(NamedTuple):
    """Packed chunks of a facet's image from `first` on, and size and checksum of that image."""

    size: int
    checksum: int
    first: int
    chunks: list[bytes]


StoredEntry = tuple[int, bytes]
"""A journal entry as it is stored, behind its sequence."""


class StoredMoment(Protocol):
    """What the store has at one moment; for one thread. Each raises Corrupt for an instance that cannot be read."""

    def row(self, tenant: str, instance: str) -> StoredRow | None: ...
    def journal(self, tenant: str, instance: str, *, after: int = 0) -> list[bytes]: ...
    def entries(self, tenant: str, instance: str, sequences: Sequence[int]) -> dict[int, bytes]:
        """Those entries of a journal by sequence, in that order, which should be theirs; not what was forgotten."""
        ...


class StateStore(Protocol):
    """Journals, facets and the index. `append` is called by one thread at a time, reads by several."""

    @property
    def epoch(self) -> int: ...

    def append(self, records: Sequence[Append]) -> None:
        """All or nothing, durable on return, one fsync. Raises Unavailable (`storage_full`: nothing was written, try
        again later), Conflict (fenced: another executor owns the data), Corrupt (write failed: stop the process)."""

    def check_delta(self, delta: bytes) -> None:
        """Raises Refused if these bytes cannot be a facet delta. Cheap; called on the event loop."""

    def row(self, tenant: str, instance: str) -> StoredRow | None: ...
    def journal(self, tenant: str, instance: str, *, after: int = 0, limit: int | None = None) -> list[StoredEntry]:
        """What was forgotten is left out."""
        ...

    def forget(self, tenant: str, instance: str, *, before: int, but: Sequence[int], keep_bytes: int) -> None:
        """Entries before that one, which is durable, may go, the oldest first, as long as `keep_bytes`, stored, remain
        of them; but the first, and those of `but`. A hint, carried out later: at once, for any thread; never fails."""
        ...

    def at_once(self) -> AbstractContextManager[StoredMoment]:
        """Reads of one moment: what is appended or deleted meanwhile is not seen in the block."""
        ...

    def image(self, tenant: str, instance: str) -> bytes:
        """The facet as of the last durable record, an ordinary SQLite file; b"": it has none."""
        ...

    def facet(self, tenant: str, instance: str) -> bytes | Pages:
        """What a sandbox needs to begin: the image, or the first pages of a large one. Raises Corrupt."""
        ...

    def pages(self, tenant: str, instance: str, first: int, count: int) -> Pages:
        """Chunks of the image as of the last durable record. Raises NotFound, Corrupt."""
        ...

    def revert(self, tenant: str, instance: str, *, after: int) -> bytes | None:
        """The delta from the present facet to that as of entry `after`; None: they are the same.

        Raises NotFound, Refused (`facet_refused`: what led there is not kept, or it changes too much), Corrupt."""
        ...

    def may_have_blobs(self, generation: int) -> bool:
        """Whether an instance may have byte streams. Cheap; called on the event loop."""
        ...

    def put_blob(
        self, tenant: str, instance: str, id: int, first: int, parts: Sequence[bytes], *, keep: Collection[int]
    ) -> None:
        """Append parts to a stream, durable on return; `first` 0 begins it, and takes away all others but `keep`.

        Raises NotFound, Refused (`payload_too_large`, `bad_request`: out of order), Unavailable (`storage_full`),
        Corrupt (write failed: stop the process)."""

    def blob_part(self, tenant: str, instance: str, id: int, number: int) -> bytes | None:
        """A part; None: there is no such stream, or it has fewer. Raises NotFound, Corrupt."""
        ...

    def sweep_blobs(self, generation: int, keep: Collection[int]) -> None:
        """Take away all streams of an instance but `keep`. Raises Unavailable, Corrupt."""

    def due(self, now_ms: int, *, limit: int) -> list[StoredRow]: ...
    def next_wake_ms(self) -> int | None: ...
    def in_states(self, states: Collection[str], *, limit: int, after: int) -> list[StoredRow]:
        """Oldest first; `after`: `generation` of the last row of the page before."""
        ...

    def page(
        self, tenant: str, query: Query, *, limit: int, after: str | None
    ) -> tuple[list[StoredRow], str | None]: ...
    def matches(self, tenant: str, query: Query) -> int:
        """How many instances a search finds; COUNT_MAX + 1 if there are more than COUNT_MAX."""
        ...

    def counts(self, tenant: str) -> dict[str, int]: ...
    def commits(self, tenant: str) -> set[str]: ...
    def delete(self, tenant: str, instance: str) -> None: ...
    def delete_many(self, keys: Sequence[tuple[str, str]]) -> None: ...
    def delete_tenant(self, tenant: str) -> None: ...
    def expire(self, before_ms: Mapping[str, int], *, after: int) -> tuple[list[tuple[str, str]], int | None]:
        """Delete instances without wake time, in these states since before the time given for each, behind generation
        `after`: a portion, and where the next begins (None: that was the last)."""
        ...

    def append_output(self, lines: Sequence[OutputText]) -> None: ...
    def output(self, tenant: str, instance: str, *, after: int, limit: int) -> list[LogLine]: ...
    def backup(self, target: Path) -> None: ...
    def check(self) -> list[str]: ...
    def close(self) -> None: ...
