"""Use cases that ask a running instance: SQL on its facet, updates, queries, output streams."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from executor.core import attributes as search_attributes
from executor.core import ids, values
from executor.core.errors import Refused, TenantError
from executor.core.failure import ErrorFact
from executor.entropy import new_name
from executor.ports import Emission
from executor.rendering import readable
from executor.service.access import Caller, limit_of, rendered
from executor.service.instances import Instances, status_of
from executor.views import QueryResult, Status, StreamItem, StreamView, UpdateReceipt

ROWS_MAX = 100_000
SQL_CHARS_MAX = 100_000
NAME_CHARS_MAX = 100
UPDATE_WAIT_S = 30.0
_INT_MAX = 2**63 - 1


class Asking(Instances):
    """Part of Service."""

    async def query(
        self,
        caller: Caller,
        tenant: str,
        id: str,
        sql: str,
        parameters: Sequence[Any] | Mapping[str, Any] = (),
        *,
        limit: int = 1000,
    ) -> QueryResult:
        """The first `limit` rows of one statement that reads the facet, as of the last durable record, in any state.

        It is executed in a sandbox, within 5 s. Raises Refused (`facet_refused`, `bad_request`), NotFound, Unavailable.
        """
        self.may(caller, tenant, "read")
        if not 1 <= limit <= ROWS_MAX:
            raise Refused(f"limit must be between 1 and {ROWS_MAX}, is {limit}", code="bad_request")
        if len(sql) > SQL_CHARS_MAX:
            raise Refused(
                f"a statement of {len(sql)} characters, the limit is {SQL_CHARS_MAX}",
                code="facet_refused",
                hint="Pass values as parameters.",
            )
        bound = _parameters(parameters)
        self._admission.enter(len(sql) + len(bound))
        try:
            found = await self._of(
                tenant, id, self._instances.query(tenant, id, sql=sql, parameters=bound, limit=limit)
            )
        finally:
            self._admission.leave(len(sql) + len(bound))
        return QueryResult(columns=found.columns, rows=found.rows, is_cut=found.is_cut, sequence=found.sequence)

    async def update(
        self,
        caller: Caller,
        tenant: str,
        id: str,
        name: str,
        payload: Any = None,
        *,
        update_id: str | None = None,
        timeout_s: float = UPDATE_WAIT_S,
    ) -> UpdateReceipt:
        """Let the workflow's validator look at an update, accept it durably, and answer what its handler returns.

        The same id is the same update: sending it again, also after a crash or a timeout, gives its answer. Raises
        Refused (`update_refused`), NotFound (`unknown_handler`), TenantError (`update_failed`: the handler raised),
        Conflict (`instance_finished`, `invalid_state`, `update_exists`), Unavailable (`timeout`).
        """
        self.may(caller, tenant, "write")
        encoded = self._encode(payload, "payload")
        update = ids.parse_update_id(update_id) if update_id is not None else new_name("upd")
        handler = _handler(name)
        self._admission.begin_waiting(len(encoded))
        try:
            found = await self._of(
                tenant,
                id,
                self._instances.update(tenant, id, id=update, name=handler, payload=encoded, wait_s=timeout_s),
            )
        finally:
            self._admission.end_waiting(len(encoded))
        if found.error is not None:
            raise _failed(id, name, found.error)
        answer = found.value
        value = None if answer is None else await rendered(len(answer), lambda: readable(answer))
        return UpdateReceipt(id=update, name=name, value=value, is_duplicate=not found.is_new)

    async def ask(self, caller: Caller, tenant: str, id: str, name: str, payload: Any = None) -> Any:
        """What the workflow's query handler answers; nothing is journaled. Within 15 s.

        Raises NotFound (`unknown_handler`), TenantError (`query_failed`), Conflict (`instance_finished`,
        `invalid_state`), Unavailable (`timeout`).
        """
        self.may(caller, tenant, "read")
        encoded = self._encode(payload, "payload")
        handler = _handler(name)
        self._admission.begin_waiting(len(encoded))
        try:
            answer = await self._of(tenant, id, self._instances.ask(tenant, id, name=handler, payload=encoded))
            return await rendered(len(answer), lambda: readable(answer))
        finally:
            self._admission.end_waiting(len(encoded))

    async def streams(self, caller: Caller, tenant: str, id: str) -> list[StreamView]:
        """The instance's output streams and how many items each has, in the order of their first items."""
        self.may(caller, tenant, "read")
        counts = await self._of(tenant, id, self._instances.streams(tenant, id))
        return [StreamView(name=name, count=count) for name, count in counts.items()]

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
        """Items of a stream from `offset` on, in order. `wait_s`: wait that long for one; [] also when it has ended."""
        self.may(caller, tenant, "read")
        bound = limit_of(limit)
        if offset < 0:
            raise Refused(f"offset must be 0 or more, is {offset}", code="bad_request")
        self._admission.begin_waiting()
        try:
            found = await self._of(
                tenant,
                id,
                self._instances.stream(tenant, id, name=name, offset=offset, limit=bound, wait_s=wait_s),
            )
        finally:
            self._admission.end_waiting()
        size = sum(len(emission.item) for emission in found)
        return await rendered(size, lambda: [_item(emission) for emission in found])

    async def set_attributes(self, caller: Caller, tenant: str, id: str, attributes: Mapping[str, Any]) -> Status:
        """Change search attributes, durably; None takes one away. Idempotent. Raises Refused (`bad_request`)."""
        self.may(caller, tenant, "write")
        changes = search_attributes.encode_changes(attributes)
        return status_of(await self._of(tenant, id, self._instances.set_attributes(tenant, id, changes)))

    async def restart(
        self, caller: Caller, tenant: str, id: str, *, from_step: str | None = None, occurrence: int = 1
    ) -> Status:
        """Run it again, durably: from its first line, or from the step of that name and occurrence, keeping what was
        recorded before it began. The facet is as it was then.

        Raises NotFound (`step_not_found`), Conflict (`invalid_state`), Refused (`facet_refused`).
        """
        self.may(caller, tenant, "write")
        step = None if from_step is None else (from_step, occurrence)
        return status_of(await self._of(tenant, id, self._instances.restart(tenant, id, from_step=step, by=caller.who)))

    async def retry(self, caller: Caller, tenant: str, id: str) -> Status:
        """Let a failed instance go on, durably, from the step that failed it, with new attempts.

        Raises Conflict (`instance_finished`: it is complete or terminated; `invalid_state`: it has not failed, no step
        of it failed, or what came before that was undone), Refused (`facet_refused`).
        """
        self.may(caller, tenant, "write")
        return status_of(await self._of(tenant, id, self._instances.retry(tenant, id, by=caller.who)))


def _handler(name: str) -> str:
    if 1 <= len(name) <= NAME_CHARS_MAX and name.isprintable():
        return name
    raise Refused(f"{name[:40]!r} is not the name of a handler", code="invalid_name")


def _item(emission: Emission) -> StreamItem:
    return StreamItem(
        offset=emission.offset,
        item=readable(emission.item),
        at_ms=emission.at_ms,
        step=emission.step,
        attempt=emission.attempt,
    )


def _parameters(parameters: Sequence[Any] | Mapping[str, Any]) -> bytes:
    """As the sandbox takes them. Raises Refused (`bad_request`) naming the one that no facet can hold."""
    named = isinstance(parameters, Mapping)
    if not named and (isinstance(parameters, str | bytes) or not isinstance(parameters, Sequence)):
        raise Refused("parameters are a list or a dict", code="bad_request", hint="For a single value write [value].")
    items = parameters.items() if isinstance(parameters, Mapping) else enumerate(parameters)
    for place, value in items:
        if not (_is_cell(value) and _is_cell(place)):
            raise Refused(
                f"parameter {place!r} is not a value that SQLite holds: {type(value).__name__}",
                code="bad_request",
                hint="Give None, bool, int of 64 bits, finite float, str or bytes.",
            )
    whole: Any = dict(parameters) if isinstance(parameters, Mapping) else list(parameters)
    encoded = msgspec.msgpack.encode(whole)
    if len(encoded) > values.VALUE_BYTES_MAX:
        raise Refused(
            f"the parameters are {len(encoded)} bytes, the limit is {values.VALUE_BYTES_MAX}", code="payload_too_large"
        )
    return encoded


def _is_cell(value: Any) -> bool:
    kind = type(value)
    if kind is int:
        return bool(-_INT_MAX - 1 <= value <= _INT_MAX)
    if kind is float:
        return math.isfinite(value)
    if kind is str:
        return bool(value.isascii() or value.encode(errors="ignore").decode() == value)
    return value is None or kind is bool or kind is bytes


def _failed(id: str, name: str, error: ErrorFact) -> TenantError:
    return TenantError(
        f'update "{name}" of instance "{id}" failed: {error.type}: {error.message}',
        code="update_failed",
        type=error.type,
        text=error.message,
        traceback=error.traceback,
    )
