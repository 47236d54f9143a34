"""Unloading and replaying at every wait finds code that is not deterministic, and names both sides."""

from __future__ import annotations

import itertools

import pytest

from executor.testing import Nondeterminism, WorkflowTest
from executor.workflow import Workflow

count = itertools.count()


class AtAWait(Workflow):
    async def run(self, event, step):
        await step.do(f"step {next(count) % 2}", lambda: 1)
        await step.sleep("a day", "1 day")


def test_another_step_after_a_wait_is_found_and_both_sides_are_named() -> None:
    with WorkflowTest(AtAWait) as test:
        run = test.start(id="x")
        with pytest.raises(Nondeterminism) as caught:
            run.result()
        recorded, requested = caught.value.recorded, caught.value.requested
        assert {recorded.path, requested.path} == {"step 0#1", "step 1#1"}
        place = "tests/executor/testing/test_nondeterminism.py:17"
        assert str(caught.value) == (
            f'run "x": the journal records step "{recorded.path}" ({place}) (entry 4), but here the code asks for '
            f'step "{requested.path}" ({place}). Commit and journal are the same as then, so the code is not '
            "deterministic: run() decided differently on equal facts (order of a set, a global variable, the "
            "environment, a file?)."
        )
        assert isinstance(caught.value, AssertionError)
        assert run.state == "held"


def test_without_unloading_it_is_not_found() -> None:
    with WorkflowTest(AtAWait, unload="never") as test:
        assert test.start().result() is None


class AtTheEnd(Workflow):
    async def run(self, event, step):
        await step.do("one", lambda: 1)
        return next(count)


def test_another_result_is_found_by_the_replay_at_the_end() -> None:
    with WorkflowTest(AtTheEnd) as test, pytest.raises(Nondeterminism) as caught:
        test.start(id="x")
    assert "records that run() returned" in str(caught.value)
    assert "is not deterministic" in str(caught.value)


class NewStepAtTheEnd(Workflow):
    async def run(self, event, step):
        await step.do("one", lambda: 1)
        if next(count) > event.payload:
            await step.do("two", lambda: 2)


def test_the_replay_at_the_end_begins_no_step() -> None:
    with WorkflowTest(NewStepAtTheEnd, only_mocks=True) as test:
        test.mock_step("one", result=1)
        with pytest.raises(Nondeterminism) as caught:  # and not NotMocked
            test.start(next(count) + 1, id="x")
    assert str(caught.value) == (
        'run "x": at its end the journal records that run() returned None (entry 5), but a replay of it does not end. '
        "The code is not deterministic: run() decided differently on equal facts."
    )


class ErrorsWithAddresses(Workflow):
    async def run(self, event, step):
        raise ValueError(f"bad <object at {next(count)}>")


def test_an_error_that_tells_an_address_is_no_other_decision() -> None:
    with WorkflowTest(ErrorsWithAddresses) as test:
        assert test.start().state == "failed"
