"""Instances: what the service asks of whoever owns them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from executor.core.errors import PerdureError
from executor.core.search import Query
from executor.ports.instance_values import ChildEnd, Emission, Queried, Seen, Share, Start, Updated, Vitals
from executor.ports.state import StoredEntry, StoredRow
from executor.views import LogLine


class Instances(Protocol):
    """The instances of all tenants, wherever they are: in this process, or in several others.

    An unknown instance is NotFound (`instance_not_found`); whether its tenant exists is not looked at. Everything may
    raise Unavailable (`busy`, `shutting_down`, `storage_full`), with `retry_after_s` where it is known.
    """

    async def start(self, start: Start) -> Seen:
        """Make the instance, durably; the one that is there if it has the same workflow and payload.

        Raises Conflict (`instance_exists`)."""
        ...

    async def start_many(self, starts: Sequence[Start]) -> list[Seen | PerdureError]:
        """As many `start`s, in that order, in one group commit where they are together; each fails for itself alone."""
        ...

    async def reschedule(self, tenant: str, instance: str, *, payload: bytes, start_at_ms: int, debounce: str) -> Seen:
        """Replace payload and time of a delayed start that was debounced by this key, durably.

        Raises Conflict (`invalid_state`): it has begun already, or was not."""
        ...

    async def set_share(self, tenant: str, share: Share) -> None:
        """What the tenant gets, from now on; not kept: the code store has it."""

    async def status(self, tenant: str, instance: str) -> Seen: ...
    async def outcome(self, tenant: str, instance: str, *, wait_s: float | None) -> Seen:
        """As `status`, once the instance has ended or is held, or after `wait_s` (None: however long it takes)."""
        ...

    async def send_event(self, tenant: str, instance: str, *, id: str, type: str, payload: bytes) -> bool:
        """Take an event in, durably. False: one of this id is there already.

        Raises Conflict (`instance_finished`, `event_exists`)."""
        ...

    async def pause(self, tenant: str, instance: str, *, by: str = "") -> Seen: ...
    async def resume(self, tenant: str, instance: str, *, by: str = "") -> Seen: ...
    async def terminate(self, tenant: str, instance: str, *, undo: bool = False, by: str = "") -> Seen:
        """`undo`: what its finished steps did is undone first."""
        ...

    async def restart(
        self, tenant: str, instance: str, *, from_step: tuple[str, int] | None = None, by: str = ""
    ) -> Seen:
        """Run it again, durably, from its first line, or from the step of that name and occurrence.

        Raises NotFound (`step_not_found`), Conflict (`invalid_state`), Refused (`facet_refused`)."""
        ...

    async def retry(self, tenant: str, instance: str, *, by: str = "") -> Seen:
        """Let a failed one go on, durably, from the step that failed it, with new attempts.

        Raises Conflict (`instance_finished`, `invalid_state`), Refused (`facet_refused`)."""
        ...

    async def set_attributes(self, tenant: str, instance: str, changes: bytes) -> Seen:
        """`changes`: of `attributes.encode_changes`. Durable on return. Raises Refused (`bad_request`)."""
        ...

    async def delete(self, tenant: str, instance: str) -> None:
        """Everything of an ended instance, durably. Raises Conflict (`invalid_state`)."""

    async def delete_tenant(self, tenant: str) -> None:
        """All instances of a tenant, durably, whatever state they are in. Idempotent."""

    async def page(
        self, tenant: str, query: Query, *, limit: int, after: str | None
    ) -> tuple[list[StoredRow], str | None]:
        """Instances in the query's order, and the cursor of the next page (None: this was the last).

        Raises Refused (`bad_request`)."""
        ...

    async def matches(self, tenant: str, query: Query) -> int:
        """How many instances a search finds; COUNT_MAX + 1 if there are more than COUNT_MAX."""
        ...

    async def counts(self, tenant: str) -> dict[str, int]: ...
    async def commits(self, tenant: str) -> set[str]: ...
    async def journal(self, tenant: str, instance: str, *, after: int, limit: int, wait_s: float) -> list[StoredEntry]:
        """Entries behind `after`, but for what was forgotten; [] if there is none, the instance having ended or
        `wait_s` having passed."""
        ...

    async def output(self, tenant: str, instance: str, *, after: int, limit: int, wait_s: float) -> list[LogLine]:
        """Captured lines, as `journal`; what was captured before the call is there."""
        ...

    async def image(self, tenant: str, instance: str) -> bytes:
        """The facet as an ordinary SQLite file; b"": it has none."""
        ...

    async def blob_part(self, tenant: str, instance: str, blob: int, part: int) -> bytes:
        """A part of a byte stream; b"": it has fewer, or is not kept."""
        ...

    async def query(self, tenant: str, instance: str, *, sql: str, parameters: bytes, limit: int) -> Queried:
        """The first `limit` rows of one statement that reads the facet as of the last durable record, in any state.
        `parameters`: MessagePack of a list or a map.

        Raises Refused (`facet_refused`), Unavailable (`sandbox_unavailable`)."""
        ...

    async def update(self, tenant: str, instance: str, *, id: str, name: str, payload: bytes, wait_s: float) -> Updated:
        """Hand an update to the workflow: durable once accepted; returns when its handler has ended.

        The same id is the same update. Raises Refused (`update_refused`), NotFound (`unknown_handler`), Conflict
        (`instance_finished`, `invalid_state`, `update_exists`), Unavailable (`timeout`, `sandbox_unavailable`)."""
        ...

    async def ask(self, tenant: str, instance: str, *, name: str, payload: bytes) -> bytes:
        """What the workflow's query handler answers, encoded.

        Raises NotFound (`unknown_handler`), TenantError (`query_failed`), Conflict, Unavailable, as `update`."""
        ...

    async def streams(self, tenant: str, instance: str) -> dict[str, int]:
        """Items so far, by output stream."""
        ...

    async def stream(
        self, tenant: str, instance: str, *, name: str, offset: int, limit: int, wait_s: float
    ) -> list[Emission]:
        """Items of a stream from `offset` on; [] if there is none, the instance having ended or `wait_s` having
        passed."""
        ...

    async def child_ended(self, tenant: str, parent: str, end: ChildEnd) -> None:
        """Journal in `parent` how its child ended, durably, if it still waits for that. Idempotent; a parent that is
        gone, has ended or wants it no more is no error."""

    async def close_children(self, tenant: str, parent: str, children: Sequence[str]) -> None:
        """Terminate those of these instances that are children of `parent` and have not ended, durably. Idempotent."""

    async def vitals(self) -> Vitals: ...
    async def backup(self, target: Path) -> None:
        """A consistent copy of each store into the directory `target`, which exists."""

    async def check(self) -> list[str]:
        """Problems found in what is stored; []: none."""
        ...
