"""Asking: requests into a running instance: updates, which are journaled, and queries, which leave no trace.

A question needs the instance's run: one that rests is activated for it, and is not dropped before it has answered. What
became of an update the journal tells: UpdateAccepted and UpdateEnded, so it is done once, whatever dies in between, and
a caller that asks again with the same id is told the same. An update that is not accepted yet is lost with its sandbox
and sent again; one that takes a sandbox with it twice is given up, and the instance goes on without it.

Invariants:
- `resident.asked` has the questions that are neither answered nor accepted nor given up, each with who waits for it;
- who waits holds the resident.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Literal

import trio

from executor.core.bounds import UPDATES_OPEN_MAX
from executor.core.entries import Activated, UpdateEnded
from executor.core.errors import Conflict, NotFound, PerdureError, Refused, TenantError, Unavailable
from executor.core.failure import ErrorFact
from executor.core.instance import event_digest
from executor.core.lifecycle import FINAL, check
from executor.core.values import VALUE_BYTES_MAX
from executor.engine.resident import Key, Question, Resident
from executor.ports import Updated
from executor.sandbox.protocol import Answer, Ask, ToSandbox, Update

if TYPE_CHECKING:
    from executor.engine.engine import Engine

ASK_S = 15.0
"""A query only looks; it has this long, with the activation of the instance."""
DEATHS_MAX = 2
QUESTIONS_MAX = 1_000
"""Of one instance at the same time."""
_UNKNOWN = frozenset({"UnknownUpdate", "UnknownQuery"})


class Asking:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._numbers = count(1)

    # --- use cases

    async def update(self, key: Key, *, id: str, name: str, payload: bytes, wait_s: float) -> Updated:
        """Hand an update to the workflow's handler `name`; durable once accepted, answered when the handler has ended.

        The same id is the same update, however often it is sent. Raises NotFound, Refused (`update_refused`,
        `unknown_handler`), Conflict (`instance_finished`, `invalid_state`, `update_exists`), Unavailable (`timeout`: it
        goes on if it was accepted; `sandbox_unavailable`).
        """
        engine = self._engine
        question: Question | None = None
        async with engine.residents.hold(key) as resident, engine.watchers.watching(key) as watch:
            known = resident.instance.updates.get(id)
            is_new = known is None
            is_checked = False
            try:
                with trio.move_on_after(wait_s):
                    while True:
                        known = resident.instance.updates.get(id)
                        if known is not None and not is_checked:
                            # Somebody else's may have been accepted while this one waited.
                            _check_same(resident, id, name, payload)
                            is_checked = True
                        if isinstance(known, UpdateEnded):
                            await engine.until_durable(resident, resident.instance.sequence)
                            _check_loss(resident)
                            return Updated(known.value, known.error, is_new)
                        if known is not None:
                            self._forget(resident, question)
                            question = None
                            self._check_going(resident, id)
                        else:
                            self._check(resident, "update", question)
                            if question is None:
                                question = self._put(
                                    resident, id, lambda run, number: Update(run, number, id, name, payload)
                                )
                                is_new = question.waiters == 1
                        await watch.wait()
            finally:
                self._forget(resident, question)
        goes_on = "it goes on" if known is not None else "it was not accepted yet"
        raise Unavailable(
            f'update "{id}" of instance "{key[1]}" has not ended within {wait_s:g} s; {goes_on}',
            code="timeout",
            hint="Send it again with the same id: it is done once.",
        )

    async def ask(self, key: Key, *, name: str, payload: bytes) -> bytes:
        """The answer of the workflow's query handler `name`, encoded; nothing is journaled.

        Raises NotFound, Refused (`unknown_handler`), TenantError (`query_failed`), Conflict (`instance_finished`,
        `invalid_state`), Unavailable (`timeout`).
        """
        engine = self._engine
        async with engine.residents.hold(key) as resident, engine.watchers.watching(key) as watch:
            self._check(resident, "ask", None)
            question = self._put(resident, None, lambda run, number: Ask(run, number, name, payload))
            try:
                with trio.move_on_after(ASK_S):
                    while question.answer is None:
                        await watch.wait()
                        if question.answer is None:
                            self._check(resident, "ask", question)
                    if question.answer.value is not None:
                        return question.answer.value
                    raise _refusal(question.answer.error)
            finally:
                self._forget(resident, question)
        raise Unavailable(f'instance "{key[1]}" has not answered within {ASK_S:g} s', code="timeout", hint="Ask again.")

    # --- for the runner

    def begun(self, resident: Resident) -> None:
        """It has a run: the questions go there, behind its journal."""
        run = resident.run
        if run is not None:
            for question in resident.asked.values():
                if question.run is not run:
                    question.run = run
                    run.sandbox.post(question.frame(run.number, question.number))

    def answered(self, resident: Resident, frame: Answer) -> None:
        """A run answers; to what nobody asks any more it may answer what it likes."""
        question = resident.asked.get(frame.number)
        if question is not None:
            if len(frame.value or b"") > VALUE_BYTES_MAX:
                message = f"an answer of {len(frame.value or b'')} bytes, the limit is {VALUE_BYTES_MAX}"
                frame = Answer(frame.run, frame.number, None, ErrorFact("ValueRefused", message, code="query_failed"))
            question.answer = frame
            self._engine.watchers.changed(resident.key, resident.row)

    def left(self, resident: Resident, *, has_died: bool = False) -> None:
        """Its run is gone, with what was asked there."""
        for question in resident.asked.values():
            if question.run is not None and has_died:
                question.deaths += 1
            question.run = None
        self._engine.watchers.changed(resident.key, resident.row)

    # --- inside

    def _put(self, resident: Resident, id: str | None, frame: Callable[[int, int], ToSandbox]) -> Question:
        """Ask it. An update that is being asked already is not asked twice."""
        for question in resident.asked.values():
            if id is not None and question.update == id:
                question.waiters += 1
                return question
        if id is not None and resident.instance.updates_open >= UPDATES_OPEN_MAX:
            raise Refused(
                f"{resident.instance.updates_open} accepted updates have not ended, the limit is {UPDATES_OPEN_MAX}",
                code="limit_exceeded",
                hint="Send more when some have.",
            )
        if len(resident.asked) >= QUESTIONS_MAX:
            raise Unavailable(
                f"{len(resident.asked)} requests wait for this instance, the limit is {QUESTIONS_MAX}",
                code="busy",
                hint="Try again after a second.",
                retry_after_s=1,
            )
        question = Question(next(self._numbers), frame, id)
        resident.asked[question.number] = question
        if resident.run is not None:
            self.begun(resident)
        else:
            self._engine.settle(resident)
        return question

    def _forget(self, resident: Resident, question: Question | None) -> None:
        if question is None:
            return
        question.waiters -= 1
        if question.waiters <= 0 and resident.asked.pop(question.number, None) is not None and not resident.asked:
            self._engine.settle(resident)  # Its run goes, if only that kept it.

    def _check(self, resident: Resident, operation: Literal["update", "ask"], question: Question | None) -> None:
        """Raises what stands against `operation` now, or why `question` will not be answered as it should."""
        _check_loss(resident)
        if question is not None and question.answer is not None:
            raise _refusal(question.answer.error)
        if question is not None and question.deaths >= DEATHS_MAX:
            raise Unavailable(
                f"the sandbox died {question.deaths} times at this request",
                code="sandbox_unavailable",
                hint="The instance goes on without it.",
            )
        self._check_stopping()
        check(operation, self._engine.state(resident), resident.key[1])
        if resident.instance.delayed_until_ms is not None:
            raise Conflict(
                f'instance "{resident.key[1]}" has not begun: its start is delayed',
                code="invalid_state",
                hint="Ask when it has.",
                state="waiting",
            )

    def _check_going(self, resident: Resident, id: str) -> None:
        """Raises if an accepted update will not end any more, or not while somebody waits here."""
        _check_loss(resident)
        self._check_stopping()
        state = self._engine.state(resident)
        if state in FINAL:
            raise Conflict(
                f'instance "{resident.key[1]}" is {state}; update "{id}" was accepted and had not ended',
                code="instance_finished",
                hint="What it did before that is in the journal.",
                state=state,
            )

    def _check_stopping(self) -> None:
        if self._engine.is_stopping:
            raise Unavailable("the executor is stopping", code="shutting_down", hint="Try again when it is back.")


def _check_loss(resident: Resident) -> None:
    if resident.loss is not None:
        raise resident.loss


def is_unjournaled(resident: Resident) -> bool:
    """Whether its present run has left nothing in the journal: then neither need the run itself."""
    return bool(resident.traces) and isinstance(resident.traces[-1], Activated)


def _check_same(resident: Resident, id: str, name: str, payload: bytes) -> None:
    """Raises Conflict if the update of this id was another one."""
    if resident.instance.update_digests.get(id) != event_digest(name, payload):
        raise Conflict(
            f'an update with id "{id}" exists with another name or payload',
            code="update_exists",
            hint="Use another id, or the same update to get its answer.",
        )


def _refusal(fact: ErrorFact | None) -> PerdureError:
    """What a handler says against a request, as the caller gets it."""
    error = (fact or ErrorFact("ProtocolError", "the sandbox gave no answer", code="query_failed")).bounded()
    if error.type in _UNKNOWN and not error.traceback:
        return NotFound(error.message, code="unknown_handler", hint="Mark a method with @Workflow.update or .query.")
    if error.code == "update_refused":
        return Refused(error.message, code="update_refused", type=error.type)
    return TenantError(
        f"{error.type}: {error.message}",
        code="query_failed",
        type=error.type,
        text=error.message,
        traceback=error.traceback,
    )
