"""What a run holds, and what it tells: requests that have no outcome yet, attempts, commands, Turns."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from executor.core import entries
from executor.core.commands import (
    Beat,
    Cancel,
    Child,
    Command,
    Complete,
    Continue,
    Diverge,
    Emit,
    EndUpdate,
    Fail,
    GroupBegin,
    GroupEnd,
    Sleep,
    StepBegun,
    StepDone,
    StepError,
    Undo,
    Undone,
    Wait,
)
from executor.core.replay import Kind, Replay, Request
from executor.sandbox import ambient, detloop, output
from executor.sandbox.blobs_inside import Blobs
from executor.sandbox.facets_inside import Host, RunFacet
from executor.sandbox.loader import Bundle, WorkflowCode
from executor.sandbox.protocol import Activate, Answer, Output, Turn
from executor.sandbox.run_shown import Shown
from executor.sandbox.step_attempt import Attempt
from executor.sandbox.step_calls import StepCall
from executor.sandbox.steps import Steps
from executor.workflow import NotHere, Workflow

if TYPE_CHECKING:
    from executor.sandbox.undo import Undos
    from executor.sandbox.updates import Updates

TURN_BYTES_MAX = 4 * 1024 * 1024
"""Commands of one Turn frame; more are sent in further Turns, so that no message is over its limit."""
PATH_CHARS_MAX = 1_000
"""The executor's bound is a little above: the steps that undo have longer paths."""

Ending = Complete | Fail | Continue | Undo | Undone


class Process(Host, Protocol):
    """What a run needs of the process it is in."""

    steps: Steps
    bundle: Bundle
    blobs: Blobs

    def touch(self, run: RunState) -> None:
        """Ask `run.turn()` at the end of this turn of the process's loop."""

    def send_output(self, frame: Output) -> None: ...

    def answer(self, frame: Answer) -> None: ...


class Pending(msgspec.Struct, eq=False):
    """A request as this run holds it. `outlives`: it is not of `run()` itself, which may have ended (a handler of an
    update, an undo). `details`: of the last heartbeat, for the next attempt."""

    request: Request
    future: detloop.DetFuture | None = None
    command: Sleep | Wait | Child | GroupBegin | GroupEnd | None = None
    call: StepCall | None = None
    timer: detloop.DurableTimer | None = None
    attempt: Attempt | None = None
    asked_of_executor: bool = False
    outlives: bool = False
    given_up_at: int = 0
    details: bytes = b""


handled_update: ContextVar[str | None] = ContextVar("perdure_update", default=None)
"""In the tasks of an update's handler: the id of the update."""

_NO_AMBIENT = ambient.Ambient(b"")  # of a run that has not begun
_Made = tuple[Coroutine[Any, Any, Any], str, str]
"""A coroutine that `step` returned, with the step's name and place."""
_Outer = tuple[ambient.Ambient | None, detloop.Outer]


class RunState:
    """See the module. Implements `Owner` for attempts."""

    __slots__ = (
        "_ambient", "_attributes", "_cancelled", "_code", "_commands", "_coroutine_count", "_dropped", "_ending",
        "_executing", "_facet", "_instance", "_is_live_told", "_is_only_asked", "_is_pressing", "_last_made", "_loop",
        "_new", "_outer", "_over", "_over_at", "_pending", "_process", "_quiesced", "_replay", "_scope", "_seed",
        "_shown", "_started", "_stopped", "_task", "_told", "_total", "_unbegun", "_undoable_seed", "_undos",
        "_updates", "_workflow", "_workflow_self", "number", "recorder",
    )  # fmt: skip

    def __init__(self, process: Process, activate: Activate) -> None:
        self.number = activate.run
        self._facet: RunFacet | None = None
        self.recorder = output.Recorder(activate.run, process.steps.limits, process.send_output)
        self._process = process
        self._instance = activate.instance
        self._workflow = sys.intern(activate.workflow)  # not the frame: it has texts that all runs share here
        self._total = activate.total
        self._is_live_told = False
        self._replay = Replay()
        self._loop: detloop.DetLoop = detloop.NO_LOOP
        self._ambient = _NO_AMBIENT
        self._outer: _Outer | None = None
        self._scope = output.Scope(self.recorder)
        self._started: entries.Started | None = None  # a start that is delayed
        self._attributes = b""
        self._task: asyncio.Task[Any] | None = None
        self._code: WorkflowCode | None = None
        self._workflow_self: Workflow[Any, Any] | None = None
        self._seed = b""
        self._undoable_seed = b""
        """Of the idempotency keys of steps that can be undone."""
        self._pending: dict[str, Pending] = {}
        self._new: dict[str, Pending] | None = None
        self._cancelled: dict[str, Pending] | None = None
        self._commands: list[Command] | None = None
        self._is_pressing = False
        self._ending: Ending | None = None
        self._coroutine_count = 0
        self._last_made: _Made | None = None
        self._unbegun: dict[int, _Made] | None = None
        self._executing = 0
        # Of an instance that is paused: what it would do next belongs to the time after the pause, and to another run.
        self._is_only_asked = self._quiesced = activate.paused
        self._over = False
        self._over_at = 0
        self._stopped = False
        self._dropped = False
        self._told: tuple[int, bool] = (0, False)
        self._shown: Shown | None = None  # most runs have none of these three
        self._updates: Updates | None = None
        self._undos: Undos | None = None

    @property
    def is_live(self) -> bool:
        """The whole recorded journal has been delivered."""
        return self._replay.seen >= self._total

    @property
    def facet(self) -> RunFacet:
        """Made at the first use: most runs have none."""
        if self._facet is None:
            self._facet = RunFacet(self.number, self._process, self._process.steps.limits)
        return self._facet

    @property
    def blobs(self) -> Blobs:
        """Of the process."""
        return self._process.blobs

    # --- requests

    def _request(self, kind: Kind, name: str, digest: bytes, where: str, scope: str) -> Pending:
        if scope and len(scope) + len(name) > PATH_CHARS_MAX - 20:
            raise ValueError(f"the path of step {name!r} is over {PATH_CHARS_MAX} characters; nest fewer groups")
        if self._over or self._updates is not None:
            update = handled_update.get()
            if self._over and (update is None or self._updates is None or not self._updates.is_handling(update)):
                raise NotHere(f"{name!r} was asked for after run() had ended")
            return Pending(self._replay.request(kind, name, digest, where, scope), outlives=update is not None)
        return Pending(self._replay.request(kind, name, digest, where, scope))

    def _add(self, pending: Pending) -> None:
        self._pending[pending.request.path] = pending
        self._ask_later(pending)

    def _ask_later(self, pending: Pending) -> None:
        """When all is delivered: its outcome may be in it, and then it is forgotten (`_answered`)."""
        if self._new is None:
            self._new = {pending.request.path: pending}
        else:
            self._new[pending.request.path] = pending

    def _answered(self, path: str) -> Pending | None:
        """The journal has the last word on it: it is not held until the rest has been replayed too, or a replay would
        take as much memory as there are steps, and the longer the dearer."""
        if self._new:
            self._new.pop(path, None)
        if self._cancelled:
            self._cancelled.pop(path, None)
        return self._pending.pop(path, None)

    def _unwanted(self, pending: Pending) -> None:
        """What awaited it was cancelled."""
        if pending.request.path in self._pending and not pending.request.given_up:
            self._give_up(pending)

    def _give_up(self, pending: Pending) -> None:
        self._replay.give_up(pending.request)
        if pending.attempt is not None:
            pending.attempt.cancel()
            self._attempt_gone(pending)
            pending.asked_of_executor = True  # which was told that it began
        if not self._over or pending.outlives:
            pending.given_up_at = self._replay.seen
            if self._cancelled is None:
                self._cancelled = {}
            self._cancelled[pending.request.path] = pending

    def _give_up_all(self, *, but_handlers: bool = False) -> None:
        """`run()` has ended: nobody wants their outcomes, and nobody is told so."""
        for pending in self._pending.values():
            if but_handlers and pending.outlives:
                continue
            pending.outlives = False
            if not pending.request.given_up:
                self._give_up(pending)

    def _never_begun(self) -> list[_Made]:
        """Coroutines that were made and, so far, not awaited; oldest first."""
        made = [*(self._unbegun or {}).values()]
        return [*made, self._last_made] if self._last_made is not None else made

    # --- commands

    def _collect(self) -> None:
        """Make commands of what was asked for since the last time, and begin attempts."""
        new, self._new = self._new, None
        cancelled, self._cancelled = self._cancelled, None
        if self._stopped:
            return
        for pending in new.values() if new else ():
            request = pending.request
            command = pending.command
            if request.kind == "group":
                if not request.recorded and command is not None:
                    self._say(command)
            elif request.given_up or (self._over and not pending.outlives):
                continue
            elif pending.call is not None:
                if pending.attempt is None and not request.attempts_failed and request.path in self._pending:
                    if self._quiesced:
                        self._ask_later(pending)
                    else:
                        self._begin(pending, 1)
            elif not request.recorded and command is not None:
                pending.asked_of_executor = True
                self._say(command)
        for pending in cancelled.values() if cancelled else ():
            request = pending.request
            known = pending.asked_of_executor or request.recorded
            is_open = self._replay.find(request.path) is request
            if self._over and not pending.outlives and pending.given_up_at >= self._over_at:
                continue  # what is given up with the end of `run()` is not told: the end says it
            if known and not request.cancel_recorded and (is_open or request.event_unseen):
                self._say(Cancel(request.path))

    def _say(self, command: Command) -> None:
        """In the next Turn, which is due."""
        self._is_pressing = True
        if self._commands is None:
            self._commands = [command]
        else:
            self._commands.append(command)

    def _say_what_is_rare(self) -> None:
        """What the run shows goes before what it asks, and the end after it."""
        if self._shown is not None:
            shown = self._shown.commands()
            if shown:
                self._is_pressing = True
                self._commands = [*shown, *(self._commands or ())]
        if self._updates is not None:
            for command in self._updates.ended():
                self._say(command)
        ending = self._ending
        if ending is not None and (self._updates is None or self._updates.is_quiet):
            self._ending = None
            if isinstance(ending, Fail) and self._undos is not None and self._undos.has_work:
                ending = Undo(ending.error)
            self._say(ending)
            self._give_up_all()

    def turn(self) -> list[Turn]:
        """What is to be told to the executor now; empty if there is nothing new."""
        if self._dropped or not self.is_live:
            return []
        if self._is_only_asked:
            told, self._told = self._told, (self._replay.seen, True)
            return [] if told == self._told else [Turn(self.number, self._replay.seen, [], idle=True)]
        if self._new or self._cancelled:
            self._collect()
        if (self._shown or self._updates or self._ending) and not self._stopped:
            self._say_what_is_rare()
        idle = self._executing == 0
        told = (self._replay.seen, idle)
        if not self._is_pressing and (not idle or told == self._told) and self._told[0] > 0:
            return []
        self._told = told
        if not self._is_pressing and not idle:  # it is live; what began is told along with what comes next
            return [Turn(self.number, self._replay.seen, [], idle)]
        self._is_pressing = False
        commands, self._commands = self._commands or [], None
        if len(commands) <= 1:
            return [Turn(self.number, self._replay.seen, commands, idle)]
        turns: list[Turn] = []
        part: list[Command] = []
        size = 0
        for command in commands:
            weight = _weight(command)
            if part and size + weight > TURN_BYTES_MAX:
                turns.append(Turn(self.number, self._replay.seen, part, idle=False))
                part, size = [], 0
            part.append(command)
            size += weight
        turns.append(Turn(self.number, self._replay.seen, part, idle))
        return turns

    # --- attempts

    def attempt_due(self, path: str, number: int) -> None:
        """Make a retry now. Ignored if the step has its outcome, was given up, or is being tried."""
        pending = self._pending.get(path)
        if pending is None or pending.call is None or pending.request.given_up or pending.attempt is not None:
            return
        if self.is_live and not self._quiesced and not self._stopped:
            self._begin(pending, number)

    def _begin(self, pending: Pending, number: int) -> None:
        assert pending.call is not None
        self._executing += 1
        pending.attempt = self._process.steps.begin(self, pending.call, number, pending.details)

    def _attempt_gone(self, pending: Pending) -> None:
        pending.attempt = None
        self._executing -= 1

    def _of(self, attempt: Attempt) -> Pending | None:
        pending = self._pending.get(attempt.call.path)
        return None if pending is None or pending.attempt is not attempt else pending

    def attempt_begun(self, attempt: Attempt) -> None:
        """Told along with what comes next; alone only if that takes a while (`attempt_lasts`)."""
        if not self._stopped:
            call = attempt.call
            begun = StepBegun(call.path, call.where, attempt.attempt, attempt.started_at_ms)
            if self._commands is None:
                self._commands = [begun]
            else:
                self._commands.append(begun)

    def attempt_lasts(self, attempt: Attempt) -> None:
        del attempt  # its beginning is among the commands, or was told with others
        if self._commands:
            self._is_pressing = True
            self._process.touch(self)

    def attempt_says(self, attempt: Attempt, command: Beat | Emit) -> None:
        if self._of(attempt) is not None and not self._stopped:
            self._say(command)
            self._process.touch(self)

    def attempt_over(self, attempt: Attempt, report: StepDone | StepError) -> None:
        """An attempt has its outcome. What it means is the executor's to say, by an entry."""
        pending = self._of(attempt)
        if pending is None:
            return
        self._attempt_gone(pending)
        pending.asked_of_executor = isinstance(report, StepError)  # only then there is a retry to cancel
        if not self._stopped:
            self._say(report)
            if self._undos is not None and isinstance(report, StepDone):
                self._undos.reported(report.path)
        self._process.touch(self)


def _weight(command: Command) -> int:
    if type(command) is StepBegun:  # with each step there is one
        return 1024
    if isinstance(command, StepDone):
        return 512 + len(command.value) + len(command.delta or b"")
    if isinstance(command, Complete):
        return 64 + len(command.value)
    if isinstance(command, Child | Continue):
        return 512 + len(command.payload)
    if isinstance(command, Emit):
        return 512 + sum(map(len, command.items))
    if isinstance(command, StepError | Beat):
        return 32 * 1024 + len(command.details)
    if isinstance(command, EndUpdate):
        return 32 * 1024 + len(command.value or b"")
    return 32 * 1024 if isinstance(command, Fail | Diverge | Undo | Undone) else 1024
