"""Tests of tenants' own workflows: run from the working tree, without a server, under a virtual clock.

from executor.testing import WorkflowTest

The names are loaded when they are first asked for: the pytest plugin is imported by every session of an environment
that has this package, and must cost those nothing that do not use it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from executor.testing.clock import VirtualClock
    from executor.testing.failures import NeverEnds, Nondeterminism, NotMocked, StepStuck, WorkflowFailure
    from executor.testing.harness import WorkflowTest
    from executor.testing.looking import StepSeen
    from executor.testing.mocks import Mock
    from executor.testing.run import WorkflowRun

__all__ = [
    "Mock",
    "NeverEnds",
    "Nondeterminism",
    "NotMocked",
    "StepSeen",
    "StepStuck",
    "VirtualClock",
    "WorkflowFailure",
    "WorkflowRun",
    "WorkflowTest",
]

_HOMES = {
    "Mock": "mocks",
    "StepSeen": "looking",
    "VirtualClock": "clock",
    "WorkflowRun": "run",
    "WorkflowTest": "harness",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'failures')}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
