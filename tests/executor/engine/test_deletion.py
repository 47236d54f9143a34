"""Deletions beside everything else: what was read before one never comes back to life after it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from executor.core.errors import NotFound, Unavailable
from executor.engine.engine import EngineLimits
from executor.engine.resident import Resident
from executor.engine.retention import Retention
from executor.ports import Start
from tests.executor.engine.test_durability import executes_for_ever, one_step
from tests.executor.engine.world import COMMIT, ScriptedHost, world

KEY = ("acme", "one")


class SlowToAnswer:
    """A state store whose journals are read at once and handed out when the gate opens."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.gate = threading.Event()
        self.asked = threading.Event()

    @contextmanager
    def at_once(self) -> Iterator[Any]:
        with self._store.at_once() as moment:
            yield moment
        self.asked.set()
        assert self.gate.wait(10)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


async def test_instance_read_while_its_tenant_is_deleted_is_not_there_afterwards(tmp_path: Path) -> None:
    """It would go on in memory, and its next record would end the executor: it follows nothing."""
    host = ScriptedHost()
    host.scripts["One"] = executes_for_ever
    async with world(tmp_path, host=host) as w:
        await w.engine.start(KEY, workflow="One", commit=COMMIT, payload=b"\xc0")
        await w.engine.pause(KEY)
        await w.until_gone(KEY)
        slow = w.engine.reads._store = SlowToAnswer(w.store)
        told: list[str] = []

        async def send() -> None:
            with pytest.raises(NotFound) as caught:
                await w.engine.send_event(KEY, id="e", type="go", payload=b"\xc0")
            told.append(caught.value.code)

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                await trio.to_thread.run_sync(slow.asked.wait)
                await w.engine.delete_tenant("acme")
                slow.gate.set()
            assert told == ["instance_not_found"]
            host.scripts["One"] = one_step
            await w.engine.start(KEY, workflow="One", commit=COMMIT, payload=b"\xc0")
            assert await w.until_final(KEY) == "complete"


async def test_instance_asked_for_while_it_is_deleted_is_a_new_one(tmp_path: Path) -> None:
    host = ScriptedHost()
    host.scripts["One"] = one_step
    async with world(tmp_path, host=host) as w:
        await w.engine.start(KEY, workflow="One", commit=COMMIT, payload=b"\xc0")
        with trio.fail_after(30):
            await w.until_final(KEY)
            await w.until_gone(KEY)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(w.engine.delete, KEY)
                await trio.testing.wait_all_tasks_blocked()
                row = await w.engine.start(KEY, workflow="One", commit=COMMIT, payload=b"\x01")
            assert row.sequence == 1
            assert await w.until_final(KEY) == "complete"


async def test_second_pause_is_answered_when_the_first_one_is_durable(tmp_path: Path) -> None:
    host = ScriptedHost()
    host.scripts["One"] = executes_for_ever
    async with world(tmp_path, host=host) as w:
        await w.engine.start(KEY, workflow="One", commit=COMMIT, payload=b"\xc0")
        append, gate, begun, answered = w.store.append, threading.Event(), threading.Event(), list[str]()

        def slow_append(records: Any) -> None:
            begun.set()
            assert gate.wait(10)
            append(records)

        w.engine.committer._store = type("Slow", (), {"append": staticmethod(slow_append)})()  # type: ignore[assignment]

        async def pause(name: str) -> None:
            await w.engine.pause(KEY)
            answered.append(name)

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pause, "first")
                await trio.to_thread.run_sync(begun.wait)
                nursery.start_soon(pause, "second")
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert answered == []
                gate.set()
        assert sorted(answered) == ["first", "second"]
        assert w.kinds(KEY) == ["Started", "Paused"]


async def test_event_on_its_way_to_a_full_disk_while_its_tenant_is_deleted_is_not_acknowledged(tmp_path: Path) -> None:
    host = ScriptedHost()
    host.scripts["One"] = executes_for_ever
    async with world(tmp_path, host=host) as w:
        await w.engine.start(KEY, workflow="One", commit=COMMIT, payload=b"\xc0")
        gate, begun, told = threading.Event(), threading.Event(), list[str]()

        def full(records: Any) -> None:
            begun.set()
            assert gate.wait(10)
            raise Unavailable("no room", code="storage_full")

        w.engine.committer._store = type("Full", (), {"append": staticmethod(full)})()  # type: ignore[assignment]

        async def send() -> None:
            with pytest.raises(NotFound) as caught:
                await w.engine.send_event(KEY, id="e", type="go", payload=b"\xc0")
            told.append(caught.value.code)

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                await trio.to_thread.run_sync(begun.wait)
                nursery.start_soon(w.engine.delete_tenant, "acme")
                await trio.testing.wait_all_tasks_blocked(0.01)
                gate.set()
        assert told == ["tenant_not_found"]


async def test_ended_instances_are_deleted_when_they_have_been_kept_long_enough(tmp_path: Path) -> None:
    """Success and failure each have their time; what has not ended stays however old it is."""
    host = ScriptedHost()
    host.scripts["One"] = one_step
    host.scripts["Silent"] = executes_for_ever
    limits = EngineLimits(retain_complete_s=3_600, retain_failed_s=7_200, stop_grace_s=0.1)
    keys = {name: ("acme", name) for name in ("complete", "terminated", "running")}
    async with world(tmp_path, host=host, limits=limits) as w:
        await w.engine.start(keys["complete"], workflow="One", commit=COMMIT, payload=b"\xc0")
        await w.until_final(keys["complete"])
        for name in ("terminated", "running"):
            await w.engine.start(keys[name], workflow="Silent", commit=COMMIT, payload=b"\xc0")
        await w.engine.terminate(keys["terminated"])

        async def left_after(ms: int) -> list[str]:
            w.clock.advance(ms)
            w.store._store.fold()  # what the log alone has is looked at later
            await Retention(w.engine)._look()
            return [name for name, key in keys.items() if w.store.row(*key) is not None]

        assert await left_after(3_000_000) == ["complete", "terminated", "running"]
        assert await left_after(1_200_000) == ["terminated", "running"]
        assert await left_after(6_000_000) == ["running"]


async def test_a_start_that_was_read_before_its_tenant_was_deleted_begins_nothing(tmp_path: Path) -> None:
    """Others of the same call may still have been read meanwhile; the new instance would be nobody's."""
    async with world(tmp_path, host=ScriptedHost()) as w:
        [found] = await w.engine.residents.hold_many([KEY], create=True)
        assert isinstance(found, Resident)
        await w.engine.delete_tenant("acme")
        answer = w.engine.starting._begin(Start(KEY, "One", COMMIT, b"\xc0", False), found)
        assert isinstance(answer, NotFound)
        assert answer.code == "tenant_not_found"
        await w.engine.committer.drain()
        assert w.store.row(*KEY) is None
        assert found.holds == 0
