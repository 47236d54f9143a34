"""Sandboxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from executor.sandbox.protocol import FromSandbox, ToSandbox
from executor.sandbox.spec import DeathReason, SandboxSpec


class Sandbox(Protocol):
    """One sandbox process."""

    async def send(self, frames: Sequence[ToSandbox]) -> None:
        """Raises SandboxDied."""

    async def receive(self) -> list[FromSandbox]:
        """The next frames, at least one. Raises SandboxDied."""
        ...

    def kill(self, reason: DeathReason = "killed", detail: str = "") -> None: ...


class SandboxHost(Protocol):
    """Starts sandboxes."""

    async def open(self, spec: SandboxSpec) -> Sandbox:
        """A sandbox with the version's code imported. Raises SandboxFailed (the code raised while it was imported),
        SandboxDied (it ended before it was ready), Unavailable (`sandbox_unavailable`)."""
        ...
