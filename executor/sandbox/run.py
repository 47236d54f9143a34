"""One run: tenant code over one instance's journal, in this process.

Entries are delivered one by one. For each: the replay says what it resolves, the future gets its outcome, the
deterministic loop runs until nothing is ready. When all of a message is delivered, `turn` collects what the run asks
for: sleeps, waits and cancellations that the journal does not have yet become commands, steps without an outcome begin
to execute. Invariants:
  - nothing executes and no command is made before the whole recorded journal has been delivered;
  - a step's result reaches `run()` by its entry only, so by bytes that are durable;
  - after a divergence nothing more is asked for.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Protocol

import msgspec

from executor.core import codec, entries, values
from executor.core.commands import (
    Beat,
    Cancel,
    Command,
    Complete,
    Diverge,
    Emit,
    Fail,
    Sleep,
    StepBegun,
    StepDone,
    StepError,
    Wait,
)
from executor.core.entries import AnyEntry, StepRef
from executor.core.errors import PerdureError
from executor.core.failure import ErrorFact
from executor.core.replay import Divergence, Kind, Replay, Request, TimedOut, asked
from executor.sandbox import ambient, detloop, faults, output
from executor.sandbox.facets_inside import Host, RunFacet
from executor.sandbox.loader import Bundle, WorkflowCode
from executor.sandbox.protocol import Activate, Output, Turn
from executor.sandbox.step_attempt import Attempt
from executor.sandbox.step_calls import NO_KEYWORDS, StepCall, declared_result
from executor.sandbox.step_streams import blob_of
from executor.sandbox.steps import Steps
from executor.workflow import (
    Event,
    EventTimeout,
    NonRetryableError,
    NotHere,
    ReceivedEvent,
    Step,
    StepFailed,
)
from executor.workflow.options import StepOptions

TIMER_NAME = "asyncio timer"
NAME_CHARS_MAX = 256
TURN_BYTES_MAX = 4 * 1024 * 1024
"""Commands of one Turn frame; more are sent in further Turns, so that no message is over its limit."""


class Process(Host, Protocol):
    """What a run needs of the process it is in."""

    steps: Steps
    bundle: Bundle

    def touch(self, run: Run) -> None:
        """Ask `run.turn()` at the end of this turn of the process's loop."""

    def send_output(self, frame: Output) -> None: ...


class _Pending(msgspec.Struct, eq=False):
    """A request as this run holds it."""

    request: Request
    future: detloop.DetFuture | None = None
    command: Sleep | Wait | None = None
    call: StepCall | None = None
    timer: detloop.DurableTimer | None = None
    attempt: Attempt | None = None
    asked_of_executor: bool = False


_NO_AMBIENT = ambient.Ambient(b"")  # of a run that has not begun
_Made = tuple[Coroutine[Any, Any, Any], str, str]
"""A coroutine that `step` returned, with the step's name and place."""
_Outer = tuple[ambient.Ambient | None, detloop.Outer]


class Run:
    """See the module. Implements `RunRuntime` for Step, `Timers` for the loop, `Owner` for attempts."""

    __slots__ = (
        "_ambient", "_cancelled", "_code", "_commands", "_coroutine_count", "_dropped", "_executing", "_facet",
        "_instance", "_is_live_told", "_is_pressing", "_last_made", "_loop", "_new", "_outer", "_over", "_pending", "_process", "_quiesced", "_replay",
        "_scope", "_seed", "_task", "_told", "_total", "_unbegun", "_workflow", "number", "recorder",
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
        self._task: asyncio.Task[Any] | None = None
        self._code: WorkflowCode | None = None
        self._seed = b""
        self._pending: dict[str, _Pending] = {}
        self._new: list[_Pending] | None = None
        self._cancelled: list[_Pending] | None = None
        self._commands: list[Command] | None = None
        self._is_pressing = False
        self._coroutine_count = 0
        self._last_made: _Made | None = None
        self._unbegun: dict[int, _Made] | None = None
        self._executing = 0
        self._quiesced = activate.paused
        self._over = False
        self._dropped = False
        self._told: tuple[int, bool] = (0, False)

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

    # --- frames

    def deliver(self, first: int, stored: Sequence[bytes | int]) -> None:
        """Take entries, each as far as the run goes; a number stands for so many that are not for it. Entries seen
        before are skipped."""
        replay = self._replay
        sequence = first - 1
        try:
            for data in stored:
                if type(data) is int:
                    sequence += data
                    replay.skip_to(sequence)
                else:
                    sequence += 1
                    if sequence <= replay.seen or self._dropped:
                        continue
                    try:
                        self._accept(sequence, codec.decode(data)[0])  # type: ignore[arg-type]  # bytes
                    except PerdureError as error:  # it cannot be: the instance is held, its bytes are kept
                        self._diverge(str(error), None, None)
                if not self._is_live_told and replay.seen >= self._total:
                    self._is_live_told = True
                    self._leave()
                    self.recorder.go_live()
        finally:
            self._leave()
        self._process.touch(self)

    def _enter(self) -> None:
        """`run()` executes from now on, until `_leave`: of many entries the first enters, and the last leaves."""
        if self._outer is None:
            self._outer = ambient.enter(self._ambient), self._loop.enter()

    def _leave(self) -> None:
        if self._outer is not None:
            (outer, loop), self._outer = self._outer, None
            self._loop.leave(loop)
            ambient.enter(outer)

    def attempt_due(self, path: str, number: int) -> None:
        """Make a retry now. Ignored if the step has its outcome, was given up, or is being tried."""
        pending = self._pending.get(path)
        if pending is None or pending.call is None or pending.request.given_up or pending.attempt is not None:
            return
        if self.is_live and not self._quiesced and not self._over:
            self._begin(pending, number)

    def quiesce(self) -> None:
        self._quiesced = True
        self._told = (0, False)
        self._process.touch(self)

    def drop(self) -> None:
        """Forget everything: attempts are cancelled, coroutines closed, the facet freed."""
        self._dropped = True
        for pending in self._pending.values():
            if pending.attempt is not None:
                pending.attempt.cancel(is_dropped=True)
            if pending.timer is not None:
                pending.timer.key = None
        if self._facet is not None:
            self._facet.close()
        self._scope.close()
        has_returned = self._over and self._task is not None
        if not (has_returned and self._loop.is_simple) and self._loop is not detloop.NO_LOOP:
            self._enter()
            try:
                self._loop.dispose()
            finally:
                self._leave()
        for coroutine, _, _ in self._never_begun():
            coroutine.close()  # which executes nothing
        for pending in self._pending.values():
            if pending.future is not None:
                pending.future.cancel()  # it forgets the task that waits for it, whose coroutine is closed
        self._pending.clear()
        self._last_made = self._unbegun = None
        self._task = None
        self._loop.forget()  # nothing of the run refers to itself any more, so that no collector is needed to free it
        self._loop = detloop.NO_LOOP

    def turn(self) -> list[Turn]:
        """What is to be told to the executor now; empty if there is nothing new."""
        if self._dropped or not self.is_live:
            return []
        if self._new or self._cancelled:
            self._collect()
        idle = (self._executing == 0) if not self._over else True
        told = (self._replay.seen, idle)
        if not self._is_pressing and (not idle or told == self._told) and self._told[0] > 0:
            return []
        self._told = told
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

    # --- entries

    def _accept(self, sequence: int, entry: AnyEntry) -> None:
        if self._task is None and not self._over:
            self._accept_before_begin(sequence, entry)
            return
        outcome = self._replay.accept(sequence, entry)
        now_ms = max(self.recorder.now_ms, entry.at_ms)  # it never goes back, whatever the executor's clock did
        self.recorder.moved_to(sequence, now_ms)
        if self._over and self._task is None:
            return
        self._loop.now_ms = self._ambient.now_ms = now_ms
        if isinstance(outcome, Divergence):
            self._diverge(outcome.message, outcome.recorded, outcome.requested)
            return
        if self.recorder.is_holding and sequence <= self._total:
            path = getattr(entry, "path", None)
            pending = self._pending.get(path) if path is not None else None
            if pending is not None:
                self.recorder.already_sent(pending.request.asked_after)
        if outcome is not None:
            self._drive(self._pending.pop(outcome.request.path), outcome.outcome)

    def _accept_before_begin(self, sequence: int, entry: AnyEntry) -> None:
        self._replay.accept(sequence, entry)
        if isinstance(entry, entries.Started | entries.Continued):
            self._start(entry)
        elif not isinstance(entry, entries.EventReceived):
            self._diverge("the journal does not begin with Started", None, None)

    def _start(self, entry: entries.Started | entries.Continued) -> None:
        self._seed = entry.seed
        self._ambient = ambient.Ambient(entry.seed, self._scope)
        digest = blake2b(entry.seed, digest_size=8, person=b"perdure hashes").digest()
        self._loop = detloop.new_loop(self, hash_base=int.from_bytes(digest, "big"))
        self._loop.now_ms = self._ambient.now_ms = entry.at_ms
        self.recorder.moved_to(self._replay.seen, entry.at_ms)
        code = self._process.bundle.workflows.get(self._workflow)
        if code is None:
            known = ", ".join(sorted(self._process.bundle.workflows)) or "none"
            message = f"this version has no workflow {self._workflow!r}; it has {known}"
            self._end(Fail(ErrorFact("UnknownWorkflow", message, retryable=False, code="unknown_workflow")))
            return
        self._code = code
        # Texts that all runs of the process share.
        workflow, commit = sys.intern(entry.workflow), sys.intern(entry.commit)
        coroutine = _main(code, Step(self), entry.payload, entry.at_ms, self._instance, workflow, commit)
        self._enter()
        self._task = self._loop.create_task(coroutine, name="run", context=contextvars.copy_context())
        self._drive()

    def _resolve(self, pending: _Pending, outcome: object) -> None:
        if pending.attempt is not None:
            pending.attempt.cancel()  # its result is known from elsewhere (a duplicate entry): never the case in order
            self._attempt_gone(pending)
        if pending.timer is not None:
            pending.timer.key = None
            self._loop.fire(pending.timer)
            return
        future = pending.future
        if future is None or future.done():
            return
        if isinstance(outcome, entries.StepSucceeded):
            assert pending.call is not None
            try:
                if outcome.form == "stream":
                    future.set_result(blob_of(outcome.value))
                else:
                    declared = declared_result(pending.call.function)
                    future.set_result(values.decode(outcome.value, declared=declared, what="result"))
            except PerdureError as error:
                future.set_exception(error)
        elif isinstance(outcome, entries.StepFailed):
            future.set_exception(_step_failed(outcome))
        elif isinstance(outcome, TimedOut):
            assert isinstance(pending.command, Wait)
            future.set_exception(EventTimeout(pending.request.path, pending.command.type))
        elif isinstance(outcome, entries.EventReceived):
            payload = values.decode(outcome.payload, what="payload")
            future.set_result(ReceivedEvent(payload, outcome.type, outcome.id, _moment(outcome.at_ms)))
        else:
            future.set_result(None)

    def _drive(self, resolved: _Pending | None = None, outcome: object = None) -> None:
        self._enter()
        try:
            if resolved is not None:
                self._resolve(resolved, outcome)
            self._loop.run_ready()
        except RuntimeError as error:  # it spins
            self._end(Fail(faults.fact(NonRetryableError(str(error)), (), code="workflow_failed")))
            return
        if self._loop.problems:
            self._tell_problems()
        task = self._task
        if task is not None and task.done() and not self._over:
            self._finish(task)

    # --- the end of run()

    def _finish(self, task: asyncio.Task[Any]) -> None:
        """`run()` has returned or raised: clear up what it left, then say how it ended."""
        self._replay.end()
        self._over = True
        if not self._loop.is_simple:
            self._end_what_is_left()
        self._leave()
        if not self._loop.is_simple:
            for name, error in self._loop.unretrieved():
                if error is not (None if task.cancelled() else task.exception()):
                    told = f"{faults.type_name(type(error))}: {faults.text_of(error)}"
                    self._scope.line("log", "WARNING", f"the exception of task {name!r} was never looked at: {told}")
        self._tell_problems()
        self._say(self._how_it_ended(task))
        self._scope.flush()
        for pending in self._pending.values():
            if not pending.request.given_up:
                self._give_up(pending)

    def _end_what_is_left(self) -> None:
        for generator in self._loop.open_generators():
            self._loop.create_task(generator.aclose())
        for left in self._loop.live_tasks():
            left.cancel()
        try:
            self._loop.run_ready()
        except RuntimeError:
            self._scope.line("log", "WARNING", "tasks that run() left behind would not end; they were dropped")

    def _how_it_ended(self, task: asyncio.Task[Any]) -> Complete | Fail:
        if task.cancelled():
            error: BaseException = asyncio.CancelledError("run() cancelled itself")
            return Fail(faults.fact(error, self._process.bundle.files, code="workflow_failed"))
        raised = task.exception()
        if raised is not None:
            return Fail(faults.fact(raised, self._process.bundle.files, code="workflow_failed"))
        forgotten = self._never_begun()
        if forgotten:
            _, name, where = forgotten[0]
            more = f" (and {len(forgotten) - 1} more)" if len(forgotten) > 1 else ""
            message = (
                f"{name!r} at {where}{more} was called but never awaited, so it did not happen; write `await step.…`"
            )
            return Fail(ErrorFact("NeverAwaited", message, where, retryable=False))
        assert self._code is not None
        try:
            value = values.encode(
                task.result(),
                what="result",
                declared=self._code.result_type,
                bytes_max=self._process.steps.limits.value_bytes_max,
            )
        except BaseException as error:  # refused, or hostile to be read: the value's methods are tenant code
            return Fail(faults.fact(error, self._process.bundle.files, code="workflow_failed"))
        return Complete(value)

    def _end(self, command: Fail | Diverge) -> None:
        """No way on: say so, and ask for nothing else."""
        self._leave()
        if self._over and isinstance(command, Fail):
            return
        self._over = True
        self._replay.end()
        self._commands = [command]
        self._is_pressing = True
        self._task = None
        self._new = self._cancelled = None
        for pending in self._pending.values():
            if pending.attempt is not None:
                pending.attempt.cancel()
                self._attempt_gone(pending)

    def _diverge(self, message: str, recorded: StepRef | None, requested: StepRef | None) -> None:
        self._end(Diverge(message, recorded, requested))

    def _tell_problems(self) -> None:
        for problem in self._loop.problems:
            self._scope.line("log", "WARNING", problem)
        self._loop.problems.clear()

    # --- commands and attempts

    def _collect(self) -> None:
        """Make commands of what was asked for since the last time, and begin attempts."""
        new, self._new = self._new, None
        cancelled, self._cancelled = self._cancelled, None
        if self._over:
            return
        for pending in new or ():
            request = pending.request
            if request.given_up:
                continue
            if pending.call is not None:
                if pending.attempt is None and not request.attempts_failed and request.path in self._pending:
                    if self._quiesced:
                        self._ask_later(pending)
                    else:
                        self._begin(pending, 1)
            elif not request.recorded and pending.command is not None:
                pending.asked_of_executor = True
                self._say(pending.command)
        for pending in cancelled or ():
            request = pending.request
            known = pending.asked_of_executor or request.recorded
            is_open = self._replay.find(request.path) is request
            if known and not request.cancel_recorded and (is_open or request.event_unseen):
                self._say(Cancel(request.path))

    def _say(self, command: Command) -> None:
        """In the next Turn, which is due."""
        self._is_pressing = True
        if self._commands is None:
            self._commands = [command]
        else:
            self._commands.append(command)

    def _begin(self, pending: _Pending, number: int) -> None:
        assert pending.call is not None
        self._executing += 1
        pending.attempt = self._process.steps.begin(self, pending.call, number)

    def _attempt_gone(self, pending: _Pending) -> None:
        pending.attempt = None
        self._executing -= 1

    def attempt_begun(self, attempt: Attempt) -> None:
        """Told along with what comes next; alone only if that takes a while (`attempt_lasts`)."""
        if not self._over:
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
        pending = self._pending.get(attempt.call.path)
        if pending is not None and pending.attempt is attempt and not self._over:
            self._say(command)
            self._process.touch(self)

    def attempt_over(self, attempt: Attempt, report: StepDone | StepError) -> None:
        """An attempt has its outcome. What it means is the executor's to say, by an entry."""
        pending = self._pending.get(attempt.call.path)
        if pending is None or pending.attempt is not attempt:
            return
        self._attempt_gone(pending)
        pending.asked_of_executor = isinstance(report, StepError)  # only then there is a retry to cancel
        if not self._over:
            self._say(report)
        self._process.touch(self)

    def _give_up(self, pending: _Pending) -> None:
        self._replay.give_up(pending.request)
        if pending.attempt is not None:
            pending.attempt.cancel()
            self._attempt_gone(pending)
        if not self._over:
            if self._cancelled is None:
                self._cancelled = []
            self._cancelled.append(pending)

    # --- RunRuntime: what Step calls, on the deterministic loop

    def do(  # noqa: PLR0917  # one caller, in workflow/step.py
        self,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: StepOptions,
        where: str,
    ) -> Coroutine[Any, Any, Any]:
        number = self._number(name)
        coroutine = self._do(number, name, function, args, kwargs, options, where)
        self._last_made = (coroutine, name, where)
        return coroutine

    async def _do(  # noqa: PLR0917  # see `do`
        self,
        number: int,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: StepOptions,
        where: str,
    ) -> Any:
        self._begun(number)
        digest = asked("step", name, args, kwargs)
        pending = self._request("step", name, digest, where)
        context = contextvars.copy_context()
        path = pending.request.path
        pending.call = StepCall(
            path, name, digest, where, function, args, kwargs or NO_KEYWORDS, options, context, self._seed
        )
        # No call of another coroutine: one frame is what a step that waits for its outcome keeps.
        pending.future = self._loop.create_future()
        self._add(pending)
        try:
            return await pending.future
        except asyncio.CancelledError:
            self._unwanted(pending)
            raise

    def sleep(self, name: str, duration_ms: int, where: str) -> Coroutine[Any, Any, None]:
        return self._sleep(name, where, duration_ms, duration_ms, None)

    def sleep_until(self, name: str, until: datetime, where: str) -> Coroutine[Any, Any, None]:
        until_ms = round(until.timestamp() * 1000)
        return self._sleep(name, where, ["until", until_ms], None, until_ms)

    def _sleep(
        self, name: str, where: str, argument: object, duration_ms: int | None, until_ms: int | None
    ) -> Coroutine[Any, Any, None]:
        def command(path: str) -> Sleep:
            return Sleep(path, digest, where, duration_ms, until_ms)

        digest = asked("sleep", name, argument)
        return self._coroutine("sleep", name, digest, where, command)

    def wait_for_event(
        self, name: str, type: str, timeout_ms: int | None, where: str
    ) -> Coroutine[Any, Any, ReceivedEvent]:
        _check_name(type, "event type")

        def command(path: str) -> Wait:
            return Wait(path, digest, where, type, timeout_ms)

        digest = asked("wait", name, type)
        return self._coroutine("wait", name, digest, where, command)

    def _coroutine(
        self, kind: Kind, name: str, digest: bytes, where: str, command: Callable[[str], Sleep | Wait]
    ) -> Coroutine[Any, Any, Any]:
        number = self._number(name)
        coroutine = self._ask(number, kind, name, digest, where, command)
        self._last_made = (coroutine, name, where)
        return coroutine

    async def _ask(  # noqa: PLR0917  # see `_coroutine`
        self, number: int, kind: Kind, name: str, digest: bytes, where: str, command: Callable[[str], Sleep | Wait]
    ) -> Any:
        self._begun(number)
        pending = self._request(kind, name, digest, where)
        pending.command = command(pending.request.path)
        pending.future = self._loop.create_future()
        self._add(pending)
        try:
            return await pending.future
        except asyncio.CancelledError:
            self._unwanted(pending)
            raise

    def _number(self, name: str) -> int:
        """Of a coroutine that is about to be made, checking that it may be."""
        _check_name(name, "step name")
        if ambient.current() is not self._ambient:
            raise NotHere(
                f"step {name!r} was asked for outside of run() (steps do not nest): call it from run(), "
                "or call the function itself"
            )
        if self._last_made is not None:
            if self._unbegun is None:
                self._unbegun = {}
            self._unbegun[self._coroutine_count] = self._last_made
        self._coroutine_count += 1
        return self._coroutine_count

    def _begun(self, number: int) -> None:
        """The coroutine of that number is awaited: most are before another is made, so the last has a place apart."""
        if number == self._coroutine_count:
            self._last_made = None
        elif self._unbegun is not None:
            del self._unbegun[number]

    def _never_begun(self) -> list[_Made]:
        """What was made and, so far, not awaited; oldest first."""
        made = [*(self._unbegun or {}).values()]
        return [*made, self._last_made] if self._last_made is not None else made

    def _unwanted(self, pending: _Pending) -> None:
        """What awaited it was cancelled."""
        if pending.request.path in self._pending and not pending.request.given_up:
            self._give_up(pending)

    def _request(self, kind: Kind, name: str, digest: bytes, where: str) -> _Pending:
        if self._over:
            raise NotHere(f"{name!r} was asked for after run() had ended")
        return _Pending(self._replay.request(kind, name, digest, where))

    def _add(self, pending: _Pending) -> None:
        self._pending[pending.request.path] = pending
        self._ask_later(pending)

    def _ask_later(self, pending: _Pending) -> None:
        """When the whole message is delivered: its outcome may be in it."""
        if self._new is None:
            self._new = [pending]
        else:
            self._new.append(pending)

    # --- Timers: what the deterministic loop calls

    def start_timer(self, timer: detloop.DurableTimer) -> None:
        delay_ms = timer.until_ms - self._loop.now_ms
        where = self._process.bundle.calling_line()
        digest = asked("sleep", TIMER_NAME, delay_ms)
        pending = self._request("sleep", TIMER_NAME, digest, where)
        pending.command = Sleep(pending.request.path, digest, where, None, timer.until_ms)
        pending.timer = timer
        timer.key = pending
        self._add(pending)

    def cancel_timer(self, timer: detloop.DurableTimer) -> None:
        pending = timer.key
        timer.key = None
        if isinstance(pending, _Pending) and not pending.request.given_up and pending.request.path in self._pending:
            self._give_up(pending)


async def _main(  # noqa: PLR0917  # one caller
    code: WorkflowCode, step: Step, payload: Any, at_ms: int, instance: str, workflow: str, commit: str
) -> Any:
    payload = values.decode(payload, declared=code.payload_type, what="payload")
    return await code.workflow().run(Event(payload, _moment(at_ms), instance, workflow, commit), step)


def _check_name(name: object, what: str) -> None:
    if not isinstance(name, str):
        raise TypeError(f"a {what} is a text, not {type(name).__name__}")
    if not 0 < len(name) <= NAME_CHARS_MAX or not name.isprintable():
        raise ValueError(f"{what} {name[:40]!r} is not 1 to {NAME_CHARS_MAX} printable characters")
    if name == TIMER_NAME:
        raise ValueError(f"the {what} {TIMER_NAME!r} is the platform's own; choose another")


def _moment(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def _step_failed(entry: entries.StepFailed) -> StepFailed:
    error = entry.error
    kind = faults.TIMEOUTS.get(error.type, StepFailed)
    return kind(entry.path, entry.attempt, error.type, error.message, error.traceback)


def _weight(command: Command) -> int:
    if isinstance(command, StepDone):
        return 512 + len(command.value) + len(command.delta or b"")
    if isinstance(command, Complete):
        return 64 + len(command.value)
    if isinstance(command, Emit):
        return 512 + sum(map(len, command.items))
    if isinstance(command, StepError | Beat):
        return 32 * 1024 + len(command.details)
    return 32 * 1024 if isinstance(command, Fail | Diverge) else 1024
