"""What an engine asks of the other processes over the same data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from executor.core.entries import FlowLimit
from executor.core.errors import PerdureError
from executor.ports.instance_values import ChildEnd, ChildStart, Seen


class Peers(Protocol):
    """What an engine asks of other instances of the same data, wherever they are: in this process, or in another.

    Everything is idempotent: a caller that died, or got no answer, asks again. Everything may raise Unavailable: the
    process that has the other instance is being started, or at its bound.
    """

    async def start_children(self, starts: Sequence[ChildStart]) -> list[Seen | PerdureError]:
        """Make them, durably, each on a commit that the code store keeps; each fails for itself alone.

        A child that is there already is it, if it has the same parent, workflow and payload. Per child: Conflict
        (`instance_exists`), Refused (`unknown_workflow`, `not_deployed`), NotFound, Unavailable."""
        ...

    async def close_children(self, tenant: str, parent: str, children: Sequence[str]) -> None:
        """See `Instances.close_children`."""

    async def child_ended(self, tenant: str, parent: str, end: ChildEnd) -> None:
        """See `Instances.child_ended`."""


class Slots(Protocol):
    """Which of several processes may begin an instance behind limits: the limits of all of them together. Kept in
    memory by the front; what a process has goes back when it ends."""

    on_granted: Callable[[str, tuple[FlowLimit, ...]], None]
    """Told the tenant and limits of what was refused before: there is one now, and it is taken."""

    async def take(self, tenant: str, limits: tuple[FlowLimit, ...]) -> bool:
        """One slot of each of the limits, or none of any. False: `on_granted` will be called, in the order of asking;
        until then do not ask for the same again. Raises Unavailable."""
        ...

    def give(self, tenant: str, limits: tuple[FlowLimit, ...]) -> None:
        """Give back what was taken."""
