"""One run: tenant code over one instance's journal, in this process.

Entries are delivered one by one. For each: the replay says what it resolves, the future gets its outcome, the
deterministic loop runs until nothing is ready. When all of a message is delivered, `turn` collects what the run asks
for: sleeps, waits and cancellations that the journal does not have yet become commands, steps without an outcome begin
to execute. Invariants:
  - nothing executes and no command is made before the whole recorded journal has been delivered;
  - a step's result reaches `run()` by its entry only, so by bytes that are durable;
  - what the deterministic loop does follows from the entries alone: what depends on how far the executor is (which
    command is said already) is decided in `turn`, and changes nothing for tenant code;
  - after a divergence nothing more is asked for.

In parts: what is pending and told (`run_state`), what `run()` can ask (`run_requests`), requests from outside
(`updates`), undo (`undo`), what is shown (`run_shown`).
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from executor.core import codec, entries, values
from executor.core.commands import Diverge, Fail
from executor.core.entries import AnyEntry, StepRef
from executor.core.errors import PerdureError
from executor.core.failure import ErrorFact
from executor.core.replay import LEAVE, Divergence, Resolution
from executor.sandbox import ambient, detloop, faults, outcomes
from executor.sandbox.loader import WorkflowCode
from executor.sandbox.protocol import Ask, Update
from executor.sandbox.run_end import how_it_ended
from executor.sandbox.run_requests import RunRequests
from executor.sandbox.run_state import _NO_AMBIENT, Pending, Process
from executor.sandbox.undo import Undos
from executor.sandbox.updates import Updates
from executor.workflow import Event, NonRetryableError, Step

__all__ = ["Process", "Run"]


class Run(RunRequests):
    """See the module."""

    __slots__ = ()

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
                        self._accept(sequence, codec.decode(data)[0])  # type: ignore[arg-type]  # no int: see above
                    except PerdureError as error:  # it cannot be: the instance is held, its bytes are kept
                        self._diverge(str(error), None, None)
                if not self._is_live_told and replay.seen >= self._total:
                    self._go_live()
        finally:
            self._leave()
        self._process.touch(self)

    def _go_live(self) -> None:
        self._is_live_told = True
        self._leave()
        self.recorder.go_live()
        if self._updates is not None:
            self._updates.go_live()

    def ask(self, frame: Update | Ask) -> None:
        """A request from outside. Answered by the process, or by an entry."""
        if self._updates is None:
            self._updates = Updates(self)
        self._updates.take(frame)

    def quiesce(self) -> None:
        self._quiesced = True
        self._told = (0, False)
        self._process.touch(self)

    def go_on(self) -> None:
        self._quiesced = self._is_only_asked
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
        has_returned = self._over and self._task is not None and self._task.done()
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
        self._ambient = _NO_AMBIENT
        self._updates = self._undos = self._workflow_self = self._new = self._cancelled = None

    def _enter(self) -> None:
        """`run()` executes from now on, until `_leave`: of many entries the first enters, and the last leaves."""
        if self._outer is None:
            self._outer = ambient.enter(self._ambient), self._loop.enter()

    def _leave(self) -> None:
        if self._outer is not None:
            (outer, loop), self._outer = self._outer, None
            self._loop.leave(loop)
            ambient.enter(outer)

    # --- entries

    def _accept(self, sequence: int, entry: AnyEntry) -> None:
        if self._task is None and not self._over:
            self._accept_before_begin(sequence, entry)
            return
        found = self._replay.accept(sequence, entry)
        now_ms = max(self.recorder.now_ms, entry.at_ms)  # it never goes back, whatever the executor's clock did
        self.recorder.moved_to(sequence, now_ms)
        if self._stopped:
            return
        self._loop.now_ms = self._ambient.now_ms = now_ms
        if isinstance(found, Divergence):
            self._diverge(found.message, found.recorded, found.requested)
            return
        if self.recorder.is_holding and sequence <= self._total:
            path = getattr(entry, "path", None)
            pending = self._pending.get(path) if path is not None else None
            if pending is not None:
                self.recorder.already_sent(pending.request.asked_after)
        if found is None:
            take = _OTHERS.get(type(entry))
            if take is not None:
                take(self, entry)
            return
        if self._undos is not None and self._accept_undoable(found):
            return
        pending = self._answered(found.request.path)
        assert pending is not None
        self._drive(pending, found.outcome)

    def _accept_undoable(self, found: Resolution) -> bool:
        """A step that can be undone, or an undo (True: it was one)."""
        assert self._undos is not None
        if found.request.kind == "undo":
            pending = self._answered(found.request.path)
            assert pending is not None
            self._ending = self._undos.ended(self, pending, found.outcome)
            return True
        if isinstance(found.outcome, entries.StepSucceeded):
            self._undos.succeeded(found.outcome)
        return False

    def _accept_details(self, entry: entries.AttemptFailed | entries.StepHeartbeat) -> None:
        pending = self._pending.get(entry.path)
        if pending is not None and entry.details:
            pending.details = entry.details

    def _accept_unwanted(self, entry: entries.StepSucceeded | entries.StepFailed | entries.SleepEnded) -> None:
        """The run had given it up: it happened all the same."""
        self._answered(entry.path)
        if self._undos is not None and isinstance(entry, entries.StepSucceeded):
            self._undos.succeeded(entry)

    def _accept_cancelled(self, entry: entries.Cancelled) -> None:
        """It was given up, and that is known."""
        self._answered(entry.path)

    def _accept_group(self, entry: entries.GroupStarted) -> None:
        self._answered(entry.path)

    def _accept_group_end(self, entry: entries.GroupEnded) -> None:
        self._answered(entry.path + LEAVE)

    def _accept_shown(self, entry: entries.StatusSet | entries.AttributesSet | entries.Emitted) -> None:
        if self._shown is not None:
            self._shown.recorded(entry)

    def _accept_update(self, entry: entries.UpdateAccepted) -> None:
        if self._updates is None:
            self._updates = Updates(self)
        self._enter()
        if self._updates.accepted(entry) is not None:
            self._drive()

    def _accept_update_end(self, entry: entries.UpdateEnded) -> None:
        if self._updates is not None and not self._updates.recorded(entry):
            message = (
                f'the journal records that update "{entry.id}" ended (entry {self._replay.seen}), but here it has not; '
                "the code is not deterministic"
            )
            self._diverge(message, StepRef("update", entry.id, ""), None)

    def _accept_restarted(self, entry: entries.Restarted) -> None:
        """What was undone is done again: as something else, for whoever knows it by its idempotency key."""
        if entry.undone:
            salt = entry.undone.to_bytes(8, "big")
            self._undoable_seed = blake2b(self._seed, digest_size=16, salt=salt, person=b"perdure undone").digest()
            if self._undos is not None:
                self._undos.renew_keys(self._undoable_seed)

    def _accept_undoing(self, entry: entries.Undoing) -> None:
        """Whatever `run()` does is over."""
        why = entry.error or ErrorFact("Terminated", "the instance was terminated", retryable=False)
        is_new, self._over = not self._over, True
        self._replay.end()
        self._ending = None
        self._stop_handlers(why, is_final=True)
        if is_new and self._loop is not detloop.NO_LOOP:
            self._end_what_is_left()
            self._tell_problems()
            self._scope.flush()
        self._give_up_all()
        if self._undos is None:
            self._undos = Undos()
        self._ending = self._undos.begin(self, entry.error)

    # --- the beginning

    def _accept_before_begin(self, sequence: int, entry: AnyEntry) -> None:
        self._replay.accept(sequence, entry)
        started = self._started
        match entry:
            case entries.Started():
                self._started = entry
                if entry.options is not None:
                    self._attributes = entry.options.attributes
                if entry.options is None or entry.options.start_at_ms is None:
                    self._begin_run(entry, entry.at_ms)
            case entries.Rescheduled() if started is not None:
                self._started = msgspec.structs.replace(started, payload=entry.payload)
            case entries.StartDue() if started is not None:
                self._begin_run(started, entry.at_ms)
            case entries.Continued():
                self._begin_run(entry, entry.at_ms)
            case entries.EventReceived():
                pass
            case _ if started is None:
                self._diverge("the journal does not begin with Started", None, None)

    def _begin_run(self, entry: entries.Started | entries.Continued, now_ms: int) -> None:
        self._started = None
        self._seed = self._undoable_seed = entry.seed
        self._ambient = ambient.Ambient(entry.seed, self._scope, self)
        digest = blake2b(entry.seed, digest_size=8, person=b"perdure hashes").digest()
        self._loop = detloop.new_loop(self, hash_base=int.from_bytes(digest, "big"))
        self._loop.now_ms = self._ambient.now_ms = now_ms
        self.recorder.moved_to(self._replay.seen, now_ms)
        code = self._process.bundle.workflows.get(self._workflow)
        if code is None:
            known = ", ".join(sorted(self._process.bundle.workflows)) or "none"
            message = f"this version has no workflow {self._workflow!r}; it has {known}"
            self._fail(ErrorFact("UnknownWorkflow", message, retryable=False, code="unknown_workflow"))
            return
        self._code = code
        # Texts that all runs of the process share.
        workflow, commit = sys.intern(entry.workflow), sys.intern(entry.commit)
        options = entry.options if isinstance(entry, entries.Started) else None
        event = Event(
            entry.payload,
            outcomes.moment(now_ms),
            self._instance,
            workflow,
            commit,
            None if options is None else options.schedule,
            None if options is None or options.scheduled_ms is None else outcomes.moment(options.scheduled_ms),
        )
        self._enter()
        self._task = self._loop.create_task(
            _main(self, code, Step(self), event), name="run", context=contextvars.copy_context()
        )
        self._drive()

    # --- how it goes on

    def _drive(self, resolved: Pending | None = None, outcome: object = None) -> None:
        self._enter()
        try:
            if resolved is not None:
                self._resolve(resolved, outcome)
            self._loop.run_ready()
        except RuntimeError as error:  # it spins
            self._fail(faults.fact(NonRetryableError(str(error)), (), code="workflow_failed"))
            return
        if self._loop.problems:
            self._tell_problems()
        task = self._task
        if self._over:
            self._clean_up()
        elif task is not None and task.done():
            self._finish(task)

    def _resolve(self, pending: Pending, outcome: object) -> None:
        if pending.attempt is not None:
            pending.attempt.cancel()  # its result is known from elsewhere (a duplicate entry): never the case in order
            self._attempt_gone(pending)
        if pending.timer is not None:
            pending.timer.key = None
            self._loop.fire(pending.timer)
            return
        future = pending.future
        if future is not None and not future.done():
            what = pending.command if pending.call is None else pending.call.function
            outcomes.settle(future, pending.request, what, outcome)

    # --- the end of run()

    def _finish(self, task: asyncio.Task[Any]) -> None:
        """`run()` has returned or raised: clear up what it left, then say how it ended, once handlers have too."""
        self._replay.end()
        self._over = True
        self._over_at = self._replay.seen
        self._clean_up()
        assert self._code is not None
        self._ending = how_it_ended(
            task,
            self._never_begun(),
            self._process.bundle.files,
            result_type=self._code.result_type,
            bytes_max=self._process.steps.limits.value_bytes_max,
        )
        if isinstance(self._ending, Fail):
            self._stop_handlers(self._ending.error)
        self._scope.flush()
        self._give_up_all(but_handlers=True)

    def _clean_up(self) -> None:
        """End the tasks that `run()` left behind; not while a handler works, whose tasks some of them may be."""
        if not self._loop.is_simple and not (self._updates is not None and self._updates.tasks):
            self._end_what_is_left()
        self._leave()
        if not self._loop.is_simple:
            task = self._task
            own = None if task is None or not task.done() or task.cancelled() else task.exception()
            for name, error in self._loop.unretrieved():
                if error is not own:
                    told = f"{faults.type_name(type(error))}: {faults.text_of(error)}"
                    self._scope.line("log", "WARNING", f"the exception of task {name!r} was never looked at: {told}")
        self._tell_problems()

    def _end_what_is_left(self) -> None:
        self._enter()
        for generator in self._loop.open_generators():
            self._loop.create_task(generator.aclose())
        for left in self._loop.live_tasks():
            left.cancel()
        try:
            self._loop.run_ready()
        except RuntimeError:
            self._scope.line("log", "WARNING", "tasks that run() left behind would not end; they were dropped")
        self._leave()

    def _stop_handlers(self, error: ErrorFact, *, is_final: bool = False) -> None:
        """`is_final`: what was let pass is not recorded any more."""
        if self._updates is None:
            return
        self._updates.stop(error, is_final=is_final)
        self._end_what_is_left()
        self._updates.give_up()

    def _fail(self, error: ErrorFact) -> None:
        """`run()` cannot go on: it does not begin, or does not come to an end."""
        self._leave()
        self._over = True
        self._replay.end()
        self._new = self._cancelled = None
        self._give_up_all()
        self._loop.abandon()
        if self._updates is not None:
            self._updates.stop(error, is_final=True)
            self._updates.give_up()
        self._ending = Fail(error)

    def _diverge(self, message: str, recorded: StepRef | None, requested: StepRef | None) -> None:
        """No way on: say so, and ask for nothing else."""
        self._leave()
        self._over = self._stopped = True
        self._replay.end()
        self._commands = [Diverge(message, recorded, requested)]
        self._is_pressing = True
        self._ending = None
        self._new = self._cancelled = None
        for pending in self._pending.values():
            if pending.attempt is not None:
                pending.attempt.cancel()
                self._attempt_gone(pending)

    def _tell_problems(self) -> None:
        for problem in self._loop.problems:
            self._scope.line("log", "WARNING", problem)
        self._loop.problems.clear()


_OTHERS: dict[type, Callable[[Run, Any], None]] = {
    entries.AttemptFailed: Run._accept_details,
    entries.StepHeartbeat: Run._accept_details,
    entries.StepSucceeded: Run._accept_unwanted,
    entries.StepFailed: Run._accept_unwanted,
    entries.SleepEnded: Run._accept_unwanted,
    entries.Cancelled: Run._accept_cancelled,
    entries.GroupStarted: Run._accept_group,
    entries.GroupEnded: Run._accept_group_end,
    entries.StatusSet: Run._accept_shown,
    entries.AttributesSet: Run._accept_shown,
    entries.Emitted: Run._accept_shown,
    entries.UpdateAccepted: Run._accept_update,
    entries.UpdateEnded: Run._accept_update_end,
    entries.Undoing: Run._accept_undoing,
    entries.Restarted: Run._accept_restarted,
}
"""What takes entries that resolve no request."""


async def _main(run: Run, code: WorkflowCode, step: Step, event: Event[Any]) -> Any:
    payload = values.decode(event.payload, declared=code.payload_type, what="payload")
    workflow = run._workflow_self = code.workflow()
    event = Event(
        payload,
        event.timestamp,
        event.instance_id,
        event.workflow,
        event.commit,
        event.schedule,
        event.scheduled_at,
    )
    return await workflow.run(event, step)
