"""What is asked of a sandbox host and how it may fail: values only, for ports, engine and fakes alike."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from executor.core.failure import ErrorFact

DeathReason = Literal["crashed", "killed", "memory", "time", "protocol"]
"""Its own fault; somebody asked for it; too much memory; too much time; it broke the protocol."""


@dataclasses.dataclass(frozen=True, slots=True)
class SandboxSpec:
    """Which code to confine: the bundle (one file, opened by the host and handed in by descriptor) of a commit."""

    tenant: str
    commit: str
    bundle: Path


class SandboxDied(Exception):
    """The sandbox's process has ended. The instances in it lose nothing: they are activated again and replay.

    `reason` decides what to do; `detail` and `last_words` (standard error of the process: hostile text, bounded) are
    for people.
    """

    def __init__(self, reason: DeathReason, detail: str, *, label: str = "", last_words: str = "") -> None:
        super().__init__(f"sandbox {label} ended ({reason}): {detail}")
        self.reason: DeathReason = reason
        self.detail = detail
        self.label = label
        self.last_words = last_words


class SandboxFailed(Exception):
    """The version's code could not be imported. `error` is the tenant's exception as text."""

    def __init__(self, spec: SandboxSpec, error: ErrorFact) -> None:
        super().__init__(
            f"the code of tenant {spec.tenant} at commit {spec.commit} cannot be loaded: {error.type}: {error.message}"
        )
        self.spec = spec
        self.error = error
