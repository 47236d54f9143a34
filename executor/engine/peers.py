"""Peers over the Instances port and the code store: children find their commit, and go to whoever has them.

One process has this beside its engine; of several the front has it, for it alone has the code store and knows which
process an instance belongs to (executor/shards).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import msgspec
import trio

from executor.core import flow, values
from executor.core.entries import StartOptions
from executor.core.errors import PerdureError, Refused, Unavailable
from executor.ports import ChildEnd, ChildStart, CodeSource, Instances, Seen, Start


class Gate(Protocol):
    """Keeps a garbage collection and the deletion of a tenant away while a start is under way (service/gate.py)."""

    async def enter(self) -> None: ...
    def leave(self) -> None: ...


class PeersOver:
    """See `executor.ports.Peers`."""

    def __init__(self, instances: Instances, code: CodeSource, gate: Gate | None = None) -> None:
        self._instances = instances
        self._code = code
        self._gate = gate

    async def start_children(self, starts: Sequence[ChildStart]) -> list[Seen | PerdureError]:
        if self._gate is None:
            return await self._start(starts)
        await self._gate.enter()
        try:
            return await self._start(starts)
        finally:
            self._gate.leave()

    async def _start(self, starts: Sequence[ChildStart]) -> list[Seen | PerdureError]:
        found = await trio.to_thread.run_sync(self._pinned, starts)
        good = [start for start in found if isinstance(start, Start)]
        answers = iter(await self._instances.start_many(good) if good else ())
        return [next(answers) if isinstance(start, Start) else start for start in found]

    def _pinned(self, starts: Sequence[ChildStart]) -> list[Start | PerdureError]:
        """Each with the commit it is pinned to, or why there is none. Nothing is remembered from one call to the next:
        the tenant may be gone since, and a channel elsewhere."""
        known: dict[tuple[str, str, str | None], tuple[str, Mapping[str, str]] | PerdureError] = {}
        found: list[Start | PerdureError] = []
        for child in starts:
            start, channel = child.start, child.channel
            tenant = start.key[0]
            asked = (tenant, start.commit if channel is None else "", channel)
            if asked not in known:
                try:
                    known[asked] = self._startable(*asked)
                except PerdureError as error:
                    known[asked] = error
            startable = known[asked]
            if isinstance(startable, PerdureError):
                found.append(startable)
            elif start.workflow in startable[1]:
                try:
                    options = _limited(start, startable[1][start.workflow])
                except Refused as refused:
                    found.append(refused)
                    continue
                found.append(msgspec.structs.replace(start, commit=startable[0], options=options))
            else:
                found.append(_unknown(start.workflow, *startable))
        return found

    def _startable(self, tenant: str, commit: str, channel: str | None) -> tuple[str, Mapping[str, str]]:
        if channel is None:
            # Its parent is on that commit, so the code store keeps it.
            return self._code.startable(tenant, channel="", commit=commit)
        found = self._code.startable(tenant, channel=channel, commit=None)
        self._code.keep_for_instances(tenant, found[0])
        return found

    async def close_children(self, tenant: str, parent: str, children: Sequence[str]) -> None:
        await self._instances.close_children(tenant, parent, children)

    async def child_ended(self, tenant: str, parent: str, end: ChildEnd) -> None:
        await self._instances.child_ended(tenant, parent, end)


class NoPeers:
    """For an engine that nobody has told where the others are."""

    async def start_children(self, starts: Sequence[ChildStart]) -> list[Seen | PerdureError]:
        return [self._none() for _ in starts]

    async def close_children(self, tenant: str, parent: str, children: Sequence[str]) -> None:  # noqa: ARG002
        raise self._none()

    async def child_ended(self, tenant: str, parent: str, end: ChildEnd) -> None:  # noqa: ARG002
        raise self._none()

    def _none(self) -> Unavailable:
        return Unavailable("other instances cannot be reached yet", code="busy", hint="Try again.", retry_after_s=1)


def _limited(start: Start, declarations: str) -> StartOptions | None:
    """Its options with the limits that its workflow declares: a child executes as any other instance does. Rate,
    debounce and singleton are for starts from outside: a step that asks for a child gets one."""
    declared = flow.declared(declarations)
    if declared is None:
        return start.options
    options = start.options or StartOptions()
    key = flow.key_of(start.workflow, declared, values.decode(start.payload))
    return msgspec.structs.replace(options, limits=flow.limits_of(start.workflow, declared, key))


def _unknown(workflow: str, commit: str, workflows: Collection[str]) -> Refused:
    names = sorted(workflows)
    return Refused(
        f'version {commit[:8]} has no workflow "{workflow[:80]}"',
        code="unknown_workflow",
        hint=f"It has: {', '.join(names)}." if names else "It has none.",
        workflows=names,
        commit=commit,
    )
