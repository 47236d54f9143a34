"""Laws of what the service keeps in memory, so that a start asks no database: it is never behind what was told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any, BinaryIO, cast

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from executor.core.errors import NotFound, Refused, Unavailable
from executor.ports import CodeSource, Instances, Row, Seen, Share, Start, StoredRow, Vitals
from executor.service import ADMINISTRATOR, Caller, Service, ServiceOptions
from executor.service.admission import Admission, AdmissionLimits
from executor.service.gate import Gate
from executor.views import StartRequest, TokenView

ONE, TWO = "1" * 40, "2" * 40


class Code:
    """A code store whose channel moves by what is done to it; it counts the questions."""

    def __init__(self) -> None:
        self.live = ONE
        self.asked = 0
        self.on_ask: Callable[[], None] = lambda: None
        self.tokens = {
            "pdt_a": TokenView(id="1", tenant="acme", access="write", label="", created_at_ms=0, expires_at_ms=None)
        }

    def startable(self, _tenant: str, *, channel: str, commit: str | None) -> tuple[str, dict[str, str]]:
        self.asked += 1
        if channel == "none":
            raise NotFound("no such channel", code="channel_not_found")
        found = commit or self.live
        self.on_ask()
        return found, {"W": ""}

    def keep_for_instances(self, _tenant: str, _commit: str) -> None: ...

    def tenant(self, name: str) -> None:
        if name != "acme":
            raise NotFound("no such tenant", code="tenant_not_found")

    def deploy(self, *_args: Any, **_kwargs: Any) -> None:
        self.live = TWO

    rollback = pin_channel = unpin_channel = collect_garbage = deploy

    def delete_tenant(self, _name: str) -> None:
        self.live = TWO
        self.tokens.clear()

    def verify_token(self, secret: str) -> TokenView | None:
        self.asked += 1
        return self.tokens.get(secret)

    def revoke_token(self, *_: str) -> None:
        self.tokens.clear()

    def git_exchange(self, _tenant: str, _service: str, _body: BinaryIO, **_: Any) -> Iterator[bytes]:
        yield b"unpacking"
        self.live = TWO
        yield b"your push is live"


class Fixed:
    """Instances that begin at once, or when `gate` opens."""

    def __init__(self) -> None:
        self.started: list[Start] = []
        self.gate: trio.Event | None = None

    async def start(self, start: Start) -> Seen:
        if self.gate is not None:
            await self.gate.wait()
        self.started.append(start)
        return Seen(StoredRow(*start.key, 1, 1, Row("queued", None, start.workflow, start.commit, 0, 0, b"")))

    async def start_many(self, starts: list[Start]) -> list[Seen]:
        return [await self.start(start) for start in starts]

    async def status(self, tenant: str, instance: str) -> Seen:
        for start in self.started:
            if start.key == (tenant, instance):
                return Seen(StoredRow(*start.key, 1, 1, Row("queued", None, "W", start.commit, 0, 0, b"")))
        raise NotFound("none", code="instance_not_found")

    async def outcome(self, *_: str, wait_s: float | None) -> Seen:
        await trio.sleep_forever()
        raise AssertionError(wait_s)

    async def commits(self, _tenant: str) -> set[str]:
        return set()

    async def delete_tenant(self, _tenant: str) -> None: ...
    async def set_share(self, _tenant: str, _share: Share) -> None: ...

    async def vitals(self) -> Vitals:
        return Vitals(True, 1, 0, 0)


class At:
    def __init__(self) -> None:
        self.ms = 0

    def now_ms(self) -> int:
        return self.ms

    async def sleep_until_ms(self, at_ms: int) -> None:
        raise AssertionError(at_ms)


def made(**admission: int) -> tuple[Service, Code, Fixed, At]:
    code, instances, clock = Code(), Fixed(), At()
    options = ServiceOptions(
        admin_token="pda_admin", version="1", isolation_level=2, admission=AdmissionLimits(**admission)
    )
    return Service(cast("Instances", instances), cast("CodeSource", code), clock, options), code, instances, clock


async def start(service: Service, **more: Any) -> str:
    return (await service.start(ADMINISTRATOR, "acme", "W", **more)).commit


async def test_second_start_on_a_channel_asks_the_code_store_nothing() -> None:
    service, code, _, _ = made()
    assert [await start(service) for _ in range(5)] == [ONE] * 5
    await service.start_many(ADMINISTRATOR, "acme", [StartRequest(workflow="W")] * 5)
    assert code.asked == 1


Move = Callable[[Service], Any]
MOVES: dict[str, Move] = {
    "deploy": lambda service: service.deploy(ADMINISTRATOR, "acme", {}),
    "rollback": lambda service: service.rollback(ADMINISTRATOR, "acme"),
    "pin": lambda service: service.pin(ADMINISTRATOR, "acme"),
    "unpin": lambda service: service.unpin(ADMINISTRATOR, "acme"),
    "collect": lambda service: service.collect_garbage(ADMINISTRATOR, "acme"),
    "delete": lambda service: service.delete_tenant(ADMINISTRATOR, "acme"),
}


@pytest.mark.parametrize("move", MOVES)
async def test_start_after_a_move_is_on_the_new_commit(move: str) -> None:
    service, _, _, _ = made()
    assert await start(service) == ONE
    await MOVES[move](service)
    assert await start(service) == TWO


async def test_start_after_a_push_was_told_of_is_on_the_new_commit() -> None:
    service, _, _, _ = made()
    chunks = await service.git_exchange(ADMINISTRATOR, "acme", "git-receive-pack", BytesIO(), protocol=None)
    commits = [await start(service)]
    async for _ in chunks:
        commits.append(await start(service))
    assert commits == [ONE, ONE, TWO]


async def test_answer_that_a_move_has_overtaken_is_not_kept() -> None:
    service, code, _, _ = made()

    def moved() -> None:
        code.on_ask = lambda: None
        code.live = TWO
        trio.from_thread.run_sync(service._startables.forget, "acme")

    code.on_ask = moved
    assert await start(service) == ONE  # asked before it moved
    assert await start(service) == TWO


async def test_abbreviated_commit_is_asked_for_each_time() -> None:
    service, code, _, _ = made()
    for commit in ("1111", "1111", ONE, ONE):
        await start(service, commit=commit)
    assert code.asked == 3


async def test_start_that_names_a_commit_is_on_it_whatever_the_channel_is_on() -> None:
    service, _, _, _ = made()
    assert await start(service, commit=TWO) == TWO
    assert await start(service) == ONE
    assert await start(service, commit=TWO) == TWO


async def test_existing_instance_is_found_whatever_the_channel_says_now() -> None:
    service, _, instances, _ = made()
    await start(service, id="one")
    status = await service.start(ADMINISTRATOR, "acme", "W", id="one", channel="none")
    assert (status.id, instances.started[-1].commit) == ("one", ONE)
    with pytest.raises(NotFound) as missing:
        await service.start(ADMINISTRATOR, "acme", "W", id="two", channel="none")
    assert missing.value.code == "channel_not_found"


async def test_verified_token_is_believed_until_one_is_revoked_or_it_expires() -> None:
    service, code, _, clock = made()
    for _ in range(3):
        assert await service.authenticate("pdt_a") == Caller("token 1", "acme", "write")
    assert code.asked == 1
    await service.revoke_token(ADMINISTRATOR, "acme", "1")
    with pytest.raises(Refused):
        await service.authenticate("pdt_a")
    code.tokens["pdt_b"] = TokenView(
        id="2", tenant="acme", access="read", label="", created_at_ms=0, expires_at_ms=1000
    )
    assert (await service.authenticate("pdt_b")).access == "read"
    clock.ms = 1000
    del code.tokens["pdt_b"]
    with pytest.raises(Refused):
        await service.authenticate("pdt_b")


async def test_starts_over_the_bound_are_refused_at_once_and_places_are_given_back() -> None:
    service, _, instances, _ = made(calls_max=2)
    instances.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(start, service)
        await wait_all_tasks_blocked()
        with pytest.raises(Unavailable) as full:
            await start(service)
        assert full.value.code == "busy"
        assert full.value.details == {"retry_after_s": 1, "full": "starts and events under way", "limit": 2}
        instances.gate.set()
    for _ in range(4):
        await start(service)


async def test_waiting_callers_are_bounded_and_leave_their_place() -> None:
    service, _, _, _ = made(waiting_max=1)
    for _ in range(3):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.result, ADMINISTRATOR, "acme", "one")
            await wait_all_tasks_blocked()
            with pytest.raises(Unavailable, match="1 of 1"):
                await service.result(ADMINISTRATOR, "acme", "two")
            nursery.cancel_scope.cancel()


def test_bytes_under_way_are_bounded_but_one_large_payload_always_fits() -> None:
    admission = Admission(AdmissionLimits(bytes_max=100))
    admission.enter(500)
    with pytest.raises(Unavailable, match="bytes of payloads"):
        admission.enter(1)
    admission.leave(500)
    admission.enter(60)
    with pytest.raises(Unavailable):
        admission.enter(60)


def test_payloads_of_callers_that_wait_are_bounded_apart_from_starts() -> None:
    admission = Admission(AdmissionLimits(bytes_max=100, waiting_bytes_max=100))
    admission.begin_waiting(500)
    with pytest.raises(Unavailable, match="bytes of payloads that wait for instances: 500 of 100"):
        admission.begin_waiting(1)
    admission.begin_waiting()
    admission.enter(100)
    admission.end_waiting(500)
    admission.begin_waiting(100)
    assert (admission.waiting, admission.waiting_bytes) == (2, 100)


async def test_collection_waits_for_those_inside_and_lets_nobody_in() -> None:
    gate = Gate()
    order: list[str] = []

    async def alone() -> None:
        async with gate.alone():
            order.append("alone")
            await wait_all_tasks_blocked()

    async def shared() -> None:
        await gate.enter()
        order.append("shared")
        gate.leave()

    await gate.enter()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alone)
        await wait_all_tasks_blocked()
        nursery.start_soon(shared)
        await wait_all_tasks_blocked()
        assert order == []
        gate.leave()
    assert order == ["alone", "shared"]
