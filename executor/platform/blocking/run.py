# Generated from executor/platform/asynchronous/run.py by tools/unasync.py. Edit that file, and run the tool.
"""Run: the handle of one instance."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from executor.core.attributes import Attribute
from executor.core.errors import Unavailable
from executor.entropy import new_name
from executor.platform import payloads
from executor.platform.blocking.caller import OfTenant
from executor.platform.lines import Lines
from executor.views import (
    EventReceipt,
    JournalItem,
    LogLine,
    QueryResult,
    Status,
    StreamItem,
    StreamView,
    UpdateReceipt,
)

R = TypeVar("R")

UPDATE_CHUNK_S = 30.0
"""One request of a long wait."""


class Run(Generic[R]):
    """Handle of one instance. It holds names only: every method asks the platform."""

    def __init__(self, tenant: OfTenant, id: str, kind: Any = Any) -> None:
        self._tenant = tenant
        self._kind = kind
        self.id = id

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._tenant.name!r}, {self.id!r})"

    def status(self) -> Status:
        """State, pinned commit, what it waits for, attempts, error, output."""
        found: Status = self._call("status")
        return found

    def send_event(self, type: str, payload: Any = None, *, id: str | None = None) -> EventReceipt:
        """Send an event: durable on return. Early ones wait for `wait_for_event`; the same id counts once.

        Raises Conflict: `instance_finished`, `event_exists` (that id, another type or payload).
        """
        found: EventReceipt = self._call("send_event", type=type, payload=payloads.value_of(payload), event_id=id)
        return found

    def result(self, *, timeout: float | None = None) -> R:
        """What `run()` returned, waiting for it up to `timeout` seconds (None: as long as it takes).

        Raises TenantError (the workflow failed), Conflict (`instance_terminated`), Unavailable (`timeout`: it goes on).
        """
        timeout_s = payloads.wait_of(timeout)
        value = self._tenant._caller.result(self._tenant.name, self.id, timeout_s)
        found: R = payloads.typed(value, self._kind, of=self.id)
        return found

    def pause(self) -> Status:
        """Start no further step until `resume`; steps under way finish. Durable on return."""
        found: Status = self._call("pause")
        return found

    def resume(self) -> Status:
        found: Status = self._call("resume")
        return found

    def terminate(self, *, undo: bool = False) -> Status:
        """End the instance now, for good; with undo, once what its finished steps did is undone. Durable on return."""
        found: Status = self._call("terminate", undo=undo)
        return found

    def restart(self, *, from_step: str | tuple[str, int] | None = None) -> Status:
        """Run it again from its first line, or from a step (its name, or name and occurrence), keeping what was
        recorded before that began; the facet is as it was then. In any state but undoing. Durable on return.

        Raises NotFound (`step_not_found`), Conflict (`invalid_state`), Refused (`facet_refused`).
        """
        name, occurrence = (from_step, 1) if from_step is None or isinstance(from_step, str) else from_step
        found: Status = self._call("restart", from_step=name, occurrence=occurrence)
        return found

    def retry(self) -> Status:
        """Let a failed instance go on from the step that failed it, with new attempts; what was recorded before that
        step began stays, and the facet is as it was then. Durable on return.

        Raises Conflict (`instance_finished`; `invalid_state`: it has not failed, run() raised by itself, or what came
        before was undone: restart it), Refused (`facet_refused`).
        """
        found: Status = self._call("retry")
        return found

    def set_attributes(self, attributes: Mapping[str, Attribute | None]) -> Status:
        """Change search attributes; None takes one away. Durable on return. Raises Refused (`bad_request`)."""
        found: Status = self._call("set_attributes", attributes=dict(attributes))
        return found

    def update(
        self,
        name: str,
        payload: Any = None,
        *,
        id: str | None = None,
        timeout: float | None = None,
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
                found: UpdateReceipt = self._call(
                    "update", name=name, payload=value, update_id=update_id, timeout_s=min(left_s, UPDATE_CHUNK_S)
                )
            except Unavailable as error:
                if error.code != "timeout" or (ends is not None and left_s <= UPDATE_CHUNK_S):
                    raise
            else:
                return found.value

    def ask(self, name: str, payload: Any = None) -> Any:
        """What the workflow's query handler `name` answers; nothing is journaled.

        Raises NotFound (`unknown_handler`), TenantError (`query_failed`), Conflict (`instance_finished`,
        `invalid_state`), Unavailable (`timeout`).
        """
        return self._call("ask", name=name, payload=payloads.value_of(payload))

    def query(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = (), *, limit: int = 1000) -> QueryResult:
        """The first `limit` rows of one SQL statement that reads the facet, as of the last durable record.

        In any state, whether or not the workflow's code can be imported; within 5 s and 8 MiB. `?` take a sequence,
        `:name` a mapping. Raises Refused (`facet_refused`, `bad_request`), Unavailable.
        """
        given = dict(parameters) if isinstance(parameters, Mapping) else parameters
        if isinstance(given, tuple):
            given = list(given)
        found: QueryResult = self._call("query", sql=sql, parameters=given, limit=limit)
        return found

    def streams(self) -> list[StreamView]:
        """The output streams that there are, and how many items each has."""
        found: list[StreamView] = self._call("streams")
        return found

    def stream(self, name: str, *, offset: int = 0, follow: bool = False) -> Lines[StreamItem]:
        """Items that the workflow emitted to stream `name`, in order, from `offset` on.

        With follow, iterating goes on with items as they come, until the instance has ended.
        """

        def read(*, after: int, limit: int, wait_s: float) -> list[StreamItem]:
            found: list[StreamItem] = self._tenant._call(
                "stream", self.id, name, offset=after, limit=limit, wait_s=wait_s
            )
            return found

        return Lines(read, self._is_final, follow=follow, after=offset, cursor=lambda item: item.offset + 1)

    def delete(self) -> None:
        """Forget the instance: journal, facet and logs. A later instance may take its id."""
        self._call("delete")

    def journal(self, *, after: int = 0, limit: int = 1000) -> list[JournalItem]:
        """Entries after sequence number `after`, oldest first."""
        found: list[JournalItem] = self._call("journal", after=after, limit=limit)
        return found

    def logs(self, *, follow: bool = False, after: int = 0) -> Lines[LogLine]:
        """What the instance printed and logged, oldest first, after the cursor `after`.

        With follow, iterating goes on with lines as they come, until the instance has ended.
        """
        return Lines(self._read_logs, self._is_final, follow=follow, after=after, cursor=lambda line: line.cursor)

    def facet(self) -> bytes:
        """The instance's facet as an ordinary SQLite file; empty if it has none."""
        found: bytes = self._call("facet")
        return found

    def blob(self, id: int, *, part: int = 0) -> bytes:
        """Part `part`, of 256 KiB but for the last, of a byte stream; empty behind its last, or if it is not kept.

        The journal tells id and size, in the entry of the step that gave it. Raises Refused (`bad_request`).
        """
        found: bytes = self._tenant._call("blob", self.id, str(id), part=part)
        return found

    def _read_logs(self, *, after: int, limit: int, wait_s: float) -> list[LogLine]:
        found: list[LogLine] = self._call("logs", after=after, limit=limit, wait_s=wait_s)
        return found

    def _is_final(self) -> bool:
        return (self.status()).is_final

    def _call(self, operation: str, /, **arguments: Any) -> Any:
        return self._tenant._call(operation, self.id, **arguments)
