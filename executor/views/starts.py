"""Many instances at once: what is asked, and what became of each."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

import msgspec

from executor.views.instances import Status


class BulkError(msgspec.Struct, frozen=True, kw_only=True):
    """Why one instance of a bulk operation refused: the JSON shape of every error."""

    id: str
    error: dict[str, Any]


class BulkResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the instances that a bulk operation found.

    `unchanged`: they were as wished already, or gone. `errors`: of the first 100 of the `failed`. `next`: `after` of
    the next portion, None if there is none. Of a dry run: `matched` is how many fit, `is_more` that there are more than
    that, `ids` the first of them.
    """

    matched: int
    done: int = 0
    unchanged: int = 0
    failed: int = 0
    errors: list[BulkError] = []
    next: str | None = None
    is_more: bool = False
    ids: list[str] = []


class StartRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`delay` ("1 hour", or seconds) or `at`: not to be begun before then. `attributes`: search attributes. `priority`:
    -100 to 100, higher goes first among the tenant's own (None: as the workflow declares). `retention`: how long it is
    kept once it has ended, by "complete" and "failed". `unload`: "every-wait" drops its run at every wait.
    """

    workflow: str
    payload: Any = None
    id: str | None = None
    channel: str = "live"
    commit: str | None = None
    delay: str | float | None = None
    at: Annotated[dt.datetime, msgspec.Meta(tz=True)] | None = None
    attributes: dict[str, Any] | None = None
    priority: int | None = None
    retention: dict[str, str | float] | None = None
    unload: Literal["every-wait"] | None = None


class StartOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """One item of start_many: a status, or an error in its JSON shape."""

    status: Status | None = None
    error: dict[str, Any] | None = None
