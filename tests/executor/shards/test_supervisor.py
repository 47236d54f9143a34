"""Laws of a shard process's life, with a program that does as it is told instead of the real one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing

from executor.core.errors import Conflict, Corrupt, NotFound, PerdureError, Refused, Unavailable
from executor.core.failure import ErrorFact
from executor.ports import ChildEnd, ChildStart, CodeSource, Row, Seen, Share, StoredRow
from executor.shards.calls import Setup
from executor.shards.supervisor import ShardProcess

PROGRAM = """
import os, socket, sys
import trio
import trio.testing
from executor.core.entries import FlowLimit, Parent, StartOptions
from executor.core.errors import Corrupt, Refused, Unavailable, from_json
from executor.core.failure import ErrorFact
from executor.ports import ChildEnd, ChildStart, Start
from executor.shards.calls import METHODS
from executor.shards.channel import Channel

LIFE = len(open(sys.argv[1]).read()) if os.path.exists(sys.argv[1]) else 0
open(sys.argv[1], "a").write("x")
HOW = sys.argv[2]

shares = 10
granted = []
SLOT = ("acme", (FlowLimit("one at a time", "key", 1),))

async def take_slot(number):
    channel.answer(number, {"has": int(await channel.call("take_slot", *SLOT))})

def take(calls):
    global shares
    for call in calls:
        if call.method == "set_share":
            shares += 100 * METHODS["set_share"].arguments(call.arguments)[1].weight
        if call.method == "open" and HOW == "asks-first":
            nursery.start_soon(bundle, call.number, None)
        elif call.method == "open" and (HOW == "refuses" or (HOW == "second-refuses" and LIFE)):
            channel.fail(call.number, Refused("not confined", code="not_confined"))
        elif call.method == "open" and HOW == "full-later" and LIFE == 1:
            channel.fail(call.number, Unavailable("full", code="storage_full"))
        elif call.method == "open" and HOW == "dies-opening":
            os._exit(3)
        elif call.method == "counts" and HOW == "fatal":
            channel.fail(0, Corrupt("the disk failed", code="corrupt_store"))
            nursery.start_soon(last_words)
        elif call.method == "counts" and (LIFE == 0 or HOW == "dies-always"):
            os._exit(3)
        elif call.method == "counts":
            channel.answer(call.number, {"life": LIFE, "shares": shares} if shares > 10 else {"life": LIFE})
        elif call.method == "check":
            nursery.start_soon(peers, call.number)
        elif call.method == "commits":
            nursery.start_soon(bundle, call.number)
        elif call.method == "streams":
            nursery.start_soon(take_slot, call.number)
        elif call.method == "slot_granted":
            granted.append(METHODS["slot_granted"].arguments(call.arguments))
        elif call.method == "backup":
            channel.tell("give_slot", *SLOT)
            channel.answer(call.number, None)
        elif call.method == "ask":
            channel.answer(call.number, b"told" if granted == [SLOT] else b"")
        else:
            channel.answer(call.number, None)
            if call.method == "stop":
                nursery.start_soon(last_words)

async def bundle(number, answer=...):
    try:
        found = await channel.call("bundle", "acme", "c" * 40)
        channel.answer(number, {found} if answer is ... else answer)
    except Exception as error:
        channel.fail(number, error)

async def peers(number):
    said = []
    start = Start(("acme", "kid"), "W", "c" * 40, b"x", options=StartOptions(parent=Parent("boss", "call#1", True)))
    for answer in await channel.call("start_children", [ChildStart(start), ChildStart(start, "beta")]):
        said.append(str(from_json(answer).code) if isinstance(answer, dict) else answer.row.instance)
    for call in (
        ("close_children", "acme", "boss", ["a", "b"]),
        ("child_ended", "acme", "boss", ChildEnd("call#1", "kid", "c" * 40, "failed", None, ErrorFact("E", "no"))),
    ):
        try:
            said.append(str(await channel.call(*call)))
        except Unavailable as error:
            said.append(error.code)
    channel.answer(number, said)

async def last_words():
    await channel.flushed()
    os._exit(0)

async def main():
    global channel, nursery
    ours = socket.socket(fileno=int(sys.argv[3]))
    channel = Channel(ours, on_calls=take, on_cancel=lambda n: None, lost=Unavailable("gone"))
    async with trio.open_nursery() as nursery:
        await channel.run()
        os._exit(1)

trio.run(main)
"""
SETUP = Setup(
    0,
    "/nowhere",
    "state",
    is_confined=False,
    steps_max=10,
    journal_bytes_max=1 << 20,
    history_bytes_max=1 << 20,
    resident_bytes_max=1 << 30,
    facet_bytes_max=1 << 20,
    blobs_bytes_max=1 << 20,
    hash_seed=1,
    active_runs_max=1,
    sandboxes_max=1,
    sandbox_idle_s=1.0,
    retain_complete_s=0,
    retain_failed_s=0,
    unloads_at_every_wait=False,
    log_level="info",
    log_format="human",
)


class Code:
    def bundle(self, tenant: str, _commit: str) -> Path:
        if tenant != "acme":
            raise NotFound("none", code="version_not_found")
        return Path("/some/bundle")


@pytest.fixture
def made(tmp_path: Path) -> Any:
    program, lives = tmp_path / "program.py", tmp_path / "lives"
    program.write_text(PROGRAM)

    def make(how: str) -> ShardProcess:
        command = (sys.executable, str(program), str(lives), how)
        return ShardProcess(SETUP, cast("CodeSource", Code()), command=command)

    return make


def innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        [error] = error.exceptions
    return error


async def answered(process: ShardProcess) -> Any:
    """The answer, once there is a life that gives one."""
    while True:
        try:
            return await process.call("counts", "acme")
        except Unavailable as lost:
            assert (lost.code, lost.details["retry_after_s"]) == ("busy", 1)
            await trio.testing.wait_all_tasks_blocked(0.01)


async def test_process_that_dies_fails_its_callers_at_once_and_is_started_again(made: Any) -> None:
    process = made("")
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(process.run)
            first = process.pid
            with pytest.raises(Unavailable, match="being started again"):
                await process.call("counts", "acme")
            assert await answered(process) == {"life": 1}
            assert process.pid != first
            assert await process.call("commits", "acme") == {"/some/bundle"}
            await process.stop()
    assert process.lives == 2
    with pytest.raises(Unavailable) as stopped:
        await process.call("counts", "acme")
    assert stopped.value.code == "shutting_down"


async def test_each_life_of_a_process_is_told_what_tenants_get(made: Any) -> None:
    process = made("")
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await process.set_share("early", Share(weight=1))  # the default: nothing to be told
            await process.set_share("acme", Share(weight=2))
            await nursery.start(process.run)
            await process.set_share("other", Share(weight=4))
            with pytest.raises(Unavailable):
                await process.call("counts", "acme")
            assert await answered(process) == {"life": 1, "shares": 610}
            await process.stop()


@pytest.mark.parametrize(
    ("how", "kind", "code"),
    [("refuses", Refused, "not_confined"), ("dies-opening", Unavailable, "busy")],
)
async def test_reason_why_the_first_cannot_be_opened_is_raised(
    made: Any, how: str, kind: type[PerdureError], code: str
) -> None:
    with trio.fail_after(20):
        with pytest.raises((PerdureError, BaseExceptionGroup)) as raised:
            async with trio.open_nursery() as nursery:
                await nursery.start(made(how).run)
    error = innermost(raised.value)
    assert isinstance(error, kind)
    assert error.code == code


@pytest.mark.parametrize(("how", "kind"), [("fatal", Corrupt), ("second-refuses", Refused)])
async def test_broken_store_stops_the_executor_and_is_never_tried_again(
    made: Any, how: str, kind: type[PerdureError]
) -> None:
    process = made(how)
    with trio.fail_after(20):
        with pytest.raises(BaseExceptionGroup) as raised:
            async with trio.open_nursery() as nursery:
                await nursery.start(process.run)
                with pytest.raises(Unavailable):
                    await process.call("counts", "acme")
                await trio.sleep_forever()
    assert type(innermost(raised.value)) is kind
    assert process.lives == 1


async def test_process_may_ask_for_code_before_it_is_open(made: Any) -> None:
    process = made("asks-first")  # it recovers what was active
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(process.run)
            await process.stop()


async def test_full_disk_at_the_second_opening_is_waited_for(made: Any) -> None:
    process = made("full-later")
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(process.run)
            assert await answered(process) == {"life": 2}
            await process.stop()


class Others:
    """Peers that ask the very process that asked them, before they answer."""

    def __init__(self, process: ShardProcess) -> None:
        self._process = process
        self.asked: list[tuple[Any, ...]] = []

    async def start_children(self, starts: Sequence[ChildStart]) -> list[Seen | PerdureError]:
        self.asked.append(("start_children", *(start.channel for start in starts)))
        await self._process.call("commits", "acme")
        row = Row("queued", None, "W", "c" * 40, 0, 0, b"")
        return [Seen(StoredRow("acme", "kid", 1, 1, row)), Conflict("taken", code="instance_exists")]

    async def close_children(self, tenant: str, parent: str, children: Sequence[str]) -> None:
        self.asked.append(("close_children", tenant, parent, children))
        await self._process.call("commits", "acme")

    async def child_ended(self, tenant: str, parent: str, end: ChildEnd) -> None:
        self.asked.append(("child_ended", tenant, parent, end))
        raise Unavailable("that process is being started", code="busy")


async def test_what_a_process_asks_of_others_is_answered_by_the_front_though_it_comes_back_to_it(made: Any) -> None:
    process = made("steady")
    others = Others(process)
    process.peers = others
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(process.run)
            assert await process.call("check") == ["kid", "instance_exists", "None", "busy"]
            await process.stop()
    end = ChildEnd("call#1", "kid", "c" * 40, "failed", None, ErrorFact("E", "no"))
    assert others.asked == [
        ("start_children", None, "beta"),
        ("close_children", "acme", "boss", ["a", "b"]),
        ("child_ended", "acme", "boss", end),
    ]


async def test_peers_that_are_not_there_yet_are_busy(made: Any) -> None:
    process = made("steady")
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            await nursery.start(process.run)
            assert await process.call("check") == ["busy", "busy", "busy", "busy"]
            await process.stop()


async def told(process: ShardProcess) -> None:
    while await process.call("ask", "acme", "i", "n", b"") != b"told":
        await trio.testing.wait_all_tasks_blocked(0.01)


async def test_slots_are_shared_by_processes_and_come_back_from_one_that_dies(made: Any) -> None:
    processes = [made(""), made(""), made("")]
    slots = processes[0].slots
    dies, waits, last = processes
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for process in processes:
                process.slots = slots
                await nursery.start(process.run)
            assert [await process.call("streams", "acme", "i") for process in processes] == [
                {"has": 1},
                {"has": 0},
                {"has": 0},
            ]
            with pytest.raises(Unavailable):
                await dies.call("counts", "acme")
            await told(waits)
            assert await last.call("ask", "acme", "i", "n", b"") == b""
            await waits.call("backup", "")
            await told(last)
            await last.call("backup", "")
            assert await waits.call("streams", "acme", "i") == {"has": 1}
            for process in processes:
                await process.stop()
    assert len(slots) == 0
