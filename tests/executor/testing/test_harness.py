"""A workflow under test: time, waits, events, steps, ends; what a test sees of it."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import time as now_s

import pytest

from executor.core.errors import Conflict, NotFound, Refused, TenantError
from executor.testing import NeverEnds, StepStuck, WorkflowFailure, WorkflowTest
from executor.workflow import (
    Event,
    EventTimeout,
    NonRetryableError,
    Retry,
    Step,
    StepFailed,
    StepTimeout,
    Undo,
    Workflow,
)

START = datetime(2030, 1, 1, tzinfo=UTC)


class Onboarding(Workflow):
    async def run(self, event, step):
        charge = await step.do("charge", lambda: {"id": 7})
        await step.sleep("cool off", "30 days")
        try:
            approved = await step.wait_for_event("approval", type="approved", timeout="7 days")
        except EventTimeout:
            return {"charge": charge, "by": None}
        return {"charge": charge, "by": approved.payload["by"]}


def test_thirty_days_pass_at_once_and_the_clock_shows_them() -> None:
    with WorkflowTest(Onboarding, now=START) as test:
        run = test.start({"email": "a@b.c"}, id="x")
        assert (run.id, run.state, run.waiting_for.kind) == ("x", "waiting", "sleep")
        waiting = run.run_until_waiting()
        assert (waiting.type, test.clock.now) == ("approved", START + timedelta(days=30))
        run.send_event("approved", {"by": "kim"})
        assert run.result() == {"charge": {"id": 7}, "by": "kim"}
        assert test.clock.now == START + timedelta(days=30), "no time passes that nobody waits for"


def test_a_wait_that_nobody_answers_ends_at_its_deadline() -> None:
    with WorkflowTest(Onboarding, now=START) as test:
        assert test.start().result() == {"charge": {"id": 7}, "by": None}
        assert test.clock.now == START + timedelta(days=37)


def test_an_event_before_its_wait_is_kept_and_its_id_counts_once() -> None:
    with WorkflowTest(Onboarding) as test:
        run = test.start()
        assert not run.send_event("approved", {"by": "kim"}, id="1").is_duplicate
        assert run.send_event("approved", {"by": "kim"}, id="1").is_duplicate
        with pytest.raises(Conflict, match="was sent before with another type or payload"):
            run.send_event("approved", {"by": "ada"}, id="1")
        assert run.result()["by"] == "kim"


def test_the_journal_tells_all_that_happened() -> None:
    with WorkflowTest(Onboarding, now=START) as test:
        run = test.start()
        run.send_event("approved", {"by": "kim"})
        run.result()
        assert run.journal_kinds() == [
            "started",
            "step_succeeded charge#1",
            "sleep_started cool off#1",
            "event_received approved",
            "sleep_ended cool off#1",
            "wait_started approval#1",
            "wait_ended approval#1",
            "completed",
        ]
        assert run.journal_kinds(traces=True)[:5] == [
            "started",
            "activated",
            "step_started charge#1",
            "step_succeeded charge#1",
            "sleep_started cool off#1",
        ]
        first = run.journal[3]
        assert (first.kind, first.attempt, first.fields["value"]) == ("step_succeeded", 1, {"id": 7})
        assert first.fields["where"] == "tests/executor/testing/test_harness.py:35"
        assert [item.sequence for item in run.journal] == list(range(1, len(run.journal) + 1))


def test_steps_are_found_by_path_and_by_name() -> None:
    class Twice(Workflow):
        async def run(self, event, step):
            await step.do("one", lambda: 1)
            return [await step.do("two", lambda: 2), await step.do("two", lambda: 3)]

    with WorkflowTest(Twice) as test:
        run = test.start()
        assert (run.steps["one"].result, run.steps["two#2"].result) == (1, 3)
        assert list(run.steps) == ["one#1", "two#1", "two#2"]
        with pytest.raises(KeyError, match="2 steps are named 'two'; there are: two#1, two#2"):
            run.steps["two"]


class Stepwise(Workflow):
    async def run(self, event, step):
        @step.do("flaky", retry=Retry(limit=3, delay="1 hour", backoff="constant", jitter=0))
        def flaky():
            if step.current().attempt < 3:
                raise ConnectionError("the bank does not answer")
            return step.current().attempt

        return await flaky()


def test_retries_wait_on_the_virtual_clock() -> None:
    with WorkflowTest(Stepwise, now=START) as test:
        run = test.start()
        waiting = run.waiting_for
        assert (waiting.kind, waiting.attempt, waiting.limit) == ("retry", 1, 3)
        assert waiting.error == "ConnectionError: the bank does not answer"
        assert run.result() == 3
        assert run.steps["flaky"].attempts == 3
        assert test.clock.now == START + timedelta(hours=2)


def test_advance_lets_exactly_so_much_time_pass() -> None:
    with WorkflowTest(Stepwise, now=START) as test:
        run = test.start()
        test.advance("59 minutes")
        assert (run.steps["flaky"].attempts, test.clock.now) == (1, START + timedelta(minutes=59))
        test.advance("1 minute")
        assert run.steps["flaky"].attempts == 2
        test.advance(timedelta(days=1))
        assert (run.state, test.clock.now) == ("complete", START + timedelta(days=1, hours=1))


def test_an_error_comes_out_as_in_production_with_the_original_as_its_cause() -> None:
    class Failing(Workflow):
        async def run(self, event, step):
            raise LookupError("no such order")

    with WorkflowTest(Failing) as test:
        run = test.start()
        with pytest.raises(TenantError, match="LookupError: no such order") as caught:
            run.result()
        assert caught.value.code == "workflow_failed"
        assert "test_harness.py" in caught.value.details["traceback"]
        assert isinstance(caught.value.__cause__, LookupError)
        assert run.status.error.type == "LookupError"


def test_a_failed_steps_error_is_behind_that_of_the_run() -> None:
    class Failing(Workflow):
        async def run(self, event, step):
            await step.do("pay", self.pay)

        def pay(self):
            raise NonRetryableError("card is blocked")

    with WorkflowTest(Failing) as test, pytest.raises(TenantError) as caught:
        test.start().result()
    failed = caught.value.__cause__
    assert caught.value.code == "step_failed"
    assert isinstance(failed, StepFailed)
    assert isinstance(failed.__cause__, NonRetryableError)


def test_a_run_that_can_never_end_says_what_it_waits_for() -> None:
    class Waiting(Workflow):
        async def run(self, event, step):
            await step.wait_for_event("approval", type="approved")

    with WorkflowTest(Waiting) as test:
        run = test.start(id="x")
        with pytest.raises(NeverEnds) as caught:
            run.result()
        assert str(caught.value) == (
            'run "x" (waiting) can never end by itself: it waits for event "approved" (approval); '
            'send it: run.send_event("approved", …)'
        )
        run.pause()
        with pytest.raises(NeverEnds, match="resume it"):
            run.result()


def test_a_run_that_sleeps_for_ever_is_given_up(monkeypatch) -> None:
    from executor.testing import world

    monkeypatch.setattr(world, "JUMPS_MAX", 20)

    class Polling(Workflow):
        async def run(self, event, step):
            while True:
                await step.sleep("a day", "1 day")

    with WorkflowTest(Polling, now=START) as test:
        with pytest.raises(NeverEnds, match="it is 2030-01-21 now"):
            test.start().result()


def test_a_run_that_ends_before_it_waits_is_a_failure_with_its_cause() -> None:
    class Failing(Workflow):
        async def run(self, event, step):
            raise ValueError("too early")

    with WorkflowTest(Failing) as test, pytest.raises(WorkflowFailure, match="is failed and did not wait") as caught:
        test.start().run_until_waiting()
    assert isinstance(caught.value.__cause__, TenantError)


def test_run_until_waiting_stops_at_a_named_sleep() -> None:
    class Sleeper(Workflow):
        async def run(self, event, step):
            await step.sleep("first", "1 day")
            await step.sleep("second", "1 day")

    with WorkflowTest(Sleeper, now=START) as test:
        waiting = test.start().run_until_waiting("second")
        assert (waiting.kind, waiting.name, test.clock.now) == ("sleep", "second", START + timedelta(days=1))


def test_a_pause_shifts_what_was_waited_for() -> None:
    with WorkflowTest(Onboarding, now=START) as test:
        run = test.start()
        assert run.pause().state == "paused"
        test.advance("10 days")
        assert run.resume().state == "waiting"
        run.run_until_waiting()
        assert test.clock.now == START + timedelta(days=40)


def test_a_date_that_passes_during_a_pause_is_not_shifted() -> None:
    class Until(Workflow):
        async def run(self, event, step):
            await step.sleep_until("date", START + timedelta(days=1))

    with WorkflowTest(Until, now=START) as test:
        run = test.start()
        run.pause()
        test.advance("10 days")
        assert (run.state, run.journal_kinds()[-1]) == ("paused", "paused")
        assert run.resume().state == "complete"
        assert run.journal_kinds()[-3:] == ["resumed", "sleep_ended date#1", "completed"]
        assert test.clock.now == START + timedelta(days=10), "it does not go back to that date"


def test_terminate_ends_it() -> None:
    with WorkflowTest(Onboarding) as test:
        run = test.start()
        assert run.terminate().state == "terminated"
        with pytest.raises(Conflict, match="was terminated"):
            run.result()
        with pytest.raises(Conflict, match="cannot take events"):
            run.send_event("approved")


def test_restart_from_a_step_keeps_what_was_before() -> None:
    count = {"one": 0, "two": 0}

    class Two(Workflow):
        async def run(self, event, step):
            return [await step.do("one", self.call, "one"), await step.do("two", self.call, "two")]

        def call(self, name):
            count[name] += 1
            self.facet.execute("create table if not exists calls (name)")
            self.facet.execute("insert into calls values (?)", (name,))
            return count[name]

    with WorkflowTest(Two) as test:
        run = test.start()
        assert run.result() == [1, 1]
        run.restart(from_step="two")
        assert run.result() == [1, 2]
        assert [row["name"] for row in run.facet.execute("select name from calls")] == ["one", "two"]


def test_restart_takes_a_step_by_its_path_and_occurrence_and_without_one_the_first() -> None:
    done: list[int] = []

    class Grouped(Workflow):
        async def run(self, event, step):
            for _ in range(2):
                with step.group("g"):
                    await step.do("s", done.append, 1)
                    await step.do("s", done.append, 2)

    with WorkflowTest(Grouped) as test:
        run = test.start()
        run.result()
        asked = [
            (("g#1/s", 2), [2, 1, 2]),
            ("g#2/s", [1, 2]),
            (("g#2/s", 2), [2]),
            ("g#2/s#2", [2]),
            (("g", 2), [1, 2]),
        ]
        for from_step, again in asked:
            done.clear()
            run.restart(from_step=from_step)  # type: ignore[arg-type]
            run.result()
            assert done == again
        with pytest.raises(NotFound) as caught:
            run.restart(from_step=("g#3/s", 1))
        assert caught.value.code == "step_not_found"


def test_retry_goes_on_from_the_step_that_failed() -> None:
    calls: list[str] = []

    class Flaky(Workflow):
        async def run(self, event, step):
            await step.do("one", lambda: calls.append("one"))
            await step.options(retry=Retry(limit=1, delay=1)).do("two", self.two)
            return len(calls)

        def two(self):
            calls.append("two")
            if len(calls) < 4:
                raise ValueError("not yet")

    with WorkflowTest(Flaky) as test:
        run = test.start()
        with pytest.raises(TenantError):
            run.result()
        assert run.retry().state in {"queued", "running", "waiting", "complete"}
        assert run.result() == 4
        assert calls == ["one", "two", "two", "two"]
        with pytest.raises(Conflict, match="is complete and cannot be retried"):
            run.retry()


def test_restart_keeps_no_result_of_a_step_that_was_undone() -> None:
    class Undone(Workflow):
        async def run(self, event, step):
            await step.options(undo=lambda output, error: None).do("book", lambda: "seat")
            await step.options(retry=Retry(limit=0)).do("pay", self.pay)

        def pay(self):
            raise ValueError("no money")

    with WorkflowTest(Undone) as test:
        run = test.start()
        with pytest.raises(TenantError):
            run.result()
        for going_back in (run.retry, lambda: run.restart(from_step="pay")):
            with pytest.raises(Conflict) as caught:
                going_back()
            expected = f'instance "{run.id}" cannot begin again with "pay#1": "book#1" before it has been undone'
            assert caught.value.message == expected
        run.restart(from_step="book")
        with pytest.raises(TenantError):
            run.result()


def test_errors_of_a_sensitive_step_and_of_its_undo_are_told_by_their_types_only() -> None:
    """Nowhere: not by the failure of run() either, which tells of the step's."""

    class Secret(Workflow):
        async def run(self, event, step):
            card = step.options(sensitive=True, undo=Undo(self.leak, retry=Retry(limit=0)))
            secret = await card.do("card", lambda: "card of nobody else")
            await step.options(sensitive=True, retry=Retry(limit=1, delay=1)).do("pay", self.leak, secret, None)

        def leak(self, output, error):
            raise ValueError(f"refused: {output}")

    with WorkflowTest(Secret) as test:
        run = test.start()
        with pytest.raises(TenantError):
            run.result()
        assert run.journal_kinds()[-4:] == ["step_failed pay#1", "undoing", "step_failed undo/card#1", "failed"]
        shown = [item.fields for item in run.journal if item.kind != "step_succeeded"]
        assert "card of nobody else" not in repr((shown, run.status))
        assert run.status.error is not None
        assert run.status.error.message == (
            'step "pay#1" failed after 2 attempts: ValueError: (hidden: the step is sensitive) '
            "(and it could not be undone: card#1)"
        )


def test_restart_from_a_step_keeps_the_events_since() -> None:
    class Paying(Workflow):
        async def run(self, event, step):
            await step.do("one", lambda: 1)
            return (await step.wait_for_event("paid", type="paid")).payload

    with WorkflowTest(Paying) as test:
        run = test.start()
        run.send_event("paid", 5)
        run.restart(from_step=("paid", 1))
        assert run.result() == 5
        run.restart()
        assert run.state == "waiting", "from the first line on, nothing is kept"


class Ambient(Workflow):
    async def run(self, event, step):
        before = [time.time(), now_s(), datetime.now(UTC).timestamp(), str(uuid.uuid4()), random.random()]
        await step.sleep("a day", "1 day")
        return [before, time.time(), now_s()]


def test_time_and_chance_in_run_are_the_tests_own_and_repeat() -> None:
    with WorkflowTest(Ambient, now=START) as test:
        first = test.start(id="x").result()
    with WorkflowTest(Ambient, now=START) as test:
        assert test.start(id="x").result() == first
    at = START.timestamp()
    assert first[0][:3] == [at, at, at]
    assert first[1:] == [at + 86_400, at + 86_400]
    assert abs(time.time() - datetime.now(UTC).timestamp()) < 60, "outside, the real clock"
    assert not hasattr(now_s, "__wrapped__"), "this module has the real one back"


def test_steps_execute_for_real_sync_and_async() -> None:
    import threading

    class Real(Workflow):
        async def run(self, event, step):
            return await asyncio.gather(step.do("thread", self.thread), step.do("loop", self.on_loop))

        def thread(self):
            return threading.current_thread() is threading.main_thread()

        async def on_loop(self):
            await asyncio.sleep(0.001)
            return await asyncio.to_thread(lambda: threading.current_thread() is threading.main_thread())

    with WorkflowTest(Real) as test:
        assert test.start().result() == [False, False]


def test_results_of_parallel_steps_are_journaled_in_the_order_of_asking() -> None:
    class Fan(Workflow):
        async def run(self, event, step):
            return await asyncio.gather(*(step.do(f"s{n}", lambda n=n: n) for n in range(8)))

    for _ in range(5):
        with WorkflowTest(Fan) as test:
            run = test.start()
            assert run.result() == list(range(8))
            assert run.journal_kinds()[1:-1] == [f"step_succeeded s{n}#1" for n in range(8)]


class Race(Workflow):
    async def run(self, event, step):
        async def after(wait_s: float) -> float:
            await asyncio.sleep(wait_s)
            return wait_s

        tasks = [asyncio.create_task(step.do(f"after {wait_s}", after, wait_s)) for wait_s in event.payload]
        done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in left:
            task.cancel()
        return [task.result() for task in tasks if task in done]


def test_a_step_that_began_first_comes_first_if_it_is_nearly_as_quick() -> None:
    with WorkflowTest(Race) as test:
        assert test.start([0.01, 0]).result() == [0.01]


def test_a_step_that_takes_longer_is_not_waited_for() -> None:
    with WorkflowTest(Race) as test:
        assert test.start([5, 0]).result() == [0]


def test_a_step_that_does_not_end_fails_the_test_and_names_it() -> None:
    class Stuck(Workflow):
        async def run(self, event, step):
            await step.do("hang", asyncio.Event().wait)

    with WorkflowTest(Stuck, patience_s=0.3) as test, pytest.raises(StepStuck, match="hang#1"):
        test.start()


def test_a_real_timeout_is_a_step_timeout() -> None:
    class Slow(Workflow):
        async def run(self, event, step):
            try:
                await step.options(timeout="20 ms", retry=Retry(limit=0)).do("slow", asyncio.Event().wait)
            except StepTimeout as timeout:
                return timeout.step

    with WorkflowTest(Slow) as test:
        assert test.start().result() == "slow#1"


def test_the_facet_can_be_read_and_not_written() -> None:
    class Ledger(Workflow):
        async def run(self, event, step):
            await step.do("post", self.post)
            await step.sleep("a day", "1 day")
            return await step.do("sum", self.sum)

        def post(self):
            self.facet.execute("create table postings (cents integer)")
            self.facet.executemany("insert into postings values (?)", [(100,), (200,)])

        async def sum(self):
            return self.facet.execute("select sum(cents) as total from postings")[0]["total"]

    with WorkflowTest(Ledger) as test:
        run = test.start()
        assert run.facet.execute("select count(*) as n from postings")[0]["n"] == 2
        assert run.result() == 300
        with pytest.raises(Exception, match="read"):
            run.facet.execute("delete from postings")


def test_output_is_kept_once_and_shown_to_the_test_runner(capsys) -> None:
    class Talking(Workflow):
        async def run(self, event, step):
            print("before")
            await step.do("say", print, "in a step")
            await step.sleep("a day", "1 day")
            print("after")

    with WorkflowTest(Talking, now=START) as test:
        run = test.start()
        run.result()
        at_ms = round(START.timestamp() * 1000)
        assert [line.at_ms - at_ms for line in run.logs] == [0, 0, 86_400_000]
        assert [(line.step, line.text) for line in run.logs] == [
            ("", "before"),
            ("say#1", "in a step"),
            ("", "after"),
        ]
    assert capsys.readouterr().out == "before\nin a step\nafter\n"


@dataclass
class Signup:
    email: str
    seats: int = 1


@dataclass
class Account:
    id: str


class Typed(Workflow[Signup, Account]):
    async def run(self, event: Event[Signup], step: Step) -> Account:
        return Account(f"{event.payload.email}:{event.payload.seats}")


def test_declared_types_are_made_of_payload_and_result() -> None:
    with WorkflowTest(Typed) as test:
        assert test.start(Signup("a@b.c", 3)).result() == Account("a@b.c:3")
        with pytest.raises(Refused, match="payload"):
            test.start({"no": "email"})  # type: ignore[arg-type]


def test_runs_of_one_test_share_the_clock() -> None:
    class Sleeper(Workflow):
        async def run(self, event, step):
            await step.sleep("so long", event.payload)
            return time.time()

    with WorkflowTest(Sleeper, now=START) as test:
        one, two = test.start("2 days"), test.start("1 day")
        assert one.result() == START.timestamp() + 2 * 86_400
        assert two.state == "complete"
        assert two.result() == START.timestamp() + 86_400
        assert [run.id for run in test.runs] == ["run-1", "run-2"]
        with pytest.raises(Conflict, match='"run-1" exists already'):
            test.start("1 day", id="run-1")


def test_without_unloading_a_run_is_begun_once() -> None:
    with WorkflowTest(Onboarding, unload="never") as test:
        run = test.start()
        run.result()
        assert run.activations == 1
    with WorkflowTest(Onboarding) as test:
        run = test.start()
        run.result()
        assert run.activations == 3


def test_what_is_no_workflow_is_refused() -> None:
    with pytest.raises(TypeError, match="is no workflow"):
        WorkflowTest(sqlite3.Row)  # type: ignore[arg-type]

    class NotAsync(Workflow):
        def run(self, event, step):  # type: ignore[override]
            return 1

    with pytest.raises(TypeError, match="must be `async def run"):
        WorkflowTest(NotAsync)


def test_a_workflow_is_found_by_its_place(tmp_path) -> None:
    (tmp_path / "amounts.py").write_text("UNIT = 'cents'\n")
    source = "from executor.workflow import Workflow\nfrom amounts import UNIT\n"
    for name in ("One", "Two"):
        source += f"class {name}(Workflow):\n    async def run(self, event, step):\n        return [{name!r}, UNIT]\n"
    (tmp_path / "some_workflows.py").write_text(source)
    with WorkflowTest(f"{tmp_path}/some_workflows.py:Two") as test:
        assert test.start().result() == ["Two", "cents"]
    with pytest.raises(LookupError, match=r"has 2 workflows; write .*some_workflows\.py:NAME, of One, Two"):
        WorkflowTest(tmp_path / "some_workflows.py")
    with WorkflowTest("tests.executor.testing.test_harness:Typed") as test:
        assert test.workflow.__name__ == "Typed"


async def test_it_works_inside_a_trio_test() -> None:
    import sniffio

    async def library() -> str:
        return sniffio.current_async_library()

    class Asking(Workflow):
        async def run(self, event, step):
            return await step.do("which", library)

    with WorkflowTest(Asking) as test:
        assert test.start().result() == "asyncio"
    assert sniffio.current_async_library() == "trio"


def test_it_works_inside_an_asyncio_test() -> None:
    async def main() -> None:
        with WorkflowTest(Onboarding) as test:
            assert test.start().result()["charge"] == {"id": 7}
        await asyncio.sleep(0)
        assert asyncio.current_task() is not None

    asyncio.run(main())


def test_a_test_that_fails_leaves_nothing_behind() -> None:
    before = (time.time, random.random, datetime.now(UTC).tzinfo)
    with pytest.raises(ZeroDivisionError), WorkflowTest(Onboarding) as test:
        test.start()
        1 / 0
    assert before == (time.time, random.random, datetime.now(UTC).tzinfo)
    assert not hasattr(time.time, "__wrapped__")


class Sleepless(Workflow):
    async def run(self, event, step):
        for _ in range(700):
            await step.sleep("a minute", "1 minute")


def test_a_long_journal_is_replayed_less_often_and_every_wait_of_a_short_one() -> None:
    with WorkflowTest(Sleepless, now=START) as test:
        run = test.start()
        test.advance("100 minutes")
        assert run.activations == 101
        run.result()
        assert 105 < run.activations < 140, "replays of all would take the square of their number"


def test_a_run_that_never_waits_is_held_as_on_the_platform(monkeypatch) -> None:
    from executor.testing import runs

    class Busy(Workflow):
        async def run(self, event, step):
            while True:
                await step.do("again", lambda: 1)

    class Restless(Workflow):
        async def run(self, event, step):
            self.continue_as_new(1)

    monkeypatch.setattr(runs, "STEP_COUNT_MAX", 50)
    monkeypatch.setattr(runs, "EXECUTIONS_MAX", 50)
    for workflow in (Busy, Restless):
        with WorkflowTest(workflow) as test:
            run = test.start()
            assert (run.state, run.status.error.code) == ("held", "limit_exceeded")
            with pytest.raises(Conflict, match=r"is held: its execution|is held: it has continued"):
                run.result()


class Payloads(Workflow):
    async def run(self, event, step):
        if event.payload == "wait":
            await step.wait_for_event("more", type="more")
        return event.payload


def test_a_closed_test_can_be_looked_at_and_goes_no_further() -> None:
    with WorkflowTest(Payloads) as test:
        done, waiting = test.start(1), test.start("wait", id="w")
    assert (done.result(), waiting.state, waiting.journal_kinds()[-1]) == (1, "waiting", "wait_started more#1")
    waiting.send_event("more")
    with pytest.raises(NeverEnds) as caught:
        waiting.result()
    assert str(caught.value) == 'run "w" is running and goes no further: its WorkflowTest is closed'


def test_a_parent_that_waits_for_its_child_says_what_the_child_waits_for() -> None:
    class Child(Workflow):
        async def run(self, event, step):
            await step.wait_for_event("approval", type="approved")

    class Parent(Workflow):
        async def run(self, event, step):
            await step.call("kid", Child)

    with WorkflowTest(Parent, workflows=[Child]) as test:
        with pytest.raises(NeverEnds, match=r'child ".*" \(kid\), which waits for event "approved" \(approval\)$'):
            test.start().result()


def test_nested_tests_do_not_disturb_each_other() -> None:
    with WorkflowTest(Onboarding, now=START) as outer:
        run = outer.start()
        with WorkflowTest(Ambient, now=START + timedelta(days=1)) as inner:
            assert inner.start().result()[1] == START.timestamp() + 2 * 86_400
        assert run.result()["by"] is None
    assert not hasattr(time.time, "__wrapped__")


def test_another_thread_is_refused() -> None:
    import threading

    caught: list[BaseException] = []

    def elsewhere() -> None:
        try:
            with WorkflowTest(Onboarding):
                pass
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert "is of the main thread" in str(caught[0])


class Writers(Workflow):
    async def run(self, event, step):
        await step.do("make", self.make)
        await asyncio.gather(*(step.do("write", self.write, n) for n in range(event.payload)))
        await step.sleep("a day", "1 day")
        return await step.do("count", self.count)

    def make(self):
        self.facet.execute("create table t (n)")

    def write(self, n):
        self.facet.execute("insert into t values (?)", (n,))

    def count(self):
        return self.facet.execute("select count(*) as n from t")[0]["n"]


def test_parallel_steps_write_to_the_facet_one_after_the_other() -> None:
    with WorkflowTest(Writers) as test:
        run = test.start(20)
        assert run.facet.execute("select count(*) as n from t")[0]["n"] == 20
        assert run.result() == 20


def test_events_of_a_paused_instance_are_kept() -> None:
    class Paying(Workflow):
        async def run(self, event, step):
            return (await step.wait_for_event("paid", type="paid")).payload

    with WorkflowTest(Paying) as test:
        run = test.start()
        run.pause()
        run.send_event("paid", 5)
        assert run.state == "paused"
        run.resume()
        assert run.result() == 5
