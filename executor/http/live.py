"""Live streams of an instance: its journal, its output and its output streams, told as they come.

**What waits for clients is bounded.** A client may take nothing for a minute before it is cut off, and as many may do
so as there are connections. So a page of much is read only while there is room for it (`Ahead`); without, a stream goes
on by single entries.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from executor import wire
from executor.http import streams
from executor.http.requests import bearer
from executor.views import FINAL_STATES, JournalItem, LogLine, Status, StreamItem

if TYPE_CHECKING:
    from executor.service import Caller, Service

KEEP_ALIVE_S = 15.0
"""Shorter than the usual 30 to 60 s after which proxies give up a silent connection."""
PAGE_COUNT = 1000
PAGE_BYTES = 8 * 1024 * 1024
"""No page is much larger, and none of so many entries is known to be smaller before it is read."""
AHEAD_BYTES_MAX = 128 * 1024 * 1024
"""Of pages that are being told, of all streams."""
GROWTH = 10

Item = LogLine | JournalItem | StreamItem
Read = Callable[[int, int, float], Awaitable[Sequence[tuple[int, Item]]]]
"""After which position, how many at most, and how long to wait for one."""


class Ahead:
    """Room for pages."""

    def __init__(self) -> None:
        self.size = 0

    def take(self) -> bool:
        """Whether there is room for one more; `give` it back."""
        if self.size + PAGE_BYTES > AHEAD_BYTES_MAX:
            return False
        self.size += PAGE_BYTES
        return True

    def give(self) -> None:
        self.size -= PAGE_BYTES


@dataclass(frozen=True)
class _Watch:
    """Who watches which instance, and which output stream of it."""

    service: Service
    secret: str | None = field(repr=False)
    caller: Caller
    tenant: str
    instance: str
    stream: str = ""

    async def status(self) -> Status:
        return await self.service.status(self.caller, self.tenant, self.instance)

    async def still_allowed(self) -> None:
        """Raises Refused (`unauthorized`) once the token is revoked or has expired."""
        await self.service.authenticate(self.secret)


def routes(service: Service, instance: str, closing: trio.Event) -> list[Route]:
    """`instance`: the path of one."""
    ahead = Ahead()

    def stream(name: str, reads: Callable[[_Watch], Read]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            secret = bearer(request.scope)
            caller = await service.authenticate(secret)
            path = request.path_params
            watch = _Watch(service, secret, caller, path["tenant"], path["id"], path.get("name", ""))
            items = events(name, reads(watch), watch, streams.last_event_id(request), ahead)
            return streams.Streamed(streams.told(items), media_type="text/event-stream", closing=closing)

        return endpoint

    return [
        Route(instance + "/logs/stream", stream("log", _lines), methods=["GET"]),
        Route(instance + "/stream", stream("entry", _entries), methods=["GET"]),
        Route(instance + "/streams/{name}/live", stream("item", _items), methods=["GET"]),
    ]


def _lines(watch: _Watch) -> Read:
    """`log` events, whose ids are cursors."""

    async def read(after: int, limit: int, wait_s: float) -> list[tuple[int, LogLine]]:
        found = await watch.service.logs(
            watch.caller, watch.tenant, watch.instance, after=after, limit=limit, wait_s=wait_s
        )
        return [(line.cursor, line) for line in found]

    return read


def _entries(watch: _Watch) -> Read:
    """`entry` events, whose ids are sequence numbers."""

    async def read(after: int, limit: int, wait_s: float) -> list[tuple[int, JournalItem]]:
        found = await watch.service.journal(
            watch.caller, watch.tenant, watch.instance, after=after, limit=limit, wait_s=wait_s
        )
        return [(item.sequence, item) for item in found]

    return read


def _items(watch: _Watch) -> Read:
    """`item` events of an output stream, whose ids are the offset behind each."""

    async def read(after: int, limit: int, wait_s: float) -> list[tuple[int, StreamItem]]:
        found = await watch.service.stream(
            watch.caller, watch.tenant, watch.instance, watch.stream, offset=after, limit=limit, wait_s=wait_s
        )
        return [(item.offset + 1, item) for item in found]

    return read


async def events(name: str, read: Read, watch: _Watch, after: int, ahead: Ahead) -> AsyncGenerator[bytes, None]:
    """What `read` gives, then `end` once the instance has ended and all is told.

    The token is looked at again in every turn, before anything is told. One entry is waited for; what has come besides
    is read in ever larger pages.
    """
    await watch.status()
    yield streams.KEEP_ALIVE
    limit = 1
    while True:
        is_page = limit > 1 and ahead.take()
        count = limit if is_page else 1
        try:
            items = await read(after, count, 0 if limit > 1 else KEEP_ALIVE_S)
            await watch.still_allowed()
            for position, item in items:
                after = position
                data = await trio.to_thread.run_sync(wire.encode, item) if wire.is_large(item) else wire.encode(item)
                yield streams.event(data, name=name, id=position)
        finally:
            if is_page:
                ahead.give()
        if items:
            limit = min(GROWTH * limit, PAGE_COUNT)
            continue
        if limit > 1:
            limit = 1
            continue
        now = await watch.status()
        if now.state not in FINAL_STATES:
            yield streams.KEEP_ALIVE
        elif not await read(after, 1, 0):
            yield streams.event(wire.encode(now), name="end")
            return
