"""The engine over a real store, a standing clock and scripted sandboxes."""

import dataclasses

import pytest
import trio

from executor.core import values
from executor.core.commands import Complete, Diverge, RetryPolicy, Sleep, StepDone, StepError, Wait
from executor.core.entries import (
    AttemptFailed,
    EventReceived,
    SleepEnded,
    StepRef,
    StepSucceeded,
    WaitEnded,
)
from executor.core.errors import Conflict, NotFound, Unavailable
from executor.core.failure import ErrorFact
from executor.core.lifecycle import FINAL
from executor.engine.engine import EngineLimits
from executor.sandbox.protocol import Activate, Attempt, Drop, Quiesce, Turn
from tests.executor.engine.world import COMMIT, ScriptedHost, world

ASKED = b"q" * 16
KEY = ("acme", "one")
RETRY = RetryPolicy(limit=2, delay_ms=1_000, backoff="constant", jitter=0.0)


def done(path, attempt=1):
    return StepDone(path, ASKED, "w.py:1", attempt, 0, b"\xc0")


def has(seen, kind, path):
    return any(isinstance(entry, kind) and entry.path == path for entry in seen)


def three_steps(seen):
    """W3: three steps one after the other."""
    for path in ("a#1", "b#1", "c#1"):
        if not has(seen, StepSucceeded, path):
            return [done(path)], False
    return [Complete(b"\xc0")], False


def step_sleep_step(seen):
    if not has(seen, StepSucceeded, "a#1"):
        return [done("a#1")], False
    if not has(seen, SleepEnded, "s#1"):
        return [Sleep("s#1", ASKED, "w.py:2", 60_000, None)], True
    if not has(seen, StepSucceeded, "b#1"):
        return [done("b#1")], False
    return [Complete(b"\xc0")], False


def many_naps(seen):
    """300 short sleeps, one after the other."""
    ended = sum(isinstance(entry, SleepEnded) for entry in seen)
    if ended < 300:
        return [Sleep(f"s#{ended + 1}", ASKED, "w.py:2", 10, None)], True
    return [Complete(b"\xc0")], False


def wait_for_approval(seen):
    if not has(seen, WaitEnded, "w#1"):
        return [Wait("w#1", ASKED, "w.py:2", "approved", 5_000)], True
    return [Complete(b"\xc0")], False


def fails_once(seen):
    failed = [entry for entry in seen if isinstance(entry, AttemptFailed)]
    if has(seen, StepSucceeded, "a#1"):
        return [Complete(b"\xc0")], False
    if not failed:
        return [StepError("a#1", ASKED, "w.py:1", 1, 0, ErrorFact("ValueError", "no"), RETRY)], True
    return [done("a#1", 2)], True


def never_answers(seen):
    return [], False


SCRIPTS = {
    "Three": three_steps,
    "Sleeper": step_sleep_step,
    "Approval": wait_for_approval,
    "FailsOnce": fails_once,
    "Silent": never_answers,
}


@pytest.fixture
def host():
    host = ScriptedHost()
    host.scripts.update(SCRIPTS)
    return host


async def start(w, workflow, key=KEY, payload=b"\xc0"):
    return await w.engine.start(key, workflow=workflow, commit=COMMIT, payload=payload)


async def test_three_steps_run_to_their_end_and_leave_nothing_in_memory(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        assert await start(w, "Three")
        assert await w.until_final(KEY) == "complete"
        assert w.kinds(KEY) == ["Started", "StepSucceeded", "StepSucceeded", "StepSucceeded", "Completed"]
        await w.until_gone(KEY)
        assert w.engine.active_counts()[0] == 0
        assert isinstance(host.log[-1], Drop)


async def test_sleeping_instance_has_no_run_and_no_object_and_wakes_on_time(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await start(w, "Sleeper")
        await w.until(KEY, "waiting")
        await w.until_gone(KEY)
        assert w.engine.active_counts()[0] == 0
        assert w.store.next_wake_ms() == w.clock.now_ms() + 60_000
        w.clock.advance(59_999)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert w.kinds(KEY)[-1] == "SleepStarted"
        w.clock.advance(1)
        assert await w.until_final(KEY) == "complete"
        assert w.kinds(KEY) == ["Started", "StepSucceeded", "SleepStarted", "SleepEnded", "StepSucceeded", "Completed"]
        activations = [frame for frame in host.log if isinstance(frame, Activate)]
        assert [frame.total for frame in activations] == [1, 6]


async def test_sleeper_wakes_after_a_restart_though_its_time_passed_meanwhile(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await start(w, "Sleeper")
        await w.until(KEY, "waiting")
    async with world(tmp_path, host=host) as w:
        w.clock.advance(10**9)
        assert await w.until_final(KEY) == "complete"


async def test_event_resumes_a_waiting_instance(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await start(w, "Approval")
        await w.until(KEY, "waiting")
        assert await w.engine.send_event(KEY, id="e1", type="approved", payload=b"\xc0")
        assert not await w.engine.send_event(KEY, id="e1", type="approved", payload=b"\xc0")
        assert await w.until_final(KEY) == "complete"
        assert w.kinds(KEY) == ["Started", "WaitStarted", "EventReceived", "WaitEnded", "Completed"]


async def test_event_before_the_wait_is_kept(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await w.engine.start(KEY, workflow="Approval", commit=COMMIT, payload=b"\xc0")
        await w.engine.send_event(KEY, id="e1", type="approved", payload=b"\xc0")
        assert await w.until_final(KEY) == "complete"
        assert sum(isinstance(entry, EventReceived) for entry in w.journal(KEY)) == 1


async def test_wait_times_out_by_the_clock(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await start(w, "Approval")
        await w.until(KEY, "waiting")
        w.clock.advance(5_000)
        await w.until_final(KEY)
        assert w.journal(KEY)[2].event is None


async def test_event_to_a_finished_instance_is_a_conflict(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await start(w, "Three")
        await w.until_final(KEY)
        with pytest.raises(Conflict) as caught:
            await w.engine.send_event(KEY, id="e1", type="approved", payload=b"\xc0")
        assert caught.value.code == "instance_finished"
        assert caught.value.message == 'instance "one" is complete and cannot take events'


async def test_retry_waits_without_a_run_and_is_made_when_due(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await start(w, "FailsOnce")
        await w.until(KEY, "waiting")
        await w.until_gone(KEY)
        assert not [frame for frame in host.log if isinstance(frame, Attempt)]
        w.clock.advance(1_000)
        assert await w.until_final(KEY) == "complete"
        assert [(frame.path, frame.attempt) for frame in host.log if isinstance(frame, Attempt)] == [("a#1", 2)]
        assert w.kinds(KEY) == ["Started", "AttemptFailed", "StepSucceeded", "Completed"]


async def test_retry_is_made_after_a_restart_though_its_time_passed_meanwhile(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await start(w, "FailsOnce")
        await w.until(KEY, "waiting")
    async with world(tmp_path, host=host) as w:
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert w.store.row(*KEY).row.state == "waiting"
        w.clock.advance(10**9)
        assert await w.until_final(KEY) == "complete"
        assert [(frame.path, frame.attempt) for frame in host.log if isinstance(frame, Attempt)] == [("a#1", 2)]


async def test_same_id_and_payload_is_the_same_instance(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        first = await start(w, "Three")
        assert (first.row.state, first.sequence) == ("queued", 1)
        again = await start(w, "Three")
        assert again.row.created_at_ms == first.row.created_at_ms
        for workflow, payload in (("Three", b"\xc2"), ("Sleeper", b"\xc0")):
            with pytest.raises(Conflict) as caught:
                await start(w, workflow, payload=payload)
            assert caught.value.code == "instance_exists"


async def test_payloads_are_the_same_if_their_keys_are_in_the_same_order(tmp_path, host):
    """As they are compared where only a digest of the first is left: byte by byte."""
    one, other = values.encode({"a": 1, "b": 2}), values.encode({"b": 2, "a": 1})
    async with world(tmp_path, host=host) as w:
        await start(w, "Approval", payload=one)
        await start(w, "Approval", payload=one)
        with pytest.raises(Conflict, match="another workflow or payload"):
            await start(w, "Approval", payload=other)
        assert await w.engine.send_event(KEY, id="e1", type="news", payload=one)
        assert not await w.engine.send_event(KEY, id="e1", type="news", payload=one)
        with pytest.raises(Conflict, match="another type or payload"):
            await w.engine.send_event(KEY, id="e1", type="news", payload=other)


async def test_concurrent_starts_of_one_id_make_one_instance(tmp_path, host):
    made = []

    async def one(w):
        made.append(await start(w, "Three"))

    async with world(tmp_path, host=host) as w:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(one, w)
        assert len({row.row.created_at_ms for row in made}) == 1 and len(made) == 20
        await w.until_final(KEY)
        assert w.kinds(KEY).count("Started") == 1


async def test_unknown_instance_is_not_found(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        with pytest.raises(NotFound) as caught:
            await w.engine.pause(("acme", "nobody"))
        assert caught.value.message == 'tenant "acme" has no instance "nobody"'


async def test_paused_instance_sleeps_on_after_the_pause_for_as_long_as_was_left(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await start(w, "Sleeper")
        await w.until(KEY, "waiting")
        await w.engine.pause(KEY)
        await w.engine.pause(KEY)
        w.clock.advance(120_000)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert w.kinds(KEY)[-1] == "Paused"
        await w.engine.resume(KEY)
        await w.until(KEY, "waiting")
        w.clock.advance(59_000)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert w.kinds(KEY)[-1] == "Resumed"
        w.clock.advance(1_000)
        assert await w.until_final(KEY) == "complete"
        assert w.kinds(KEY).count("Paused") == 1


async def test_pause_of_a_running_instance_lets_its_run_go(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await start(w, "Silent")
        await w.until(KEY, "queued", "running")
        while not host.living or not host.living[0].runs:
            await trio.testing.wait_all_tasks_blocked(0.001)
        await w.engine.pause(KEY)
        await w.until_gone(KEY)
        assert [type(frame) for frame in host.log if isinstance(frame, Quiesce | Drop)] == [Quiesce, Drop]


async def test_terminated_instance_is_dropped_and_stays_so(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await start(w, "Silent")
        await w.engine.terminate(KEY)
        await w.engine.terminate(KEY)
        assert await w.until_final(KEY) == "terminated"
        await w.until_gone(KEY)
        with pytest.raises(Conflict):
            await w.engine.resume(KEY)


async def test_deleted_instance_leaves_nothing_and_its_id_is_free(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await start(w, "Three")
        with pytest.raises(Conflict, match="cannot be deleted"):
            await w.engine.delete(KEY) if await w.until(KEY, "queued", "running") else None
        await w.until_final(KEY)
        await w.engine.delete(KEY)
        assert w.store.row(*KEY) is None
        assert await start(w, "Three", payload=b"\xc2")
        assert await w.until_final(KEY) == "complete"


async def test_divergence_holds_the_instance_with_both_sides(tmp_path, host):
    recorded, requested = StepRef("step", "a#1", "w.py:1"), StepRef("step", "b#1", "w.py:2")
    host.scripts["Diverges"] = lambda seen: ([Diverge("recorded a, requested b", recorded, requested)], False)
    async with world(tmp_path, host=host) as w:
        await start(w, "Diverges")
        await w.until(KEY, "held")
        held = w.journal(KEY)[-1]
        assert (held.code, held.recorded, held.requested) == ("nondeterminism", recorded, requested)


async def test_held_instance_tries_again_when_resumed(tmp_path, host):
    host.scripts["Diverges"] = lambda seen: ([Diverge("x", None, None)], False)
    async with world(tmp_path, host=host) as w:
        await start(w, "Diverges")
        await w.until(KEY, "held")
        host.scripts["Diverges"] = three_steps
        await w.engine.resume(KEY)
        assert await w.until_final(KEY) == "complete"


async def test_death_of_a_sandbox_loses_nothing_and_repeats_only_what_was_not_journaled(tmp_path, host):
    deaths = []

    def dies_after_a(seen):
        if has(seen, StepSucceeded, "a#1") and not deaths:
            deaths.append(1)
            host.living[0].kill("crashed")
            return [], False
        return three_steps(seen)

    host.scripts["Dies"] = dies_after_a
    async with world(tmp_path, host=host) as w:
        await start(w, "Dies")
        assert await w.until_final(KEY) == "complete"
        assert w.kinds(KEY) == ["Started", "StepSucceeded", "StepSucceeded", "StepSucceeded", "Completed"]
        assert [frame.total for frame in host.log if isinstance(frame, Activate)] == [1, 3]


async def test_instance_that_keeps_killing_its_sandbox_is_held_and_its_neighbour_is_not(tmp_path, host):
    def kills(seen):
        for sandbox in host.living:
            if any(run.script is kills for run in sandbox.runs.values()):
                sandbox.kill("memory")
        return [], False

    host.scripts["Kills"] = kills
    neighbour = ("acme", "two")
    async with world(tmp_path, host=host) as w:
        await start(w, "Sleeper", neighbour)
        await start(w, "Kills")
        await w.until(KEY, "held")
        held = w.journal(KEY)[-1]
        assert held.code == "sandbox_killed"
        assert held.message == "its sandbox died 5 times at the same point, the last time: memory, scripted"
        await w.until(neighbour, "waiting")
        w.clock.advance(60_000)
        assert await w.until_final(neighbour) == "complete"


async def test_sandbox_that_breaks_the_protocol_is_ended(tmp_path, host):
    host.scripts["Liar"] = lambda seen: ([StepDone("a#1", b"short", "w.py:1", 1, 0, b"\xc0")], False)
    async with world(tmp_path, host=host) as w:
        await start(w, "Liar")
        await w.until(KEY, "held")
        assert ("acme", "protocol") in host.killed
        assert w.kinds(KEY) == ["Started", "Held"]


async def test_turn_for_a_run_of_another_sandbox_is_ignored(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await start(w, "Approval")
        await w.until(KEY, "waiting")
        await start(w, "Silent", ("evil", "x"))
        while not any(sandbox.spec.tenant == "evil" and sandbox.runs for sandbox in host.living):
            await trio.testing.wait_all_tasks_blocked(0.001)
        evil = next(sandbox for sandbox in host.living if sandbox.spec.tenant == "evil")
        for number in range(10):
            if number not in evil.runs:
                evil.say([Turn(number, 1, [Complete(b"\xc0")], False)])
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert w.store.row(*KEY).row.state == "waiting"


async def test_code_that_cannot_be_imported_fails_a_new_instance(tmp_path, host):
    host.not_loadable = ErrorFact("ModuleNotFoundError", "No module named 'requests'", "workflows.py:1", False)
    async with world(tmp_path, host=host) as w:
        await start(w, "Three")
        assert await w.until_final(KEY) == "failed"
        error = w.journal(KEY)[-1].error
        assert (error.code, error.type) == ("code_not_loadable", "ModuleNotFoundError")


async def test_active_runs_are_bounded_and_all_get_their_turn(tmp_path, host):
    async with world(tmp_path, host=host, limits=EngineLimits(active_runs_max=3)) as w:
        keys = [("acme", f"i{number}") for number in range(30)]
        async with trio.open_nursery() as nursery:
            for key in keys:
                nursery.start_soon(start, w, "Three", key)
        for key in keys:
            assert await w.until_final(key) == "complete"


async def test_full_queue_refuses_starts_with_a_time_to_come_back(tmp_path, host):
    async with world(tmp_path, host=host, limits=EngineLimits(active_runs_max=1, queued_max=1)) as w:
        await start(w, "Silent", ("acme", "a"))
        while not host.living or not host.living[0].runs:
            await trio.testing.wait_all_tasks_blocked(0.001)
        await start(w, "Silent", ("acme", "b"))
        with pytest.raises(Unavailable) as caught:
            await start(w, "Silent", ("acme", "c"))
        assert caught.value.code == "busy"
        assert caught.value.details["retry_after_s"] == 1
        assert w.store.row("acme", "c") is None
        for name in ("a", "b"):  # nothing that was accepted is dropped
            await w.engine.terminate(("acme", name))
            assert w.kinds(("acme", name)) == ["Started", "Terminated"]
        await start(w, "Three", ("acme", "c"))
        assert await w.until_final(("acme", "c")) == "complete"


async def test_running_instances_are_activated_again_after_a_restart(tmp_path, host):
    async with world(tmp_path, host=host) as w:
        await start(w, "Silent")
    host.scripts["Silent"] = three_steps
    async with world(tmp_path, host=host) as w:
        assert await w.until_final(KEY) == "complete"


async def test_timer_beside_an_executing_step_fires_in_the_same_run(tmp_path, host):
    def step_beside_sleep(seen):
        if has(seen, SleepEnded, "s#1"):
            return [done("slow#1")] if not has(seen, StepSucceeded, "slow#1") else [Complete(b"\xc0")], False
        return [Sleep("s#1", ASKED, "w.py:2", 1_000, None)], False

    host.scripts["Beside"] = step_beside_sleep
    async with world(tmp_path, host=host) as w:
        await start(w, "Beside")
        while w.kinds(KEY) != ["Started", "SleepStarted"]:
            await trio.testing.wait_all_tasks_blocked(0.001)
        w.clock.advance(1_000)
        assert await w.until_final(KEY) == "complete"
        assert len([frame for frame in host.log if isinstance(frame, Activate)]) == 1


async def test_record_over_a_limit_of_the_store_holds_its_instance_and_no_other(tmp_path, host):
    def too_much(seen):
        return [StepDone("a#1", ASKED, "w.py:1", 1, 0, bytes(1024 * 1024))], False

    host.scripts["TooMuch"] = too_much
    async with world(tmp_path, host=host) as w:
        limits = w.store._store.limits
        w.store._store.limits = dataclasses.replace(limits, journal_entry_bytes_max=1024)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(start, w, "TooMuch")
            nursery.start_soon(start, w, "Three", ("acme", "two"))
        assert await w.until_final(("acme", "two")) == "complete"
        await w.until(KEY, "held")
        assert w.kinds(KEY) == ["Started", "Held"]
        assert w.journal(KEY)[-1].code == "limit_exceeded"


async def test_full_disk_refuses_starts_and_running_instances_go_on_when_there_is_room(tmp_path, host, autojump_clock):
    async with world(tmp_path, host=host) as w:
        await start(w, "Approval")
        await w.until(KEY, "waiting")
        append, w.store.append = w.store.append, full_disk
        with pytest.raises(Unavailable) as caught:
            await start(w, "Three", ("acme", "two"))
        assert caught.value.code == "storage_full"
        with pytest.raises(Unavailable):
            await w.engine.send_event(KEY, id="e1", type="approved", payload=b"\xc0")
        assert w.store.row("acme", "two") is None
        assert w.kinds(KEY) == ["Started", "WaitStarted"]
        w.store.append = append
        assert await start(w, "Three", ("acme", "two"))
        await w.engine.send_event(KEY, id="e1", type="approved", payload=b"\xc0")
        assert await w.until_final(KEY) == "complete"
        assert await w.until_final(("acme", "two")) == "complete"


def full_disk(records):
    raise Unavailable("the disk is full", code="storage_full")


async def test_tenant_that_fills_its_places_leaves_room_for_another(tmp_path, host):
    async with world(tmp_path, host=host, limits=EngineLimits(active_runs_max=8, sandboxes_max=4)) as w:
        for number in range(12):
            await start(w, "Silent", ("greedy", f"i{number}"))
        while w.engine.active_counts()[0] < 6:
            await trio.testing.wait_all_tasks_blocked(0.001)
        await start(w, "Three")
        assert await w.until_final(KEY) == "complete"
        assert w.engine.active_counts()[0] == 6, "three quarters, and no more"
        await w.engine.terminate(("greedy", "i0"))
        await w.until_gone(("greedy", "i0"))
        while w.engine.active_counts()[0] < 6:
            await trio.testing.wait_all_tasks_blocked(0.001)


async def test_tenant_with_many_versions_leaves_a_sandbox_for_another(tmp_path, host):
    async with world(tmp_path, host=host, limits=EngineLimits(sandboxes_max=4)) as w:
        for number in range(5):
            key = ("greedy", f"i{number}")
            await w.engine.start(key, workflow="Silent", commit=f"{number}" * 40, payload=b"\xc0")
        while len(host.living) < 3:
            await trio.testing.wait_all_tasks_blocked(0.001)
        await start(w, "Three")
        assert await w.until_final(KEY) == "complete"
        assert sum(sandbox.spec.tenant == "greedy" for sandbox in host.living) == 3


async def test_a_long_journal_is_not_replayed_for_every_short_sleep(tmp_path, host):
    """The run stays for a moment once a replay would cost more: entries sent are linear in the journal."""
    host.scripts["Naps"] = many_naps
    async with world(tmp_path, host=host) as w:
        await start(w, "Naps")
        while await w.until(KEY, "waiting", *FINAL) not in FINAL:
            w.clock.advance(10)
            await trio.testing.wait_all_tasks_blocked(0.001)
    activations = [frame.total for frame in host.log if isinstance(frame, Activate)]
    assert max(activations) < 110
    assert sum(activations) < 110 * 110 / 2 + 110


async def test_a_parked_run_makes_room_for_another(tmp_path, host):
    host.scripts["Naps"] = many_naps
    async with world(tmp_path, host=host, limits=EngineLimits(active_runs_max=1)) as w:
        await start(w, "Naps")
        while len(w.store.journal(*KEY)) < 150:
            await w.until(KEY, "waiting")
            w.clock.advance(10)
            await trio.testing.wait_all_tasks_blocked(0.001)
        await w.until(KEY, "waiting")
        assert w.engine.runner.run_count == 1
        await start(w, "Three", ("acme", "two"))
        assert await w.until_final(("acme", "two")) == "complete"
