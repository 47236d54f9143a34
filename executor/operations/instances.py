"""Operations that make instances, or find them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from executor.operations.operation import INSTANCES_PATH, TENANT, Arguments, Limit, Operation
from executor.views import BulkResult, CountView, InstancePage, StartOutcome, StartRequest, Status


class Start(Arguments, frozen=True):
    """The same id with the same workflow and payload is the same instance, however often it is started, whatever the
    other options are.

    `delay` ("1 hour", or seconds) or `at`: not to be begun before then. `attributes`: search attributes. `priority`:
    -100 to 100, higher goes first among the tenant's own (null: as the workflow declares). `retention`: how long it is
    kept once it has ended, by "complete" and "failed". `unload`: "every-wait" drops its run at every wait.
    """

    workflow: str
    payload: Any = None
    id: str | None = None
    channel: str = "live"
    commit: str | None = None
    delay: str | float | None = None
    at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    attributes: dict[str, Any] | None = None
    priority: Annotated[int, msgspec.Meta(ge=-100, le=100)] | None = None
    retention: dict[str, str | float] | None = None
    unload: Literal["every-wait"] | None = None


class StartMany(Arguments, frozen=True):
    requests: Annotated[list[StartRequest], msgspec.Meta(max_length=1000)]


class Search(Arguments, frozen=True):
    """Which instances. `state`: one, or several with commas. Times in milliseconds: from is included, to is not.

    `where`: conditions on search attributes, all of which must hold, as JSON: {"customer": "acme", "amount": {">": 5}}
    or [["customer", "=", "acme"]]; operators are = != < <= > >= in exists prefix. In a query it is that JSON as text.
    """

    state: str | None = None
    workflow: str | None = None
    commit: str | None = None
    created_from_ms: int | None = None
    created_to_ms: int | None = None
    updated_from_ms: int | None = None
    updated_to_ms: int | None = None
    where: str | dict[str, Any] | list[Any] | None = None


class ListInstances(Search, frozen=True):
    """Newest first, or in the order of `order_by`: created, updated or the name of an attribute, the least first; with
    - before it, the greatest. `after`: `next` of the page before."""

    order_by: str | None = None
    limit: Limit = 100
    after: str | None = None


class BulkOperation(Search, frozen=True, kw_only=True):
    """`after`: `next` of the portion before. `dry_run`: only say how many there are."""

    operation: Literal["pause", "resume", "terminate", "restart", "retry", "delete"]
    limit: Limit = 1000
    after: str | None = None
    dry_run: bool = False


INSTANCES = [
    Operation(
        name="start",
        method="POST",
        path=INSTANCES_PATH,
        arguments=Start,
        result=Status,
        access="write",
        summary="Start an instance; durable when answered",
    ),
    Operation(
        name="start_many",
        method="POST",
        path=INSTANCES_PATH + "/batch",
        arguments=StartMany,
        result=list[StartOutcome],
        access="write",
        body="batch",
        summary="Start up to 1000 instances; each has its own outcome",
    ),
    Operation(
        name="instances",
        method="GET",
        path=INSTANCES_PATH,
        arguments=ListInstances,
        result=InstancePage,
        summary="List instances, newest first or in another order",
    ),
    Operation(
        name="count",
        method="GET",
        path=TENANT + "/instance-count",
        arguments=Search,
        result=CountView,
        summary="How many instances fit; exact up to 10,000",
    ),
    Operation(
        name="bulk",
        method="POST",
        path=TENANT + "/bulk",
        arguments=BulkOperation,
        result=BulkResult,
        access="write",
        summary="One operation on up to 1000 instances that fit; each has its own outcome",
    ),
]
