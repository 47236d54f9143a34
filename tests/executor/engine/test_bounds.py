"""Limits of an execution as the platform is configured."""

from __future__ import annotations

import pytest

from executor.core import summary
from executor.core.commands import StepDone, Wait
from executor.core.entries import StepSucceeded
from executor.engine.engine import EngineLimits
from tests.executor.engine.world import COMMIT, ScriptedHost, world

ASKED = b"q" * 16
KEY = ("acme", "one")


def eight_steps_and_a_wait(seen):
    number = sum(isinstance(entry, StepSucceeded) for entry in seen)
    if number < 8:
        return [StepDone(f"a#{number + 1}", ASKED, "w.py:1", 1, 0, b"\xc0")], False
    return [Wait("w#1", ASKED, "w.py:2", "go", None)], True


@pytest.mark.parametrize(
    ("limits", "warning"),
    [
        (EngineLimits(steps_max=10), "this execution has 8 steps of at most 10; "),
        (EngineLimits(journal_bytes_max=800), "this execution has "),
        (EngineLimits(steps_max=11, journal_bytes_max=10_000), None),
    ],
)
async def test_the_status_warns_of_the_limits_that_are_configured(tmp_path, limits, warning):
    host = ScriptedHost()
    host.scripts["Eight"] = eight_steps_and_a_wait
    async with world(tmp_path, host=host, limits=limits) as w:
        await w.engine.start(KEY, workflow="Eight", commit=COMMIT, payload=b"\xc0")
        assert await w.until(KEY, "waiting") == "waiting"
        warnings = summary.decode(w.store.row(*KEY).row.summary).warnings
        if warning is None:
            assert warnings == []
            return
        [found] = warnings
        size = sum(len(stored) for _, stored in w.store.journal(*KEY, after=0, limit=100))
        expected = warning if limits.steps_max == 10 else f"this execution has {size} bytes of journal of at most 800; "
        assert found == expected + "self.continue_as_new(payload) begins another"
