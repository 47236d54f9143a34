"""The table of operations: one row for each use case, read by everything that carries it.

`http/api.py` makes its routes from these rows, `http/openapi.py` its document, and `platform/` calls them, embedded or
remote. So a surface cannot offer an operation that another one lacks, or take other arguments than it.

`Operation.name` is the method of `executor.service.Service`: it is called with the caller, the values of the path's
parameters in their order, and the remaining arguments by name.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from executor.views import (
    BulkResult,
    ChannelMoveView,
    ChannelView,
    CountView,
    DeploymentView,
    EventReceipt,
    GarbageView,
    Health,
    InstancePage,
    JournalItem,
    LogLine,
    QueryResult,
    ScheduleView,
    StartOutcome,
    StartRequest,
    Status,
    StreamItem,
    StreamView,
    TenantView,
    TokenView,
    UpdateReceipt,
)

API_PREFIX = "/api/v1"
RESULT_WAIT_S_MAX = 60.0
"""Longest wait of one HTTP request; the Python API and the command line ask again until their own time is up."""
TOKEN_LIFE_S_MAX = 100 * 366 * 86_400.0

Limit = Annotated[int, msgspec.Meta(ge=1, le=1000)]
Position = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
Wait = Annotated[float, msgspec.Meta(ge=0, le=RESULT_WAIT_S_MAX)]


class Arguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an operation takes besides its path; in the query of a GET, else in a JSON body."""


class CreateTenant(Arguments, frozen=True):
    name: str


class SetTenant(Arguments, frozen=True):
    """What is not given is the default. `weight`: turns when instances wait for places, relative to other tenants.
    `concurrency`: runs at once, within the share that no tenant can exceed (null: that share)."""

    weight: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None


class CreateToken(Arguments, frozen=True):
    access: Literal["read", "write"] = "write"
    expires_in_s: Annotated[float, msgspec.Meta(gt=0, le=TOKEN_LIFE_S_MAX)] | None = None
    label: str = ""


class Base64File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file that is not UTF-8 text."""

    base64: bytes


class Deploy(Arguments, frozen=True):
    """`files`: path to text, or to `{"base64": "…"}`. They replace the whole tree of `branch`."""

    files: dict[str, str | Base64File]
    message: str = ""
    branch: str = "main"


class ListVersions(Arguments, frozen=True):
    """`before`: deployment id of the last row seen."""

    limit: Limit = 50
    before: Position | None = None


class ListMoves(Arguments, frozen=True):
    limit: Limit = 50


class Rollback(Arguments, frozen=True):
    """`to`: "previous", a full commit, or a prefix of 7 digits or more."""

    to: str = "previous"
    channel: str = "live"
    why: str = ""


class Pin(Arguments, frozen=True):
    commit: str = "live"
    channel: str = "live"
    why: str = ""


class Unpin(Arguments, frozen=True):
    channel: str = "live"
    why: str = ""


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


class Result(Arguments, frozen=True):
    timeout_s: Wait = 0.0


class SendEvent(Arguments, frozen=True):
    """`event_id`: sending it again changes nothing."""

    type: str
    payload: Any = None
    event_id: str | None = None


class Terminate(Arguments, frozen=True):
    """`undo`: once what its finished steps did is undone."""

    undo: bool = False


class Restart(Arguments, frozen=True):
    """`from_step`: name of the step to begin again with (in a group: the group's path before it), and which
    `occurrence` of it; what was recorded before it began stays."""

    from_step: str | None = None
    occurrence: Annotated[int, msgspec.Meta(ge=1)] = 1


class SetAttributes(Arguments, frozen=True):
    """Null takes an attribute away; a time is `{"$datetime": "…"}`."""

    attributes: dict[str, Any]


class Update(Arguments, frozen=True):
    """`update_id`: sending it again is the same update. `timeout_s`: longest wait for the handler's end."""

    name: str
    payload: Any = None
    update_id: str | None = None
    timeout_s: Wait = 30.0


class Ask(Arguments, frozen=True):
    name: str
    payload: Any = None


class QueryFacet(Arguments, frozen=True):
    """One statement that reads. `parameters`: for `?` a list, for `:name` an object; bytes are `{"$bytes": "…"}`."""

    sql: str
    parameters: list[Any] | dict[str, Any] = []
    limit: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1000


class ReadStream(Arguments, frozen=True):
    """`wait_s`: wait for an item at `offset`."""

    offset: Position = 0
    limit: Limit = 1000
    wait_s: Wait = 0.0


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


class CreateSchedule(Arguments, frozen=True):
    """`cron`, or `every` as a duration ("10 minutes", or seconds). `start`, `end`: ISO 8601, in `timezone` if they name
    no other. The same name with the same content is the existing schedule."""

    workflow: str
    payload: Any = None
    name: str | None = None
    channel: str = "live"
    cron: str | None = None
    every: str | float | None = None
    timezone: str = "UTC"
    start: str | None = None
    end: str | None = None
    overlap: Literal["skip", "queue", "cancel", "allow"] = "skip"
    catch_up: Literal["none", "last", "all"] = "last"
    catch_up_window: str | float | None = None
    jitter: str | float = 0


class TriggerSchedule(Arguments, frozen=True):
    """`id`: of the instance; with one, triggering again is safe."""

    id: str | None = None


class Backup(Arguments, frozen=True):
    """`target`: a directory on the server's machine that does not exist yet."""

    target: str


class ResultView(msgspec.Struct, frozen=True):
    """The answer to `result`: what `run()` returned, as a JSON value."""

    output: Any


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """`result` None: nothing (204). `result` bytes: the body itself, of `media_type`.

    `access`: the least that the caller's token must allow; the service checks it, this is for the documents.
    """

    name: str
    method: Literal["GET", "POST", "DELETE"]
    path: str
    arguments: type[Arguments] = Arguments
    result: Any = None
    status: int = 200
    access: Literal["none", "read", "write", "admin"] = "read"
    body: Literal["payload", "deploy", "batch"] = "payload"
    media_type: str = "application/octet-stream"
    summary: str

    @property
    def parameters(self) -> list[str]:
        """Names of the path's parameters, in order."""
        return [part[1:-1].partition(":")[0] for part in self.path.split("/") if part.startswith("{")]

    def keywords(self, arguments: Arguments) -> dict[str, Any]:
        """The service method's keyword arguments. Files become bytes, and a result is waited for as long as asked."""
        found = {name: getattr(arguments, name) for name in arguments.__struct_fields__}
        if isinstance(arguments, Deploy):
            found["files"] = {
                path: content.encode() if isinstance(content, str) else content.base64
                for path, content in arguments.files.items()
            }
        return found


LONE_SURROGATES = "text with lone surrogates, which is not valid Unicode"


def lone_surrogates(arguments: Any) -> str | None:
    """The first place in `arguments` (`.files['a.py']`) with text that has no UTF-8 form; None: there is none.

    Python has such texts from bytes that were no UTF-8 (file names, the command line); JSON sent to the server cannot
    hold them, so only arguments made in Python need this. Payloads are values, and checked as such.
    """
    if isinstance(arguments, str):
        return None if arguments.isascii() or arguments.encode(errors="ignore").decode() == arguments else ""
    places: list[tuple[str, Any]] = []
    if isinstance(arguments, msgspec.Struct):
        names = [name for name in arguments.__struct_fields__ if name != "payload"]
        places = [(f".{name}", getattr(arguments, name)) for name in names]
    elif isinstance(arguments, dict):
        places = [(f"[{key!r}]", part) for key, value in arguments.items() for part in (key, value)]
    elif isinstance(arguments, list):
        places = [(f"[{index}]", item) for index, item in enumerate(arguments)]
    for place, part in places:
        inner = lone_surrogates(part)
        if inner is not None:
            return place + inner
    return None


_TENANT = "/tenants/{tenant}"
_INSTANCES = _TENANT + "/instances"
_INSTANCE = _INSTANCES + "/{id}"
_SCHEDULES = _TENANT + "/schedules"
_SCHEDULE = _SCHEDULES + "/{name}"

_ROWS = [
    Operation(name="health", method="GET", path="/health", result=Health, access="none", summary="How the server is"),
    # Tenants and tokens.
    Operation(
        name="create_tenant",
        method="POST",
        path="/tenants",
        arguments=CreateTenant,
        result=TenantView,
        status=201,
        access="admin",
        summary="Create a tenant",
    ),
    Operation(
        name="tenants", method="GET", path="/tenants", result=list[TenantView], access="admin", summary="List tenants"
    ),
    Operation(name="tenant", method="GET", path=_TENANT, result=TenantView, summary="Show a tenant"),
    Operation(
        name="delete_tenant",
        method="DELETE",
        path=_TENANT,
        status=204,
        access="admin",
        summary="Delete a tenant with its code, tokens and instances",
    ),
    Operation(
        name="set_tenant",
        method="POST",
        path=_TENANT,
        arguments=SetTenant,
        result=TenantView,
        access="admin",
        summary="Set a tenant's weight and concurrency",
    ),
    Operation(
        name="create_token",
        method="POST",
        path=_TENANT + "/tokens",
        arguments=CreateToken,
        result=TokenView,
        status=201,
        access="admin",
        summary="Create a token; its secret is shown only now",
    ),
    Operation(
        name="tokens",
        method="GET",
        path=_TENANT + "/tokens",
        result=list[TokenView],
        access="admin",
        summary="List a tenant's tokens",
    ),
    Operation(
        name="revoke_token",
        method="DELETE",
        path=_TENANT + "/tokens/{token_id}",
        status=204,
        access="admin",
        summary="Revoke a token",
    ),
    # Code.
    Operation(
        name="deploy",
        method="POST",
        path=_TENANT + "/deployments",
        arguments=Deploy,
        result=DeploymentView,
        status=201,
        access="write",
        body="deploy",
        summary="Commit files and deploy them, as a push does",
    ),
    Operation(
        name="versions",
        method="GET",
        path=_TENANT + "/versions",
        arguments=ListVersions,
        result=list[DeploymentView],
        summary="List deployments, newest first",
    ),
    Operation(
        name="version",
        method="GET",
        path=_TENANT + "/versions/{commit}",
        result=DeploymentView,
        summary="Show a deployment",
    ),
    Operation(
        name="files",
        method="GET",
        path=_TENANT + "/versions/{commit}/files",
        result=dict[str, int],
        summary="Paths and sizes in bytes of a version's files",
    ),
    Operation(
        name="file",
        method="GET",
        path=_TENANT + "/versions/{commit}/files/{path:path}",
        result=bytes,
        summary="One file at a version",
    ),
    Operation(
        name="channels", method="GET", path=_TENANT + "/channels", result=list[ChannelView], summary="List channels"
    ),
    Operation(
        name="channel_history",
        method="GET",
        path=_TENANT + "/channels/{channel}/history",
        arguments=ListMoves,
        result=list[ChannelMoveView],
        summary="Every move of a channel, newest first",
    ),
    Operation(
        name="rollback",
        method="POST",
        path=_TENANT + "/rollback",
        arguments=Rollback,
        result=ChannelMoveView,
        access="write",
        summary="Move a channel back; history and branches stay as they are",
    ),
    Operation(
        name="pin",
        method="POST",
        path=_TENANT + "/pin",
        arguments=Pin,
        result=ChannelView,
        access="write",
        summary="Keep a channel on a commit, whatever is pushed",
    ),
    Operation(
        name="unpin",
        method="POST",
        path=_TENANT + "/unpin",
        arguments=Unpin,
        result=ChannelView,
        access="write",
        summary="Let pushes move the channel again",
    ),
    Operation(
        name="collect_garbage",
        method="POST",
        path=_TENANT + "/collect-garbage",
        result=GarbageView,
        access="write",
        summary="Drop commits that no branch, channel history, pin or instance needs",
    ),
    # Instances.
    Operation(
        name="start",
        method="POST",
        path=_INSTANCES,
        arguments=Start,
        result=Status,
        access="write",
        summary="Start an instance; durable when answered",
    ),
    Operation(
        name="start_many",
        method="POST",
        path=_INSTANCES + "/batch",
        arguments=StartMany,
        result=list[StartOutcome],
        access="write",
        body="batch",
        summary="Start up to 1000 instances; each has its own outcome",
    ),
    Operation(
        name="instances",
        method="GET",
        path=_INSTANCES,
        arguments=ListInstances,
        result=InstancePage,
        summary="List instances, newest first or in another order",
    ),
    Operation(
        name="count",
        method="GET",
        path=_TENANT + "/instance-count",
        arguments=Search,
        result=CountView,
        summary="How many instances fit; exact up to 10,000",
    ),
    Operation(
        name="bulk",
        method="POST",
        path=_TENANT + "/bulk",
        arguments=BulkOperation,
        result=BulkResult,
        access="write",
        summary="One operation on up to 1000 instances that fit; each has its own outcome",
    ),
    Operation(name="status", method="GET", path=_INSTANCE, result=Status, summary="Show an instance"),
    Operation(
        name="result",
        method="GET",
        path=_INSTANCE + "/result",
        arguments=Result,
        result=ResultView,
        summary="The instance's output, waiting for it up to timeout_s",
    ),
    Operation(
        name="send_event",
        method="POST",
        path=_INSTANCE + "/events",
        arguments=SendEvent,
        result=EventReceipt,
        access="write",
        summary="Send an event; durable when answered",
    ),
    Operation(
        name="pause",
        method="POST",
        path=_INSTANCE + "/pause",
        result=Status,
        access="write",
        summary="Start no further step until resumed",
    ),
    Operation(name="resume", method="POST", path=_INSTANCE + "/resume", result=Status, access="write", summary="Go on"),
    Operation(
        name="terminate",
        method="POST",
        path=_INSTANCE + "/terminate",
        arguments=Terminate,
        result=Status,
        access="write",
        summary="End the instance now, for good",
    ),
    Operation(
        name="restart",
        method="POST",
        path=_INSTANCE + "/restart",
        arguments=Restart,
        result=Status,
        access="write",
        summary="Run the instance again, from its beginning or from a step",
    ),
    Operation(
        name="retry",
        method="POST",
        path=_INSTANCE + "/retry",
        result=Status,
        access="write",
        summary="Go on from the step that failed the instance",
    ),
    Operation(
        name="set_attributes",
        method="POST",
        path=_INSTANCE + "/attributes",
        arguments=SetAttributes,
        result=Status,
        access="write",
        summary="Change search attributes",
    ),
    Operation(
        name="update",
        method="POST",
        path=_INSTANCE + "/updates",
        arguments=Update,
        result=UpdateReceipt,
        access="write",
        summary="Send an update to the workflow and wait for its answer",
    ),
    Operation(
        name="ask",
        method="POST",
        path=_INSTANCE + "/ask",
        arguments=Ask,
        result=ResultView,
        summary="Ask the workflow's query handler; nothing is journaled",
    ),
    Operation(
        name="query",
        method="POST",
        path=_INSTANCE + "/query",
        arguments=QueryFacet,
        result=QueryResult,
        summary="Read the instance's facet with one SQL statement",
    ),
    Operation(
        name="streams",
        method="GET",
        path=_INSTANCE + "/streams",
        result=list[StreamView],
        summary="The instance's output streams",
    ),
    Operation(
        name="stream",
        method="GET",
        path=_INSTANCE + "/streams/{name}",
        arguments=ReadStream,
        result=list[StreamItem],
        summary="Items of an output stream from an offset on",
    ),
    Operation(
        name="delete",
        method="DELETE",
        path=_INSTANCE,
        status=204,
        access="write",
        summary="Forget an instance: journal, facet and logs",
    ),
    Operation(
        name="journal",
        method="GET",
        path=_INSTANCE + "/journal",
        arguments=ReadJournal,
        result=list[JournalItem],
        summary="Journal entries after a sequence number",
    ),
    Operation(
        name="logs",
        method="GET",
        path=_INSTANCE + "/logs",
        arguments=ReadLogs,
        result=list[LogLine],
        summary="What the instance printed and logged, after a cursor",
    ),
    Operation(
        name="facet",
        method="GET",
        path=_INSTANCE + "/facet",
        result=bytes,
        media_type="application/vnd.sqlite3",
        summary="The instance's facet as an SQLite file; empty if it has none",
    ),
    # Schedules.
    Operation(
        name="schedules",
        method="GET",
        path=_SCHEDULES,
        result=list[ScheduleView],
        summary="List schedules, each with its next time and its last firing",
    ),
    Operation(
        name="schedule",
        method="GET",
        path=_SCHEDULE,
        result=ScheduleView,
        summary="Show a schedule with its next 10 times and its last 100 firings",
    ),
    Operation(
        name="create_schedule",
        method="POST",
        path=_SCHEDULES,
        arguments=CreateSchedule,
        result=ScheduleView,
        status=201,
        access="write",
        summary="Start a workflow again and again, by cron or interval",
    ),
    Operation(
        name="delete_schedule",
        method="DELETE",
        path=_SCHEDULE,
        status=204,
        access="write",
        summary="Delete a schedule that was made by the API; its instances go on",
    ),
    Operation(
        name="pause_schedule",
        method="POST",
        path=_SCHEDULE + "/pause",
        result=ScheduleView,
        access="write",
        summary="Fire nothing until resumed",
    ),
    Operation(
        name="resume_schedule",
        method="POST",
        path=_SCHEDULE + "/resume",
        result=ScheduleView,
        access="write",
        summary="Fire again, from the next time on",
    ),
    Operation(
        name="trigger_schedule",
        method="POST",
        path=_SCHEDULE + "/trigger",
        arguments=TriggerSchedule,
        result=Status,
        access="write",
        summary="Start an instance now, as the schedule would",
    ),
    # The platform.
    Operation(
        name="backup",
        method="POST",
        path="/backup",
        arguments=Backup,
        status=204,
        access="admin",
        summary="Copy everything, consistently, to a directory on the server's machine",
    ),
    Operation(
        name="check",
        method="POST",
        path="/check",
        result=list[str],
        access="admin",
        summary="Verify everything stored; each problem is a line",
    ),
]
OPERATIONS: dict[str, Operation] = {row.name: row for row in _ROWS}
