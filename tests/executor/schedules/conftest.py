"""Stores are asked on the event loop itself: see `world.inline`."""

import pytest

from executor.schedules import scheduler
from tests.executor.schedules.world import inline


@pytest.fixture(autouse=True)
def _no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "_in_thread", inline)
