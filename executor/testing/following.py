"""What follows from an instance's state for others, and from its end for the test.

Children are started, told of to their parents, and closed as the parent's steps say. An instance that ended by itself
is replayed once more from its first entry to its end: it must end in the same way again.
"""

from __future__ import annotations

import inspect
from typing import Any

from executor.core import decide, values
from executor.core.commands import Complete, Continue, Diverge, Fail, Undo, Undone
from executor.core.entries import (
    AnyEntry,
    ChildClosed,
    ChildEnded,
    ChildRequested,
    ChildStarted,
    Completed,
    Failed,
    Held,
    Parent,
    StartOptions,
    Terminated,
)
from executor.core.errors import PerdureError
from executor.core.failure import ErrorFact
from executor.core.folding import fold
from executor.sandbox import faults
from executor.sandbox.protocol import Activate, Drop, Entries, FromSandbox, Quiesce, Turn
from executor.testing.answers import encoded
from executor.testing.hosted import Hosted
from executor.testing.mocks import Mock
from executor.testing.world import COMMIT, World

_ENDS = (Complete, Fail, Continue, Undo, Undone, Diverge)


class Following:
    """Part of a World: see the module."""

    def __init__(self, world: World) -> None:
        self._world = world

    def settle(self, hosted: Hosted) -> bool:
        """For `World.on_settled`."""
        instance = hosted.instance
        is_something = False
        if not hosted.is_over:
            for path, request in list(instance.to_start.items()):
                self._start(hosted, path, request)
                is_something = True
        for child in list(instance.to_close):
            self._close(hosted, child)
            is_something = True
        if instance.outcome is not None and not hosted.is_wound_up:
            hosted.is_wound_up = True
            self._world.drop(hosted)
            self._tell_parent(hosted)
            if self._world.unloads and not isinstance(instance.outcome, Terminated):
                self._replay(hosted)
        return is_something

    # --- children

    def _start(self, hosted: Hosted, path: str, request: ChildRequested) -> None:
        world = self._world
        refusal = self._refusal(hosted, path, request)
        if refusal is not None:
            fact = ErrorFact("Refused", refusal[1], "", retryable=False, code=refusal[0])
            world.append(hosted, ChildEnded(world.clock.now_ms, path, "refused", None, fact))
            return
        rule = world.process.steps.rules.find(path)
        if rule is not None:
            world.append(hosted, ChildStarted(world.clock.now_ms, path, COMMIT))
            ended = self._mocked(path, rule, values.decode(request.payload))
            if request.is_awaited:
                world.append(hosted, ended)
            return
        if request.child not in world.hosted:
            parent = Parent(hosted.id, path, request.is_awaited)
            world.start(request.child, request.workflow, request.payload, StartOptions(parent=parent))
        world.append(hosted, ChildStarted(world.clock.now_ms, path, COMMIT))

    def _refusal(self, hosted: Hosted, path: str, request: ChildRequested) -> tuple[str, str] | None:
        """Code and message of why it cannot be started."""
        world = self._world
        known = world.hosted.get(request.child)
        if known is not None:
            parent = known.instance.parent
            if parent is None or (parent.instance, parent.path) != (hosted.id, path):
                return "instance_exists", f'an instance "{request.child}" exists already'
        elif world.process.steps.rules.find(path) is None and request.workflow not in world.tree.workflows:
            has = ", ".join(sorted(world.tree.workflows))
            return "unknown_workflow", (
                f"the test knows no workflow {request.workflow!r}; it knows {has}: "
                "give it to WorkflowTest(…, workflows=[…]), or mock the step"
            )
        return None

    def _mocked(self, path: str, rule: Mock, payload: Any) -> ChildEnded:
        now_ms = self._world.clock.now_ms
        rule.calls.append(((payload,), {}))
        try:
            answer = rule.answer((payload,), {}) if rule.function is None else rule.function(payload)
            if inspect.isawaitable(answer):
                answer = self._world.process.loop.run_until_complete(answer)
            value = encoded(answer, "result")
        except Exception as error:  # what the test wants the child to fail with
            fact = faults.fact(error, self._world.tree.files, code="workflow_failed")
            return ChildEnded(now_ms, path, "failed", None, fact)
        return ChildEnded(now_ms, path, "complete", value, None)

    def _close(self, hosted: Hosted, child: str) -> None:
        world = self._world
        found = world.hosted.get(child)
        if found is not None and found.instance.outcome is None:
            world.append(found, Terminated(world.clock.now_ms, f"parent {hosted.id}"))
        world.append(hosted, ChildClosed(world.clock.now_ms, child))

    def _tell_parent(self, hosted: Hosted) -> None:
        parent = hosted.instance.parent
        above = self._world.hosted.get(parent.instance) if parent is not None else None
        if parent is None or above is None or above.is_over:
            return
        request = above.instance.awaiting.get(parent.path)
        if request is None or request.child != hosted.id:
            return
        outcome = hosted.instance.outcome
        now_ms = self._world.clock.now_ms
        if isinstance(outcome, Completed):
            ended = ChildEnded(now_ms, parent.path, "complete", outcome.value, None)
        elif isinstance(outcome, Failed):
            ended = ChildEnded(now_ms, parent.path, "failed", None, outcome.error)
        else:
            ended = ChildEnded(now_ms, parent.path, "terminated", None, None)
        self._world.append(above, ended)

    # --- the replay at the end

    def _replay(self, hosted: Hosted) -> None:
        """Without executing a step: what has no outcome in the journal was wanted by nobody."""
        world = self._world
        recorded = _outcome(hosted)
        total = recorded - 1
        number = world.next_number()
        start = hosted.instance.start
        process = world.process
        before, process.inbox = process.inbox, []
        process.handle(
            Activate(number, hosted.id, start.workflow, start.commit, total),
            Quiesce(number),
            Entries(number, 1, world.visible(hosted, 1, total)),
        )
        said, process.inbox = process.inbox, before
        process.handle(Drop(number))
        journal = hosted.journal
        again = _ending(said, journal[:total], hosted.id)
        if isinstance(again, Held):
            world.fail_as_nondeterministic(hosted, again)
        elif not _is_same(journal[total], again):
            message = (
                f"at its end the journal records {_told(journal[total])} (entry {recorded}), but a replay of it "
                f"{_told(again)}. The code is not deterministic: run() decided differently on equal facts."
            )
            world.fail_as_nondeterministic(hosted, Held(world.clock.now_ms, "nondeterminism", message, None, None))


def _outcome(hosted: Hosted) -> int:
    """Sequence of the entry that ended it: what follows from the end may be behind it."""
    outcome = hosted.instance.outcome
    journal = hosted.journal
    return next(at for at in range(len(journal), 0, -1) if journal[at - 1] == outcome)


def _ending(said: list[FromSandbox], journal: list[AnyEntry], id: str) -> AnyEntry | None:
    """What the executor would have journaled of the end; None: it did not end."""
    for frame in reversed(said):
        if isinstance(frame, Turn):
            for command in reversed(frame.commands):
                if isinstance(command, _ENDS):
                    instance = fold(journal)
                    try:
                        return decide.on_command(instance, command, now_ms=instance.updated_at_ms, id=id).entries[0]
                    except (decide.Violation, PerdureError, IndexError):
                        return None
    return None


def _is_same(recorded: AnyEntry, again: AnyEntry | None) -> bool:
    """But for the texts of errors: those may tell addresses, and are no decision of `run()`."""
    if isinstance(recorded, Failed):
        return isinstance(again, Failed) and again.error.type == recorded.error.type
    return isinstance(recorded, Completed) and isinstance(again, Completed) and again.value == recorded.value


def _told(entry: AnyEntry | None) -> str:
    if isinstance(entry, Completed):
        return f"that run() returned {values.decode(entry.value)!r}"
    if isinstance(entry, Failed):
        return f"that run() failed with {entry.error.type}: {entry.error.message}"
    return "does not end" if entry is None else f"{type(entry).__name__}"
