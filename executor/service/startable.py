"""Startables: which commit a channel is on and which workflows it has, in memory, so that a start asks no database.

The executor is the only one that moves channels. Whoever may have moved one says `forget` before anybody is told that
it moved; an answer that was under way meanwhile is used by those who asked for it, and not kept.
"""

from __future__ import annotations

from collections.abc import Mapping

import trio

from executor.ports import CodeSource

KEPT_MAX = 10_000
COMMIT_CHARS = 40

Startable = tuple[str, Mapping[str, str]]
"""Full commit, and its workflows: name, and what it declares."""


class Startables:
    def __init__(self, code: CodeSource) -> None:
        self._code = code
        self._kept: dict[str, dict[tuple[str, str | None], Startable]] = {}
        self._count = 0
        self._changes = 0

    def kept(self, tenant: str, channel: str, commit: str | None) -> Startable | None:
        """What is known already."""
        of_tenant = self._kept.get(tenant)
        return None if of_tenant is None else of_tenant.get((channel, commit))

    async def find(self, tenant: str, channel: str, commit: str | None) -> Startable:
        """Raises what `CodeSource.startable` raises."""
        before = self._changes
        found = await trio.to_thread.run_sync(lambda: self._code.startable(tenant, channel=channel, commit=commit))
        # An abbreviated commit may become ambiguous, and a channel's name stands for another one tomorrow.
        if before == self._changes and (commit is None or len(commit) == COMMIT_CHARS):
            if self._count >= KEPT_MAX:
                self._kept.clear()
                self._count = 0
            self._kept.setdefault(tenant, {})[channel, commit] = found
            self._count += 1
        return found

    def forget(self, tenant: str) -> None:
        """A channel, deployment or version of the tenant may have changed."""
        self._changes += 1
        self._count -= len(self._kept.pop(tenant, ()))
