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
import time
from collections.abc import Callable
from typing import Any, Literal

from executor.core import values
from executor.core.commands import StepDone, StepError
from executor.core.errors import Refused
from executor.core.failure import ErrorFact
from executor.sandbox import faults, step_failures, step_streams
from executor.sandbox.step_calls import declared_result, is_async
from executor.sandbox.step_surface import NOBODY, making
from executor.sandbox.step_winding import WindingAttempt
from executor.sandbox.threads import ThreadPlace
from executor.workflow.errors import HeartbeatTimeout, StepTimeout
from executor.workflow.runtime import current_attempt

_time_ns = time.time_ns
"""The real clock, taken before `ambient` replaces the name."""
_RESULT_HINT = (
    "Give bytes by a step with stream=True, or keep large results in the facet or outside, and return a reference."
)


class Attempt(WindingAttempt):
    """See the module."""

    __slots__ = ()

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
        self._steps.pool.submit(lambda: context.run(self._run_in_thread, place))

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

    def _arm_timers(self) -> None:
        options = self.call.options
        if self.is_over:
            return
        if options.timeout_ms is not None:
            self._timer = self._steps.call_later(options.timeout_ms / 1000, self._timed_out)
        if options.heartbeat_ms is not None:
            with making:
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
                result = await step_streams.store_async(self._stream_writer(), result)
        except BaseException as error:  # tenant code
            self._failed(error)
        else:
            self._succeeded(result)

    def _stream_writer(self) -> step_streams.StreamWriter:
        return step_streams.StreamWriter(self.owner.blobs, self.owner.number, self.call.path, self.check)

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

    # --- outcomes

    def cancel(self, *, is_dropped: bool = False) -> None:
        """Give it up: nothing is reported, its facet writes are rolled back; async code may clean up for a while.

        `is_dropped`: with its run, so nobody takes what it says any more.
        """
        if is_dropped and self._signals is not None:
            self._signals.close()
        was_over, self._then = self.is_over, self._end
        if not was_over:
            self._conclude()
            self._roll_back()
        if is_dropped and self._output is not None:
            self._output.close()
        if not was_over:
            self._wind_up()
        elif not self._left():  # it was asking for its retry
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
            with making:
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
        with making:
            self.is_over = True
        for timer in (self._timer, self._watch):
            if timer is not None:
                timer.cancel()
        self._timer = self._watch = None  # their contexts hold this attempt
        if self._place is not None:
            self._place.abandon()
            self._place = None

    def _roll_back(self) -> None:
        with making:
            facet = self._facet
        if facet is not None:
            facet.end(commit=False)

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
        self._place = place = ThreadPlace(self._steps)
        self._steps.pool.submit(lambda: context.run(self._ask_in_thread, ask, place))

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
        is_sensitive = call.options.is_sensitive
        if is_sensitive:
            error = step_failures.hidden(error)
        self._tell(
            StepError(
                call.path,
                call.asked,
                call.where,
                self.attempt,
                self.started_at_ms,
                error,
                policy,
                details,
                is_sensitive,
            )
        )

    def _tell(self, report: StepDone | StepError) -> None:
        owner = self.owner
        self._end()
        owner.attempt_over(self, report)

    def _end(self) -> None:
        """Nothing of it is to come: free its place."""
        with making:
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
        self.owner = NOBODY
        self._steps.ended(self)


def _returned(place: ThreadPlace, report: Callable[[], None]) -> None:
    place.leave()
    report()


class _Stored:
    """A stream that was read in the step's thread: the value that describes it."""

    __slots__ = ("value",)

    def __init__(self, value: bytes) -> None:
        self.value = value
