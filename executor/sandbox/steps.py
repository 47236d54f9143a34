"""Attempts of steps: executed outside the deterministic loop, with real time and real randomness.

Async callables run as tasks of the process's ordinary loop, sync ones in the pool's threads; a sync callable that
returns an awaitable (a lambda over an async function) has it awaited on the loop. Each attempt has its own context: the
variables that the run had set when it asked, and the attempt itself (`step.current()`, facet, output).
An attempt is reported once, on the main thread; one that is cancelled or has timed out is over at that moment, whatever
its code still does.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import threading
import time
import types
from collections import deque
from collections.abc import Callable, Container, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Literal, Protocol

import msgspec

from executor.core import values
from executor.core.commands import RetryPolicy, StepDone, StepError
from executor.core.failure import ErrorFact
from executor.sandbox import faults
from executor.sandbox.child_limits import ChildLimits
from executor.sandbox.facets_inside import AttemptFacet, RunFacet
from executor.sandbox.output import Recorder, Scope, nowhere
from executor.sandbox.threads import StepPool
from executor.workflow.options import StepOptions
from executor.workflow.runtime import Parameters, current_attempt

_DECLARED_KEPT_MAX = 4_096
_declared_of: dict[tuple[Any, str], Any] = {}
_time_ns = time.time_ns
"""The real clock, taken before `ambient` replaces the name."""


NO_KEYWORDS: dict[str, Any] = {}
"""Of all calls that have none. Never changed: it is only ever unpacked."""


class StepCall(msgspec.Struct, eq=False):
    """What `step.do` was given, kept until the step has its outcome. `key_seed` is the instance's own."""

    path: str
    name: str
    asked: bytes
    where: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: StepOptions
    context: contextvars.Context
    key_seed: bytes

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of the step, and for no other step."""
        key = self.key_seed[:64]
        return blake2b(self.path.encode(), key=key, digest_size=16, person=b"perdure steps").hexdigest()


class Owner(Protocol):
    """The run that an attempt belongs to."""

    recorder: Recorder

    @property
    def facet(self) -> RunFacet: ...

    def attempt_over(self, attempt: Attempt, report: StepDone | StepError) -> None: ...


_making = threading.RLock()
"""Held while an attempt's facet or output is made, or while it ends: they are made at first use, often in a thread."""


class Attempt:
    """One try of a step. Implements `executor.workflow.runtime.AttemptRuntime`."""

    __slots__ = (
        "__weakref__", "_facet", "_output", "_started_at_ms", "_steps", "_task", "_thread_state", "_timer", "attempt",
        "call", "deadline", "is_over", "is_started", "owner",
    )  # fmt: skip

    def __init__(self, steps: Steps, owner: Owner, call: StepCall, number: int) -> None:
        self.call = call
        self.attempt = number
        self.deadline: datetime | None = None
        self.owner = owner
        self.is_over = False
        self.is_started = False
        self._steps = steps
        self._facet: AttemptFacet | None = None
        self._output: Scope | None = None
        self._started_at_ms = 0
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._thread_state: Literal["", "executing", "abandoned", "returned"] = ""

    # --- what tenant code reaches through the context

    @property
    def name(self) -> str:
        return self.call.name

    @property
    def idempotency_key(self) -> str:
        return self.call.idempotency_key

    @property
    def output(self) -> Scope:
        """Where its lines go; made at the first. See `executor.sandbox.output.current`."""
        if self._output is None:
            with _making:  # or an end that comes between would leave it open
                if self.is_over:
                    return nowhere
                self._output = Scope(self.owner.recorder, self.call.path, self.attempt)
        return self._output

    @property
    def facet(self) -> AttemptFacet:
        """Made at the first use: most attempts have none."""
        if self._facet is None:
            with _making:
                if self._facet is None:
                    facet = AttemptFacet(self.owner)
                    if self.is_over:
                        facet.end(commit=False)
                    self._facet = facet
        return self._facet

    def facet_execute(self, sql: str, parameters: Parameters) -> list[Any]:
        return self.facet.execute(sql, parameters)

    def facet_executemany(self, sql: str, parameters: Sequence[Parameters]) -> None:
        self.facet.executemany(sql, parameters)

    def facet_exclusive(self) -> AbstractAsyncContextManager[None]:
        return self.facet.exclusive()

    # --- life

    def start(self) -> None:
        """Begin to execute; the outcome goes to the owner, never from within this call."""
        self.is_started = True
        call = self.call
        context = call.context.copy()  # a later attempt begins with the same variables
        context.run(current_attempt.set, self)
        if is_async(call.function):
            self._set_deadline()
            self._arm_timer()
            self._task = asyncio.Task(self._run_async(), loop=self._steps.loop, name=call.path, context=context)
        else:
            self._steps.pool.submit(functools.partial(context.run, self._run_in_thread))

    def _set_deadline(self) -> None:
        self._started_at_ms = _time_ns() // 1_000_000
        timeout_ms = self.call.options.timeout_ms
        if timeout_ms is not None:
            self.deadline = datetime.fromtimestamp((self._started_at_ms + timeout_ms) / 1000, UTC)

    def _arm_timer(self) -> None:
        timeout_ms = self.call.options.timeout_ms
        if timeout_ms is not None and not self.is_over:
            self._timer = self._steps.loop.call_later(timeout_ms / 1000, self._timed_out)

    def cancel(self) -> None:
        """Give it up: nothing is reported, its facet writes are rolled back."""
        self._end()
        self._end_facet()

    async def _run_async(self) -> None:
        call = self.call
        try:
            result = await call.function(*call.args, **call.kwargs)
        except BaseException as error:  # tenant code; SystemExit must not end the process of all instances
            self._failed(error)
        else:
            self._succeeded(result)

    def _run_in_thread(self) -> None:
        call = self.call
        if self.is_over:
            return
        self._thread_state = "executing"
        self._set_deadline()  # the time in the queue before a thread was free is not the attempt's
        if call.options.timeout_ms is not None:
            self._steps.call_on_loop(self._arm_timer)
        try:
            result = call.function(*call.args, **call.kwargs)
        except BaseException as error:  # tenant code
            report: Callable[[], None] = functools.partial(self._failed, error)
        else:
            if inspect.isawaitable(result):
                report = functools.partial(self._go_on_async, result, contextvars.copy_context())
            else:
                report = functools.partial(self._succeeded, result)
        self._steps.call_on_loop(functools.partial(self._thread_returned, report))

    def _thread_returned(self, report: Callable[[], None]) -> None:
        if self._thread_state == "abandoned":
            self._steps.abandoned_thread(-1)
        self._thread_state = "returned"
        report()

    def _go_on_async(self, awaitable: Any, context: contextvars.Context) -> None:
        async def finish() -> None:
            try:
                result = await awaitable
            except BaseException as error:  # tenant code
                self._failed(error)
            else:
                self._succeeded(result)

        if self.is_over:
            if inspect.iscoroutine(awaitable):
                awaitable.close()
            return
        self._task = self._steps.loop.create_task(finish(), context=context)

    def _timed_out(self) -> None:
        if self.is_over:
            return
        timeout_s = (self.call.options.timeout_ms or 0) / 1000
        message = f"the attempt did not end within {timeout_s:g} s"
        self._failed_with(ErrorFact(faults.STEP_TIMEOUT, message, "", code="step_failed"))

    def _failed(self, error: BaseException) -> None:
        if not self.is_over:
            self._failed_with(faults.fact(error, self._steps.files, code="step_failed"))

    def _failed_with(self, error: ErrorFact) -> None:
        self._end()
        self._end_facet()
        call = self.call
        retry = call.options.retry
        policy = RetryPolicy(retry.limit, retry.delay_ms, retry.backoff, retry.max_delay_ms, float(retry.jitter))
        report = StepError(call.path, call.asked, call.where, self.attempt, self._started_at_ms, error, policy)
        self.owner.attempt_over(self, report)

    def _succeeded(self, result: Any) -> None:
        if self.is_over:
            return
        call = self.call
        try:
            declared = declared_result(call.function)
            value = values.encode(
                result, what="result", declared=declared, bytes_max=self._steps.limits.value_bytes_max
            )
            with _making:
                facet = self._facet
                self.is_over = facet is None  # and none is made from here on
            delta = b"" if facet is None else facet.end(commit=True)
        except BaseException as error:  # a value refused, or hostile to be read; a facet that cannot commit: it failed
            self._failed(error)
            return
        self._end()
        report = StepDone(call.path, call.asked, call.where, self.attempt, self._started_at_ms, value, delta or None)
        self.owner.attempt_over(self, report)

    def _end_facet(self) -> None:
        """What it wrote is rolled back."""
        with _making:
            facet = self._facet
        if facet is not None:
            facet.end(commit=False)

    def _end(self) -> None:
        with _making:
            self.is_over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._output is not None:
            self._output.close()
        if self._thread_state == "executing":
            self._thread_state = "abandoned"
            self._steps.abandoned_thread(+1)
        task = self._task
        if task is not None and not task.done() and task is not _current_task(self._steps.loop):
            task.cancel()
        self._task = self._timer = None  # their contexts hold this attempt
        self._steps.ended(self)


class Steps:
    """All attempts of the process, bounded in number. Methods belong to the main thread, but for `call_on_loop`."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, pool: StepPool, files: Container[str], limits: ChildLimits
    ) -> None:
        self.loop = loop
        self.pool = pool
        self.files = files
        self.limits = limits
        self._executing: set[Attempt] = set()
        self._queued: deque[Attempt] = deque()
        self._abandoned = 0
        self.on_no_thread_left: Callable[[], object] = lambda: None

    def begin(self, owner: Owner, call: StepCall, number: int) -> Attempt:
        """Execute an attempt now, or when there is room."""
        attempt = Attempt(self, owner, call, number)
        if len(self._executing) < self.limits.attempt_count_max:
            self._executing.add(attempt)
            attempt.start()
        else:
            self._queued.append(attempt)
        return attempt

    def abandoned_thread(self, change: int) -> None:
        """Count threads that execute what nobody waits for. They cannot be stopped; with all of them so, the process
        is of no use for sync steps any more: `on_no_thread_left` ends it, and its instances go on in another."""
        self._abandoned += change
        if self._abandoned >= self.pool.count:
            self.on_no_thread_left()

    @property
    def has_thread_left(self) -> bool:
        return self._abandoned < self.pool.count

    def ended(self, attempt: Attempt) -> None:
        """Make room. An attempt that never started is found over when its turn comes."""
        self._executing.discard(attempt)
        while self._queued and len(self._executing) < self.limits.attempt_count_max:
            following = self._queued.popleft()
            if not following.is_over:
                self._executing.add(following)
                following.start()

    def call_on_loop(self, callback: Callable[[], object]) -> None:
        """From any thread."""
        try:
            self.loop.call_soon_threadsafe(callback)
        except RuntimeError:  # the loop is closed: the process ends
            return


def declared_result(function: Callable[..., Any]) -> Any:
    """The return annotation of a step's function, resolved; `values.UNDECLARED` if there is none to go by."""
    if type(function) is types.FunctionType and not function.__annotations__ and not function.__dict__:
        return values.UNDECLARED  # the rule; a wrapper would have `__wrapped__` in its dict
    while isinstance(function, functools.partial):
        function = function.func
    target = inspect.unwrap(getattr(function, "__func__", function))
    annotation = getattr(target, "__annotations__", {}).get("return", values.UNDECLARED)
    if not isinstance(annotation, str):
        return annotation
    key = (getattr(target, "__code__", target), annotation)
    if key not in _declared_of:
        if len(_declared_of) >= _DECLARED_KEPT_MAX:
            _declared_of.clear()
        try:
            hints = inspect.get_annotations(target, eval_str=True)
        except Exception:  # tenant code: a name that only a type checker knows
            hints = {}
        _declared_of[key] = hints.get("return", values.UNDECLARED)
    return _declared_of[key]


def is_async(function: Callable[..., Any]) -> bool:
    """Whether a call of it gives a coroutine, as far as can be known without calling it."""
    if type(function) is types.FunctionType and not function.__dict__:
        return bool(function.__code__.co_flags & inspect.CO_COROUTINE)
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004  # the method itself is wanted: an object with async __call__
    )


def _current_task(loop: asyncio.AbstractEventLoop) -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task(loop)
    except RuntimeError:
        return None
