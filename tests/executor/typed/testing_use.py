"""Read by the type checkers only (test_typed.py): what tests of workflows write, right and wrong."""

from dataclasses import dataclass
from typing import Any, assert_type

from executor.testing import VirtualClock, WorkflowRun, WorkflowTest
from executor.testing.pytest_plugin import OpenWorkflowTest
from executor.workflow import Event, Step, Workflow


@dataclass
class Signup:
    email: str


class Onboarding(Workflow[Signup, dict[str, str]]):
    async def run(self, event: Event[Signup], step: Step) -> dict[str, str]:
        return {"email": event.payload.email}


class NoPayload(Workflow[None, int]):
    async def run(self, event: Event[None], step: Step) -> int:
        return 1


class Untyped(Workflow):
    async def run(self, event: Event, step: Step) -> Any:
        return None


def test_typed() -> None:
    with WorkflowTest(Onboarding, unload="never") as test:
        assert_type(test.clock, VirtualClock)
        run = test.start(Signup("a@b.c"), id="x")
        assert_type(run, WorkflowRun[dict[str, str]])
        assert_type(run.result(), dict[str, str])
        assert_type(run.steps["charge"].attempts, int)
        test.start({"email": "a@b.c"})  # WRONG: the payload's type
        test.start()  # WRONG: no payload
        test.mock_step("charge", results=1)  # WRONG: no such option
    with WorkflowTest(NoPayload) as nothing:
        assert_type(nothing.start().result(), int)
    with WorkflowTest(Untyped) as untyped:
        assert_type(untyped.start({"anything": 1}).result(), Any)
        assert_type(untyped.start().result(), Any)
    with WorkflowTest("workflows.py:Onboarding") as by_name:
        assert_type(by_name.start({"anything": 1}).result(), Any)
    WorkflowTest(int)  # WRONG: no workflow
    WorkflowTest(Onboarding, unload="sometimes")  # WRONG: no such way


def test_fixture(workflow_test: OpenWorkflowTest) -> None:
    test = workflow_test(Onboarding, only_mocks=True)
    assert_type(test.start(Signup("a@b.c")).result(), dict[str, str])
    assert_type(workflow_test("workflows.py").start(1).result(), Any)
