"""FakeService: the Service's methods over dicts, for fast tests of the surfaces. It runs no code.

A workflow behaves by its name: `Echo` completes with its payload; `Waiter` waits for an event `go` and completes with
its payload; `Broken` fails; `Talker` prints two lines, then waits like Waiter. Everything else waits for ever.
Its answers, errors and permission checks follow `executor.service.Service`; `tests/executor/platform` runs one suite
over both where it can.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, BinaryIO

import trio
from msgspec.structs import replace

from executor.config import Config
from executor.core import attributes as search_attributes
from executor.core import ids, search, values
from executor.core.errors import Conflict, NotFound, PerdureError, Refused, TenantError, Unavailable
from executor.core.lifecycle import check
from executor.service import Caller
from executor.views import (
    BulkError,
    BulkResult,
    ChannelMoveView,
    ChannelView,
    CountView,
    DeploymentView,
    ErrorView,
    EventReceipt,
    GarbageView,
    Health,
    InstancePage,
    InstanceView,
    JournalItem,
    LogLine,
    QueryResult,
    StartOutcome,
    StartRequest,
    Status,
    StreamItem,
    StreamView,
    TenantView,
    TokenView,
    UpdateReceipt,
    WaitingFor,
    WorkflowView,
)
from tests.executor.fake_schedules import FakeSchedules

NOW_MS = 1_700_000_000_000
PAYLOAD_BYTES_MAX = 1024 * 1024


class _Instance:
    def __init__(self, tenant: str, id: str, workflow: str, commit: str, payload: Any, number: int) -> None:
        self.tenant, self.id, self.workflow, self.commit, self.payload = tenant, id, workflow, commit, payload
        self.number = number
        self.state = "waiting"
        self.output: Any = None
        self.error: ErrorView | None = None
        self.events: dict[str, tuple[str, Any]] = {}
        self.journal: list[JournalItem] = []
        self.lines: list[LogLine] = []
        self.attributes: dict[str, Any] = {}
        self.updates: dict[str, Any] = {}
        self.changed = trio.Event()
        self.write("started", workflow=workflow, payload=payload)

    def write(self, kind: str, **fields: Any) -> None:
        sequence = len(self.journal) + 1
        self.journal.append(
            JournalItem(sequence=sequence, at_ms=NOW_MS + sequence, kind=kind, chain=f"{sequence:064x}", fields=fields)
        )
        self.tell()

    def say(self, text: str, *, step: str = "") -> None:
        cursor = len(self.lines) + 1
        self.lines.append(
            LogLine(
                cursor=cursor, at_ms=NOW_MS + cursor, stream="stdout", level="info", step=step, attempt=1, text=text
            )
        )
        self.tell()

    def tell(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    @property
    def is_final(self) -> bool:
        return self.state in ("complete", "failed", "terminated")


class FakeService(FakeSchedules):
    """See the module's text. `gate`, if set, is awaited by `status`, so that a test can hold a call in flight."""

    def __init__(self, admin_token: str = "admin-token-of-tests") -> None:
        self.admin_token = admin_token
        self.tenants_: dict[str, dict[str, Any]] = {}
        self.secrets: dict[str, TokenView] = {}
        self.instances_: dict[tuple[str, str], _Instance] = {}
        self.schedules_ = {}
        self.number = 0
        self.gate: trio.Event | None = None
        self.cancelled_calls = 0
        self.closed_exchanges = 0
        self.received: list[bytes] = []
        self.start_options: dict[str, Any] = {}
        """Of the latest start."""
        self.break_next: BaseException | None = None
        self.is_ready = True

    # --- access

    async def authenticate(self, secret: str | None) -> Caller:
        await trio.lowlevel.checkpoint()
        if secret == self.admin_token:
            return Caller("admin", None, "admin")
        token = self.secrets.get(secret or "")
        if token is None:
            raise Refused(
                "a valid token is needed" if not secret else "the token is unknown, expired or revoked",
                code="unauthorized",
                hint="Send the token as a Bearer token, or as the password of a git remote.",
            )
        return Caller(f"token {token.id}", token.tenant, token.access)

    def _admin(self, caller: Caller) -> None:
        if caller.access != "admin":
            raise Refused("only the platform's administrator may do this", code="forbidden")

    def _tenant(self, caller: Caller, name: str, access: str = "read") -> dict[str, Any]:
        if (caller.tenant is not None and caller.tenant != name) or name not in self.tenants_:
            raise NotFound(f'there is no tenant "{name[:80]}"', code="tenant_not_found")
        if access == "write" and caller.access == "read":
            raise Refused("this token may only read", code="forbidden", hint="Use a token with write access.")
        return self.tenants_[name]

    def _instance(self, caller: Caller, tenant: str, id: str, access: str = "read") -> _Instance:
        self._tenant(caller, tenant, access)
        found = self.instances_.get((tenant, id))
        if found is None:
            raise NotFound(f'tenant "{tenant}" has no instance "{id[:120]}"', code="instance_not_found")
        return found

    # --- tenants and tokens

    async def create_tenant(self, caller: Caller, name: str) -> TenantView:
        self._admin(caller)
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,62}", name):
            raise Refused(f"{name!r} is not a tenant's name", code="invalid_name")
        if name in self.tenants_:
            raise Conflict(f'tenant "{name}" exists', code="tenant_exists")
        view = TenantView(name=name, created_at_ms=NOW_MS, git_path=f"/git/{name}.git")
        self.tenants_[name] = {"view": view, "deployments": [], "moves": [], "pinned": False, "tokens": {}}
        return view

    async def tenant(self, caller: Caller, name: str) -> TenantView:
        view: TenantView = self._tenant(caller, name)["view"]
        return view

    async def set_tenant(
        self, caller: Caller, name: str, *, weight: int = 1, concurrency: int | None = None
    ) -> TenantView:
        self._admin(caller)
        kept = self._tenant(caller, name)
        kept["view"] = replace(kept["view"], weight=weight, concurrency=concurrency)
        view: TenantView = kept["view"]
        return view

    async def tenants(self, caller: Caller) -> list[TenantView]:
        self._admin(caller)
        return [tenant["view"] for tenant in self.tenants_.values()]

    async def delete_tenant(self, caller: Caller, name: str) -> None:
        self._admin(caller)
        self._tenant(caller, name)
        del self.tenants_[name]
        self.instances_ = {key: found for key, found in self.instances_.items() if key[0] != name}

    async def create_token(
        self,
        caller: Caller,
        tenant: str,
        *,
        access: Any = "write",
        expires_in_s: float | None = None,
        label: str = "",
    ) -> TokenView:
        self._admin(caller)
        tokens = self._tenant(caller, tenant)["tokens"]
        self.number += 1
        expires = None if expires_in_s is None else NOW_MS + int(expires_in_s * 1000)
        shown = TokenView(
            id=f"t{self.number}", tenant=tenant, access=access, label=label, created_at_ms=NOW_MS, expires_at_ms=expires
        )
        tokens[shown.id] = shown
        secret = f"pdt_{hashlib.sha256(str(self.number).encode()).hexdigest()}"
        self.secrets[secret] = shown
        return TokenView(**{name: getattr(shown, name) for name in shown.__struct_fields__} | {"secret": secret})

    async def tokens(self, caller: Caller, tenant: str) -> list[TokenView]:
        self._admin(caller)
        return list(self._tenant(caller, tenant)["tokens"].values())

    async def revoke_token(self, caller: Caller, tenant: str, token_id: str) -> None:
        self._admin(caller)
        if self._tenant(caller, tenant)["tokens"].pop(token_id, None) is None:
            raise NotFound(f'tenant "{tenant}" has no token "{token_id}"', code="token_not_found")
        self.secrets = {secret: token for secret, token in self.secrets.items() if token.id != token_id}

    # --- code

    async def deploy(
        self, caller: Caller, tenant: str, files: Mapping[str, bytes], *, message: str = "", branch: str = "main"
    ) -> DeploymentView:
        kept = self._tenant(caller, tenant, "write")
        text = files.get("workflows.py", b"").decode()
        try:
            compile(text, "workflows.py", "exec")
        except SyntaxError as error:
            raise Refused(
                "workflows.py cannot be compiled",
                code="deploy_refused",
                diagnostics=[{"path": "workflows.py", "line": error.lineno, "column": 1, "message": error.msg}],
            ) from None
        digest = hashlib.sha1(repr(sorted(files.items())).encode(), usedforsecurity=False).hexdigest()
        view = DeploymentView(
            id=len(kept["deployments"]) + 1,
            tenant=tenant,
            commit=digest,
            tree=digest[::-1],
            branch=branch,
            channel=None if kept["pinned"] else "live",
            workflows=[
                WorkflowView(name=found[1], path="workflows.py", line=text[: found.start()].count("\n") + 1)
                for found in re.finditer(r"class (\w+)\(Workflow", text)
            ],
            warnings=[],
            checks=[],
            who=caller.who,
            message=message,
            created_at_ms=NOW_MS,
            live_on=["live"],
        )
        kept["files"] = {**kept.get("files", {}), digest: dict(files)}
        kept["deployments"].insert(0, view)
        if not kept["pinned"]:
            self._move(kept, digest, "deploy", caller, "")
        return view

    def _move(self, kept: dict[str, Any], commit: str, kind: str, caller: Caller, why: str) -> ChannelMoveView:
        move = ChannelMoveView(
            id=len(kept["moves"]) + 1,
            channel="live",
            from_commit=kept["moves"][0].to_commit if kept["moves"] else None,
            to_commit=commit,
            kind=kind,
            who=caller.who,
            why=why,
            at_ms=NOW_MS,
        )
        kept["moves"].insert(0, move)
        return move

    def _live(self, kept: dict[str, Any], tenant: str) -> str:
        if not kept["moves"]:
            raise Refused(f'tenant "{tenant}" has no deployment on channel "live"', code="not_deployed")
        commit: str = kept["moves"][0].to_commit
        return commit

    async def versions(
        self, caller: Caller, tenant: str, *, limit: int = 50, before: int | None = None
    ) -> list[DeploymentView]:
        kept = self._tenant(caller, tenant)["deployments"]
        return [view for view in kept if before is None or view.id < before][:limit]

    async def version(self, caller: Caller, tenant: str, commit: str) -> DeploymentView:
        for view in self._tenant(caller, tenant)["deployments"]:
            if view.commit.startswith(commit) and len(commit) >= 7:
                found: DeploymentView = view
                return found
        raise NotFound(f'tenant "{tenant}" has no version "{commit}"', code="version_not_found")

    async def files(self, caller: Caller, tenant: str, commit: str) -> dict[str, int]:
        view = await self.version(caller, tenant, commit)
        return {path: len(content) for path, content in self.tenants_[tenant]["files"][view.commit].items()}

    async def file(self, caller: Caller, tenant: str, commit: str, path: str) -> bytes:
        view = await self.version(caller, tenant, commit)
        found: bytes | None = self.tenants_[tenant]["files"][view.commit].get(path)
        if found is None:
            raise NotFound(f'there is no file "{path}" at {view.commit[:8]}', code="file_not_found")
        return found

    async def channels(self, caller: Caller, tenant: str) -> list[ChannelView]:
        kept = self._tenant(caller, tenant)
        if not kept["moves"]:
            return []
        move = kept["moves"][0]
        return [
            ChannelView(name="live", commit=move.to_commit, pinned=kept["pinned"], moved_at_ms=move.at_ms, who=move.who)
        ]

    async def channel_history(
        self, caller: Caller, tenant: str, channel: str = "live", *, limit: int = 50
    ) -> list[ChannelMoveView]:
        kept = self._tenant(caller, tenant)
        if channel != "live":
            raise NotFound(f'tenant "{tenant}" has no channel "{channel}"', code="channel_not_found")
        moves: list[ChannelMoveView] = kept["moves"][:limit]
        return moves

    async def rollback(
        self, caller: Caller, tenant: str, *, to: str = "previous", channel: str = "live", why: str = ""
    ) -> ChannelMoveView:
        kept = self._tenant(caller, tenant, "write")
        live = self._live(kept, tenant)
        if to == "previous":
            earlier = [move.to_commit for move in kept["moves"] if move.to_commit != live]
            if not earlier:
                raise Conflict("there is no earlier version to go back to", code="invalid_state")
            to = earlier[0]
        return self._move(kept, (await self.version(caller, tenant, to)).commit, "rollback", caller, why)

    async def pin(
        self, caller: Caller, tenant: str, commit: str = "live", *, channel: str = "live", why: str = ""
    ) -> ChannelView:
        kept = self._tenant(caller, tenant, "write")
        live = self._live(kept, tenant)
        wanted = live if commit == "live" else (await self.version(caller, tenant, commit)).commit
        self._move(kept, wanted, "pin", caller, why)
        kept["pinned"] = True
        return (await self.channels(caller, tenant))[0]

    async def unpin(self, caller: Caller, tenant: str, *, channel: str = "live", why: str = "") -> ChannelView:
        kept = self._tenant(caller, tenant, "write")
        self._live(kept, tenant)
        kept["pinned"] = False
        return (await self.channels(caller, tenant))[0]

    async def collect_garbage(self, caller: Caller, tenant: str) -> GarbageView:
        self._tenant(caller, tenant, "write")
        return GarbageView(bytes_before=1000, bytes_after=900, kept_for_instances=1)

    # --- instances

    def _encode(self, payload: Any) -> Any:
        encoded = values.encode(payload)
        if len(encoded) > PAYLOAD_BYTES_MAX:
            raise Refused(
                f"the payload is {len(encoded)} bytes, the limit is {PAYLOAD_BYTES_MAX}", code="payload_too_large"
            )
        return values.decode(encoded)

    async def start(
        self,
        caller: Caller,
        tenant: str,
        workflow: str,
        payload: Any = None,
        *,
        id: str | None = None,
        channel: str = "live",
        commit: str | None = None,
        delay: str | float | None = None,
        at: datetime | None = None,
        attributes: dict[str, Any] | None = None,
        priority: int | None = None,
        retention: dict[str, str | float] | None = None,
        unload: str | None = None,
    ) -> Status:
        self.start_options = {
            "delay": delay,
            "at": at,
            "attributes": attributes,
            "priority": priority,
            "retention": retention,
            "unload": unload,
        }
        if self.break_next is not None:
            error, self.break_next = self.break_next, None
            raise error
        kept = self._tenant(caller, tenant, "write")
        payload = self._encode(payload)
        self.number += 1
        id = ids.parse_instance_id(id) if id is not None else f"run_{self.number}"  # noqa: A001
        existing = self.instances_.get((tenant, id))
        if existing is not None:
            if (existing.workflow, existing.payload) != (workflow, payload):
                raise Conflict(
                    f'instance "{id}" exists with another workflow or payload', code="instance_exists", id=id
                )
            return self._status(existing)
        view = await self.version(caller, tenant, commit or self._live(kept, tenant))
        if workflow not in [found.name for found in view.workflows]:
            raise Refused(f'version {view.commit[:8]} has no workflow "{workflow}"', code="unknown_workflow")
        started = _Instance(tenant, id, workflow, view.commit, payload, self.number)
        self.instances_[tenant, id] = started
        if workflow == "Echo":
            self._complete(started, payload)
        elif workflow == "Broken":
            started.state = "failed"
            started.error = ErrorView(code="workflow_failed", type="ValueError", message="no luck", traceback="…")
            started.write("failed")
        elif workflow == "Talker":
            started.say("one")
            started.say("two", step="speak")
        return self._status(started)

    def _complete(self, instance: _Instance, output: Any) -> None:
        instance.state, instance.output = "complete", output
        instance.write("completed", output=output)

    async def start_many(self, caller: Caller, tenant: str, requests: list[StartRequest]) -> list[StartOutcome]:
        outcomes = []
        self._tenant(caller, tenant, "write")
        for item in requests:
            try:
                status = await self.start(
                    caller,
                    tenant,
                    item.workflow,
                    item.payload,
                    id=item.id,
                    channel=item.channel,
                    commit=item.commit,
                    delay=item.delay,
                    at=item.at,
                    attributes=item.attributes,
                    priority=item.priority,
                    retention=item.retention,
                    unload=item.unload,
                )
                outcomes.append(StartOutcome(status=status))
            except PerdureError as error:
                outcomes.append(StartOutcome(error=error.to_json()))
        return outcomes

    def _status(self, found: _Instance) -> Status:
        wait = WaitingFor(kind="event", name="wait for go", type="go") if found.state == "waiting" else None
        return Status(
            tenant=found.tenant,
            id=found.id,
            workflow=found.workflow,
            commit=found.commit,
            state=found.state,  # type: ignore[arg-type]
            waiting_for=wait,
            waits=[wait] if wait else [],
            attempts={},
            error=found.error,
            output=found.output,
            sequence=len(found.journal),
            created_at_ms=NOW_MS,
            updated_at_ms=NOW_MS + len(found.journal),
            attributes=found.attributes,
        )

    async def status(self, caller: Caller, tenant: str, id: str) -> Status:
        if self.gate is not None:
            try:
                await self.gate.wait()
            except trio.Cancelled:
                self.cancelled_calls += 1
                raise
        return self._status(self._instance(caller, tenant, id))

    async def result(self, caller: Caller, tenant: str, id: str, *, timeout_s: float | None = None) -> Any:
        found = self._instance(caller, tenant, id)
        with trio.move_on_after(float("inf") if timeout_s is None else timeout_s):
            while not found.is_final:
                await found.changed.wait()
        if found.state == "complete":
            return found.output
        if found.state == "terminated":
            raise Conflict(f'instance "{id}" was terminated and has no result', code="instance_terminated")
        if found.error is not None:
            raise TenantError(
                f'instance "{id}" failed: {found.error.type}: {found.error.message}',
                type=found.error.type,
                traceback=found.error.traceback,
            )
        raise Unavailable(
            f'instance "{id}" has not ended within {timeout_s:g} s', code="timeout", hint="It goes on; ask again."
        )

    async def send_event(
        self, caller: Caller, tenant: str, id: str, type: str, payload: Any = None, *, event_id: str | None = None
    ) -> EventReceipt:
        found = self._instance(caller, tenant, id, "write")
        payload = self._encode(payload)
        self.number += 1
        event_id = event_id or f"evt_{self.number}"
        if event_id in found.events:
            if found.events[event_id] != (type, payload):
                raise Conflict(f'event "{event_id}" exists with another type or payload', code="event_exists")
            return EventReceipt(id=event_id, type=type, is_duplicate=True)
        if found.is_final:
            raise Conflict(f'instance "{id}" has already ended', code="instance_finished")
        found.events[event_id] = (type, payload)
        found.write("event_received", id=event_id, type=type, payload=payload)
        if type == "go":
            self._complete(found, payload)
        return EventReceipt(id=event_id, type=type, is_duplicate=False)

    async def _operate(self, caller: Caller, tenant: str, id: str, state: str, kind: str) -> Status:
        found = self._instance(caller, tenant, id, "write")
        if found.is_final:
            raise Conflict(f'instance "{id}" has already ended', code="instance_finished")
        found.state = state
        found.write(kind)
        return self._status(found)

    async def pause(self, caller: Caller, tenant: str, id: str) -> Status:
        return await self._operate(caller, tenant, id, "paused", "paused")

    async def resume(self, caller: Caller, tenant: str, id: str) -> Status:
        return await self._operate(caller, tenant, id, "waiting", "resumed")

    async def terminate(self, caller: Caller, tenant: str, id: str, *, undo: bool = False) -> Status:
        if undo:
            self._instance(caller, tenant, id, "write").write("undoing")
        return await self._operate(caller, tenant, id, "terminated", "terminated")

    async def restart(
        self, caller: Caller, tenant: str, id: str, *, from_step: str | None = None, occurrence: int = 1
    ) -> Status:
        found = self._instance(caller, tenant, id, "write")
        if from_step is not None and (from_step, occurrence) != ("wait for go", 1):
            raise NotFound(f'there is no step "{from_step}#{occurrence}"', code="step_not_found")
        found.state, found.output, found.error = "waiting", None, None
        found.write("restarted")
        return self._status(found)

    async def retry(self, caller: Caller, tenant: str, id: str) -> Status:
        found = self._instance(caller, tenant, id, "write")
        check("retry", found.state, id)
        found.state, found.output, found.error = "waiting", None, None
        found.write("restarted")
        return self._status(found)

    async def set_attributes(self, caller: Caller, tenant: str, id: str, attributes: dict[str, Any]) -> Status:
        found = self._instance(caller, tenant, id, "write")
        found.attributes = search_attributes.visible(
            search_attributes.merge(search_attributes.encode(found.attributes), attributes)
        )
        return self._status(found)

    async def update(
        self,
        caller: Caller,
        tenant: str,
        id: str,
        name: str,
        payload: Any = None,
        *,
        update_id: str | None = None,
        timeout_s: float = 30.0,
    ) -> UpdateReceipt:
        """Handlers: `echo` gives its payload back, `refuse` refuses, `break` raises, `hang` does not end."""
        found = self._instance(caller, tenant, id, "write")
        payload = self._encode(payload)
        self.number += 1
        update_id = f"upd_{self.number}" if update_id is None else ids.parse_update_id(update_id)
        if update_id in found.updates:
            return UpdateReceipt(id=update_id, name=name, value=found.updates[update_id], is_duplicate=True)
        if name == "refuse":
            raise Refused("not like this", code="update_refused")
        if name == "break":
            raise TenantError("ValueError: no luck", code="update_failed", type="ValueError")
        if name == "hang":
            await trio.sleep(timeout_s)
            raise Unavailable("it has not ended", code="timeout")
        if name != "echo":
            raise NotFound(f'there is no update "{name}"', code="unknown_handler")
        if found.is_final:
            raise Conflict(f'instance "{id}" has already ended', code="instance_finished")
        found.updates[update_id] = payload
        return UpdateReceipt(id=update_id, name=name, value=payload, is_duplicate=False)

    async def ask(self, caller: Caller, tenant: str, id: str, name: str, payload: Any = None) -> Any:
        found = self._instance(caller, tenant, id)
        if name != "state":
            raise NotFound(f'there is no query "{name}"', code="unknown_handler")
        return {"state": found.state, "payload": self._encode(payload)}

    async def query(
        self, caller: Caller, tenant: str, id: str, sql: str, parameters: Any = (), *, limit: int = 1000
    ) -> QueryResult:
        """Understands `select ?`, and refuses everything else."""
        found = self._instance(caller, tenant, id)
        if sql != "select ?":
            raise Refused("This facet is open for reading only.", code="facet_refused", reason="facet_read_only")
        rows = [[value] for value in parameters]
        return QueryResult(columns=["?"], rows=rows[:limit], is_cut=len(rows) > limit, sequence=len(found.journal))

    async def streams(self, caller: Caller, tenant: str, id: str) -> list[StreamView]:
        lines = self._instance(caller, tenant, id).lines
        return [StreamView(name="words", count=len(lines))] if lines else []

    async def stream(
        self,
        caller: Caller,
        tenant: str,
        id: str,
        name: str,
        *,
        offset: int = 0,
        limit: int = 1000,
        wait_s: float = 0,
    ) -> list[StreamItem]:
        """What a Talker said is its stream `words`."""
        found = self._instance(caller, tenant, id)
        with trio.move_on_after(wait_s):
            while len(found.lines) <= offset and not found.is_final:
                await found.changed.wait()
        lines = found.lines[offset : offset + limit] if name == "words" else []
        return [
            StreamItem(offset=line.cursor - 1, item={"said": line.text}, at_ms=line.at_ms, step=line.step, attempt=1)
            for line in lines
        ]

    async def delete(self, caller: Caller, tenant: str, id: str) -> None:
        self._instance(caller, tenant, id, "write")
        del self.instances_[tenant, id]

    def _found(self, caller: Caller, tenant: str, wanted: dict[str, Any]) -> list[_Instance]:
        """These instances have no attributes, so a condition holds only if it says so."""
        self._tenant(caller, tenant)
        query = search.query(**wanted)
        rows = [
            found
            for key, found in reversed(self.instances_.items())
            if key[0] == tenant
            and (not query.states or found.state in query.states)
            and query.workflow in (None, found.workflow)
            and query.commit in (None, found.commit)
            and all(each.operator == "exists" and not each.values[0] for each in query.where)
            and (query.created_from_ms or 0) <= NOW_MS < (query.created_to_ms or NOW_MS + 1)
            and (query.updated_from_ms or 0) <= NOW_MS < (query.updated_to_ms or NOW_MS + 1)
        ]
        return rows if query.is_descending or query.order.startswith("attributes.") else rows[::-1]

    async def count(self, caller: Caller, tenant: str, **wanted: Any) -> CountView:
        return CountView(count=len(self._found(caller, tenant, wanted)))

    async def bulk(
        self,
        caller: Caller,
        tenant: str,
        operation: str,
        *,
        limit: int = 1000,
        after: str | None = None,
        dry_run: bool = False,
        **wanted: Any,
    ) -> BulkResult:
        self._tenant(caller, tenant, "write")
        rows = [row for row in self._found(caller, tenant, wanted) if after is None or row.number < int(after)]
        if dry_run:
            return BulkResult(matched=len(rows), ids=[row.id for row in rows[:20]])
        done, errors = 0, []
        for row in rows[:limit]:
            try:
                await getattr(self, operation)(caller, tenant, row.id)
                done += 1
            except PerdureError as error:
                errors.append(BulkError(id=row.id, error=error.to_json()))
        more = str(rows[limit - 1].number) if len(rows) > limit else None
        return BulkResult(matched=done + len(errors), done=done, failed=len(errors), errors=errors, next=more)

    async def instances(
        self, caller: Caller, tenant: str, *, limit: int = 100, after: str | None = None, **wanted: Any
    ) -> InstancePage:
        rows = [row for row in self._found(caller, tenant, wanted) if after is None or row.number < int(after)]
        views = [
            InstanceView(
                tenant=found.tenant,
                id=found.id,
                workflow=found.workflow,
                commit=found.commit,
                state=found.state,  # type: ignore[arg-type]
                waiting_for=self._status(found).waiting_for,
                wake_at_ms=None,
                sequence=len(found.journal),
                created_at_ms=NOW_MS,
                updated_at_ms=NOW_MS,
            )
            for found in rows[:limit]
        ]
        return InstancePage(items=views, next=str(rows[limit - 1].number) if len(rows) > limit else None)

    async def journal(
        self, caller: Caller, tenant: str, id: str, *, after: int = 0, limit: int = 1000, wait_s: float = 0
    ) -> list[JournalItem]:
        found = self._instance(caller, tenant, id)
        with trio.move_on_after(wait_s):
            while len(found.journal) <= after and not found.is_final:
                await found.changed.wait()
        return found.journal[after : after + limit]

    async def logs(
        self, caller: Caller, tenant: str, id: str, *, after: int = 0, limit: int = 1000, wait_s: float = 0
    ) -> list[LogLine]:
        found = self._instance(caller, tenant, id)
        with trio.move_on_after(wait_s):
            while len(found.lines) <= after and not found.is_final:
                await found.changed.wait()
        return found.lines[after : after + limit]

    async def facet(self, caller: Caller, tenant: str, id: str) -> bytes:
        return b"SQLite format 3\x00" if self._instance(caller, tenant, id).workflow == "Talker" else b""

    async def blob(self, caller: Caller, tenant: str, id: str, blob: str, *, part: int = 0) -> bytes:
        self._instance(caller, tenant, id)
        return f"{blob}, {part}".encode()

    # --- the platform

    async def health(self) -> Health:
        return Health(ready=self.is_ready, version="0", epoch=1, isolation_level=0, active_runs=2, sandboxes=1, pid=1)

    async def backup(self, caller: Caller, target: str) -> None:
        self._admin(caller)
        if target == "/taken":
            raise Conflict("/taken exists already", code="invalid_state")

    async def check(self, caller: Caller) -> list[str]:
        self._admin(caller)
        return ["shard 3: entry 7 does not fit its chain"]

    # --- git

    async def git_advertise(self, caller: Caller, tenant: str, service: str, *, protocol: str | None) -> bytes:
        self._tenant(caller, tenant, "write" if service == "git-receive-pack" else "read")
        return f"refs of {tenant} for {service} {protocol}".encode()

    async def git_exchange(
        self, caller: Caller, tenant: str, service: str, body: BinaryIO, *, protocol: str | None
    ) -> AsyncIterator[bytes]:
        self._tenant(caller, tenant, "write" if service == "git-receive-pack" else "read")
        self.received.append(body.read())
        return self._exchange()

    async def _exchange(self) -> AsyncIterator[bytes]:
        """Two chunks; the second comes when the gate opens, if there is one."""
        try:
            yield b"first "
            if self.gate is not None:
                await self.gate.wait()
            yield b"second"
        finally:
            self.closed_exchanges += 1


def fake_running(made: list[FakeService]) -> Callable[[Config], Any]:
    """A stand-in for `executor.main.running`; the service it makes is appended to `made`."""

    @asynccontextmanager
    async def running(config: Config) -> AsyncIterator[FakeService]:
        assert config.admin_token is not None
        service = FakeService(config.admin_token)
        made.append(service)
        yield service

    return running


Call = Callable[..., Awaitable[Any]]
WORKFLOWS = """from executor.workflow import Workflow


class Echo(Workflow):
    async def run(self, event, step):
        return event.payload


class Waiter(Workflow):
    async def run(self, event, step):
        return (await step.wait_for_event("wait for go", type="go")).payload


class Broken(Workflow):
    async def run(self, event, step):
        raise ValueError("no luck")


class Talker(Workflow):
    async def run(self, event, step):
        print("one")
        return (await step.wait_for_event("wait for go", type="go")).payload
"""
