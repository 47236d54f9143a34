"""The whole language under test: children, undo, executions, updates, queries, streams, status, groups."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from executor.core.errors import NotFound, Refused, TenantError
from executor.testing import NeverEnds, WorkflowTest
from executor.workflow import ChildFailed, NonRetryableError, StepFailed, Workflow

START = datetime(2030, 1, 1, tzinfo=UTC)


class Child(Workflow):
    async def run(self, event, step):
        await step.sleep("nap", "1 day")
        if event.payload == "bad":
            raise ValueError("a bad child")
        return ["child", event.payload]


class Parent(Workflow):
    async def run(self, event, step):
        try:
            return await step.call("kid", Child, event.payload)
        except ChildFailed as failed:
            return [failed.state, failed.error_type, failed.error_message]


def test_a_child_runs_in_the_same_test_and_answers_its_parent() -> None:
    with WorkflowTest(Parent, now=START) as test:
        run = test.start(5, id="p")
        assert (run.state, run.waiting_for.kind) == ("waiting", "child")
        child = run.children["kid#1"]
        assert (child.state, child.waiting_for.kind, child.status.parent.id) == ("waiting", "sleep", "p")
        assert run.result() == ["child", 5]
        assert child.result() == ["child", 5]
        assert test.clock.now == START + timedelta(days=1)
        assert run.journal_kinds() == [
            "started",
            "child_requested kid#1",
            "child_started kid#1",
            "child_ended kid#1",
            "completed",
        ]


def test_a_childs_failure_reaches_its_parent() -> None:
    with WorkflowTest(Parent) as test:
        assert test.start("bad").result() == ["failed", "ValueError", "a bad child"]


def test_a_terminated_child_reaches_its_parent() -> None:
    with WorkflowTest(Parent) as test:
        run = test.start(1)
        run.children["kid#1"].terminate()
        assert run.result()[0] == "terminated"


def test_a_terminated_parent_closes_its_child() -> None:
    with WorkflowTest(Parent) as test:
        run = test.start(1)
        run.terminate()
        assert run.children["kid#1"].state == "terminated"
        assert run.journal_kinds(traces=True)[-2:] == ["terminated", "child_closed"]


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        ({"result": "mocked"}, "mocked"),
        ({"error": LookupError("gone")}, ["failed", "LookupError", "gone"]),
    ],
)
def test_a_child_is_mocked_by_the_name_of_its_step(answer: dict, result: object) -> None:
    with WorkflowTest(Parent) as test:
        mock = test.mock_step("kid", **answer)
        run = test.start(7)
        assert run.result() == result
        assert (mock.calls, run.children) == ([((7,), {})], {})


def test_a_child_may_be_mocked_by_a_coroutine_function() -> None:
    async def instead(payload):
        return payload + 1

    with WorkflowTest(Parent) as test:
        test.mock_step("kid", instead)
        assert test.start(7).result() == 8


class Stranger(Workflow):
    async def run(self, event, step):
        return await step.call("other", "Elsewhere", 1)


def test_a_child_that_the_test_does_not_know_is_refused() -> None:
    with WorkflowTest(Stranger) as test, pytest.raises(TenantError, match="the test knows no workflow 'Elsewhere'"):
        test.start().result()
    Elsewhere = type("Elsewhere", (Child,), {})
    with WorkflowTest(Stranger, workflows=[Elsewhere]) as test:
        assert test.start().result() == ["child", 1]


class Booking(Workflow):
    async def run(self, event, step):
        await step.options(undo=self.cancel).do("flight", lambda: "F1")
        await step.options(undo=self.cancel).do("hotel", lambda: "H1")
        await step.sleep("think", "1 hour")
        raise ValueError("too dear")

    def cancel(self, output, error):
        print(output, error)


def test_undoing_is_seen_and_can_be_mocked() -> None:
    with WorkflowTest(Booking) as test:
        test.mock_step("undo/hotel", error=ConnectionError("no line"), times=1)
        run = test.start()
        with pytest.raises(TenantError, match="too dear"):
            run.result()
        assert run.journal_kinds()[-5:] == [
            "undoing",
            "attempt_failed undo/hotel#1",
            "step_succeeded undo/hotel#1",
            "step_succeeded undo/flight#1",
            "failed",
        ]
        assert [line.text for line in run.logs] == ["H1 ValueError: too dear", "F1 ValueError: too dear"]


def test_terminate_with_undo() -> None:
    with WorkflowTest(Booking) as test:
        run = test.start()
        assert run.terminate(undo=True).state == "terminated"
        assert [line.text for line in run.logs] == ["H1 None", "F1 None"]


class Counting(Workflow):
    async def run(self, event, step):
        self.facet_count = await step.do("count", self.count)
        await step.sleep("a day", "1 day")
        if event.payload < 3:
            self.continue_as_new(event.payload + 1)
        return self.facet_count

    def count(self):
        self.facet.execute("create table if not exists counts (n)")
        self.facet.execute("insert into counts values (1)")
        return self.facet.execute("select count(*) as n from counts")[0]["n"]


def test_an_execution_follows_another_and_keeps_the_facet() -> None:
    with WorkflowTest(Counting, now=START) as test:
        run = test.start(1)
        assert run.result() == 3
        assert [kind for kind in run.journal_kinds() if kind in ("continued", "completed")] == [
            "continued",
            "continued",
            "completed",
        ]
        assert test.clock.now == START + timedelta(days=3)


class Cart(Workflow):
    def __init__(self) -> None:
        self.items: list[str] = []

    @Workflow.update
    async def add(self, item, step):
        await step.sleep("think", "1 hour")
        self.items.append(item)
        return len(self.items)

    @add.validator
    def only_texts(self, item) -> None:
        if not isinstance(item, str):
            raise TypeError("an item is a text")

    @Workflow.update
    def broken(self, item):
        raise LookupError("it is not there")

    @Workflow.query
    def all(self, payload):
        return self.items

    async def run(self, event, step):
        await step.wait_for_event("paid", type="paid")
        return self.items


def test_updates_are_answered_and_queries_only_look() -> None:
    with WorkflowTest(Cart, now=START) as test:
        run = test.start()
        assert (run.update("add", "book"), run.ask("all")) == (1, ["book"])
        assert (run.update("add", "pen"), run.ask("all")) == (2, ["book", "pen"])
        assert test.clock.now == START + timedelta(hours=2), "the handlers slept"
        run.send_event("paid")
        assert run.result() == ["book", "pen"]
        assert [kind for kind in run.journal_kinds() if kind.startswith("update")] == [
            "update_accepted add",
            "update_ended",
            "update_accepted add",
            "update_ended",
        ]


def test_an_update_of_the_same_id_is_done_once() -> None:
    with WorkflowTest(Cart) as test:
        run = test.start()
        assert [run.update("add", "book", id="1") for _ in range(2)] == [1, 1]
        assert run.ask("all") == ["book"]


def test_what_handlers_refuse_and_raise_comes_out() -> None:
    with WorkflowTest(Cart) as test:
        run = test.start()
        with pytest.raises(Refused, match="an item is a text") as refused:
            run.update("add", 5)
        assert isinstance(refused.value.__cause__, TypeError)
        assert refused.value.code == "update_refused"
        with pytest.raises(TenantError, match="LookupError: it is not there") as raised:
            run.update("broken", 1)
        assert isinstance(raised.value.__cause__, LookupError)
        assert raised.value.code == "update_failed"
        with pytest.raises(NotFound, match="has no update 'remove'; it has add, broken"):
            run.update("remove")
        with pytest.raises(NotFound, match="has no query 'any'; it has all") as unknown:
            run.ask("any")
        assert unknown.value.code == "unknown_handler"
        assert run.state == "waiting"


class Quiet(Workflow):
    @Workflow.query
    def how(self, payload):
        return "well"

    async def run(self, event, step):
        print("begun")
        await asyncio.Event().wait()


def test_a_line_is_kept_once_however_often_it_is_printed_again() -> None:
    with WorkflowTest(Quiet) as test:
        run = test.start()
        assert [run.ask("how"), run.ask("how")] == ["well", "well"]
        assert run.activations == 3
        assert [line.text for line in run.logs] == ["begun"]


class Patient(Workflow):
    @Workflow.update
    async def never(self, payload, step):
        await step.wait_for_event("forever", type="forever")

    async def run(self, event, step):
        await step.wait_for_event("end", type="end")


def test_an_update_that_can_never_be_answered_says_what_is_waited_for() -> None:
    with WorkflowTest(Patient) as test:
        with pytest.raises(NeverEnds, match="can never answer update 'never' by itself: it waits for event"):
            test.start().update("never")


class Showing(Workflow):
    async def run(self, event, step):
        self.status = {"at": "begin"}
        self.set_attributes(customer="acme", cents=995)
        step.emit("tokens", "a")
        with step.group("audit"):
            await step.do("hash", lambda: 1)
        doubled = await step.map("double", lambda n: 2 * n, [1, 2, 3])
        step.emit("tokens", "b")
        self.status = {"at": "end"}
        await step.sleep("a day", "1 day")
        return doubled


def test_what_a_run_shows_is_seen() -> None:
    with WorkflowTest(Showing) as test:
        test.mock_step("audit/hash", result=7)
        run = test.start()
        assert run.status.status == {"at": "end"}
        assert run.attributes == {"customer": "acme", "cents": 995}
        assert run.stream("tokens") == ["a", "b"]
        assert run.steps["hash"].result == 7
        assert run.result() == [2, 4, 6]
        assert run.stream("tokens") == ["a", "b"], "a replay shows nothing again"


class Polling(Workflow):
    async def run(self, event, step):
        return await step.poll("job", self.look, until=lambda found: found == "done", every="1 hour")

    def look(self):
        return "done"


def test_a_poll_passes_on_the_virtual_clock() -> None:
    with WorkflowTest(Polling, now=START) as test:
        test.mock_step("job/check", result="working", times=48)
        assert test.start().result() == "done"
        assert test.clock.now == START + timedelta(hours=48)


class Failing(Workflow):
    async def run(self, event, step):
        try:
            await step.do("no", self.no)
        except StepFailed as failed:
            raise RuntimeError("given up") from failed

    def no(self):
        raise ValueError("no")


def test_the_causes_of_an_error_are_kept() -> None:
    with WorkflowTest(Failing) as test, pytest.raises(TenantError) as caught:
        test.start().result()
    given_up = caught.value.__cause__
    assert isinstance(given_up, RuntimeError)
    assert isinstance(given_up.__cause__, StepFailed)


class Scheduled(Workflow):
    async def run(self, event, step):
        return event.schedule


def test_a_delayed_start_waits_and_its_options_are_seen() -> None:
    with WorkflowTest(Scheduled, now=START) as test:
        run = test.start(None, delay="2 hours", attributes={"customer": "acme"}, schedule="nightly")
        assert (run.state, run.waiting_for.kind, run.attributes) == ("waiting", "start", {"customer": "acme"})
        assert run.result() == "nightly"
        assert test.clock.now == START + timedelta(hours=2)
        assert run.journal_kinds() == ["started", "start_due", "completed"]


class Large(Workflow):
    async def run(self, event, step):
        blob = await step.options(stream=True).do("fetch", lambda: [b"abc", b"def"])
        await step.sleep("a day", "1 day")
        return [blob.size, await step.do("read", lambda: blob.read())]


def test_a_stream_of_bytes_is_kept_in_the_facet() -> None:
    with WorkflowTest(Large) as test:
        assert test.start().result() == [6, b"abcdef"]


def test_a_mocked_stream_is_one() -> None:
    with WorkflowTest(Large) as test:
        test.mock_step("fetch", result=b"mocked")
        assert test.start().result() == [6, b"mocked"]


class Endless(Workflow):
    async def run(self, event, step):
        if event.payload:
            return "second"
        await step.start("closed", Child, 1, close="terminate")
        await step.start("left", Child, 2)
        return self.continue_as_new(True)


def test_continuing_parent_closes_its_children_by_their_policy() -> None:
    with WorkflowTest(Endless) as test:
        run = test.start(None)
        assert run.result() == "second"
        children = [item.fields["child"] for item in run.journal if item.kind == "child_requested"]
        assert [test.run(child).state for child in children] == ["terminated", "waiting"]


class Calling(Workflow):
    async def run(self, event, step):
        try:
            async with asyncio.timeout(60):
                await step.call("kid", Child, 1, close=event.payload)
        except TimeoutError:
            await step.wait_for_event("go", type="go")


@pytest.mark.parametrize(("close", "state"), [("terminate", "terminated"), ("abandon", "waiting")])
def test_call_that_is_given_up_leaves_its_child_to_the_close_policy(close: str, state: str) -> None:
    with WorkflowTest(Calling) as test:
        run = test.start(close)
        run.run_until_waiting()
        assert (run.waiting_for.kind, run.children["kid#1"].state) == ("event", state)


@pytest.mark.parametrize(("close", "state"), [("terminate", "terminated"), ("abandon", "waiting")])
def test_restart_from_before_a_call_leaves_its_child_to_the_close_policy_and_calls_another(
    close: str, state: str
) -> None:
    with WorkflowTest(Calling) as test:
        run = test.start(close)
        first = run.children["kid#1"].id
        run.restart()
        assert test.run(first).state == state
        assert run.children["kid#1"].id != first
        assert run.children["kid#1"].state == "waiting"


def test_key_of_a_step_is_that_of_all_its_attempts_and_of_no_other() -> None:
    found: list[str] = []

    class Paying(Workflow):
        async def run(self, event, step):
            def pay():
                found.append(step.current().idempotency_key)
                if step.current().attempt == 1:
                    raise ConnectionError

            await step.do("pay", pay)
            await step.do("pay", pay)

    with WorkflowTest(Paying) as test:
        run = test.start(id="a")
        run.result()
        test.start(id="b").result()
        first, again, second, *_ = found
        assert [found.count(key) for key in dict.fromkeys(found)] == [2, 2, 2, 2]
        assert first == again != second
        run.restart()
        run.result()
        assert found[8] == first, "what was done outside is known there by its key"


def test_what_was_undone_and_is_done_again_has_another_key() -> None:
    """Else whoever was paid, and has paid back, takes the second payment for the first one."""
    keys: dict[str, list[str]] = {"charge": [], "mail": [], "refund": []}

    class Shop(Workflow):
        async def run(self, event, step):
            def tell(name):
                keys[name].append(step.current().idempotency_key)

            def refund(_output, _error):
                tell("refund")

            await step.do("mail", tell, "mail")
            await step.options(undo=refund).do("charge", tell, "charge")
            await step.sleep("a moment", 5)
            if event.payload == "fails":
                raise NonRetryableError("out of stock")

    with WorkflowTest(Shop) as test:
        run = test.start("fails", id="shop")
        for _ in range(2):
            with pytest.raises(TenantError):
                run.result()
            run.restart()
        with pytest.raises(TenantError):
            run.result()
        # What was not undone is known outside by its key, whatever came after it.
        assert len(keys["mail"]) == 3
        assert len(set(keys["mail"])) == 1
        assert len(set(keys["charge"])) == len(set(keys["refund"])) == 3
        assert not set(keys["charge"]) & set(keys["refund"])
        run.restart(from_step=("charge", 1))
        with pytest.raises(TenantError):
            run.result()
        assert len(set(keys["charge"])) == len(keys["charge"]) == 4
        assert len(keys["mail"]) == 3
