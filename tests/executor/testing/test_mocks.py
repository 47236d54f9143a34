"""Mocks: which steps they are for, in which order, and what the journal says of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from executor.core.errors import TenantError
from executor.testing import NotMocked, WorkflowTest
from executor.testing.mocks import names
from executor.workflow import EventTimeout, Retry, StepFailed, StepTimeout, Workflow

START = datetime(2030, 1, 1, tzinfo=UTC)
charged: list[int] = []


def charge(cents: int) -> dict:
    charged.append(cents)
    return {"id": 1, "cents": cents}


class Payment(Workflow):
    async def run(self, event, step):
        retry = Retry(limit=2, delay="1 minute", backoff="constant", jitter=0)
        try:
            return await step.options(retry=retry, timeout="1 hour").do("charge", charge, event.payload)
        except StepTimeout as timeout:
            return ["timeout", timeout.attempts, timeout.error_message]
        except StepFailed as failed:
            return ["failed", failed.attempts, failed.error_type, failed.error_message]


@pytest.fixture(autouse=True)
def _nothing_charged():
    charged.clear()
    yield


def test_a_result_takes_the_steps_place() -> None:
    with WorkflowTest(Payment) as test:
        mock = test.mock_step("charge", result={"id": 2})
        assert test.start(995).result() == {"id": 2}
        assert charged == []
        assert (mock.count, mock.calls) == (1, [((995,), {})])
        assert test.unused_mocks == []


def test_an_error_takes_the_steps_place_and_is_retried() -> None:
    with WorkflowTest(Payment, now=START) as test:
        test.mock_step("charge", error=ConnectionError("no line"))
        run = test.start(995)
        assert run.result() == ["failed", 3, "ConnectionError", "no line"]
        assert (test.clock.now - START).total_seconds() == 120


def test_mocks_are_used_in_their_order_then_the_step_itself() -> None:
    with WorkflowTest(Payment) as test:
        test.mock_step("charge", error=ConnectionError, times=1)
        test.mock_step("charge", error=OSError("again"), times=1)
        run = test.start(995)
        assert run.result() == {"id": 1, "cents": 995}
        assert [item.fields["error"]["type"] for item in run.journal if item.kind == "attempt_failed"] == [
            "ConnectionError",
            "OSError",
        ]
        assert charged == [995]


def test_a_later_mock_for_all_times_replaces_an_earlier_one() -> None:
    with WorkflowTest(Payment) as test:
        test.mock_step("charge", result=1)
        test.mock_step("charge", result=2)
        assert test.start(995).result() == 2


@pytest.mark.parametrize("is_async", [False, True])
def test_a_function_is_called_in_place_of_the_steps_own(is_async: bool) -> None:
    def instead(cents):
        return {"half": cents // 2}

    async def instead_async(cents):
        return {"half": cents // 2}

    with WorkflowTest(Payment) as test:
        mock = test.mock_step("charge", instead_async if is_async else instead)
        assert test.start(994).result() == {"half": 497}
        assert mock.calls == [((994,), {})]


def test_a_forced_timeout_is_one_to_the_workflow_and_the_journal() -> None:
    with WorkflowTest(Payment, now=START) as test:
        test.force_timeout("charge")
        run = test.start(995)
        assert run.result() == ["timeout", 3, "the attempt did not end in time (forced by the test)"]
        assert run.steps["charge"].error.type == "executor.workflow.StepTimeout"
        assert charged == []


def test_a_forced_timeout_for_one_attempt_is_followed_by_the_step() -> None:
    with WorkflowTest(Payment) as test:
        test.force_timeout("charge", times=1)
        run = test.start(995)
        assert run.result() == {"id": 1, "cents": 995}
        assert run.steps["charge"].attempts == 2


class Approval(Workflow):
    async def run(self, event, step):
        try:
            return (await step.wait_for_event("approval", type="approved")).payload
        except EventTimeout as timeout:
            return [timeout.step, (await step.wait_for_event("second", type="approved")).payload]


def test_a_forced_event_timeout_ends_the_wait_at_once_whatever_was_sent() -> None:
    with WorkflowTest(Approval, now=START) as test:
        test.force_event_timeout("approval")
        run = test.start()
        run.send_event("approved", 1)
        assert run.result() == ["approval#1", 1], "the event is still there for another wait"
        assert test.clock.now == START


class Late(Approval):
    async def run(self, event, step):
        await step.sleep("a day", "1 day")
        return await super().run(event, step)


def test_a_forced_event_timeout_leaves_an_early_event_for_another_wait() -> None:
    with WorkflowTest(Late, now=START) as test:
        test.force_event_timeout("approval", occurrence=1)
        run = test.start()
        run.send_event("approved", 1)
        assert run.result() == ["approval#1", 1]
        assert test.clock.now == START + timedelta(days=1)


class Uses(Workflow):
    async def run(self, event, step):
        return [await step.do("use", lambda n=n: n) for n in range(3)]


def test_one_use_of_a_name_is_mocked_by_occurrence_or_path() -> None:
    with WorkflowTest(Uses) as test:
        test.mock_step("use", result="a", occurrence=1)
        test.mock_step("use#3", result="c")
        assert test.start().result() == ["a", 1, "c"]


def test_with_only_mocks_a_step_that_would_execute_fails_the_test() -> None:
    with WorkflowTest(Payment, only_mocks=True) as test:
        with pytest.raises(NotMocked, match="step 'charge#1' was about to execute for real; mock it"):
            test.start(995, id="x")
        run = test.run("x")
        assert run.result()[:3] == ["failed", 1, "executor.testing.failures.NotMocked"]
        assert charged == []


def test_a_mock_that_is_for_no_step_is_told() -> None:
    with WorkflowTest(Uses) as test:
        typo = test.mock_step("usw", result=1)
        test.start().result()
        assert test.unused_mocks == [typo]


@dataclass
class Account:
    id: str


def open_account() -> Account:
    raise AssertionError("not called")


class Opening(Workflow):
    async def run(self, event, step):
        account = await step.do("open", open_account)
        return [type(account).__name__, account.id]


@pytest.mark.parametrize("result", [Account("ada"), {"id": "ada"}])
def test_a_mocked_result_is_of_the_type_that_the_step_declares(result: object) -> None:
    with WorkflowTest(Opening) as test:
        test.mock_step("open", result=result)
        assert test.start().result() == ["Account", "ada"]


def test_a_mocked_result_that_is_no_value_fails_as_a_real_one() -> None:
    with WorkflowTest(Uses) as test:
        test.mock_step("use", result={1, 2})
        with pytest.raises(TenantError, match="a set"):
            test.start().result()


def test_a_mock_takes_one_answer() -> None:
    with WorkflowTest(Uses) as test:
        for wrong in ({}, {"result": 1, "error": ValueError}):
            with pytest.raises(TypeError, match="takes one of result=, error= and a function"):
                test.mock_step("use", **wrong)
        with pytest.raises(TypeError, match="which cannot be called"):
            test.mock_step("use", 5)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="times=0"):
            test.mock_step("use", result=1, times=0)


@pytest.mark.parametrize(
    ("step", "occurrence", "path", "fits"),
    [
        ("hash", None, "hash#1", True),
        ("hash", None, "audit#1/hash#3", True),
        ("audit/hash", None, "audit#1/hash#3", True),
        ("audit#1/hash", None, "audit#1/hash#3", True),
        ("audit#2/hash", None, "audit#1/hash#3", False),
        ("hash#3", None, "hash#3", True),
        ("hash#3", None, "hash#4", False),
        ("hash", 3, "hash#3", True),
        ("hash", 3, "hash#1", False),
        ("audit", None, "audit#1/hash#3", False),
        ("hash", None, "undo/hash#1", False),
        ("undo/hash", None, "undo/hash#1", True),
        ("undo/hash", None, "hash#1", False),
        ("a/b", None, "a/b#1", True),
        ("issue #7", None, "issue #7#1", True),
    ],
)
def test_which_steps_a_text_names(step: str, occurrence: int | None, path: str, fits: bool) -> None:
    assert names(step, occurrence, path) is fits
