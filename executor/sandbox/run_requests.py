"""What `run()` can ask for: steps, sleeps, waits, children, groups, and what it shows of itself."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from typing import Any, NoReturn, get_args

from executor.core import ids, values
from executor.core.bounds import MATCH_BYTES_MAX
from executor.core.commands import Child, GroupBegin, GroupEnd, Sleep, Wait
from executor.core.replay import UNDO, Kind, asked
from executor.sandbox import ambient, detloop
from executor.sandbox.loader import declared_types
from executor.sandbox.run_shown import Shown
from executor.sandbox.run_state import Pending, RunState, handled_update
from executor.sandbox.step_calls import NO_KEYWORDS, StepCall
from executor.sandbox.undo import Undos
from executor.workflow import ContinueAsNew, NotHere, ReceivedEvent, Workflow
from executor.workflow.options import StepOptions
from executor.workflow.runtime import ClosePolicy, current_scope

TIMER_NAME = "asyncio timer"
NAME_CHARS_MAX = 256
GOOD_NAMES_MAX = 1_000
UPDATE_SCOPE = "update/"
"""Scope of the steps of an update's handler, before its name and id."""


class RunRequests(RunState):
    """Implements `RunRuntime` for Step and Workflow, and `Timers` for the loop: all on the deterministic loop."""

    __slots__ = ()

    # --- steps

    def do(  # noqa: PLR0917  # see RunRuntime
        self,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: StepOptions,
        where: str,
        scope: str | None,
    ) -> Coroutine[Any, Any, Any]:
        number = self._number(name)
        if scope is None:
            scope = current_scope.get()
        coroutine = self._do(number, name, function, args, kwargs, options, where, scope)
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
        scope: str,
    ) -> Any:
        self._begun(number)
        digest = asked("step", name, args, kwargs)
        pending = self._request("step", name, digest, where, scope)
        context = contextvars.copy_context()
        path = pending.request.path
        seed = self._seed if options.undo is None else self._undoable_seed
        pending.call = StepCall(
            path, name, digest, where, function, args, kwargs or NO_KEYWORDS, options, context, seed
        )
        if options.undo is not None:
            if self._undos is None:
                self._undos = Undos()
            self._undos.register(pending.call)
        # No call of another coroutine: one frame is what a step that waits for its outcome keeps.
        pending.future = self._loop.create_future()
        self._add(pending)
        try:
            return await pending.future
        except asyncio.CancelledError:
            self._unwanted(pending)
            raise
        except Exception:
            pending.future = None  # which has the exception, which has this frame: it would keep itself
            raise

    # --- sleeps, waits, children

    def sleep(self, name: str, duration_ms: int, where: str, scope: str | None) -> Coroutine[Any, Any, None]:
        digest = asked("sleep", name, duration_ms)
        return self._coroutine(
            "sleep", name, digest, where, scope, lambda path: Sleep(path, digest, where, duration_ms, None)
        )

    def sleep_until(self, name: str, until: datetime, where: str, scope: str | None) -> Coroutine[Any, Any, None]:
        until_ms = round(until.timestamp() * 1000)
        digest = asked("sleep", name, ["until", until_ms])
        return self._coroutine(
            "sleep", name, digest, where, scope, lambda path: Sleep(path, digest, where, None, until_ms, is_date=True)
        )

    def wait_for_event(  # noqa: PLR0917  # see RunRuntime
        self,
        name: str,
        type: str,
        timeout_ms: int | None,
        match: Mapping[str, Any] | None,
        where: str,
        scope: str | None,
    ) -> Coroutine[Any, Any, ReceivedEvent]:
        _check_text(type, "event type")
        wanted = _encoded_match(match)
        digest = asked("wait", name, type, wanted) if wanted else asked("wait", name, type)
        return self._coroutine(
            "wait", name, digest, where, scope, lambda path: Wait(path, digest, where, type, timeout_ms, wanted)
        )

    def child(  # noqa: PLR0917  # see RunRuntime
        self,
        name: str,
        workflow: object,
        payload: Any,
        id: str | None,
        channel: str | None,
        close: ClosePolicy,
        *,
        is_awaited: bool,
        where: str,
        scope: str | None,
    ) -> Coroutine[Any, Any, Any]:
        workflow_name, payload_type, result_type = self._child_types(workflow, is_on_channel=channel is not None)
        if id is not None and not (isinstance(id, str) and ids.is_instance_id(id)):
            raise ValueError(f"the id of a child, {id!r:.60}, is not one that an instance can have")
        if channel is not None:
            _check_text(channel, "channel")
        if close not in get_args(ClosePolicy):
            raise ValueError(f'close={close!r} is not "terminate" or "abandon"')
        encoded = values.encode(
            payload, what="payload", declared=payload_type, bytes_max=self._process.steps.limits.value_bytes_max
        )
        digest = asked("child", name, workflow_name, values.decode(encoded), id, channel, close, is_awaited)
        return self._coroutine(
            "child",
            name,
            digest,
            where,
            scope,
            lambda path: Child(path, digest, where, workflow_name, encoded, channel, id, close, is_awaited),
            result_type,
        )

    def _child_types(self, workflow: object, *, is_on_channel: bool) -> tuple[str, Any, Any]:
        """Name, payload and result type. A name on another channel may be any other code's."""
        if isinstance(workflow, type) and issubclass(workflow, Workflow):
            known = self._process.bundle.workflows.get(workflow.__name__)
            if known is not None and known.workflow is workflow:
                return workflow.__name__, known.payload_type, known.result_type
            return workflow.__name__, *declared_types(workflow)
        if not isinstance(workflow, str):
            raise TypeError(f"a child's workflow is named by its class or its name, not by a {type(workflow).__name__}")
        _check_text(workflow, "workflow's name")
        code = None if is_on_channel else self._process.bundle.workflows.get(workflow)
        if code is None:
            return workflow, values.UNDECLARED, values.UNDECLARED
        return workflow, code.payload_type, code.result_type

    def _coroutine(  # noqa: PLR0917  # see `_ask`
        self,
        kind: Kind,
        name: str,
        digest: bytes,
        where: str,
        scope: str | None,
        command: Callable[[str], Sleep | Wait | Child],
        result_type: Any = values.UNDECLARED,
    ) -> Coroutine[Any, Any, Any]:
        number = self._number(name)
        if scope is None:
            scope = current_scope.get()
        coroutine = self._ask(number, kind, name, digest, where, scope, command, result_type)
        self._last_made = (coroutine, name, where)
        return coroutine

    async def _ask(  # noqa: PLR0917  # see `_coroutine`
        self,
        number: int,
        kind: Kind,
        name: str,
        digest: bytes,
        where: str,
        scope: str,
        command: Callable[[str], Sleep | Wait | Child],
        result_type: Any,
    ) -> Any:
        self._begun(number)
        pending = self._request(kind, name, digest, where, scope)
        pending.command = command(pending.request.path)
        pending.future = self._loop.create_future()
        self._add(pending)
        try:
            found = await pending.future
        except asyncio.CancelledError:
            self._unwanted(pending)
            raise
        except Exception:
            pending.future = None  # as in `_do`
            raise
        if type(found) is bytes:  # what a child returned
            return values.decode(found, declared=result_type, what="result")
        return found

    def combined(self, name: str, work: Callable[[], Coroutine[Any, Any, Any]], where: str) -> Coroutine[Any, Any, Any]:
        number = self._number(name)
        coroutine = self._combined(number, work)
        self._last_made = (coroutine, name, where)
        return coroutine

    async def _combined(self, number: int, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        self._begun(number)
        return await work()

    # --- groups

    def begin_group(self, name: str, where: str, scope: str | None) -> str:
        _check_name(name)
        if ambient.current() is not self._ambient:
            self._refuse_here(name)
        if scope is None:
            scope = current_scope.get()
        digest = asked("group", name)
        pending = self._request("group", name, digest, where, scope)
        path = pending.request.path
        pending.command = GroupBegin(path, digest, where)
        self._ask_later(pending)
        return path

    def end_group(self, path: str, where: str) -> None:
        if self._dropped or self._stopped or ambient.current() is not self._ambient:
            return
        if self._over and (self._updates is None or not self._updates.is_handling(handled_update.get())):
            return
        pending = Pending(self._replay.request_leave(path, where))
        pending.command = GroupEnd(path)
        self._ask_later(pending)

    # --- what it shows, and how it goes on

    def emit(self, stream: str, item: Any) -> None:
        self._showing("step.emit()").emit(stream, item)

    def get_status(self) -> Any:
        return self._shown.status if self._shown is not None else None

    def set_status(self, value: Any) -> None:
        self._showing("self.status").set_status(value)

    def set_attributes(self, attributes: dict[str, Any]) -> None:
        self._showing("self.set_attributes()").set_attributes(attributes)

    def _showing(self, call: str) -> Shown:
        if ambient.current() is not self._ambient:
            raise NotHere(f"{call} works in run() only; a query or a validator changes nothing")
        if self._shown is None:
            self._shown = Shown(self._attributes)
        return self._shown

    def continue_as_new(self, payload: Any) -> NoReturn:
        if ambient.current() is not self._ambient or handled_update.get() is not None or self._over:
            raise NotHere("self.continue_as_new() works in run() only")
        assert self._code is not None
        raise ContinueAsNew(
            values.encode(
                payload,
                what="payload",
                declared=self._code.payload_type,
                bytes_max=self._process.steps.limits.value_bytes_max,
            )
        )

    # --- coroutines that are made, and perhaps awaited

    @staticmethod
    def _refuse_here(name: str) -> NoReturn:
        raise NotHere(
            f"step {name!r} was asked for outside of run() (steps do not nest): call it from run(), "
            "or call the function itself"
        )

    def _number(self, name: str) -> int:
        """Of a coroutine that is about to be made, checking that it may be."""
        try:
            if name not in _good_names:
                _check_name(name)
        except TypeError:  # no text, and perhaps nothing that has a hash
            _check_text(name, "step name")
            raise
        if ambient.current() is not self._ambient:
            self._refuse_here(name)
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

    # --- Timers: what the deterministic loop calls

    def start_timer(self, timer: detloop.DurableTimer) -> None:
        delay_ms = timer.until_ms - self._loop.now_ms
        where = self._process.bundle.calling_line()
        digest = asked("sleep", TIMER_NAME, delay_ms)
        pending = self._request("sleep", TIMER_NAME, digest, where, current_scope.get())
        pending.command = Sleep(pending.request.path, digest, where, None, timer.until_ms)
        pending.timer = timer
        timer.key = pending
        self._add(pending)

    def cancel_timer(self, timer: detloop.DurableTimer) -> None:
        pending = timer.key
        timer.key = None
        if isinstance(pending, Pending) and not pending.request.given_up and pending.request.path in self._pending:
            self._give_up(pending)


_good_names: set[str] = set()
"""Of this process: names that passed the check, so that each use of them need not."""


def _check_name(name: str) -> None:
    _check_text(name, "step name")
    if name == TIMER_NAME:
        raise ValueError(f"the step name {TIMER_NAME!r} is the platform's own; choose another")
    if name.startswith((UNDO, UPDATE_SCOPE)):
        raise ValueError(f"step name {name!r:.60} begins like the platform's own; choose another")
    if len(_good_names) < GOOD_NAMES_MAX and type(name) is str:
        _good_names.add(name)


def _check_text(text: object, what: str) -> None:
    if not isinstance(text, str):
        raise TypeError(f"a {what} is a text, not {type(text).__name__}")
    if not 0 < len(text) <= NAME_CHARS_MAX or not text.isprintable():
        raise ValueError(f"{what} {text[:40]!r} is not 1 to {NAME_CHARS_MAX} printable characters")


def _encoded_match(match: object) -> bytes:
    if match is None or match == {}:
        return b""
    if not isinstance(match, Mapping):
        raise TypeError(f'match= is of type {type(match).__name__}; write a dict: match={{"order.id": 7}}')
    return values.encode(dict(match), what="match", bytes_max=MATCH_BYTES_MAX)
