"""Children: what a parent does for those it asked for, and what others ask of it as parent or child.

Everything here may be done again after a crash at any point, and comes to the same:
- a child's id derives from the step that asked for it, so a second start finds the first one's child;
- a child's end is journaled if the parent waits for that child at that step, and is nothing if it does no more;
- only a child of the parent that asks is terminated by it, and one that has ended stays as it is.
What is done rests on durable entries: a request that a crash could take back is not acted upon.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from executor.core import summary
from executor.core.bounds import DEPTH_MAX
from executor.core.entries import (
    AnyEntry,
    ChildClosed,
    ChildEnded,
    ChildRequested,
    ChildStarted,
    Completed,
    Failed,
    Parent,
    StartOptions,
    Terminated,
)
from executor.core.errors import Corrupt, NotFound, PerdureError, Refused, Unavailable
from executor.core.failure import ErrorFact
from executor.core.lifecycle import FINAL
from executor.engine.resident import Key, Resident
from executor.ports import ChildEnd, ChildStart, Seen, Start

if TYPE_CHECKING:
    from executor.engine.engine import Engine

log = logging.getLogger(__name__)

TOGETHER_MAX = 100
"""So many children are started, or closed, by one call and one group commit."""


class Children:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # --- as a parent

    async def start(self, resident: Resident, requests: Sequence[ChildRequested]) -> None:
        """Start what was asked for, durably, and journal it. Raises Unavailable if some are to be tried again."""
        answers: Sequence[Seen | PerdureError]
        if _depth(resident) < DEPTH_MAX:
            answers = await self._engine.peers.start_children(self._starts(resident, requests))
        else:
            answers = [_too_deep()] * len(requests)
        now_ms = self._engine.clock.now_ms()
        entries: list[AnyEntry] = []
        later: PerdureError | None = None
        for request, answer in zip(requests, answers, strict=True):
            child = resident.instance.children.get(request.path)
            if isinstance(answer, PerdureError) and is_passing(answer):
                later = answer
            elif child is not None and not child.is_started and child.request == request:
                # Else it was given up meanwhile, or its end came first.
                entries += _begun(request, answer, now_ms)
        if entries and not resident.is_lost:
            self._engine.commit(resident, entries)
        if later is not None:
            raise Unavailable(later.message, code="busy", hint=later.hint)

    async def ask_again(self, resident: Resident, requests: Sequence[ChildRequested]) -> None:
        """Look after started children that have not told how they ended; one that is gone begins again."""
        answers = await self._engine.peers.start_children(self._starts(resident, requests))
        now_ms = self._engine.clock.now_ms()
        entries: list[AnyEntry] = []
        for request, answer in zip(requests, answers, strict=True):
            child = resident.instance.children.get(request.path)
            is_awaited = child is not None and child.request == request
            if is_awaited and isinstance(answer, Seen) and answer.row.row.state in FINAL:
                entries.append(_ended(request.path, answer, now_ms))
        if entries and not resident.is_lost:
            self._engine.commit(resident, entries)

    def _starts(self, resident: Resident, requests: Sequence[ChildRequested]) -> list[ChildStart]:
        tenant, name = resident.key
        options = resident.instance.start.options or StartOptions()
        return [
            ChildStart(
                Start(
                    (tenant, request.child),
                    request.workflow,
                    request.commit or "",
                    request.payload,
                    options=StartOptions(
                        parent=Parent(name, request.path, request.is_awaited),
                        priority=options.priority,
                        unload=options.unload,
                        depth=options.depth + 1,
                    ),
                ),
                request.channel,
            )
            for request in requests
        ]

    async def close(self, resident: Resident, children: Sequence[str]) -> None:
        """Terminate children that are wanted no more, durably, and journal it. Raises Unavailable."""
        await self._engine.peers.close_children(*resident.key, children)
        now_ms = self._engine.clock.now_ms()
        closed = [ChildClosed(now_ms, child) for child in children if child in resident.instance.to_close]
        if closed and not resident.is_lost:
            self._engine.commit(resident, closed)

    # --- as a child

    async def tell_parent(self, resident: Resident) -> None:
        """Let the parent know how it ended, durably. Raises Unavailable."""
        instance = resident.instance
        parent, outcome = instance.parent, instance.outcome
        assert parent is not None
        assert outcome is not None
        tenant, name = resident.key
        value: bytes | None = None
        error: ErrorFact | None = None
        match outcome:
            case Completed():
                value = outcome.value
            case Failed():
                error = outcome.error
            case Terminated():
                error = _terminated(name)
        state = instance.state(is_resting=False)
        assert state in ("complete", "failed", "terminated")
        end = ChildEnd(parent.path, name, instance.start.commit, state, value, error)
        try:
            await self._engine.peers.child_ended(tenant, parent.instance, end)
        except PerdureError as error_met:
            if is_passing(error_met):
                raise Unavailable(error_met.message, code="busy", hint=error_met.hint) from error_met
            # A parent that cannot be read will not be told; whoever looks after it finds the child by its id.
            log.error(  # noqa: TRY400 - not a fault of this program, and its text says all
                "a parent could not be told of its child's end",
                extra={"tenant": tenant, "instance": name, "parent": parent.instance, "error": str(error_met)},
            )

    # --- what others ask

    async def child_ended(self, key: Key, end: ChildEnd) -> None:
        """See `executor.ports.Instances`."""
        engine = self._engine
        try:
            async with engine.residents.hold(key) as resident:
                child = resident.instance.children.get(end.path)
                entries: list[AnyEntry] = []
                if child is not None and child.request.is_awaited and child.request.child == end.child:
                    now_ms = engine.clock.now_ms()
                    if not child.is_started:
                        entries.append(ChildStarted(now_ms, end.path, end.commit))
                    entries.append(ChildEnded(now_ms, end.path, end.state, end.value, end.error))
                await engine.commit_and_wait(resident, entries)
        except NotFound:
            return

    async def close_children(self, tenant: str, parent: str, children: Sequence[str]) -> None:
        """See `executor.ports.Instances`."""
        errors: list[Unavailable] = []
        async with trio.open_nursery() as nursery:
            for child in children:
                nursery.start_soon(self._close_one, (tenant, child), parent, errors)
        if errors:
            raise errors[0]

    async def _close_one(self, key: Key, parent: str, errors: list[Unavailable]) -> None:
        engine = self._engine
        try:
            async with engine.residents.hold(key) as resident:
                instance = resident.instance
                whose = instance.parent if instance.sequence else None
                if whose is None or whose.instance != parent:
                    return  # The id was taken by another, and the start was refused.
                entries: list[AnyEntry] = []
                if engine.state(resident) not in FINAL:
                    entries.append(Terminated(engine.clock.now_ms(), f"parent {parent}"))
                await engine.commit_and_wait(resident, entries)
        except NotFound:
            return
        except Corrupt as corrupt:
            await engine.losses.hold_corrupt(key, corrupt)
        except Unavailable as error:
            errors.append(error)


def _depth(resident: Resident) -> int:
    options = resident.instance.start.options
    return 0 if options is None else options.depth


def _too_deep() -> Refused:
    return Refused(
        f"there are {DEPTH_MAX} instances above this child, the limit is {DEPTH_MAX}",
        code="limit_exceeded",
        hint="For an endless chain use self.continue_as_new(payload).",
    )


def is_passing(error: PerdureError) -> bool:
    """Whether it may be otherwise next time. A tenant that is gone takes who asks with it in a moment."""
    return isinstance(error, Unavailable) or error.code == "tenant_not_found" or type(error) is PerdureError


def _begun(request: ChildRequested, answer: Seen | PerdureError, now_ms: int) -> list[AnyEntry]:
    path = request.path
    if isinstance(answer, PerdureError):
        error = ErrorFact(type(answer).__name__, answer.message, "", False, answer.code).bounded()
        return [ChildEnded(now_ms, path, "refused", None, error)]
    row = answer.row.row
    entries: list[AnyEntry] = [ChildStarted(now_ms, path, row.commit)]
    if request.is_awaited and row.state in FINAL:
        # It was there before, and has told whoever waited then.
        entries.append(_ended(path, answer, now_ms))
    return entries


def _ended(path: str, seen: Seen, now_ms: int) -> ChildEnded:
    state = seen.row.row.state
    if state == "complete":
        return ChildEnded(now_ms, path, "complete", seen.output, None)
    if state == "failed":
        return ChildEnded(now_ms, path, "failed", None, summary.decode(seen.row.row.summary).error)
    return ChildEnded(now_ms, path, "terminated", None, _terminated(seen.row.instance))


def _terminated(child: str) -> ErrorFact:
    return ErrorFact("Terminated", f'child "{child}" was terminated', "", False, "instance_terminated")
