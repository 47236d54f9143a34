"""Starting: what is taken in, and delayed starts that are replaced."""

import pytest
import trio
import trio.testing

from executor.core.commands import Complete
from executor.core.entries import Completed, Rescheduled, Started, StartOptions
from executor.core.errors import Conflict, NotFound, PerdureError
from executor.engine.engine import EngineLimits
from executor.ports import Start
from tests.executor.engine.test_engine import never_answers, wait_for_approval
from tests.executor.engine.world import BASE_MS, COMMIT, ScriptedHost, world

WAITS = StartOptions(start_at_ms=BASE_MS + 5_000, debounce="key")


def start_of(tenant, name, options=None):
    return Start((tenant, name), "Never", COMMIT, b"\xc0", options=options)


@pytest.fixture
def host():
    made = ScriptedHost()
    made.scripts["Never"] = never_answers
    return made


async def test_one_tenants_full_queue_is_busy_for_it_alone(tmp_path, host):
    """A long queue may stand behind the tenant's own limit for days: nobody else must be refused for it."""
    limits = EngineLimits(active_runs_max=1, queued_max=2, stop_grace_s=0.1)
    async with world(tmp_path, host=host, limits=limits) as w:
        for name in ("runs", "q1", "q2"):
            [answer] = await w.engine.start_many([start_of("acme", name)])
            assert not isinstance(answer, PerdureError)
        while w.engine.queue.count_of("acme") != 2:
            await trio.testing.wait_all_tasks_blocked(0.01)
        starts = [start_of("acme", "more"), start_of("other", "one"), start_of("acme", "again")]
        first, second, third = await w.engine.start_many(starts)
        assert [getattr(answer, "code", None) for answer in (first, second, third)] == ["busy", None, "busy"]
        assert first.message == "2 instances wait for their turn, the limit is 2"
        assert second.instance == "one"


async def test_delayed_start_is_replaced_by_its_key_only_and_only_while_it_waits(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        key = ("acme", "a")
        await w.engine.start_many([start_of(*key, WAITS), start_of("acme", "plain")])
        with pytest.raises(Conflict):
            await w.engine.starting.reschedule(key, payload=b"\x01", start_at_ms=BASE_MS + 9_000, debounce="other")
        with pytest.raises(Conflict):
            await w.engine.starting.reschedule(("acme", "plain"), payload=b"\x01", start_at_ms=1, debounce="key")
        with pytest.raises(NotFound):
            await w.engine.starting.reschedule(("acme", "none"), payload=b"\x01", start_at_ms=1, debounce="key")
        row = await w.engine.starting.reschedule(key, payload=b"\x01", start_at_ms=BASE_MS + 9_000, debounce="key")
        assert (row.row.state, row.row.wake_at_ms) == ("waiting", BASE_MS + 9_000)
        assert w.journal(key)[1] == Rescheduled(BASE_MS, b"\x01", BASE_MS + 9_000)
        w.clock.advance(9_000)
        await w.until(key, "running")
        with pytest.raises(Conflict) as late:
            await w.engine.starting.reschedule(key, payload=b"\x01", start_at_ms=BASE_MS, debounce="key")
        assert (late.value.code, late.value.details["state"]) == ("invalid_state", "running")


async def test_restart_of_a_replaced_start_begins_with_the_payload_that_replaced_it(tmp_path, host):
    def gives_its_payload(seen):
        return [Complete([entry.payload for entry in seen if isinstance(entry, Started | Rescheduled)][-1])], False

    key = ("acme", "a")
    host.scripts["Never"] = gives_its_payload
    async with world(tmp_path, host=host) as w:
        await w.engine.start_many([start_of(*key, WAITS)])
        await w.engine.starting.reschedule(key, payload=b"\x01", start_at_ms=BASE_MS + 9_000, debounce="key")
        await w.engine.starting.reschedule(key, payload=b"\x02", start_at_ms=BASE_MS + 9_000, debounce="key")
        w.clock.advance(9_000)
        await w.until_final(key)
        await w.engine.restart(key)
        await w.until_final(key)
    async with world(tmp_path, host=host) as w:
        w.clock.advance(9_000)
        await w.engine.restart(key)
        await w.until_final(key)
        values = [entry.value for entry in w.journal(key) if isinstance(entry, Completed)]
        assert values == [b"\x02", b"\x02", b"\x02"]


async def test_replaced_start_keeps_its_new_time_over_a_restart(tmp_path, host):
    key = ("acme", "a")
    async with world(tmp_path, host=host) as w:
        await w.engine.start_many([start_of(*key, WAITS)])
        await w.engine.starting.reschedule(key, payload=b"\x01", start_at_ms=BASE_MS + 9_000, debounce="key")
    async with world(tmp_path, host=host) as w:
        w.clock.advance(5_000)
        await w.until_gone(key)
        assert w.store.row(*key).row.state == "waiting"
        w.clock.advance(4_000)
        await w.until(key, "running")


async def test_delayed_start_takes_events_and_keeps_its_time_over_pause_restart_and_crash(tmp_path, host):
    """Its time is a date: a pause does not shift it."""
    key, begins = ("acme", "a"), BASE_MS + 5_000
    host.scripts["Never"] = wait_for_approval
    async with world(tmp_path, host=host) as w:
        await w.engine.start_many([start_of(*key, StartOptions(start_at_ms=begins))])
        await w.engine.restart(key)
        await w.engine.send_event(key, id="e1", type="approved", payload=b"\xc0")
        await w.engine.pause(key)
        w.clock.advance(1_000)
        await w.engine.resume(key)
        for question in (w.engine.asking.ask(key, name="n", payload=b""), w.engine.asking.update(
            key, id="u1", name="n", payload=b"", wait_s=1
        )):  # fmt: skip
            with pytest.raises(Conflict) as early:
                await question
            assert early.value.code == "invalid_state"
    async with world(tmp_path, host=host) as w:
        w.clock.advance(4_999)
        await trio.testing.wait_all_tasks_blocked(0.01)
        row = w.store.row(*key).row
        assert (row.state, row.wake_at_ms, host.log) == ("waiting", begins, [])
        w.clock.advance(1)
        assert await w.until_final(key) == "complete"
