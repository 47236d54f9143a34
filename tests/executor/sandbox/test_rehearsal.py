"""The rehearsal warms the path and leaves nothing to be seen."""

from __future__ import annotations

import asyncio
import os
import sys

import pytest

from executor.sandbox import ambient, child, output, rehearsal
from executor.sandbox.limits import SandboxLimits
from executor.workflow import Workflow


@pytest.fixture
def prepared(monkeypatch):
    """As a spare is before its rehearsal; but SQLite's settings are for a process of its own, not for this one."""
    monkeypatch.setattr(child, "_prepare_facets", lambda: None)
    child.before_seccomp(SandboxLimits(step_threads=2))
    loop, pool = child._prepared[-1]
    yield loop
    child._prepared.clear()
    pool.close()
    loop.close()
    output.uninstall()
    ambient.uninstall()


def test_rehearsal_leaves_nothing_to_be_seen(prepared) -> None:
    def seen() -> tuple[object, ...]:
        return set(sys.modules), list(sys.meta_path), len(os.listdir("/proc/self/fd"))

    before = seen()
    child.rehearse()
    assert seen() == before
    assert "Rehearsal" not in [subclass.__name__ for subclass in Workflow.__subclasses__()]
    assert not prepared.is_running()
    assert not asyncio.all_tasks(prepared)
    assert len(child._prepared) == 1  # the loop and the threads are those that the tenant's code will get


def test_rehearsal_can_be_repeated(prepared) -> None:
    child.rehearse()
    child.rehearse()


def test_rehearsal_that_does_not_get_its_steps_says_what_it_got(prepared, monkeypatch) -> None:
    monkeypatch.setattr(rehearsal, "_TIMEOUT_S", 0.01)
    with pytest.raises(rehearsal.RehearsalFailed) as caught:
        rehearsal.rehearse(prepared, lambda _control, _bundle: None, threads=False)
    assert str(caught.value) == "of 1 steps this was reported within 0.01 s: []"
    assert rehearsal.MODULE not in sys.modules
