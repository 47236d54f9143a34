"""RemoteInstances: the Instances port over a channel to the process that owns them. CalledPeers, CalledSlots: what that
process asks of others and of the front, over the same channel the other way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import trio

from executor.core.entries import FlowLimit
from executor.core.errors import PerdureError
from executor.core.search import Query
from executor.ports import (
    ChildEnd,
    ChildStart,
    Emission,
    Queried,
    Seen,
    Share,
    Start,
    StoredEntry,
    StoredRow,
    Updated,
    Vitals,
)
from executor.shards.calls import errors_inward
from executor.views import LogLine


class Calling(Protocol):
    """Carries calls to the process, whichever life of it this is. Raises Unavailable while there is none."""

    async def call(self, name: str, *arguments: Any) -> Any: ...


class Process(Calling, Protocol):
    """And remembers what each of its lives has to be told."""

    async def set_share(self, tenant: str, share: Share) -> None: ...


class RemoteInstances:
    """See `executor.ports.Instances`."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def start(self, start: Start) -> Seen:
        return cast("Seen", await self._process.call("start", start))

    async def start_many(self, starts: Sequence[Start]) -> list[Seen | PerdureError]:
        return errors_inward(await self._process.call("start_many", list(starts)))

    async def reschedule(self, tenant: str, instance: str, *, payload: bytes, start_at_ms: int, debounce: str) -> Seen:
        return cast("Seen", await self._process.call("reschedule", tenant, instance, payload, start_at_ms, debounce))

    async def set_share(self, tenant: str, share: Share) -> None:
        await self._process.set_share(tenant, share)

    async def status(self, tenant: str, instance: str) -> Seen:
        return cast("Seen", await self._process.call("status", tenant, instance))

    async def outcome(self, tenant: str, instance: str, *, wait_s: float | None) -> Seen:
        return cast("Seen", await self._process.call("outcome", tenant, instance, wait_s))

    async def send_event(self, tenant: str, instance: str, *, id: str, type: str, payload: bytes) -> bool:
        return cast("bool", await self._process.call("send_event", tenant, instance, id, type, payload))

    async def pause(self, tenant: str, instance: str, *, by: str = "") -> Seen:
        return cast("Seen", await self._process.call("pause", tenant, instance, by))

    async def resume(self, tenant: str, instance: str, *, by: str = "") -> Seen:
        return cast("Seen", await self._process.call("resume", tenant, instance, by))

    async def terminate(self, tenant: str, instance: str, *, undo: bool = False, by: str = "") -> Seen:
        return cast("Seen", await self._process.call("terminate", tenant, instance, undo, by))

    async def restart(
        self, tenant: str, instance: str, *, from_step: tuple[str, int] | None = None, by: str = ""
    ) -> Seen:
        return cast("Seen", await self._process.call("restart", tenant, instance, from_step, by))

    async def retry(self, tenant: str, instance: str, *, by: str = "") -> Seen:
        return cast("Seen", await self._process.call("retry", tenant, instance, by))

    async def set_attributes(self, tenant: str, instance: str, changes: bytes) -> Seen:
        return cast("Seen", await self._process.call("set_attributes", tenant, instance, changes))

    async def update(self, tenant: str, instance: str, *, id: str, name: str, payload: bytes, wait_s: float) -> Updated:
        found = await self._process.call("update", tenant, instance, id, name, payload, wait_s)
        return cast("Updated", found)

    async def ask(self, tenant: str, instance: str, *, name: str, payload: bytes) -> bytes:
        return cast("bytes", await self._process.call("ask", tenant, instance, name, payload))

    async def delete(self, tenant: str, instance: str) -> None:
        await self._process.call("delete", tenant, instance)

    async def delete_tenant(self, tenant: str) -> None:
        await self._process.call("delete_tenant", tenant)

    async def page(
        self, tenant: str, query: Query, *, limit: int, after: str | None
    ) -> tuple[list[StoredRow], str | None]:
        found = await self._process.call("page", tenant, query, limit, after)
        return cast("tuple[list[StoredRow], str | None]", found)

    async def matches(self, tenant: str, query: Query) -> int:
        return cast("int", await self._process.call("matches", tenant, query))

    async def counts(self, tenant: str) -> dict[str, int]:
        return cast("dict[str, int]", await self._process.call("counts", tenant))

    async def commits(self, tenant: str) -> set[str]:
        return cast("set[str]", await self._process.call("commits", tenant))

    async def journal(self, tenant: str, instance: str, *, after: int, limit: int, wait_s: float) -> list[StoredEntry]:
        return cast("list[StoredEntry]", await self._process.call("journal", tenant, instance, after, limit, wait_s))

    async def output(self, tenant: str, instance: str, *, after: int, limit: int, wait_s: float) -> list[LogLine]:
        return cast("list[LogLine]", await self._process.call("output", tenant, instance, after, limit, wait_s))

    async def image(self, tenant: str, instance: str) -> bytes:
        image: bytes | list[str] = await self._process.call("image", tenant, instance)
        # A large one is a file in that process's memory (process.py), there for a moment.
        return image if isinstance(image, bytes) else await trio.to_thread.run_sync(Path(image[0]).read_bytes)

    async def query(self, tenant: str, instance: str, *, sql: str, parameters: bytes, limit: int) -> Queried:
        return cast("Queried", await self._process.call("query", tenant, instance, sql, parameters, limit))

    async def blob_part(self, tenant: str, instance: str, blob: int, part: int) -> bytes:
        return cast("bytes", await self._process.call("blob_part", tenant, instance, blob, part))

    async def streams(self, tenant: str, instance: str) -> dict[str, int]:
        return cast("dict[str, int]", await self._process.call("streams", tenant, instance))

    async def stream(
        self, tenant: str, instance: str, *, name: str, offset: int, limit: int, wait_s: float
    ) -> list[Emission]:
        found = await self._process.call("stream", tenant, instance, name, offset, limit, wait_s)
        return cast("list[Emission]", found)

    async def child_ended(self, tenant: str, parent: str, end: ChildEnd) -> None:
        await self._process.call("child_ended", tenant, parent, end)

    async def close_children(self, tenant: str, parent: str, children: Sequence[str]) -> None:
        await self._process.call("close_children", tenant, parent, list(children))

    async def vitals(self) -> Vitals:
        return cast("Vitals", await self._process.call("vitals"))

    async def backup(self, target: Path) -> None:
        await self._process.call("backup", str(target))

    async def check(self) -> list[str]:
        return cast("list[str]", await self._process.call("check"))


class Telling(Calling, Protocol):
    def tell(self, name: str, *arguments: Any) -> None: ...


class CalledSlots:
    """The Slots port over a channel: of a shard process, to the front. See `executor.ports.Slots`."""

    def __init__(self, front: Telling) -> None:
        self._front = front
        self.on_granted: Callable[[str, tuple[FlowLimit, ...]], None] = lambda _tenant, _limits: None

    async def take(self, tenant: str, limits: tuple[FlowLimit, ...]) -> bool:
        return cast("bool", await self._front.call("take_slot", tenant, limits))

    def give(self, tenant: str, limits: tuple[FlowLimit, ...]) -> None:
        self._front.tell("give_slot", tenant, limits)


class CalledPeers:
    """The Peers port over a channel: of a shard process, to the front. See `executor.ports.Peers`."""

    def __init__(self, front: Calling) -> None:
        self._front = front

    async def start_children(self, starts: Sequence[ChildStart]) -> list[Seen | PerdureError]:
        return errors_inward(await self._front.call("start_children", list(starts)))

    async def child_ended(self, tenant: str, parent: str, end: ChildEnd) -> None:
        await self._front.call("child_ended", tenant, parent, end)

    async def close_children(self, tenant: str, parent: str, children: Sequence[str]) -> None:
        await self._front.call("close_children", tenant, parent, list(children))
