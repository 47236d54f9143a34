"""Peers over the Instances port and the code store: children find their commit, and go to whoever has them.

One process has this beside its engine; of several the front has it, for it alone has the code store and knows which
process an instance belongs to (executor/shards).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec
import trio

from executor.core import flow, values
from executor.core.entries import StartOptions
from executor.core.errors import PerdureError, Refused, Unavailable
from executor.ports import ChildEnd, ChildStart, CodeSource, Instances, Seen, Start
from executor.workflow.flow import Flow


class Gate(Protocol):
    """Keeps a garbage collection and the deletion of a tenant away while a start is under way (service/gate.py)."""

    async def enter(self) -> None: ...
    def leave(self) -> None: ...


class Prepared(NamedTuple):
    """A start, and what still has to be decided about it by the `flow` that its workflow declares (None: nothing), for
    all whose `key` is the same."""

    start: Start
    flow: Flow | None = None
    key: str = ""

    @property
    def is_child(self) -> bool:
        return self.start.options is not None and self.start.options.parent is not None

    @property
    def is_alone(self) -> bool:
        """Whether it has to be started by itself: it may end or replace another of its key."""
        if self.flow is None:
            return False
        return self.flow.singleton is not None or (self.flow.debounce is not None and not self.is_child)


class Flows(Protocol):
    """Decides about starts what their workflows declare (service/flow.py)."""

    async def start_many(self, wanted: Sequence[Prepared]) -> list[Seen | PerdureError]: ...


class PeersOver:
    """See `executor.ports.Peers`. `flows` None: of what workflows declare, their limits alone hold for children."""

    def __init__(
        self, instances: Instances, code: CodeSource, gate: Gate | None = None, flows: Flows | None = None
    ) -> None:
        self._instances = instances
        self._code = code
        self._gate = gate
        self._flows = flows

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
        good = [start for start in found if isinstance(start, Prepared)]
        answers = iter(await self._started(good) if good else ())
        return [next(answers) if isinstance(start, Prepared) else start for start in found]

    async def _started(self, wanted: Sequence[Prepared]) -> list[Seen | PerdureError]:
        if self._flows is None:
            return await self._instances.start_many([one.start for one in wanted])
        return await self._flows.start_many(wanted)

    def _pinned(self, starts: Sequence[ChildStart]) -> list[Prepared | PerdureError]:
        """Each with the commit it is pinned to, or why there is none. Nothing is remembered from one call to the next:
        the tenant may be gone since, and a channel elsewhere."""
        known: dict[tuple[str, str, str | None], tuple[str, Mapping[str, str]] | PerdureError] = {}
        found: list[Prepared | PerdureError] = []
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
                    found.append(_prepared(start, *startable))
                except Refused as refused:
                    found.append(refused)
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


def _prepared(start: Start, commit: str, workflows: Mapping[str, str]) -> Prepared:
    """The start on its commit, with what its workflow declares: a child executes as any other instance does. Its
    priority is its parent's; where that is 0, the declared one."""
    declared = flow.declared(workflows[start.workflow])
    if declared is None:
        return Prepared(msgspec.structs.replace(start, commit=commit))
    key = flow.key_of(start.workflow, declared, values.decode(start.payload))
    options = flow.counted(start.options or StartOptions(), start.workflow, declared, key)
    options = msgspec.structs.replace(options, priority=options.priority or declared.priority)
    return Prepared(msgspec.structs.replace(start, commit=commit, options=options), declared, key)


def _unknown(workflow: str, commit: str, workflows: Collection[str]) -> Refused:
    names = sorted(workflows)
    return Refused(
        f'version {commit[:8]} has no workflow "{workflow[:80]}"',
        code="unknown_workflow",
        hint=f"It has: {', '.join(names)}." if names else "It has none.",
        workflows=names,
        commit=commit,
    )
