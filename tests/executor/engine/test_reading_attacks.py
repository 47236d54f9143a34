"""Reads that one tenant asks for in any number: others are answered meanwhile."""

from __future__ import annotations

import threading

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from executor.core import search
from executor.core.commands import Complete
from executor.engine import local
from executor.engine.local import LocalInstances
from tests.executor.engine.world import COMMIT, ScriptedHost, world

MANY = 60
"""More than there are threads."""


@pytest.mark.parametrize("what", ["page", "matches", "journal", "output", "image", "blob_part"])
async def test_many_slow_reads_of_one_tenant_hold_up_no_other(tmp_path, what):
    host = ScriptedHost()
    host.scripts["W"] = lambda _seen: ([Complete(b"\xc0")], False)
    async with world(tmp_path, host=host) as w:
        instances = LocalInstances(w.engine, w.store)
        for tenant in ("acme", "other"):
            await w.engine.start((tenant, "i"), workflow="W", commit=COMMIT, payload=b"\xc0")
            await w.until_final((tenant, "i"))
        calls = {
            "page": lambda tenant: instances.page(tenant, search.EVERYTHING, limit=1, after=None),
            "matches": lambda tenant: instances.matches(tenant, search.EVERYTHING),
            "journal": lambda tenant: instances.journal(tenant, "i", after=0, limit=9, wait_s=0),
            "output": lambda tenant: instances.output(tenant, "i", after=0, limit=9, wait_s=0),
            "image": lambda tenant: instances.image(tenant, "i"),
            "blob_part": lambda tenant: instances.blob_part(tenant, "i", 1, 0),
        }
        free = threading.Event()
        slow = getattr(w.store, what)
        begun: list[str] = []

        def blocking(tenant, *rest, **named):
            if tenant == "acme":
                begun.append(what)
                free.wait(20)
            return slow(tenant, *rest, **named)

        setattr(w.store, what, blocking)
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(MANY):
                    nursery.start_soon(calls[what], "acme")
                await wait_all_tasks_blocked(0.01)
                with trio.fail_after(10):
                    for call in calls.values():
                        await call("other")
                count = len(begun)
                free.set()
        finally:
            free.set()
            setattr(w.store, what, slow)
        assert count == (local.SEARCHES if what in {"page", "matches"} else local.READERS) // 2
