"""Clients of live streams that take nothing, in any number."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import msgspec

from executor.http import live
from executor.views import LogLine

LINE = LogLine(cursor=0, at_ms=0, stream="stdout", level="", step="", attempt=0, text="x")


class Ended(msgspec.Struct):
    state: str = "complete"


class Log:
    """One with many lines, whose instance goes on; what is read of it, by stream."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.asked: list[tuple[int, int, float]] = []

    async def read(self, after: int, limit: int, wait_s: float) -> list[tuple[int, LogLine]]:
        self.asked.append((after, limit, wait_s))
        return [(number, LINE) for number in range(after + 1, min(after + limit, self.total) + 1)]

    async def status(self) -> Ended:
        return Ended()

    async def still_allowed(self) -> None:
        pass

    def follow(self, ahead: live.Ahead) -> AsyncGenerator[bytes, None]:
        return live.events("log", self.read, self, 0, ahead)  # type: ignore[arg-type]


async def test_pages_for_clients_that_take_nothing_are_bounded_however_many_these_are() -> None:
    ahead = live.Ahead()
    logs = [Log(total=10_000) for _ in range(100)]
    streams = [log.follow(ahead) for log in logs]
    for stream in streams:
        for _ in range(1 + 1 + 10 + 1):  # a keep-alive, the first pages, and one of the third
            await anext(stream)
    room = live.AHEAD_BYTES_MAX // live.PAGE_BYTES
    # Those that found no room go on by single entries.
    assert [log.asked[-1][1] for log in logs] == [100] * room + [1] * (100 - room)
    assert ahead.size == room * live.PAGE_BYTES
    await streams[0].aclose()
    assert ahead.size == (room - 1) * live.PAGE_BYTES
    await anext(streams[-1])
    assert logs[-1].asked[-1][1] > 1, "it is its turn"
    for stream in streams:
        await stream.aclose()
    assert ahead.size == 0


async def test_a_stream_tells_all_in_order_and_waits_without_room() -> None:
    ahead, log = live.Ahead(), Log(total=2_345)
    told = [item async for item in log.follow(ahead)]
    ids = [int(item.split(b"\n")[0][4:]) for item in told if item.startswith(b"id:")]
    assert ids == list(range(1, 2_346))
    assert told[-1].startswith(b"event: end")
    assert ahead.size == 0
    assert all(limit == 1 for _, limit, wait_s in log.asked if wait_s)
    assert len(log.asked) < 12
