"""Service: the use cases, one method each. Every permission check of the platform is here.

Surfaces (HTTP, the Python API, the command line) call these methods and nothing below. All are trio coroutines; answers
are views; errors are PerdureErrors with the codes of `core.errors`. Another tenant's thing is "not found".
"""

from __future__ import annotations

import hmac
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

import trio

from executor.core import ids, values
from executor.core.errors import Conflict, NotFound, PerdureError, Refused, TenantError, Unavailable
from executor.core.lifecycle import FINAL
from executor.engine.engine import Engine
from executor.engine.gate import Gate
from executor.engine.resident import Key
from executor.engine.watchers import Watch
from executor.ports import Clock, CodeSource, StateStore, StoredRow
from executor.rendering import instance_view, journal_item, journal_output, readable, status_view
from executor.views import (
    ChannelMoveView,
    ChannelView,
    DeploymentView,
    EventReceipt,
    GarbageView,
    Health,
    InstancePage,
    JournalItem,
    LogLine,
    StartOutcome,
    StartRequest,
    Status,
    TenantView,
    TokenView,
)

T = TypeVar("T")

START_MANY_MAX = 1_000
PAGE_MAX = 1_000
_BASE32 = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `tenant` None: the platform's administrator."""

    who: str
    tenant: str | None
    access: Literal["admin", "read", "write"]


ADMINISTRATOR = Caller("admin", None, "admin")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOptions:
    """`payload_bytes_max`: one payload or event, encoded. `isolation_level`: 0 (none) to 3."""

    admin_token: str
    version: str
    isolation_level: int
    payload_bytes_max: int = 1024 * 1024


class Service:
    """See the module's text. Made by `executor.main.running`."""

    def __init__(
        self,
        engine: Engine,
        store: StateStore,
        code: CodeSource,
        clock: Clock,
        options: ServiceOptions,
    ) -> None:
        self._engine = engine
        self._store = store
        self._code = code
        self._clock = clock
        self._options = options
        self._kept: set[tuple[str, str]] = set()
        self._gate = Gate()

    # --- who may do what

    async def authenticate(self, secret: str | None) -> Caller:
        """The caller whose token this is. Raises Refused (`unauthorized`)."""
        if secret:
            if hmac.compare_digest(secret.encode(), self._options.admin_token.encode()):
                return ADMINISTRATOR
            token = await _in_thread(self._code.verify_token, secret)
            if token is not None:
                return Caller(
                    f"token {token.id} ({token.label})" if token.label else f"token {token.id}",
                    token.tenant,
                    token.access,
                )
        raise Refused(
            "a valid token is needed" if not secret else "the token is unknown, expired or revoked",
            code="unauthorized",
            hint="Send the token as a Bearer token, or as the password of a git remote.",
        )

    def _admin(self, caller: Caller) -> None:
        if caller.access != "admin":
            raise Refused("only the platform's administrator may do this", code="forbidden")

    def _may(self, caller: Caller, tenant: str, access: Literal["read", "write"]) -> None:
        if caller.access == "admin":
            return
        if caller.tenant != tenant:
            # The same answer as for a tenant that does not exist.
            raise NotFound(f'there is no tenant "{tenant[:80]}"', code="tenant_not_found")
        if access == "write" and caller.access != "write":
            raise Refused("this token may only read", code="forbidden", hint="Use a token with write access.")

    async def _known(self, tenant: str) -> None:
        await _in_thread(self._code.tenant, tenant)

    # --- tenants and tokens

    async def create_tenant(self, caller: Caller, name: str) -> TenantView:
        """Durable on return. Raises Conflict (`tenant_exists`), Refused (`invalid_name`)."""
        self._admin(caller)
        return await _in_thread(self._code.create_tenant, name)

    async def tenant(self, caller: Caller, name: str) -> TenantView:
        """Raises NotFound."""
        self._may(caller, name, "read")
        return await _in_thread(self._code.tenant, name)

    async def tenants(self, caller: Caller) -> list[TenantView]:
        """All tenants."""
        self._admin(caller)
        return await _in_thread(self._code.tenants)

    async def delete_tenant(self, caller: Caller, name: str) -> None:
        """Its instances, code, tokens and bundles, durably. Raises NotFound."""
        self._admin(caller)
        await self._known(name)
        async with self._gate.alone():
            self._kept = {kept for kept in self._kept if kept[0] != name}
            await self._engine.delete_tenant(name)
            await _in_thread(self._code.delete_tenant, name)

    async def create_token(
        self,
        caller: Caller,
        tenant: str,
        *,
        access: Literal["read", "write"] = "write",
        expires_in_s: float | None = None,
        label: str = "",
    ) -> TokenView:
        """A new token; its secret is in this answer only. Raises NotFound, Refused."""
        self._admin(caller)
        expires_at_ms = None
        if expires_in_s is not None:
            if not 0 < expires_in_s < 100 * 366 * 86_400:
                raise Refused(f"expires_in_s must be above 0, is {expires_in_s:g}", code="bad_request")
            expires_at_ms = self._clock.now_ms() + int(expires_in_s * 1000)
        return await _in_thread(
            lambda: self._code.create_token(tenant, access=access, expires_at_ms=expires_at_ms, label=label)
        )

    async def tokens(self, caller: Caller, tenant: str) -> list[TokenView]:
        """Without secrets."""
        self._admin(caller)
        return await _in_thread(self._code.tokens, tenant)

    async def revoke_token(self, caller: Caller, tenant: str, token_id: str) -> None:
        """Durable on return."""
        self._admin(caller)
        await _in_thread(self._code.revoke_token, tenant, token_id)

    # --- code and versions

    async def deploy(
        self, caller: Caller, tenant: str, files: Mapping[str, bytes], *, message: str = "", branch: str = "main"
    ) -> DeploymentView:
        """Commit `files` as the whole tree and deploy it, through the same checks as a push. Durable on return.

        Raises Refused (`deploy_refused` with diagnostics, `push_refused`, `limit_exceeded`).
        """
        self._may(caller, tenant, "write")
        return await _in_thread(
            lambda: self._code.deploy(tenant, files, message=message, who=caller.who, branch=branch)
        )

    async def versions(
        self, caller: Caller, tenant: str, *, limit: int = 50, before: int | None = None
    ) -> list[DeploymentView]:
        """Deployments, newest first."""
        self._may(caller, tenant, "read")
        bound = _limit(limit)
        return await _in_thread(lambda: self._code.versions(tenant, limit=bound, before=before))

    async def version(self, caller: Caller, tenant: str, commit: str) -> DeploymentView:
        """By full commit, unique prefix, or channel name."""
        self._may(caller, tenant, "read")
        return await _in_thread(self._code.version, tenant, commit)

    async def files(self, caller: Caller, tenant: str, commit: str) -> dict[str, int]:
        """Paths and sizes in bytes."""
        self._may(caller, tenant, "read")
        return await _in_thread(self._code.files, tenant, commit)

    async def file(self, caller: Caller, tenant: str, commit: str, path: str) -> bytes:
        """One file at a version."""
        self._may(caller, tenant, "read")
        return await _in_thread(self._code.file, tenant, commit, path)

    async def channels(self, caller: Caller, tenant: str) -> list[ChannelView]:
        """Where each channel is."""
        self._may(caller, tenant, "read")
        return await _in_thread(self._code.channels, tenant)

    async def channel_history(
        self, caller: Caller, tenant: str, channel: str = "live", *, limit: int = 50
    ) -> list[ChannelMoveView]:
        """Every move, newest first."""
        self._may(caller, tenant, "read")
        bound = _limit(limit)
        return await _in_thread(lambda: self._code.channel_history(tenant, channel, limit=bound))

    async def rollback(
        self, caller: Caller, tenant: str, *, to: str = "previous", channel: str = "live", why: str = ""
    ) -> ChannelMoveView:
        """Move a channel back. Running instances, branches and history stay as they are. Durable on return."""
        self._may(caller, tenant, "write")
        return await _in_thread(lambda: self._code.rollback(tenant, to=to, channel=channel, who=caller.who, why=why))

    async def pin(
        self, caller: Caller, tenant: str, commit: str = "live", *, channel: str = "live", why: str = ""
    ) -> ChannelView:
        """Move the channel to `commit` and keep it there: pushes deploy but do not move it, until `unpin`."""
        self._may(caller, tenant, "write")
        return await _in_thread(
            lambda: self._code.pin_channel(tenant, commit, channel=channel, who=caller.who, why=why)
        )

    async def unpin(self, caller: Caller, tenant: str, *, channel: str = "live", why: str = "") -> ChannelView:
        """Let pushes move the channel again; it stays where it is for now."""
        self._may(caller, tenant, "write")
        return await _in_thread(lambda: self._code.unpin_channel(tenant, channel=channel, who=caller.who, why=why))

    async def collect_garbage(self, caller: Caller, tenant: str) -> GarbageView:
        """Drop what no branch, tag, channel history, pin or stored instance needs."""
        self._may(caller, tenant, "write")
        await self._known(tenant)
        async with self._gate.alone():
            keep = await _in_thread(self._store.commits, tenant)
            self._kept = {kept for kept in self._kept if kept[0] != tenant}
            return await _in_thread(lambda: self._code.collect_garbage(tenant, keep=keep))

    # --- instances

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
    ) -> Status:
        """Start an instance on the channel's commit, or on `commit`; it is pinned to it for life. Durable on return.

        The same id with the same workflow and payload is the existing instance, whatever the channel says now.
        Raises Conflict (`instance_exists`), Refused (`unknown_workflow`, `bad_payload`, `payload_too_large`,
        `not_deployed`, `invalid_name`), NotFound, Unavailable.
        """
        self._may(caller, tenant, "write")
        encoded = self._encode(payload, "payload")
        instance = ids.parse_instance_id(id) if id is not None else ids.InstanceId(new_instance_id())
        key = (tenant, instance)
        async with self._gate.shared(), self._engine.watchers.watching(key) as watch:
            pinned = await self._pinned_commit(key, workflow, channel, commit, is_new=id is None)
            await self._keep(tenant, pinned)
            await self._engine.start(key, workflow=workflow, commit=pinned, payload=encoded, is_new=id is None)
            return await self._status(key, watch)

    async def start_many(self, caller: Caller, tenant: str, requests: list[StartRequest]) -> list[StartOutcome]:
        """Start up to 1,000 instances at once; each has its own outcome, in the order of the requests."""
        self._may(caller, tenant, "write")
        if len(requests) > START_MANY_MAX:
            raise Refused(f"{len(requests)} starts in one call, the limit is {START_MANY_MAX}", code="limit_exceeded")
        outcomes: list[StartOutcome] = [StartOutcome()] * len(requests)

        async def one(index: int, request: StartRequest) -> None:
            try:
                status = await self.start(
                    caller,
                    tenant,
                    request.workflow,
                    request.payload,
                    id=request.id,
                    channel=request.channel,
                    commit=request.commit,
                )
                outcomes[index] = StartOutcome(status=status)
            except PerdureError as error:
                outcomes[index] = StartOutcome(error=error.to_json())

        async with trio.open_nursery() as nursery:
            for index, request in enumerate(requests):
                nursery.start_soon(one, index, request)
        return outcomes

    async def status(self, caller: Caller, tenant: str, id: str) -> Status:
        """Raises NotFound."""
        self._may(caller, tenant, "read")
        return await self._status((tenant, id))

    async def result(self, caller: Caller, tenant: str, id: str, *, timeout_s: float | None = None) -> Any:
        """What `run()` returned, waiting for it. Raises TenantError (it failed), Conflict (`instance_terminated`,
        `instance_held`), Unavailable (`timeout`), NotFound."""
        self._may(caller, tenant, "read")
        key = (tenant, id)
        async with self._engine.watchers.watching(key) as watch:
            with trio.move_on_after(float("inf") if timeout_s is None else max(timeout_s, 0)):
                while True:
                    row = watch.row or await self._row(key)
                    if row.row.state in FINAL or row.row.state == "held":
                        return _outcome(await self._status(key, watch))
                    await watch.wait()
        raise Unavailable(
            f'instance "{id}" has not ended within {timeout_s:g} s' if timeout_s is not None else "cancelled",
            code="timeout",
            hint="It goes on; ask again.",
        )

    async def send_event(
        self, caller: Caller, tenant: str, id: str, type: str, payload: Any = None, *, event_id: str | None = None
    ) -> EventReceipt:
        """Durable on return; kept until the instance waits for it. The same event id counts once.

        Raises NotFound, Conflict (`instance_finished`, `event_exists`), Refused.
        """
        self._may(caller, tenant, "write")
        encoded = self._encode(payload, "payload")
        event_type = ids.parse_event_type(type)
        name = ids.parse_event_id(event_id) if event_id is not None else ids.EventId(new_instance_id("evt"))
        is_new = await self._engine.send_event((tenant, id), id=name, type=event_type, payload=encoded)
        return EventReceipt(id=name, type=event_type, is_duplicate=not is_new)

    async def pause(self, caller: Caller, tenant: str, id: str) -> Status:
        """No further step starts until it is resumed; steps that execute finish. Idempotent."""
        return await self._operate(caller, (tenant, id), self._engine.pause)

    async def resume(self, caller: Caller, tenant: str, id: str) -> Status:
        """Go on after a pause, or try again after being held. Idempotent."""
        return await self._operate(caller, (tenant, id), self._engine.resume)

    async def terminate(self, caller: Caller, tenant: str, id: str) -> Status:
        """End it now, for good. Idempotent."""
        return await self._operate(caller, (tenant, id), self._engine.terminate)

    async def delete(self, caller: Caller, tenant: str, id: str) -> None:
        """Remove everything of an ended instance. Its id can be used again."""
        self._may(caller, tenant, "write")
        await self._engine.delete((tenant, id))

    async def instances(
        self,
        caller: Caller,
        tenant: str,
        *,
        state: str | None = None,
        workflow: str | None = None,
        commit: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> InstancePage:
        """Newest first; `next` of a page is `after` of the next."""
        self._may(caller, tenant, "read")
        await self._known(tenant)
        bound = _limit(limit)
        rows, cursor = await _in_thread(
            lambda: self._store.page(tenant, state=state, workflow=workflow, commit=commit, limit=bound, after=after)
        )
        return InstancePage(items=[instance_view(row) for row in rows], next=cursor)

    async def counts(self, caller: Caller, tenant: str) -> dict[str, int]:
        """How many instances are in each state; states without any are left out."""
        self._may(caller, tenant, "read")
        await self._known(tenant)
        return await _in_thread(self._store.counts, tenant)

    def watching(self, tenant: str, id: str) -> AbstractAsyncContextManager[Watch]:
        """Wait for changes of an instance: enter, look, `await wait()`, look again."""
        return self._engine.watchers.watching((tenant, id))

    async def journal(
        self, caller: Caller, tenant: str, id: str, *, after: int = 0, limit: int = 1000
    ) -> list[JournalItem]:
        """Entries after sequence `after`, in order."""
        self._may(caller, tenant, "read")
        await self._row((tenant, id))
        bound = _limit(limit)
        stored = await _in_thread(lambda: self._store.journal(tenant, id, after=after, limit=bound))
        return [journal_item(after + number, data) for number, data in enumerate(stored, start=1)]

    async def logs(
        self, caller: Caller, tenant: str, id: str, *, after: int = 0, limit: int = 1000, wait_s: float = 0
    ) -> list[LogLine]:
        """Captured lines after the cursor. With `wait_s`, wait that long for one; [] also when it has ended."""
        self._may(caller, tenant, "read")
        key = (tenant, id)
        bound = _limit(limit)
        async with self._engine.watchers.watching(key) as watch:
            with trio.move_on_after(max(wait_s, 0)):
                while True:
                    row = await self._row(key)
                    await self._engine.output.flush()
                    lines = await self._lines(key, after, bound)
                    if lines or row.row.state in FINAL or wait_s <= 0:
                        return lines
                    await watch.wait()
        return await self._lines(key, after, bound)

    async def _lines(self, key: Key, after: int, limit: int) -> list[LogLine]:
        return await _in_thread(lambda: self._store.output(*key, after=after, limit=limit))

    async def facet(self, caller: Caller, tenant: str, id: str) -> bytes:
        """The instance's facet as an ordinary SQLite file; b"": it has none."""
        self._may(caller, tenant, "read")
        await self._row((tenant, id))
        return await _in_thread(self._store.image, tenant, id)

    # --- the platform

    async def health(self) -> Health:
        """How the executor is. Needs no token."""
        runs, sandboxes = self._engine.active_counts()
        return Health(
            ready=not self._engine.is_stopping,
            version=self._options.version,
            epoch=self._store.epoch,
            isolation_level=self._options.isolation_level,
            active_runs=runs,
            sandboxes=sandboxes,
            pid=os.getpid(),
        )

    async def backup(self, caller: Caller, target: str) -> None:
        """A consistent copy of code and state into a new directory on the server's machine."""
        self._admin(caller)
        await self._engine.committer.drain()
        await _in_thread(self._backup, Path(target))

    def _backup(self, target: Path) -> None:
        try:
            target.mkdir(parents=True, exist_ok=False)
        except FileExistsError:
            raise Conflict(f"{target} exists already", code="invalid_state", hint="Name a new directory.") from None
        except OSError as error:
            raise Refused(f"{target} cannot be made: {error.strerror}", code="bad_request") from None
        # Code after state would miss nothing either way: instances pin commits before they are journaled,
        # so state first means that every commit an instance names is in the copy of the code.
        self._store.backup(target / "state")
        self._code.backup(target / "git")

    async def check(self, caller: Caller) -> list[str]:
        """Problems found in the stored state; []: none."""
        self._admin(caller)
        return await _in_thread(self._store.check)

    # --- git over HTTP

    async def git_advertise(self, caller: Caller, tenant: str, service: str, *, protocol: str | None) -> bytes:
        """The answer to `GET info/refs`."""
        self._may(caller, tenant, "write" if service == "git-receive-pack" else "read")
        return await _in_thread(lambda: self._code.git_advertise(tenant, service, protocol=protocol))

    async def git_exchange(
        self, caller: Caller, tenant: str, service: str, body: BinaryIO, *, protocol: str | None
    ) -> AsyncIterator[bytes]:
        """The answer to a POST, in chunks. Close the iterator if the client goes away."""
        self._may(caller, tenant, "write" if service == "git-receive-pack" else "read")
        await self._known(tenant)
        chunks = self._code.git_exchange(tenant, service, body, who=caller.who, protocol=protocol)
        return _chunks(chunks)

    # --- inside

    def _encode(self, value: Any, what: str) -> bytes:
        try:
            return values.encode(value, what=what, bytes_max=self._options.payload_bytes_max)
        except Refused as refused:
            if refused.code == "payload_too_large":
                raise
            raise Refused(refused.message, code="bad_payload", hint=refused.hint) from None

    async def _pinned_commit(self, key: Key, workflow: str, channel: str, commit: str | None, *, is_new: bool) -> str:
        """The commit to pin: that of the existing instance, else the one asked for. Checks that it has `workflow`."""
        tenant, instance = key
        if not is_new:
            row = await _in_thread(self._store.row, tenant, instance)
            if row is not None:
                return row.row.commit
        return await _in_thread(self._choose_commit, tenant, workflow, channel, commit)

    def _choose_commit(self, tenant: str, workflow: str, channel: str, commit: str | None) -> str:
        self._code.tenant(tenant)
        deployment = self._code.version(tenant, commit or self._code.channel_commit(tenant, channel))
        names = sorted(found.name for found in deployment.workflows)
        if workflow not in names:
            raise Refused(
                f'version {deployment.commit[:8]} of tenant "{tenant}" has no workflow "{str(workflow)[:80]}"',
                code="unknown_workflow",
                hint=f"It has: {', '.join(names)}." if names else "It has none.",
                workflows=names,
                commit=deployment.commit,
            )
        return deployment.commit

    async def _keep(self, tenant: str, commit: str) -> None:
        """Pin the commit in the code store, once per commit."""
        if (tenant, commit) not in self._kept:
            await _in_thread(self._code.keep_for_instances, tenant, commit)
            self._kept.add((tenant, commit))

    async def _operate(self, caller: Caller, key: Key, operation: Callable[[Key], Any]) -> Status:
        self._may(caller, key[0], "write")
        await operation(key)
        return await self._status(key)

    async def _row(self, key: Key) -> StoredRow:
        row = await _in_thread(self._store.row, *key)
        if row is None:
            await self._known(key[0])
            raise NotFound(
                f'tenant "{key[0]}" has no instance "{key[1][:120]}"',
                code="instance_not_found",
                hint="List the tenant's instances to see which there are.",
            )
        return row

    async def _status(self, key: Key, watch: Watch | None = None) -> Status:
        """`watch`: one on `key`, which may know already what the store would say."""
        row = (watch.row if watch is not None else None) or await self._row(key)
        if row.row.state != "complete":
            return status_view(row, None)
        if watch is not None and watch.output is not None:
            return status_view(row, readable(watch.output))
        return status_view(row, await self._output(key, row))

    async def _output(self, key: Key, row: StoredRow) -> Any:
        stored = await _in_thread(lambda: self._store.journal(*key, after=row.sequence - 1, limit=1))
        return journal_output(stored)


def _outcome(status: Status) -> Any:
    """The output of an ended instance, or the error that says why there is none."""
    if status.state == "complete":
        return status.output
    if status.state == "terminated":
        raise Conflict(f'instance "{status.id}" was terminated and has no result', code="instance_terminated")
    error = status.error
    if status.state == "held":
        raise Conflict(
            f'instance "{status.id}" is held: {error.message if error else ""}',
            code="instance_held",
            hint="Resume it to try again, or terminate it.",
            reason=error.code if error else "",
        )
    if error is None:
        raise TenantError(f'instance "{status.id}" failed')
    raise TenantError(
        f'instance "{status.id}" failed: {error.type}: {error.message}',
        code=error.code,
        type=error.type,
        text=error.message,
        traceback=error.traceback,
    )


async def _in_thread(function: Callable[..., T], *args: object) -> T:
    """Stores are synchronous: their calls run in worker threads, off the event loop."""
    return await trio.to_thread.run_sync(function, *args)


async def _chunks(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """A synchronous generator's items, each made in a worker thread; closed whatever happens."""
    try:
        while (chunk := await trio.to_thread.run_sync(next, chunks, None)) is not None:
            yield chunk
    finally:
        close = getattr(chunks, "close", None)
        if close is not None:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(close)


def _limit(limit: int) -> int:
    if not 1 <= limit <= PAGE_MAX:
        raise Refused(f"limit must be between 1 and {PAGE_MAX}, is {limit}", code="bad_request")
    return limit


def new_instance_id(prefix: str = "run") -> str:
    """Sortable by time of creation, unique by 80 random bits: "run_" and 26 characters (Crockford's base 32, ULID)."""
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return prefix + "_" + "".join(_BASE32[number >> shift & 31] for shift in range(125, -1, -5))
