"""Answers of the largest size that a tenant can bring about: made where nobody waits for them, or refused."""

from __future__ import annotations

import threading

import pytest

from executor.core import values
from executor.core.commands import Wait
from executor.core.errors import TenantError
from executor.sandbox.protocol import Answer
from executor.service.access import LARGE, rendered
from tests.executor.engine.world import COMMIT, ScriptedHost, world

KEY = ("acme", "one")


@pytest.mark.parametrize(("size", "is_elsewhere"), [(0, False), (LARGE, False), (LARGE + 1, True)])
async def test_what_is_large_is_rendered_in_another_thread(size, is_elsewhere):
    assert (await rendered(size, threading.current_thread) is not threading.current_thread()) == is_elsewhere


@pytest.mark.parametrize(("size", "is_taken"), [(values.VALUE_BYTES_MAX, True), (values.VALUE_BYTES_MAX + 1, False)])
async def test_answer_to_a_query_is_no_larger_than_any_value(tmp_path, size, is_taken):
    host = ScriptedHost()
    host.scripts["Waits"] = lambda _seen: ([Wait("w#1", b"q" * 16, "w.py:1", "go", None)], True)
    host.on_question = lambda sandbox, frame: sandbox.say([Answer(frame.run, frame.number, bytes(size), None)])
    async with world(tmp_path, host=host) as w:
        await w.engine.start(KEY, workflow="Waits", commit=COMMIT, payload=b"\xc0")
        await w.until(KEY, "waiting")
        if is_taken:
            assert len(await w.engine.asking.ask(KEY, name="q", payload=b"\xc0")) == size
        else:
            with pytest.raises(TenantError) as caught:
                await w.engine.asking.ask(KEY, name="q", payload=b"\xc0")
            assert caught.value.code == "query_failed"
            assert caught.value.message == f"ValueRefused: an answer of {size} bytes, the limit is 1048576"
        await w.engine.terminate(KEY)
