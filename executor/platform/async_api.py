"""AsyncPlatform, AsyncTenant, AsyncRun: the Python API, for asyncio and trio. `api.py` is its generated sync twin
(`tools/unasync.py`); the two have the same methods.

One implementation for embedded and remote use: each method names an operation of `executor.operations`, and a
transport carries it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Literal, Protocol, Self, TypeVar, overload

import msgspec

from executor.config import load
from executor.core.attributes import Attribute
from executor.core.errors import PerdureError, Refused, Unavailable, from_json
from executor.entropy import new_name
from executor.operations import OPERATIONS, Arguments, Operation
from executor.operations.texts import LONE_SURROGATES, lone_surrogates
from executor.platform import payloads
from executor.platform.async_remote import AsyncRemote
from executor.platform.lines import AsyncLines
from executor.platform.payloads import Where
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
    InstanceView,
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
from executor.workflow import Duration, Workflow

P = TypeVar("P")
R = TypeVar("R")

PAGE = 1000
UPDATE_CHUNK_S = 30.0
"""One request of a long wait."""


class AsyncTransport(Protocol):
    """Carries operations to a service. Errors are PerdureErrors, whatever is between."""

    async def open(self) -> None: ...
    async def close(self) -> None: ...
    async def call(self, operation: Operation, path: tuple[str, ...], arguments: Arguments) -> Any: ...
    async def result(self, tenant: str, instance: str, timeout_s: float | None) -> Any: ...
    def url(self, path: str) -> str: ...


class AsyncPlatform:
    """The platform, embedded in this process or remote. Use it as a context manager, or call close() at the end."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport
        self._is_open = False

    @classmethod
    def local(cls, dir: str | os.PathLike[str], *, unconfined: bool = False, **settings: Any) -> Self:
        """The executor on its own thread of this process, over the data directory `dir` (made if missing).

        `settings` are fields of `executor.config.Config`; environment and DIR/config.toml count as for the server.
        `unconfined`: run tenant code without confinement; only where every tenant is trusted like yourself.
        Opening raises Refused: `data_in_use` (another executor has it open), `not_confined`, `schema_too_new`.
        """
        # trio and the whole platform: 0.4 s that a program with a remote platform need not wait for.
        from executor.platform.embedded import AsyncEmbedded  # noqa: PLC0415
        from executor.platform.host import Host  # noqa: PLC0415

        flags: dict[str, Any] = {"data_dir": Path(dir), **settings}
        if unconfined:
            flags["unconfined"] = True
        return cls(AsyncEmbedded(Host(load(flags))))

    @classmethod
    def connect(cls, url: str, *, token: str | None = None) -> Self:
        """A server, with the platform's or a tenant's token. Nothing is sent before the first call."""
        return cls(AsyncRemote(url, token=token))

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Release everything. Instances go on when the platform is opened again."""
        await self._transport.close()

    async def create_tenant(self, name: str) -> AsyncTenant:
        """Raises Conflict (`tenant_exists`), Refused (`invalid_name`)."""
        return AsyncTenant(self, await self._call("create_tenant", name=name))

    async def tenant(self, name: str) -> AsyncTenant:
        """Raises NotFound (`tenant_not_found`)."""
        return AsyncTenant(self, await self._call("tenant", name))

    async def tenants(self) -> list[AsyncTenant]:
        return [AsyncTenant(self, view) for view in await self._call("tenants")]

    async def set_tenant(self, name: str, *, weight: int = 1, concurrency: int | None = None) -> AsyncTenant:
        """Set what a tenant gets; what is not given is the default. Durable on return.

        `weight`: turns when instances wait for places, relative to other tenants, 1 to 100. `concurrency`: runs at
        once, within the share that no tenant can exceed (None: that share).
        """
        return AsyncTenant(self, await self._call("set_tenant", name, weight=weight, concurrency=concurrency))

    async def delete_tenant(self, name: str) -> None:
        """Delete a tenant with its code, tokens and instances, for good."""
        await self._call("delete_tenant", name)

    async def health(self) -> Health:
        found: Health = await self._call("health")
        return found

    async def backup(self, target: str | os.PathLike[str]) -> None:
        """Copy everything, consistently, to a directory (on the server's machine) that does not exist yet."""
        await self._call("backup", target=os.fspath(target))

    async def verify(self) -> list[str]:
        """Check everything stored against its digests and invariants; each problem is a line."""
        found: list[str] = await self._call("check")
        return found

    async def _open(self) -> None:
        if not self._is_open:
            await self._transport.open()
            self._is_open = True

    async def _call(self, name: str, /, *path: str, **arguments: Any) -> Any:
        """Do the operation `name`. Its arguments are checked here, so that both transports refuse the same way."""
        operation = OPERATIONS[name]
        await self._open()
        for part in path:
            if not isinstance(part, str):
                raise Refused(f"{part!r} is not a name.", code="invalid_name", hint="Names are text.")
        try:
            checked = msgspec.convert(arguments, operation.arguments)
        except msgspec.ValidationError as error:
            raise Refused(f"The arguments of {name} are wrong: {error}.") from None
        place = lone_surrogates(checked)
        if place is not None:
            raise Refused(
                f"The arguments of {name} are wrong: {LONE_SURROGATES} - at `${place}`.",
                hint="Decode the bytes with errors='replace'.",
            )
        return await self._transport.call(operation, path, checked)


class AsyncTenant:
    """One tenant: its code, its tokens and its instances."""

    def __init__(self, platform: AsyncPlatform, view: TenantView) -> None:
        self._platform = platform
        self.view = view
        self.name = view.name
        self.created_at_ms = view.created_at_ms

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    @property
    def git_url(self) -> str:
        """Where `git push` and `git clone` find the repository: any user name, a token of `create_token` as password.

        An embedded platform begins to serve it, on a loopback port, when it is first asked.
        """
        return self._platform._transport.url(self.view.git_path)

    # --- tokens

    async def create_token(
        self, *, access: Literal["read", "write"] = "write", expires_in_s: float | None = None, label: str = ""
    ) -> TokenView:
        """A new token; `.secret` is shown only here. It opens this tenant's repository and API."""
        found: TokenView = await self._call("create_token", access=access, expires_in_s=expires_in_s, label=label)
        return found

    async def tokens(self) -> list[TokenView]:
        found: list[TokenView] = await self._call("tokens")
        return found

    async def revoke_token(self, id: str) -> None:
        """Raises NotFound (`token_not_found`)."""
        await self._call("revoke_token", id)

    # --- code

    async def deploy(
        self, files: Mapping[str, str | bytes], *, message: str = "", branch: str = "main"
    ) -> DeploymentView:
        """Commit `files` as the whole tree of `branch` and deploy the commit, as a push does. Durable on return.

        Raises Refused: `deploy_refused` (`details["diagnostics"]` names file, line and reason), `push_refused`.
        """
        contents = payloads.file_contents(files)
        found: DeploymentView = await self._call("deploy", files=contents, message=message, branch=branch)
        return found

    async def versions(self, *, limit: int = 50, before: int | None = None) -> list[DeploymentView]:
        """Deployments, newest first; `before` is the id of the last one seen."""
        found: list[DeploymentView] = await self._call("versions", limit=limit, before=before)
        return found

    async def version(self, commit: str) -> DeploymentView:
        """Raises NotFound (`version_not_found`). `commit` may be a unique prefix of 7 digits or more."""
        found: DeploymentView = await self._call("version", commit)
        return found

    async def files(self, commit: str) -> dict[str, int]:
        """Paths and sizes in bytes at a version."""
        found: dict[str, int] = await self._call("files", commit)
        return found

    async def file(self, commit: str, path: str) -> bytes:
        """Raises NotFound (`file_not_found`)."""
        found: bytes = await self._call("file", commit, path)
        return found

    async def channels(self) -> list[ChannelView]:
        found: list[ChannelView] = await self._call("channels")
        return found

    async def channel_history(self, channel: str = "live", *, limit: int = 50) -> list[ChannelMoveView]:
        """Every move, newest first."""
        found: list[ChannelMoveView] = await self._call("channel_history", channel, limit=limit)
        return found

    async def rollback(self, *, to: str = "previous", channel: str = "live", why: str = "") -> ChannelMoveView:
        """Move a channel back. Branches, history and running instances stay as they are. Durable on return."""
        found: ChannelMoveView = await self._call("rollback", to=to, channel=channel, why=why)
        return found

    async def pin(self, commit: str = "live", *, channel: str = "live", why: str = "") -> ChannelView:
        """Keep the channel on that commit: pushes still deploy, but do not move it, until `unpin`."""
        found: ChannelView = await self._call("pin", commit=commit, channel=channel, why=why)
        return found

    async def unpin(self, *, channel: str = "live", why: str = "") -> ChannelView:
        found: ChannelView = await self._call("unpin", channel=channel, why=why)
        return found

    async def collect_garbage(self) -> GarbageView:
        """Drop what no branch, tag, channel history, pin or instance needs."""
        found: GarbageView = await self._call("collect_garbage")
        return found

    async def delete(self) -> None:
        """As `platform.delete_tenant`."""
        await self._platform.delete_tenant(self.name)

    # --- instances

    @overload
    async def start(
        self,
        workflow: type[Workflow[P, R]],
        payload: P,
        *,
        id: str | None = None,
        channel: str = "live",
        commit: str | None = None,
        delay: Duration | None = None,
        at: datetime | None = None,
        attributes: Mapping[str, Attribute] | None = None,
        priority: int | None = None,
        retention: Mapping[str, Duration] | None = None,
        unload: Literal["every-wait"] | None = None,
    ) -> AsyncRun[R]: ...
    @overload
    async def start(
        self,
        workflow: type[Workflow[None, R]],
        *,
        id: str | None = None,
        channel: str = "live",
        commit: str | None = None,
        delay: Duration | None = None,
        at: datetime | None = None,
        attributes: Mapping[str, Attribute] | None = None,
        priority: int | None = None,
        retention: Mapping[str, Duration] | None = None,
        unload: Literal["every-wait"] | None = None,
    ) -> AsyncRun[R]: ...
    @overload
    async def start(
        self,
        workflow: str,
        payload: Any = None,
        *,
        id: str | None = None,
        channel: str = "live",
        commit: str | None = None,
        delay: Duration | None = None,
        at: datetime | None = None,
        attributes: Mapping[str, Attribute] | None = None,
        priority: int | None = None,
        retention: Mapping[str, Duration] | None = None,
        unload: Literal["every-wait"] | None = None,
    ) -> AsyncRun[Any]: ...
    async def start(
        self,
        workflow: str | type[Workflow[Any, Any]],
        payload: Any = None,
        *,
        id: str | None = None,
        channel: str = "live",
        commit: str | None = None,
        delay: Duration | None = None,
        at: datetime | None = None,
        attributes: Mapping[str, Attribute] | None = None,
        priority: int | None = None,
        retention: Mapping[str, Duration] | None = None,
        unload: Literal["every-wait"] | None = None,
    ) -> AsyncRun[Any]:
        """Start an instance on the commit that `channel` is on now, or on `commit`. Durable on return.

        The same id with the same workflow and payload is the same instance, however often it is started; with others
        it is a Conflict (`instance_exists`); other options do not count.

        `delay` or `at`: it begins then. `attributes`: search attributes. `priority`: -100 to 100, higher goes first
        among the tenant's own. `retention`: how long it is kept once it has ended, {"complete": "1 day", "failed": "30
        days"}. `unload`: "every-wait" drops its run at every wait. What the workflow declares as `flow` counts too.

        Dataclasses and pydantic models are taken as payload; where a class is given, `result()` has its declared type.
        Raises Refused: `not_deployed`, `unknown_workflow`, `bad_payload`, `payload_too_large`, `invalid_name`.
        """
        status: Status = await self._call(
            "start",
            workflow=payloads.workflow_name(workflow),
            payload=payloads.value_of(payload),
            id=id,
            channel=channel,
            commit=commit,
            **payloads.start_options(
                delay=delay, at=at, attributes=attributes, priority=priority, retention=retention, unload=unload
            ),
        )
        return AsyncRun(self, status.id, payloads.result_type(workflow))

    @overload
    async def start_many(
        self, requests: Iterable[StartRequest | Mapping[str, Any]], *, return_exceptions: Literal[False] = False
    ) -> list[AsyncRun[Any]]: ...
    @overload
    async def start_many(
        self, requests: Iterable[StartRequest | Mapping[str, Any]], *, return_exceptions: bool
    ) -> list[AsyncRun[Any] | PerdureError]: ...
    async def start_many(
        self, requests: Iterable[StartRequest | Mapping[str, Any]], *, return_exceptions: bool = False
    ) -> Any:
        """Start many instances with few disk writes. Each request is a StartRequest, or a dict of its fields
        (workflow, payload, id, channel, commit, and the options of `start`). Those that succeed are durable on return.

        With return_exceptions, a refused request gives its error in its place; else the first error is raised after
        all were tried, with `details["index"]`.
        """
        wanted = [_request(item) for item in requests]
        outcomes: list[StartOutcome] = []
        for first in range(0, len(wanted), PAGE):
            outcomes += await self._call("start_many", requests=wanted[first : first + PAGE])
        found: list[AsyncRun[Any] | PerdureError] = []
        for index, outcome in enumerate(outcomes):
            if outcome.status is not None:
                found.append(AsyncRun(self, outcome.status.id))
                continue
            error = from_json(outcome.error or {})
            error.details["index"] = index
            found.append(error)
        refused = [item for item in found if isinstance(item, PerdureError)]
        if refused and not return_exceptions:
            raise refused[0]
        return found

    async def instance(self, id: str) -> AsyncRun[Any]:
        """Raises NotFound (`instance_not_found`)."""
        status: Status = await self._call("status", id)
        return AsyncRun(self, status.id)

    async def instances(
        self,
        *,
        state: str | Sequence[str] | None = None,
        workflow: str | type[Workflow[Any, Any]] | None = None,
        commit: str | None = None,
        created_from: datetime | None = None,
        created_to: datetime | None = None,
        updated_from: datetime | None = None,
        updated_to: datetime | None = None,
        where: Where | None = None,
        order_by: str | None = None,
        limit: int | None = 100,
    ) -> list[InstanceView]:
        """The first `limit` instances that fit (None: all of them), newest first.

        `state`: one or several. Times: from is included, to is not. `where`: conditions on search attributes, all of
        which must hold: {"customer": "acme", "amount": {">": 5, "<=": 10}}, or [("amount", ">", 5)]; operators are
        = != < <= > >= in exists prefix. `order_by`: created, updated or the name of an attribute; with - before it,
        the greatest comes first. Raises Refused (`bad_request`) that names the condition.
        """
        fits = payloads.search(
            state=state,
            workflow=workflow,
            commit=commit,
            created_from=created_from,
            created_to=created_to,
            updated_from=updated_from,
            updated_to=updated_to,
            where=where,
        )
        if limit is not None and limit < 1:
            raise Refused(f"limit is {limit}.", hint="Give 1 or more, or None for all.")
        found: list[InstanceView] = []
        after: str | None = None
        while limit is None or len(found) < limit:
            size = PAGE if limit is None else min(PAGE, limit - len(found))
            page: InstancePage = await self._call("instances", **fits, order_by=order_by, limit=size, after=after)
            found += page.items
            after = page.next
            if after is None:
                break
        return found

    async def count(
        self,
        *,
        state: str | Sequence[str] | None = None,
        workflow: str | type[Workflow[Any, Any]] | None = None,
        commit: str | None = None,
        created_from: datetime | None = None,
        created_to: datetime | None = None,
        updated_from: datetime | None = None,
        updated_to: datetime | None = None,
        where: Where | None = None,
    ) -> CountView:
        """How many instances fit; exact up to 10,000, beyond that `is_more` is true."""
        fits = payloads.search(
            state=state,
            workflow=workflow,
            commit=commit,
            created_from=created_from,
            created_to=created_to,
            updated_from=updated_from,
            updated_to=updated_to,
            where=where,
        )
        found: CountView = await self._call("count", **fits)
        return found

    async def bulk(
        self,
        operation: Literal["pause", "resume", "terminate", "restart", "retry", "delete"],
        *,
        state: str | Sequence[str] | None = None,
        workflow: str | type[Workflow[Any, Any]] | None = None,
        commit: str | None = None,
        created_from: datetime | None = None,
        created_to: datetime | None = None,
        updated_from: datetime | None = None,
        updated_to: datetime | None = None,
        where: Where | None = None,
        limit: int | None = None,
        dry_run: bool = False,
    ) -> BulkResult:
        """Do `operation` to the instances that fit: the newest `limit` of them (None: all).

        Instances that begin after the call are not among them. Each has its own outcome: the result counts what was
        done, what was so already, and what failed, with the first 100 errors. `dry_run`: change nothing; `matched` is
        how many fit (exact up to 10,000, beyond that `is_more`), `ids` the first of them. Raises Refused
        (`bad_request`); Unavailable, with `details["so_far"]` if some was done before.
        """
        fits = payloads.search(
            state=state,
            workflow=workflow,
            commit=commit,
            created_from=created_from,
            created_to=created_to,
            updated_from=updated_from,
            updated_to=updated_to,
            where=where,
        )
        if limit is not None and limit < 1:
            raise Refused(f"limit is {limit}.", hint="Give 1 or more, or None for all.")
        total = BulkResult(matched=0)
        while True:
            size = PAGE if limit is None else min(PAGE, limit - total.matched)
            try:
                portion: BulkResult = await self._call(
                    "bulk", operation=operation, **fits, limit=size, after=total.next, dry_run=dry_run
                )
            except PerdureError as error:
                if total.matched:
                    error.details["so_far"] = msgspec.to_builtins(total)
                raise
            if dry_run:
                return portion
            total = payloads.sum_of(total, portion)
            if total.next is None or total.matched == limit:
                return total

    # --- schedules

    async def schedules(self) -> list[ScheduleView]:
        """By name, each with its next time and its last firing; those that the live version's code declares too."""
        found: list[ScheduleView] = await self._call("schedules")
        return found

    async def schedule(self, name: str) -> ScheduleView:
        """With the next 10 times and the last 100 firings. Raises NotFound (`schedule_not_found`)."""
        found: ScheduleView = await self._call("schedule", name)
        return found

    async def create_schedule(
        self,
        workflow: str | type[Workflow[Any, Any]],
        payload: Any = None,
        *,
        name: str | None = None,
        channel: str = "live",
        cron: str | None = None,
        every: str | float | timedelta | None = None,
        timezone: str = "UTC",
        start: str | datetime | None = None,
        end: str | datetime | None = None,
        overlap: Literal["skip", "queue", "cancel", "allow"] = "skip",
        catch_up: Literal["none", "last", "all"] = "last",
        catch_up_window: str | float | timedelta | None = None,
        jitter: str | float | timedelta = 0,
    ) -> ScheduleView:
        """Start `workflow` on whatever version `channel` is on then, by `cron` or `every` so long. Durable on return.

        The same name with the same content is the existing schedule; with another it is a Conflict
        (`schedule_exists`). Raises Refused: `bad_request` says what is wrong with the times, `unknown_workflow`,
        `not_deployed`, `limit_exceeded`, `invalid_name`.
        """
        found: ScheduleView = await self._call(
            "create_schedule",
            workflow=payloads.workflow_name(workflow),
            payload=payloads.value_of(payload),
            name=name,
            channel=channel,
            cron=cron,
            every=payloads.duration_of(every),
            timezone=timezone,
            start=payloads.moment_of(start),
            end=payloads.moment_of(end),
            overlap=overlap,
            catch_up=catch_up,
            catch_up_window=payloads.duration_of(catch_up_window),
            jitter=payloads.duration_of(jitter),
        )
        return found

    async def delete_schedule(self, name: str) -> None:
        """Its instances go on. Raises NotFound (`schedule_not_found`), Conflict (`invalid_state`: code declares it)."""
        await self._call("delete_schedule", name)

    async def pause_schedule(self, name: str) -> ScheduleView:
        """Fire nothing until it is resumed. Durable on return."""
        found: ScheduleView = await self._call("pause_schedule", name)
        return found

    async def resume_schedule(self, name: str) -> ScheduleView:
        """Fire again, from the next time on; what came meanwhile is not made up for."""
        found: ScheduleView = await self._call("resume_schedule", name)
        return found

    async def trigger_schedule(self, name: str, *, id: str | None = None) -> AsyncRun[Any]:
        """Start an instance now, as the schedule would, whatever its overlap policy says and even if it is paused."""
        status: Status = await self._call("trigger_schedule", name, id=id)
        return AsyncRun(self, status.id)

    async def _call(self, operation: str, /, *path: str, **arguments: Any) -> Any:
        return await self._platform._call(operation, self.name, *path, **arguments)


class AsyncRun(Generic[R]):
    """Handle of one instance. It holds names only: every method asks the platform."""

    def __init__(self, tenant: AsyncTenant, id: str, kind: Any = Any) -> None:
        self._tenant = tenant
        self._kind = kind
        self.id = id

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._tenant.name!r}, {self.id!r})"

    async def status(self) -> Status:
        """State, pinned commit, what it waits for, attempts, error, output."""
        found: Status = await self._call("status")
        return found

    async def send_event(self, type: str, payload: Any = None, *, id: str | None = None) -> EventReceipt:
        """Send an event: durable on return. Early ones wait for `wait_for_event`; the same id counts once.

        Raises Conflict: `instance_finished`, `event_exists` (that id, another type or payload).
        """
        found: EventReceipt = await self._call("send_event", type=type, payload=payloads.value_of(payload), event_id=id)
        return found

    async def result(self, *, timeout: float | None = None) -> R:  # noqa: ASYNC109 - it bounds the wait elsewhere
        """What `run()` returned, waiting for it up to `timeout` seconds (None: as long as it takes).

        Raises TenantError (the workflow failed), Conflict (`instance_terminated`), Unavailable (`timeout`: it goes on).
        """
        timeout_s = payloads.wait_of(timeout)
        await self._tenant._platform._open()
        value = await self._tenant._platform._transport.result(self._tenant.name, self.id, timeout_s)
        found: R = payloads.typed(value, self._kind, of=self.id)
        return found

    async def pause(self) -> Status:
        """Start no further step until `resume`; steps under way finish. Durable on return."""
        found: Status = await self._call("pause")
        return found

    async def resume(self) -> Status:
        found: Status = await self._call("resume")
        return found

    async def terminate(self, *, undo: bool = False) -> Status:
        """End the instance now, for good; with undo, once what its finished steps did is undone. Durable on return."""
        found: Status = await self._call("terminate", undo=undo)
        return found

    async def restart(self, *, from_step: str | tuple[str, int] | None = None) -> Status:
        """Run it again from its first line, or from a step (its name, or name and occurrence), keeping what was
        recorded before that began; the facet is as it was then. In any state but undoing. Durable on return.

        Raises NotFound (`step_not_found`), Conflict (`invalid_state`), Refused (`facet_refused`).
        """
        name, occurrence = (from_step, 1) if from_step is None or isinstance(from_step, str) else from_step
        found: Status = await self._call("restart", from_step=name, occurrence=occurrence)
        return found

    async def retry(self) -> Status:
        """Let a failed instance go on from the step that failed it, with new attempts; what was recorded before that
        step began stays, and the facet is as it was then. Durable on return.

        Raises Conflict (`instance_finished`; `invalid_state`: it has not failed, run() raised by itself, or what came
        before was undone: restart it), Refused (`facet_refused`).
        """
        found: Status = await self._call("retry")
        return found

    async def set_attributes(self, attributes: Mapping[str, Attribute | None]) -> Status:
        """Change search attributes; None takes one away. Durable on return. Raises Refused (`bad_request`)."""
        found: Status = await self._call("set_attributes", attributes=dict(attributes))
        return found

    async def update(
        self,
        name: str,
        payload: Any = None,
        *,
        id: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - it bounds the wait elsewhere
    ) -> Any:
        """What the workflow's update handler `name` returns. It is done once: accepted by the validator, durable, then
        handled, also over a crash; the same id is the same update. `timeout` in seconds (None: as long as it takes).

        Raises Refused (`update_refused`: the validator's message), NotFound (`unknown_handler`), TenantError
        (`update_failed`), Conflict (`instance_finished`, `invalid_state`, `update_exists`), Unavailable (`timeout`).
        """
        update_id = new_name("upd") if id is None else id
        timeout_s = payloads.wait_of(timeout)
        ends = None if timeout_s is None else time.monotonic() + timeout_s
        value = payloads.value_of(payload)
        while True:
            left_s = UPDATE_CHUNK_S if ends is None else round(max(0.0, ends - time.monotonic()), 3)
            try:
                found: UpdateReceipt = await self._call(
                    "update", name=name, payload=value, update_id=update_id, timeout_s=min(left_s, UPDATE_CHUNK_S)
                )
            except Unavailable as error:
                if error.code != "timeout" or (ends is not None and left_s <= UPDATE_CHUNK_S):
                    raise
            else:
                return found.value

    async def ask(self, name: str, payload: Any = None) -> Any:
        """What the workflow's query handler `name` answers; nothing is journaled.

        Raises NotFound (`unknown_handler`), TenantError (`query_failed`), Conflict (`instance_finished`,
        `invalid_state`), Unavailable (`timeout`).
        """
        return await self._call("ask", name=name, payload=payloads.value_of(payload))

    async def query(
        self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = (), *, limit: int = 1000
    ) -> QueryResult:
        """The first `limit` rows of one SQL statement that reads the facet, as of the last durable record.

        In any state, whether or not the workflow's code can be imported; within 5 s and 8 MiB. `?` take a sequence,
        `:name` a mapping. Raises Refused (`facet_refused`, `bad_request`), Unavailable.
        """
        given = dict(parameters) if isinstance(parameters, Mapping) else parameters
        if isinstance(given, tuple):
            given = list(given)
        found: QueryResult = await self._call("query", sql=sql, parameters=given, limit=limit)
        return found

    async def streams(self) -> list[StreamView]:
        """The output streams that there are, and how many items each has."""
        found: list[StreamView] = await self._call("streams")
        return found

    def stream(self, name: str, *, offset: int = 0, follow: bool = False) -> AsyncLines[StreamItem]:
        """Items that the workflow emitted to stream `name`, in order, from `offset` on.

        With follow, iterating goes on with items as they come, until the instance has ended.
        """

        async def read(*, after: int, limit: int, wait_s: float) -> list[StreamItem]:
            found: list[StreamItem] = await self._tenant._call(
                "stream", self.id, name, offset=after, limit=limit, wait_s=wait_s
            )
            return found

        return AsyncLines(read, self._is_final, follow=follow, after=offset, cursor=lambda item: item.offset + 1)

    async def delete(self) -> None:
        """Forget the instance: journal, facet and logs. A later instance may take its id."""
        await self._call("delete")

    async def journal(self, *, after: int = 0, limit: int = 1000) -> list[JournalItem]:
        """Entries after sequence number `after`, oldest first."""
        found: list[JournalItem] = await self._call("journal", after=after, limit=limit)
        return found

    def logs(self, *, follow: bool = False, after: int = 0) -> AsyncLines[LogLine]:
        """What the instance printed and logged, oldest first, after the cursor `after`.

        With follow, iterating goes on with lines as they come, until the instance has ended.
        """
        return AsyncLines(self._read_logs, self._is_final, follow=follow, after=after, cursor=lambda line: line.cursor)

    async def facet(self) -> bytes:
        """The instance's facet as an ordinary SQLite file; empty if it has none."""
        found: bytes = await self._call("facet")
        return found

    async def _read_logs(self, *, after: int, limit: int, wait_s: float) -> list[LogLine]:
        found: list[LogLine] = await self._call("logs", after=after, limit=limit, wait_s=wait_s)
        return found

    async def _is_final(self) -> bool:
        return (await self.status()).is_final

    async def _call(self, operation: str, /, **arguments: Any) -> Any:
        return await self._tenant._call(operation, self.id, **arguments)


def _request(item: StartRequest | Mapping[str, Any]) -> StartRequest:
    fields = msgspec.structs.asdict(item) if isinstance(item, StartRequest) else dict(item)
    unknown = fields.keys() - set(StartRequest.__struct_fields__)
    if unknown or "workflow" not in fields:
        raise Refused(
            f"{sorted(map(str, fields))} are not the fields of a start.",
            hint=f"A start has workflow, and perhaps {', '.join(StartRequest.__struct_fields__[1:])}.",
        )
    fields["workflow"] = payloads.workflow_name(fields["workflow"])
    fields["payload"] = payloads.value_of(fields.get("payload"))
    given = {name: fields[name] for name in payloads.START_OPTIONS if name in fields}
    return StartRequest(**{**fields, **payloads.start_options(**given)})
