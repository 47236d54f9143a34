"""What an instance has done and said, as callers see it: result, journal, streams, logs, facet."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

SENSITIVE: dict[str, Any] = {"$sensitive": True}
"""Stands for the output of a sensitive step, wherever a value is shown. Compared by identity: a tenant's own dict that
looks like it is a value as any other."""


class ResultView(msgspec.Struct, frozen=True):
    """The answer to `result`: what `run()` returned, as a JSON value."""

    output: Any


class JournalItem(msgspec.Struct, frozen=True, kw_only=True):
    """One journal entry: `kind` in snake case ("step_succeeded") and its fields; values are decoded. docs/journal.md.

    `attempt`: of the step that it is about. `parent`: path of what it belongs to: the group around a step, the step
    that an item of a stream came from, the step that is undone; None: the run itself.
    """

    sequence: int
    at_ms: int
    kind: str
    chain: str
    attempt: int | None = None
    parent: str | None = None
    fields: dict[str, Any]


class StreamItem(msgspec.Struct, frozen=True, kw_only=True):
    """One item of an output stream. `step` is the path of the step that emitted it, "" for `run()` itself, and
    `attempt` which attempt of it (0 for `run()`)."""

    offset: int
    item: Any
    at_ms: int
    step: str
    attempt: int


class StreamView(msgspec.Struct, frozen=True, kw_only=True):
    """`count` items so far: the next one has that offset."""

    name: str
    count: int


class QueryResult(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of a facet query, as of journal entry `sequence` or a later one. `is_cut`: there were more than `limit`."""

    columns: list[str]
    rows: list[list[Any]]
    is_cut: bool
    sequence: int


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """`cursor` grows; ask for lines after it. `step` "" means `run()` itself."""

    cursor: int
    at_ms: int
    stream: Literal["stdout", "stderr", "log"]
    level: str
    step: str
    attempt: int
    text: str
