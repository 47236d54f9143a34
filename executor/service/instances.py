"""Use cases of instances: start, look, send, wait, change, delete."""

from __future__ import annotations

from collections.abc import Awaitable, Coroutine
from datetime import datetime
from typing import Any, Literal, TypeVar

import trio

from executor.core import ids, values
from executor.core.blobs import ID_MAX, PART_COUNT_MAX
from executor.core.errors import Conflict, NotFound, PerdureError, Refused, TenantError, Unavailable
from executor.core.flow import declared as declared_flow
from executor.core.lifecycle import FINAL
from executor.engine.peers import Prepared
from executor.entropy import new_name
from executor.ports import Seen, Start, StoredEntry
from executor.rendering import journal_item, readable, status_view
from executor.service import flow, start_options
from executor.service.access import LARGE, Access, Caller, in_thread, limit_of, rendered
from executor.service.startable import Startable
from executor.views import (
    EventReceipt,
    JournalItem,
    LogLine,
    StartOutcome,
    StartRequest,
    Status,
)

T = TypeVar("T")

START_MANY_MAX = 1_000


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
        delay: str | float | None = None,
        at: datetime | None = None,
        attributes: dict[str, Any] | None = None,
        priority: int | None = None,
        retention: dict[str, str | float] | None = None,
        unload: Literal["every-wait"] | None = None,
    ) -> Status:
        """Start an instance on the channel's commit, or on `commit`; it is pinned to it for life. Durable on return.

        The same id with the same workflow and payload is the existing instance, whatever the channel says now, and
        whatever the other options are. Those are of StartRequest. What the workflow declares as its `flow` may delay
        the instance, let it queue, replace or end another, or refuse it.
        Raises Conflict (`instance_exists`, `singleton_exists`), Refused (`unknown_workflow`, `bad_payload`,
        `payload_too_large`, `not_deployed`, `invalid_name`, `bad_request`), NotFound, Unavailable.
        """
        self.may(caller, tenant, "write")
        request = StartRequest(
            workflow=workflow,
            payload=payload,
            id=id,
            channel=channel,
            commit=commit,
            delay=delay,
            at=at,
            attributes=attributes,
            priority=priority,
            retention=retention,
            unload=unload,
        )
        encoded = self._encode(payload, "payload")
        self._admission.enter(len(encoded))
        try:
            await self._gate.enter()
            try:
                return status_of(await self._flows.start(await self._prepared(tenant, request, encoded)))
            finally:
                self._gate.leave()
        finally:
            self._admission.leave(len(encoded))

    async def start_many(self, caller: Caller, tenant: str, requests: list[StartRequest]) -> list[StartOutcome]:
        """Start up to 1,000 instances at once; each has its own outcome, in the order of the requests."""
        self.may(caller, tenant, "write")
        if len(requests) > START_MANY_MAX:
            raise Refused(f"{len(requests)} starts in one call, the limit is {START_MANY_MAX}", code="limit_exceeded")
        outcomes: list[StartOutcome | None] = [None] * len(requests)
        encoded: list[bytes] = [b""] * len(requests)
        for index, request in enumerate(requests):
            if index and len(encoded[index - 1]) > LARGE:
                await trio.lowlevel.checkpoint()  # others have their turn between two of these
            try:
                encoded[index] = self._encode(request.payload, "payload")
            except PerdureError as error:
                outcomes[index] = StartOutcome(error=error.to_json())
        size = sum(map(len, encoded))
        self._admission.enter(size, len(requests))
        try:
            await self._gate.enter()
            try:
                starts: list[tuple[int, Prepared]] = []
                for index, request in enumerate(requests):
                    if outcomes[index] is None:
                        try:
                            starts.append((index, await self._prepared(tenant, request, encoded[index])))
                        except PerdureError as error:
                            outcomes[index] = StartOutcome(error=error.to_json())
                answers = await self._flows.start_many([start for _, start in starts])
            finally:
                self._gate.leave()
        finally:
            self._admission.leave(size, len(requests))
        outputs = sum(len(answer.output or b"") for answer in answers if not isinstance(answer, PerdureError))
        started = await rendered(outputs, lambda: [_outcome_of_start(answer) for answer in answers])
        for (index, _), outcome in zip(starts, started, strict=True):
            outcomes[index] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    async def status(self, caller: Caller, tenant: str, id: str) -> Status:
        """Raises NotFound."""
        self.may(caller, tenant, "read")
        seen = await self._of(tenant, id, self._instances.status(tenant, id))
        return await rendered(len(seen.output or b""), lambda: status_of(seen))

    async def result(self, caller: Caller, tenant: str, id: str, *, timeout_s: float | None = None) -> Any:
        """What `run()` returned, waiting for it. Raises TenantError (it failed), Conflict (`instance_terminated`,
        `instance_held`), Unavailable (`timeout`), NotFound."""
        self.may(caller, tenant, "read")
        self._admission.begin_waiting()
        try:
            seen = await self._of(tenant, id, self._instances.outcome(tenant, id, wait_s=timeout_s))
        finally:
            self._admission.end_waiting()
        if seen.row.row.state in FINAL or seen.row.row.state == "held":
            return await rendered(len(seen.output or b""), lambda: _outcome(seen))
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
        name = ids.parse_event_id(event_id) if event_id is not None else ids.EventId(new_name("evt"))
        self._admission.enter(len(encoded))
        try:
            is_new = await self._of(
                tenant, id, self._instances.send_event(tenant, id, id=name, type=event_type, payload=encoded)
            )
        finally:
            self._admission.leave(len(encoded))
        return EventReceipt(id=name, type=event_type, is_duplicate=not is_new)

    async def pause(self, caller: Caller, tenant: str, id: str) -> Status:
        """No further step starts until it is resumed; steps that execute finish. Idempotent."""
        self.may(caller, tenant, "write")
        return status_of(await self._of(tenant, id, self._instances.pause(tenant, id, by=caller.who)))

    async def resume(self, caller: Caller, tenant: str, id: str) -> Status:
        """Go on after a pause, or try again after being held. Idempotent."""
        self.may(caller, tenant, "write")
        return status_of(await self._of(tenant, id, self._instances.resume(tenant, id, by=caller.who)))

    async def terminate(self, caller: Caller, tenant: str, id: str, *, undo: bool = False) -> Status:
        """End it now, for good; `undo`: once what its finished steps did is undone. Idempotent."""
        self.may(caller, tenant, "write")
        answer = self._instances.terminate(tenant, id, undo=undo, by=caller.who)
        return status_of(await self._of(tenant, id, answer))

    async def delete(self, caller: Caller, tenant: str, id: str) -> None:
        """Remove everything of an ended instance. Its id can be used again."""
        self.may(caller, tenant, "write")
        await self._of(tenant, id, self._instances.delete(tenant, id))

    async def journal(
        self, caller: Caller, tenant: str, id: str, *, after: int = 0, limit: int = 1000, wait_s: float = 0
    ) -> list[JournalItem]:
        """Entries after sequence `after`, in order. `wait_s`: wait that long for one; [] also when it has ended."""
        self.may(caller, tenant, "read")
        bound = limit_of(limit)
        self._admission.begin_waiting()
        try:
            stored = await self._of(
                tenant, id, self._instances.journal(tenant, id, after=after, limit=bound, wait_s=wait_s)
            )
        finally:
            self._admission.end_waiting()
        return await rendered(sum(len(data) for _, data in stored), lambda: _items(stored))

    async def logs(
        self, caller: Caller, tenant: str, id: str, *, after: int = 0, limit: int = 1000, wait_s: float = 0
    ) -> list[LogLine]:
        """Captured lines after the cursor. With `wait_s`, wait that long for one; [] also when it has ended."""
        self.may(caller, tenant, "read")
        bound = limit_of(limit)
        self._admission.begin_waiting()
        try:
            return await self._of(
                tenant, id, self._instances.output(tenant, id, after=after, limit=bound, wait_s=wait_s)
            )
        finally:
            self._admission.end_waiting()

    async def facet(self, caller: Caller, tenant: str, id: str) -> bytes:
        """The instance's facet as an ordinary SQLite file; b"": it has none."""
        self.may(caller, tenant, "read")
        return await self._of(tenant, id, self._instances.image(tenant, id))

    async def blob(self, caller: Caller, tenant: str, id: str, blob: str, *, part: int = 0) -> bytes:
        """Part `part` of the byte stream whose id the journal tells; b"": it has fewer, or is not kept.

        Raises Refused (`bad_request`)."""
        self.may(caller, tenant, "read")
        number = int(blob) if blob.isascii() and blob.isdecimal() and len(blob) < 20 else 0
        if not 0 < number <= ID_MAX or not 0 <= part < PART_COUNT_MAX:
            raise Refused(f"there is no byte stream {blob!r:.40} with a part {part}", code="bad_request")
        return await self._of(tenant, id, self._instances.blob_part(tenant, id, number, part))

    # --- inside

    def _encode(self, value: Any, what: str) -> bytes:
        try:
            return values.encode(value, what=what, bytes_max=self._options.payload_bytes_max)
        except Refused as refused:
            if refused.code == "payload_too_large":
                hint = "Keep what is large elsewhere, and send a reference."
                raise Refused(refused.message, code=refused.code, hint=hint, **refused.details) from None
            raise Refused(refused.message, code="bad_payload", hint=refused.hint, **refused.details) from None

    async def _prepared(self, tenant: str, request: StartRequest, payload: bytes) -> Prepared:
        """What the port starts: the id, the commit to pin, which the code store keeps from now on, and the options."""
        options = start_options.check(request, self._clock.now_ms())
        is_new = request.id is None
        declared = None
        instance = new_name("run") if request.id is None else ids.parse_instance_id(request.id)
        try:
            startable = self._startables.kept(tenant, request.channel, request.commit)
            if startable is None:
                startable = await self._startables.find(tenant, request.channel, request.commit)
            commit = _commit(tenant, request.workflow, startable)
            declared = declared_flow(startable[1][request.workflow])
        except PerdureError:
            # Whatever the channel says now, the same id is the existing instance.
            if is_new:
                raise
            try:
                commit = (await self._instances.status(tenant, instance)).row.row.commit
            except NotFound:
                commit = ""
            if not commit:
                raise
        if (tenant, commit) not in self._kept:
            await in_thread(self._code.keep_for_instances, tenant, commit)
            self._kept.add((tenant, commit))
        start = Start((tenant, instance), request.workflow, commit, payload, is_new, options)
        return flow.prepared(start, request, declared)

    async def _of(self, tenant: str, id: str, answer: Awaitable[T]) -> T:
        """`answer`, where what is not found is named as everywhere: an unknown tenant is not an unknown instance."""
        # What is no id names nothing, and need not be looked for; half a surrogate pair could not even be.
        if ids.is_instance_id(id):
            try:
                return await answer
            except NotFound as error:
                if error.code != "instance_not_found":
                    raise
        elif isinstance(answer, Coroutine):
            answer.close()
        await self.known(tenant)
        raise NotFound(
            f'tenant "{tenant}" has no instance "{_shown(id)}"',
            code="instance_not_found",
            hint="List the tenant's instances to see which there are.",
        )


def _items(stored: list[StoredEntry]) -> list[JournalItem]:
    return [journal_item(sequence, data) for sequence, data in stored]


def _outcome_of_start(answer: Seen | PerdureError) -> StartOutcome:
    if isinstance(answer, PerdureError):
        return StartOutcome(error=answer.to_json())
    return StartOutcome(status=status_of(answer))


def status_of(seen: Seen) -> Status:
    """What callers see of it."""
    return status_view(seen.row, None if seen.output is None else readable(seen.output), seen.queued)


def _commit(tenant: str, workflow: str, startable: Startable) -> str:
    commit, workflows = startable
    if workflow in workflows:
        return commit
    names = sorted(workflows)
    raise Refused(
        f'version {commit[:8]} of tenant "{tenant}" has no workflow "{str(workflow)[:80]}"',
        code="unknown_workflow",
        hint=f"It has: {', '.join(names)}." if names else "It has none.",
        workflows=names,
        commit=commit,
    )


def _shown(text: str) -> str:
    """A name that somebody asked for, as text that every surface can carry."""
    return text[:120].encode("utf-8", "backslashreplace").decode()


def _outcome(seen: Seen) -> Any:
    """The output of an ended instance, or the error that says why there is none."""
    state, name = seen.row.row.state, seen.row.instance
    if state == "complete":
        return None if seen.output is None else readable(seen.output)
    if state == "terminated":
        raise Conflict(f'instance "{name}" was terminated and has no result', code="instance_terminated")
    error = status_of(seen).error
    if state == "held":
        raise Conflict(
            f'instance "{name}" is held: {error.message if error else ""}',
            code="instance_held",
            hint="Resume it to try again, or terminate it.",
            reason=error.code if error else "",
        )
    if error is None:
        raise TenantError(f'instance "{name}" failed')
    raise TenantError(
        f'instance "{name}" failed: {error.type}: {error.message}',
        code=error.code,
        type=error.type,
        text=error.message,
        traceback=error.traceback,
    )
