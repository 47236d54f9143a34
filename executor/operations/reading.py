"""Operations that look at one instance and change nothing."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from executor.operations.operation import INSTANCE, Arguments, Limit, Operation, Position, Wait
from executor.views import JournalItem, LogLine, QueryResult, ResultView, Status, StreamItem, StreamView


class Result(Arguments, frozen=True):
    timeout_s: Wait = 0.0


class Ask(Arguments, frozen=True):
    name: str
    payload: Any = None


class QueryFacet(Arguments, frozen=True):
    """One statement that reads. `parameters`: for `?` a list, for `:name` an object; bytes are `{"$bytes": "…"}`."""

    sql: str
    parameters: list[Any] | dict[str, Any] = msgspec.field(default_factory=list)
    limit: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1000


class ReadStream(Arguments, frozen=True):
    """`wait_s`: wait for an item at `offset`."""

    offset: Position = 0
    limit: Limit = 1000
    wait_s: Wait = 0.0


class ReadBlob(Arguments, frozen=True):
    """`part`: of 256 KiB each, from 0."""

    part: Position = 0


class ReadJournal(Arguments, frozen=True):
    """`wait_s`: wait for an entry after `after`."""

    after: Position = 0
    limit: Limit = 1000
    wait_s: Wait = 0.0


class ReadLogs(Arguments, frozen=True):
    """`wait_s`: wait for a line newer than `after`."""

    after: Position = 0
    limit: Limit = 1000
    wait_s: Wait = 0.0


READING = [
    Operation(name="status", method="GET", path=INSTANCE, result=Status, summary="Show an instance"),
    Operation(
        name="result",
        method="GET",
        path=INSTANCE + "/result",
        arguments=Result,
        result=ResultView,
        summary="The instance's output, waiting for it up to timeout_s",
    ),
    Operation(
        name="ask",
        method="POST",
        path=INSTANCE + "/ask",
        arguments=Ask,
        result=ResultView,
        summary="Ask the workflow's query handler; nothing is journaled",
    ),
    Operation(
        name="query",
        method="POST",
        path=INSTANCE + "/query",
        arguments=QueryFacet,
        result=QueryResult,
        summary="Read the instance's facet with one SQL statement",
    ),
    Operation(
        name="streams",
        method="GET",
        path=INSTANCE + "/streams",
        result=list[StreamView],
        summary="The instance's output streams",
    ),
    Operation(
        name="stream",
        method="GET",
        path=INSTANCE + "/streams/{name}",
        arguments=ReadStream,
        result=list[StreamItem],
        summary="Items of an output stream from an offset on",
    ),
    Operation(
        name="journal",
        method="GET",
        path=INSTANCE + "/journal",
        arguments=ReadJournal,
        result=list[JournalItem],
        summary="Journal entries after a sequence number",
    ),
    Operation(
        name="logs",
        method="GET",
        path=INSTANCE + "/logs",
        arguments=ReadLogs,
        result=list[LogLine],
        summary="What the instance printed and logged, after a cursor",
    ),
    Operation(
        name="facet",
        method="GET",
        path=INSTANCE + "/facet",
        result=bytes,
        media_type="application/vnd.sqlite3",
        summary="The instance's facet as an SQLite file; empty if it has none",
    ),
    Operation(
        name="blob",
        method="GET",
        path=INSTANCE + "/blobs/{blob}",
        arguments=ReadBlob,
        result=bytes,
        media_type="application/octet-stream",
        summary="A part of a byte stream that the journal names; empty behind its last, or if it is not kept",
    ),
]
