"""A run that is kept at rest in its sandbox goes on like one that was begun again."""

import pytest
import trio

from executor.core.commands import Command, Complete, StepDone, StepError
from executor.core.entries import AnyEntry, AttemptFailed, StartOptions, StepSucceeded
from executor.core.failure import ErrorFact
from executor.engine.engine import EngineLimits
from executor.engine.parked import JOURNAL_ENTRIES_MIN, KEPT_S
from executor.ports import Start
from executor.sandbox.protocol import Activate
from tests.executor.engine.test_engine import ASKED, KEY, RETRY, done, has, start, three_steps
from tests.executor.engine.world import COMMIT, ScriptedHost, world


def long_then_shaky(seen: list[AnyEntry]) -> tuple[list[Command], bool]:
    """So many steps that the run is kept, then one that fails once."""
    steps = sum(isinstance(entry, StepSucceeded) for entry in seen)
    if steps < JOURNAL_ENTRIES_MIN:
        return [StepDone(f"a#{steps}", ASKED, "w.py:1", 1, 0, b"\xc0")], False
    if has(seen, StepSucceeded, "x#1"):
        return [Complete(b"\xc0")], False
    if not any(isinstance(entry, AttemptFailed) for entry in seen):
        return [StepError("x#1", ASKED, "w.py:2", 1, 0, ErrorFact("ValueError", "no"), RETRY)], True
    return [done("x#1", 2)], True


async def test_kept_run_attempts_its_retry_when_it_is_due(tmp_path):
    host = ScriptedHost()
    host.scripts["Long"] = long_then_shaky
    async with world(tmp_path, host=host) as w:
        await start(w, "Long")
        await w.until(KEY, "waiting")
        assert w.engine.runner.run_count == 1
        w.clock.advance(RETRY.delay_ms)
        assert await w.until_final(KEY) == "complete"
    assert sum(isinstance(frame, Activate) for frame in host.log) == 1


async def test_run_that_comes_to_rest_while_others_wait_for_its_place_gives_it_at_once(tmp_path):
    host = ScriptedHost()
    host.scripts["Long"] = long_then_shaky
    host.scripts["W3"] = three_steps
    async with world(tmp_path, host=host, limits=EngineLimits(active_runs_max=1, stop_grace_s=1.0)) as w:
        await start(w, "Long")
        await start(w, "W3", ("acme", "two"))
        with trio.fail_after(KEPT_S / 4):
            assert await w.until_final(("acme", "two")) == "complete"
        assert await w.until(KEY, "waiting") == "waiting"


@pytest.mark.parametrize("whole_platform", [False, True])
async def test_who_unloads_at_every_wait_is_never_parked(tmp_path, whole_platform):
    host = ScriptedHost()
    host.scripts["Long"] = long_then_shaky
    options = None if whole_platform else StartOptions(unload="every-wait")
    async with world(tmp_path, host=host, limits=EngineLimits(unloads_at_every_wait=whole_platform)) as w:
        await w.engine.start_many([Start(KEY, "Long", COMMIT, b"\xc0", options=options)])
        await w.until(KEY, "waiting")
        assert w.engine.runner.run_count == 0
        w.clock.advance(RETRY.delay_ms)
        assert await w.until_final(KEY) == "complete"
    assert sum(isinstance(frame, Activate) for frame in host.log) == 2
