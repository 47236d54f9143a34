"""Use cases of instances: start, look, send, wait, change, delete."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import trio

from executor.core import ids, values
from executor.core.errors import Conflict, NotFound, PerdureError, Refused, TenantError, Unavailable
from executor.core.lifecycle import FINAL, STATES
from executor.engine.resident import Key
from executor.engine.watchers import Watch
from executor.ports import StoredRow
from executor.rendering import instance_view, journal_item, journal_output, readable, status_view
from executor.service.access import Access, Caller, in_thread, limit_of
from executor.views import (
    EventReceipt,
    InstancePage,
    JournalItem,
    LogLine,
    StartOutcome,
    StartRequest,
    Status,
)

START_MANY_MAX = 1_000
_BASE32 = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class Instances(Access):
    """Part of Service."""

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
        self.may(caller, tenant, "write")
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
        self.may(caller, tenant, "write")
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
        self.may(caller, tenant, "read")
        return await self._status((tenant, id))

    async def result(self, caller: Caller, tenant: str, id: str, *, timeout_s: float | None = None) -> Any:
        """What `run()` returned, waiting for it. Raises TenantError (it failed), Conflict (`instance_terminated`,
        `instance_held`), Unavailable (`timeout`), NotFound."""
        self.may(caller, tenant, "read")
        key = (tenant, id)
        async with self._engine.watchers.watching(key) as watch:
            until = _deadline(timeout_s)
            while True:
                row = watch.row or await self._row(key)
                if row.row.state in FINAL or row.row.state == "held":
                    return _outcome(await self._status(key, watch))
                if not await _changes(watch, until):
                    raise Unavailable(
                        f'instance "{id}" has not ended within {timeout_s:g} s',
                        code="timeout",
                        hint="It goes on; ask again.",
                    )

    async def send_event(
        self, caller: Caller, tenant: str, id: str, type: str, payload: Any = None, *, event_id: str | None = None
    ) -> EventReceipt:
        """Durable on return; kept until the instance waits for it. The same event id counts once.

        Raises NotFound, Conflict (`instance_finished`, `event_exists`), Refused.
        """
        self.may(caller, tenant, "write")
        encoded = self._encode(payload, "payload")
        event_type = ids.parse_event_type(type)
        name = ids.parse_event_id(event_id) if event_id is not None else ids.EventId(new_instance_id("evt"))
        async with self._named((tenant, id)):
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
        self.may(caller, tenant, "write")
        async with self._named((tenant, id)):
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
        self.may(caller, tenant, "read")
        await self.known(tenant)
        bound = limit_of(limit)
        if state is not None and state not in STATES:
            raise Refused(
                f"{state[:40]!r} is no state of an instance",
                code="bad_request",
                hint=f"States are {', '.join(STATES)}.",
            )
        rows, cursor = await in_thread(
            lambda: self._store.page(tenant, state=state, workflow=workflow, commit=commit, limit=bound, after=after)
        )
        return InstancePage(items=[instance_view(row) for row in rows], next=cursor)

    async def counts(self, caller: Caller, tenant: str) -> dict[str, int]:
        """How many instances are in each state; states without any are left out."""
        self.may(caller, tenant, "read")
        await self.known(tenant)
        return await in_thread(self._store.counts, tenant)

    def watching(self, tenant: str, id: str) -> AbstractAsyncContextManager[Watch]:
        """Wait for changes of an instance: enter, look, `await wait()`, look again."""
        return self._engine.watchers.watching((tenant, id))

    async def journal(
        self, caller: Caller, tenant: str, id: str, *, after: int = 0, limit: int = 1000, wait_s: float = 0
    ) -> list[JournalItem]:
        """Entries after sequence `after`, in order. `wait_s`: wait that long for one; [] also when it has ended."""
        self.may(caller, tenant, "read")
        key = (tenant, id)
        bound = limit_of(limit)
        async with self._engine.watchers.watching(key) as watch:
            until = _deadline(wait_s)
            while True:
                row = await self._row(key)
                if row.sequence > after or row.row.state in FINAL or not await _changes(watch, until):
                    break
        stored = await in_thread(lambda: self._store.journal(tenant, id, after=after, limit=bound))
        return [journal_item(after + number, data) for number, data in enumerate(stored, start=1)]

    async def logs(
        self, caller: Caller, tenant: str, id: str, *, after: int = 0, limit: int = 1000, wait_s: float = 0
    ) -> list[LogLine]:
        """Captured lines after the cursor. With `wait_s`, wait that long for one; [] also when it has ended."""
        self.may(caller, tenant, "read")
        key = (tenant, id)
        bound = limit_of(limit)
        async with self._engine.watchers.watching(key) as watch:
            until = _deadline(wait_s)
            while True:
                row = await self._row(key)
                await self._engine.output.flush()
                lines = await self._lines(key, after, bound)
                if lines or row.row.state in FINAL or not await _changes(watch, until):
                    return lines

    async def _lines(self, key: Key, after: int, limit: int) -> list[LogLine]:
        return await in_thread(lambda: self._store.output(*key, after=after, limit=limit))

    async def facet(self, caller: Caller, tenant: str, id: str) -> bytes:
        """The instance's facet as an ordinary SQLite file; b"": it has none."""
        self.may(caller, tenant, "read")
        await self._row((tenant, id))
        return await in_thread(self._store.image, tenant, id)

    # --- inside

    def _encode(self, value: Any, what: str) -> bytes:
        try:
            return values.encode(value, what=what, bytes_max=self._options.payload_bytes_max)
        except Refused as refused:
            if refused.code == "payload_too_large":
                hint = "Keep what is large elsewhere, and send a reference."
                raise Refused(refused.message, code=refused.code, hint=hint, **refused.details) from None
            raise Refused(refused.message, code="bad_payload", hint=refused.hint, **refused.details) from None

    async def _pinned_commit(self, key: Key, workflow: str, channel: str, commit: str | None, *, is_new: bool) -> str:
        """The commit to pin: that of the existing instance, else the one asked for. Checks that it has `workflow`."""
        tenant, instance = key
        if not is_new:
            row = await in_thread(self._store.row, tenant, instance)
            if row is not None:
                return row.row.commit
        return await in_thread(self._choose_commit, tenant, workflow, channel, commit)

    def _choose_commit(self, tenant: str, workflow: str, channel: str, commit: str | None) -> str:
        chosen, workflows = self._code.startable(tenant, channel=channel, commit=commit)
        if workflow not in workflows:
            names = sorted(workflows)
            raise Refused(
                f'version {chosen[:8]} of tenant "{tenant}" has no workflow "{str(workflow)[:80]}"',
                code="unknown_workflow",
                hint=f"It has: {', '.join(names)}." if names else "It has none.",
                workflows=names,
                commit=chosen,
            )
        return chosen

    async def _keep(self, tenant: str, commit: str) -> None:
        """Pin the commit in the code store, once per commit."""
        if (tenant, commit) not in self._kept:
            await in_thread(self._code.keep_for_instances, tenant, commit)
            self._kept.add((tenant, commit))

    async def _operate(self, caller: Caller, key: Key, operation: Callable[[Key], Any]) -> Status:
        self.may(caller, key[0], "write")
        async with self._named(key):
            await operation(key)
        return await self._status(key)

    @asynccontextmanager
    async def _named(self, key: Key) -> AsyncGenerator[None]:
        """What the engine does not find is named as everywhere: an unknown tenant is not an unknown instance."""
        if not ids.is_instance_id(key[1]):
            await self._row(key)
        try:
            yield
        except NotFound:
            await self._row(key)
            raise

    async def _row(self, key: Key) -> StoredRow:
        # What is no id names nothing, and need not be looked for; half a surrogate pair could not even be.
        row = await in_thread(self._store.row, *key) if ids.is_instance_id(key[1]) else None
        if row is None:
            await self.known(key[0])
            raise NotFound(
                f'tenant "{key[0]}" has no instance "{_shown(key[1])}"',
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
        stored = await in_thread(lambda: self._store.journal(*key, after=row.sequence - 1, limit=1))
        return journal_output(stored)


def _shown(text: str) -> str:
    """A name that somebody asked for, as text that every surface can carry."""
    return text[:120].encode("utf-8", "backslashreplace").decode()


def _deadline(timeout_s: float | None) -> float:
    # NaN counts as 0, in this order of the arguments.
    return trio.current_time() + (float("inf") if timeout_s is None else max(0.0, timeout_s))


async def _changes(watch: Watch, until: float) -> bool:
    """Wait for the next change. False: the time was up first. Only the waiting is bounded, never the look."""
    with trio.move_on_at(until) as bound:
        await watch.wait()
    return not bound.cancelled_caught


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


def new_instance_id(prefix: str = "run") -> str:
    """Sortable by time of creation, unique by 80 random bits: "run_" and 26 characters (Crockford's base 32, ULID)."""
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return prefix + "_" + "".join(_BASE32[number >> shift & 31] for shift in range(125, -1, -5))
