"""RemoteInstances: the Instances port over a channel to the process that owns them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import trio

from executor.core.errors import PerdureError
from executor.ports import Seen, Start, StoredRow, Vitals
from executor.shards.calls import errors_inward
from executor.views import LogLine


class Calling(Protocol):
    """Carries calls to the process, whichever life of it this is. Raises Unavailable while there is none."""

    async def call(self, name: str, *arguments: Any) -> Any: ...


class RemoteInstances:
    """See `executor.ports.Instances`."""

    def __init__(self, process: Calling) -> None:
        self._process = process

    async def start(self, start: Start) -> Seen:
        return cast("Seen", await self._process.call("start", start))

    async def start_many(self, starts: Sequence[Start]) -> list[Seen | PerdureError]:
        return errors_inward(await self._process.call("start_many", list(starts)))

    async def status(self, tenant: str, instance: str) -> Seen:
        return cast("Seen", await self._process.call("status", tenant, instance))

    async def outcome(self, tenant: str, instance: str, *, wait_s: float | None) -> Seen:
        return cast("Seen", await self._process.call("outcome", tenant, instance, wait_s))

    async def send_event(self, tenant: str, instance: str, *, id: str, type: str, payload: bytes) -> bool:
        return cast("bool", await self._process.call("send_event", tenant, instance, id, type, payload))

    async def pause(self, tenant: str, instance: str) -> Seen:
        return cast("Seen", await self._process.call("pause", tenant, instance))

    async def resume(self, tenant: str, instance: str) -> Seen:
        return cast("Seen", await self._process.call("resume", tenant, instance))

    async def terminate(self, tenant: str, instance: str) -> Seen:
        return cast("Seen", await self._process.call("terminate", tenant, instance))

    async def delete(self, tenant: str, instance: str) -> None:
        await self._process.call("delete", tenant, instance)

    async def delete_tenant(self, tenant: str) -> None:
        await self._process.call("delete_tenant", tenant)

    async def page(
        self,
        tenant: str,
        *,
        state: str | None,
        workflow: str | None,
        commit: str | None,
        limit: int,
        after: str | None,
    ) -> tuple[list[StoredRow], str | None]:
        found = await self._process.call("page", tenant, state, workflow, commit, limit, after)
        return cast("tuple[list[StoredRow], str | None]", found)

    async def counts(self, tenant: str) -> dict[str, int]:
        return cast("dict[str, int]", await self._process.call("counts", tenant))

    async def commits(self, tenant: str) -> set[str]:
        return cast("set[str]", await self._process.call("commits", tenant))

    async def journal(self, tenant: str, instance: str, *, after: int, limit: int, wait_s: float) -> list[bytes]:
        return cast("list[bytes]", await self._process.call("journal", tenant, instance, after, limit, wait_s))

    async def output(self, tenant: str, instance: str, *, after: int, limit: int, wait_s: float) -> list[LogLine]:
        return cast("list[LogLine]", await self._process.call("output", tenant, instance, after, limit, wait_s))

    async def image(self, tenant: str, instance: str) -> bytes:
        image: bytes | list[str] = await self._process.call("image", tenant, instance)
        # A large one is a file in that process's memory (process.py), there for a moment.
        return image if isinstance(image, bytes) else await trio.to_thread.run_sync(Path(image[0]).read_bytes)

    async def vitals(self) -> Vitals:
        return cast("Vitals", await self._process.call("vitals"))

    async def backup(self, target: Path) -> None:
        await self._process.call("backup", str(target))

    async def check(self) -> list[str]:
        return cast("list[str]", await self._process.call("check"))
