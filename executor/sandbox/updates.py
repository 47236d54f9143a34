"""Updates and queries of one run: requests from outside to the methods that the workflow marks.

An update is part of the execution: its validator lets it pass (AcceptUpdate), and the entry UpdateAccepted starts its
handler as a task on the deterministic loop; on replay at the same place, without the validator. Its steps have paths
"update/<name>/<id>/…". A query only looks: it leaves nothing in the journal, nor in what the run draws its time and
chance from.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from executor.core import entries, values
from executor.core.commands import AcceptUpdate, EndUpdate
from executor.core.failure import ErrorFact
from executor.sandbox import ambient, faults, output
from executor.sandbox.handlers import HandlerCode
from executor.sandbox.protocol import Answer, Ask, Update
from executor.sandbox.run_state import handled_update
from executor.workflow import NotHere, Step
from executor.workflow.runtime import current_scope

if TYPE_CHECKING:
    from executor.sandbox.run_requests import RunRequests

REFUSED = "update_refused"
FAILED = "update_failed"


class Updates:
    """See the module. Made with the first request."""

    __slots__ = ("_accepting", "_active", "_ended", "_kept", "_known", "_run", "_stopped")

    def __init__(self, run: RunRequests) -> None:
        self._run = run
        self._kept: list[Update | Ask] = []
        self._accepting: set[str] = set()
        self._known: set[str] = set()
        self._active: dict[str, asyncio.Task[None]] = {}
        self._ended: dict[str, EndUpdate] = {}
        self._stopped: ErrorFact | None = None

    @property
    def is_quiet(self) -> bool:
        """No handler works, and none is about to."""
        return not self._active and not self._accepting

    def is_handling(self, update: str | None) -> bool:
        return update in self._active and self._stopped is None

    def ended(self) -> list[EndUpdate]:
        """What the journal does not have yet; it counts as said."""
        ended, self._ended = self._ended, {}
        return [*ended.values()]

    # --- entries

    def accepted(self, entry: entries.UpdateAccepted) -> asyncio.Task[None] | None:
        """Begin to handle it; None if it can be no more."""
        self._accepting.discard(entry.id)
        self._known.add(entry.id)
        run = self._run
        code = run._code.updates.get(entry.name) if run._code is not None else None
        if self._stopped is not None or code is None:
            unknown = ErrorFact("NotHere", f"there is no update {entry.name!r}", retryable=False, code=FAILED)
            self._ended[entry.id] = EndUpdate(entry.id, None, self._stopped or unknown)
            return None
        context = contextvars.copy_context()
        context.run(handled_update.set, entry.id)
        context.run(current_scope.set, f"update/{entry.name}/{entry.id}")
        task = run._loop.create_task(self._handle(code, entry), name=f"update {entry.name}", context=context)
        self._active[entry.id] = task
        return task

    def recorded(self, entry: entries.UpdateEnded) -> bool:
        """The journal has its end. False: here it has not ended."""
        self._ended.pop(entry.id, None)
        return entry.id not in self._active

    def stop(self, error: ErrorFact, *, is_final: bool) -> None:
        """`run()` failed: handlers are cancelled, and answered with why; no other begins."""
        self._stopped = error
        if is_final:
            self._accepting.clear()
        for task in self._active.values():
            task.cancel()

    def give_up(self) -> None:
        """After `stop`, and a turn of the loop: what would not end is answered too."""
        assert self._stopped is not None
        for update in [*self._active]:
            self._end(EndUpdate(update, None, self._stopped))

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        return [*self._active.values()]

    async def _handle(self, code: HandlerCode, entry: entries.UpdateAccepted) -> None:
        run = self._run
        try:
            assert run._workflow_self is not None
            result = code.call(run._workflow_self, code.payload(entry.payload), Step(run))
            if inspect.isawaitable(result):
                result = await result
            value = values.encode(
                result,
                what="result",
                declared=code.result_type,
                bytes_max=run._process.steps.limits.value_bytes_max,
            )
        except GeneratorExit:  # the run is thrown away
            raise
        except BaseException as error:  # tenant code
            fact = faults.fact(error, run._process.bundle.files, code=FAILED)
            if self._stopped is not None and isinstance(error, asyncio.CancelledError):
                fact = self._stopped
            self._end(EndUpdate(entry.id, None, fact))
        else:
            self._end(EndUpdate(entry.id, value, None))

    def _end(self, command: EndUpdate) -> None:
        if self._active.pop(command.id, None) is not None:
            self._ended[command.id] = command

    # --- frames

    def take(self, frame: Update | Ask) -> None:
        """Answer, once the run is where its journal ends."""
        if not self._run.is_live:
            self._kept.append(frame)
        elif isinstance(frame, Update):
            self._consider(frame)
        else:
            self._look(frame)

    def go_live(self) -> None:
        kept, self._kept = self._kept, []
        for frame in kept:
            self.take(frame)

    def _consider(self, frame: Update) -> None:
        run = self._run
        if frame.id in self._known or frame.id in self._accepting:
            return  # entries tell
        workflow = run._workflow_self
        if run._over or run._stopped or workflow is None or run._code is None:
            self._refuse(frame, "InstanceFinished", "run() has ended; there is nothing to update", REFUSED)
            return
        code = run._code.updates.get(frame.name)
        if code is None:
            known = ", ".join(sorted(run._code.updates)) or "none"
            message = f"workflow {run._workflow!r} has no update {frame.name!r}; it has {known}"
            self._refuse(frame, "UnknownUpdate", message, REFUSED)
            return

        def validate() -> None:
            payload = code.payload(frame.payload)
            if code.validate is not None:
                code.validate(workflow, payload)

        error = self._beside(f"update/{frame.name}", validate)[1]
        if error is not None:
            fact = faults.fact(error, run._process.bundle.files, code=REFUSED)
            fact = ErrorFact(fact.type, fact.message, fact.traceback, retryable=False, code=REFUSED)
            run._process.answer(Answer(run.number, frame.number, None, fact))
            return
        self._accepting.add(frame.id)
        run._say(AcceptUpdate(frame.id, frame.name, frame.payload))
        run._process.touch(run)

    def _look(self, frame: Ask) -> None:
        run = self._run
        workflow = run._workflow_self
        if run._stopped or workflow is None or run._code is None:
            self._refuse(frame, "NotHere", "the run did not come so far that it could be asked", "query_failed")
            return
        code = run._code.queries.get(frame.name)
        if code is None:
            known = ", ".join(sorted(run._code.queries)) or "none"
            message = f"workflow {run._workflow!r} has no query {frame.name!r}; it has {known}"
            self._refuse(frame, "UnknownQuery", message, "query_failed")
            return

        def look() -> bytes:
            result = code.call(workflow, code.payload(frame.payload), None)
            if inspect.iscoroutine(result):
                result.close()
                raise NotHere(f"query {frame.name!r} gave a coroutine; a query only looks: write it with `def`")
            return values.encode(
                result,
                what="result",
                declared=code.result_type,
                bytes_max=run._process.steps.limits.value_bytes_max,
            )

        value, error = self._beside(f"query/{frame.name}", look)
        fact = None if error is None else faults.fact(error, run._process.bundle.files, code="query_failed")
        run._process.answer(Answer(run.number, frame.number, value, fact))

    def _refuse(self, frame: Update | Ask, type: str, message: str, code: str) -> None:
        fact = ErrorFact(type, message, retryable=False, code=code)
        self._run._process.answer(Answer(self._run.number, frame.number, None, fact))

    def _beside(self, what: str, work: Callable[[], Any]) -> tuple[Any, BaseException | None]:
        """What `work` gives or raises, executed beside `run()`: it sees the same time, but takes nothing of its chance,
        and its lines have numbers of their own."""
        run = self._run
        scope = output.Scope(run.recorder, what)
        beside = ambient.Ambient(run._seed + what.encode(), scope, run)
        beside.now_ms = run._ambient.now_ms
        outer = ambient.enter(beside)
        outer_loop = asyncio._get_running_loop()
        asyncio._set_running_loop(None)
        try:
            return work(), None
        except BaseException as error:  # tenant code
            return None, error
        finally:
            asyncio._set_running_loop(outer_loop)
            ambient.enter(outer)
            scope.close()
