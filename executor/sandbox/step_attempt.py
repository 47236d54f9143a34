"""One attempt of a step: executed outside the deterministic loop, with real time and real randomness.

Async callables run as tasks of the process's ordinary loop, sync ones in the pool's threads; a sync callable that
returns an awaitable (a lambda over an async function) has it awaited on the loop. Each attempt has its own context: the
variables that the run had set when it asked, and the attempt itself (`step.current()`, facet, output).

Its life, all on the main thread:
  executing    until it returns, raises, runs out of time or heartbeats, or is given up; then it is *over*: its outcome
               stands, its facet is closed (what it wrote is rolled back, or is in the delta), no further word counts
  winding up   async code that was cancelled has its grace time to clean up; a thread cannot be stopped and is abandoned
  asking       functions of the retry option are asked, in a step thread, for a bounded time
  ended        its place is free, the report is made, once; whatever is left of its code after the grace time is closed
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol

from executor.core import values
from executor.core.commands import Beat, Emit, StepDone, StepError
from executor.core.errors import Refused
from executor.core.failure import ErrorFact
from executor.sandbox import faults, step_failures, step_streams
from executor.sandbox.facets_inside import AttemptFacet, RunFacet
from executor.sandbox.output import Recorder, Scope, nowhere
from executor.sandbox.step_calls import StepCall, declared_result, is_async
from executor.sandbox.step_signals import Signals
from executor.sandbox.threads import ThreadPlace
from executor.workflow.errors import HeartbeatTimeout, NotHere, StepTimeout
from executor.workflow.runtime import Parameters, current_attempt

if TYPE_CHECKING:
    from executor.sandbox.steps import Steps

_time_ns = time.time_ns
"""The real clock, taken before `ambient` replaces the name."""
_RESULT_HINT = (
    "Give bytes by a step with stream=True, or keep large results in the facet or outside, and return a reference."
)


class Owner(Protocol):
    """The run that an attempt belongs to."""

    recorder: Recorder

    @property
    def facet(self) -> RunFacet: ...

    def attempt_begun(self, attempt: Attempt) -> None:
        """It executes from now on. To be told along with whatever is told next."""

    def attempt_lasts(self, attempt: Attempt) -> None:
        """It has executed for a while: if its beginning has not been told, now is the time."""

    def attempt_says(self, attempt: Attempt, command: Beat | Emit) -> None: ...

    def attempt_over(self, attempt: Attempt, report: StepDone | StepError) -> None: ...


class _Nobody:
    """The owner of an attempt that has ended: code that outlives its attempt does not keep the run."""

    recorder: Any = None

    @property
    def facet(self) -> RunFacet:
        raise _over()

    def attempt_begun(self, attempt: Attempt) -> None: ...

    def attempt_lasts(self, attempt: Attempt) -> None: ...

    def attempt_says(self, attempt: Attempt, command: Beat | Emit) -> None: ...

    def attempt_over(self, attempt: Attempt, report: StepDone | StepError) -> None: ...


_NOBODY = _Nobody()
_making = threading.RLock()
"""Held while an attempt's facet, output or signals are made, or while it ends: they are made at first use, often in a
thread."""


class Attempt:
    """See the module. Implements `executor.workflow.runtime.AttemptRuntime`."""

    __slots__ = (
        "__weakref__", "_children", "_facet", "_given_details", "_output", "_place", "_signals", "_steps", "_task",
        "_then", "_timer", "_watch", "attempt", "call", "deadline", "is_ended", "is_over", "is_started",
        "owner", "started_at_ms",
    )  # fmt: skip

    def __init__(self, steps: Steps, owner: Owner, call: StepCall, number: int, details: bytes = b"") -> None:
        """`details`: of the last heartbeat of the attempt before, or of this one before it was lost."""
        self.call = call
        self.attempt = number
        self.deadline: datetime | None = None
        self.owner = owner
        self.is_over = False
        self.is_ended = False
        self.is_started = False
        self.started_at_ms = 0
        self._steps = steps
        self._given_details = details
        self._facet: AttemptFacet | None = None
        self._output: Scope | None = None
        self._signals: Signals | None = None
        self._task: asyncio.Task[None] | None = None
        self._children: set[asyncio.Task[Any]] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._then: Callable[[], None] | None = None
        self._place: ThreadPlace | None = None

    # --- what tenant code reaches through the context

    @property
    def name(self) -> str:
        return self.call.name

    @property
    def path(self) -> str:
        return self.call.path

    @property
    def idempotency_key(self) -> str:
        return self.call.idempotency_key

    @property
    def last_heartbeat(self) -> Any:
        return values.decode(self._given_details, what="heartbeat details") if self._given_details else None

    @property
    def output(self) -> Scope:
        """Where its lines go; made at the first. See `executor.sandbox.output.current`."""
        if self._output is None:
            with _making:  # or an end that comes between would leave it open
                if self.is_ended:
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

    def stream_part(self, id: int, number: int) -> bytes | None:
        return step_streams.part(self.facet, id, number)

    def heartbeat(self, details: Any) -> None:
        self._speaking().beat(details)

    def emit(self, stream: str, item: Any) -> None:
        self._speaking().emit(stream, item)

    def _speaking(self) -> Signals:
        if self._signals is None:
            with _making:
                if self._signals is None and not self.is_over:
                    self._signals = self._new_signals()
        if self.is_over or self._signals is None:
            raise _over()
        return self._signals

    def _new_signals(self) -> Signals:
        return Signals(self, self._steps, self.call.options.heartbeat_ms, self._given_details)

    def say(self, command: Beat | Emit) -> None:
        self.owner.attempt_says(self, command)

    # --- executing

    def start(self) -> None:
        """Begin to execute; the outcome goes to the owner, never from within this call."""
        self.is_started = True
        call = self.call
        context = self._new_context()
        if is_async(call.function) or (call.options.is_stream and inspect.isasyncgenfunction(call.function)):
            self._begin()
            self._arm_timers()
            code = self._run_stream() if call.options.is_stream else self._run_async()
            self._task = asyncio.Task(code, loop=self._steps.loop, name=call.path, context=context)
            return
        self._place = place = ThreadPlace(self._steps)
        if place.is_free:
            self._told_begun()  # else when one is
        self._steps.pool.submit(functools.partial(context.run, self._run_in_thread, place))

    def _new_context(self) -> contextvars.Context:
        context = self.call.context.copy()  # a later attempt begins with the same variables
        context.run(current_attempt.set, self)
        return context

    def _begin(self) -> None:
        self._set_deadline()
        self._told_begun()

    def _told_begun(self) -> None:
        """Main thread."""
        if self.is_over:
            return
        if not self.started_at_ms:
            self.started_at_ms = _time_ns() // 1_000_000
        self.owner.attempt_begun(self)
        self._steps.began(self)

    def _set_deadline(self) -> None:
        now_ms = _time_ns() // 1_000_000
        if not self.started_at_ms:
            self.started_at_ms = now_ms
        timeout_ms = self.call.options.timeout_ms
        if timeout_ms is not None:
            self.deadline = datetime.fromtimestamp((now_ms + timeout_ms) / 1000, UTC)

    def _arm_timers(self) -> None:
        options = self.call.options
        if self.is_over:
            return
        if options.timeout_ms is not None:
            self._timer = self._steps.call_later(options.timeout_ms / 1000, self._timed_out)
        if options.heartbeat_ms is not None:
            with _making:
                if self._signals is None:
                    self._signals = self._new_signals()
            self._watch = self._steps.call_later(options.heartbeat_ms / 1000, self._watch_heartbeat)

    async def _run_async(self) -> None:
        call = self.call
        try:
            result = await call.function(*call.args, **call.kwargs)
        except BaseException as error:  # tenant code; SystemExit must not end the process of all instances
            self._failed(error)
        else:
            self._succeeded(result)

    async def _run_stream(self) -> None:
        call = self.call
        await self._finish_async(call.function(*call.args, **call.kwargs))

    async def _finish_async(self, result: Any) -> None:
        """Await what a function gave, and read the stream if it is one."""
        try:
            if inspect.isawaitable(result):
                result = await result
            if self.call.options.is_stream:
                async with self.facet.exclusive():
                    result = await step_streams.store_async(self._stream_writer(), result)
        except BaseException as error:  # tenant code
            self._failed(error)
        else:
            self._succeeded(result)

    def _stream_writer(self) -> step_streams.StreamWriter:
        return step_streams.StreamWriter(self.facet, self.call.stream_id, self._steps.limits.facet)

    def _run_in_thread(self, place: ThreadPlace) -> None:
        call = self.call
        was_told = self.started_at_ms != 0
        if self.is_over:
            self._steps.call_on_loop(place.leave)
            return
        place.enter()
        self._set_deadline()  # the time in the queue before a thread was free is not the attempt's
        if not was_told:
            self._steps.call_on_loop(self._told_begun)
        if call.options.timeout_ms is not None or call.options.heartbeat_ms is not None:
            self._steps.call_on_loop(self._arm_timers)
        try:
            result = call.function(*call.args, **call.kwargs)
            if call.options.is_stream and not inspect.isawaitable(result) and not step_streams.is_async_source(result):
                result = _Stored(step_streams.store(self._stream_writer(), result))
        except BaseException as error:  # tenant code
            report: Callable[[], None] = functools.partial(self._failed, error)
        else:
            if isinstance(result, _Stored):
                report = functools.partial(self._succeeded, result.value)
            elif call.options.is_stream or inspect.isawaitable(result):
                report = functools.partial(self._go_on_async, result, contextvars.copy_context())
            else:
                report = functools.partial(self._succeeded, result)
        self._steps.call_on_loop(functools.partial(_returned, place, report))

    def _go_on_async(self, result: Any, context: contextvars.Context) -> None:
        if self.is_over:
            if inspect.iscoroutine(result):
                result.close()
            return
        self._task = asyncio.Task(
            self._finish_async(result), loop=self._steps.loop, name=self.call.path, context=context
        )

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """A task that its code has made: it ends with the attempt."""
        if self._children is None:
            self._children = set()
        self._children.add(task)
        task.add_done_callback(self._children.discard)
        if self.is_over:
            task.add_done_callback(self._one_ended)
        if self.is_ended:
            task.cancel()

    # --- outcomes

    def cancel(self, *, is_dropped: bool = False) -> None:
        """Give it up: nothing is reported, its facet writes are rolled back; async code may clean up for a while.

        `is_dropped`: with its run, so nobody takes what it says any more.
        """
        if not self.is_over and not is_dropped and self._signals is not None:
            self._signals.send_items()
        was_over, self._then = self.is_over, self._nothing_to_tell
        if not was_over:
            self._conclude()
            self._roll_back()
        if is_dropped and self._output is not None:
            self._output.close()
        if not was_over:
            self._wind_up()
        elif not self._left():  # it was asking for its retry
            self._end()

    def _nothing_to_tell(self) -> None:
        self._end()

    def _timed_out(self) -> None:
        timeout_s = (self.call.options.timeout_ms or 0) / 1000
        self._ran_out(StepTimeout, f"the attempt did not end within {timeout_s:g} s")

    def _watch_heartbeat(self) -> None:
        heartbeat_ms = self.call.options.heartbeat_ms
        if self.is_over or heartbeat_ms is None or self._signals is None:
            return
        left_s = self._signals.beaten_s + heartbeat_ms / 1000 - self._steps.now_s()
        if left_s > 0:
            self._watch = self._steps.call_later(left_s, self._watch_heartbeat)
        else:
            self._ran_out(HeartbeatTimeout, f"the attempt sent no heartbeat for {heartbeat_ms / 1000:g} s")

    def _ran_out(self, kind: type[StepTimeout], message: str) -> None:
        """Its time is up: it has failed by that, whatever its code still does."""
        if self.is_over:
            return
        self._conclude()
        self._roll_back()
        name = faults.type_name(kind)
        error = kind(self.call.path, self.attempt, name, message)
        fact = ErrorFact(name, message, "", code="step_failed")
        self._then = functools.partial(self._judge, error, fact)
        self._wind_up()

    def _failed(self, error: BaseException) -> None:
        if self.is_over:
            return
        fact = faults.fact(error, self._steps.files, code="step_failed")
        self._conclude()
        self._roll_back()
        self._then = functools.partial(self._judge, error, fact)
        self._wind_up()

    def _succeeded(self, result: Any) -> None:
        if self.is_over:
            return
        call = self.call
        try:
            value = result if call.options.is_stream else self._encoded(result)
            with _making:
                facet = self._facet
                self.is_over = facet is None  # and none is made from here on
            delta = b"" if facet is None else facet.end(commit=True)
        except BaseException as error:  # a value refused, or hostile to be read; a facet that cannot commit: it failed
            self._failed(error)
            return
        form: Literal["value", "sensitive", "stream"] = (
            "stream" if call.options.is_stream else "sensitive" if call.options.is_sensitive else "value"
        )
        report = StepDone(
            call.path, call.asked, call.where, self.attempt, self.started_at_ms, value, delta or None, form
        )
        self._conclude()
        if self._children:
            self._wind_up_children()
        self._tell(report)

    def _encoded(self, result: Any) -> bytes:
        try:
            return values.encode(
                result,
                what="result",
                declared=declared_result(self.call.function),
                bytes_max=self._steps.limits.value_bytes_max,
            )
        except Refused as refused:
            if refused.code == "payload_too_large":
                refused.hint = _RESULT_HINT
            raise

    # --- the end

    def _conclude(self) -> None:
        """It is over."""
        if self._signals is not None and not self._signals.is_closed:
            self._signals.send_items()
            self._signals.close()
        with _making:
            self.is_over = True
        for timer in (self._timer, self._watch):
            if timer is not None:
                timer.cancel()
        self._timer = self._watch = None  # their contexts hold this attempt
        if self._place is not None:
            self._place.abandon()
            self._place = None

    def _roll_back(self) -> None:
        with _making:
            facet = self._facet
        if facet is not None:
            facet.end(commit=False)

    def _left(self) -> list[asyncio.Task[Any]]:
        """Tasks of it that have not ended, but for the one that executes now."""
        own = _current_task(self._steps.loop)
        tasks: list[asyncio.Task[Any]] = list(self._children or ())
        if self._task is not None:
            tasks.append(self._task)
        return [task for task in tasks if task is not own and not task.done()]

    def _wind_up(self) -> None:
        """Cancel what still executes; when that has ended, or has overstayed its grace time, go on with `_then`."""
        left = self._left()
        if not left:
            self._wound_up()
            return
        for task in left:
            task.add_done_callback(self._one_ended)
            task.cancel()
        context = contextvars.Context()
        context.run(current_attempt.set, self)  # its own: what is closed in the end may print
        grace_s = self.call.options.grace_ms / 1000
        self._timer = self._steps.call_later(grace_s, self._overstayed, context=context)

    def _one_ended(self, task: asyncio.Task[Any]) -> None:
        _look_at(task)
        if self._timer is None or self._task is None:
            return  # it had its time
        left = self._left()
        if not left:
            self._timer.cancel()
            self._timer = None
            self._wound_up()
        elif self._task.done():
            for other in left:
                if not other.cancelling():  # its clean-up has left it behind
                    other.cancel()

    def _overstayed(self) -> None:
        self._timer = None
        for task in self._left():
            _close(task)
        self._wound_up()

    def _wound_up(self) -> None:
        self._task = None
        then, self._then = self._then, None
        if then is not None:
            then()

    def _wind_up_children(self) -> None:
        """What a step that has its result leaves behind: nobody waits for it."""
        left = [task for task in self._children or () if not task.done()]
        for task in left:
            task.add_done_callback(_look_at)
            task.cancel()
        if left:
            grace_s = self.call.options.grace_ms / 1000
            self._steps.call_later(grace_s, functools.partial(_close_all, left), context=contextvars.Context())

    def _judge(self, error: BaseException, fact: ErrorFact) -> None:
        """What the retry option says of it: at once, or by functions of the tenant's, which may not take for ever."""
        retry = self.call.options.retry
        verdict = step_failures.at_once(retry, self.attempt, error, fact)
        if verdict is not None:
            self._tell_failed(verdict)
            return
        ask = functools.partial(step_failures.asked, retry, self.attempt, error, fact, self._steps.files)
        context = self._new_context()
        if self._steps.pool.count == 0:
            self._tell_failed(context.run(ask))
            return
        self._then = functools.partial(self._tell_failed, self._not_answered(fact))
        self._place = ThreadPlace(self._steps)
        self._steps.pool.submit(functools.partial(context.run, self._ask_in_thread, ask, self._place))

    def _not_answered(self, fact: ErrorFact) -> step_failures.Verdict:
        retry = self.call.options.retry
        own = ErrorFact("TimeoutError", f"no answer within {self._steps.limits.retry_answer_s:g} s")
        return step_failures.broken(retry, fact, f"a function of Retry(…) failed on attempt {self.attempt}", own)

    def _ask_in_thread(self, ask: Callable[[], step_failures.Verdict], place: ThreadPlace) -> None:
        if self.is_ended:
            self._steps.call_on_loop(place.leave)
            return
        place.enter()
        self._steps.call_on_loop(self._arm_answer)
        verdict = ask()
        self._steps.call_on_loop(functools.partial(_returned, place, functools.partial(self._answered, verdict)))

    def _arm_answer(self) -> None:
        if not self.is_ended:
            self._timer = self._steps.call_later(self._steps.limits.retry_answer_s, self._wound_up)

    def _answered(self, verdict: step_failures.Verdict) -> None:
        if not self.is_ended:
            self._tell_failed(verdict)

    def _tell_failed(self, verdict: step_failures.Verdict) -> None:
        call = self.call
        details = self._given_details if self._signals is None else self._signals.details
        error, policy = verdict.error, verdict.policy
        self._tell(
            StepError(call.path, call.asked, call.where, self.attempt, self.started_at_ms, error, policy, details)
        )

    def _tell(self, report: StepDone | StepError) -> None:
        owner = self.owner
        self._end()
        owner.attempt_over(self, report)

    def _end(self) -> None:
        """Nothing of it is to come: free its place."""
        with _making:
            if self.is_ended:
                return
            self.is_ended = True
        if self._timer is not None:
            self._timer.cancel()
        if self._output is not None:
            self._output.close()
        if self._place is not None:
            self._place.abandon()
            self._place = None
        self._task = self._timer = self._then = None
        self.owner = _NOBODY
        self._steps.ended(self)


def _returned(place: ThreadPlace, report: Callable[[], None]) -> None:
    place.leave()
    report()


class _Stored:
    """A stream that was read in the step's thread: the value that describes it."""

    __slots__ = ("value",)

    def __init__(self, value: bytes) -> None:
        self.value = value


def _over() -> NotHere:
    return NotHere("this attempt of the step is over (timed out, cancelled or finished)")


def _look_at(task: asyncio.Task[Any]) -> None:
    """Or asyncio would complain that nobody has."""
    if not task.cancelled():
        task.exception()


def _close(task: asyncio.Task[Any]) -> None:
    """Put an end to a task that its cancellation did not end: GeneratorExit at the place where it waits.

    Code that awaits again even then is torn from what would wake it up, and never executes again.
    """
    try:
        task.get_coro().close()  # type: ignore[union-attr]  # of a task that has not ended it is there
    except BaseException:  # it goes on, or raises
        return
    finally:
        task.cancel()  # it is woken up once more, and finds its coroutine closed


def _close_all(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        if not task.done():
            _close(task)


def _current_task(loop: asyncio.AbstractEventLoop) -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task(loop)
    except RuntimeError:
        return None
