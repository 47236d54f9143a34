"""The fixture `workflow_test`, for pytest. Where nobody uses it, it costs nothing: all else is imported with it.

def test_onboarding(workflow_test):
    test = workflow_test(Onboarding)
    assert test.start({"email": "a@b.c"}).result() == "welcome"
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

import pytest

if TYPE_CHECKING:
    from executor.testing import WorkflowTest
    from executor.workflow import Workflow

    P = TypeVar("P")
    R = TypeVar("R")


class OpenWorkflowTest(Protocol):
    """What the fixture is: makes and opens a WorkflowTest, which is closed at the end of the test."""

    @overload
    def __call__(self, workflow: type[Workflow[P, R]], /, **options: Any) -> WorkflowTest[P, R]: ...
    @overload
    def __call__(self, workflow: str | os.PathLike[str], /, **options: Any) -> WorkflowTest[Any, Any]: ...


@pytest.fixture
def workflow_test() -> Iterator[OpenWorkflowTest]:
    """`workflow_test(Workflow, **options)`: an open WorkflowTest with these options, closed at the end of the test."""
    from executor.testing import WorkflowTest  # noqa: PLC0415  # only for tests that use it

    with ExitStack() as opened:

        def open_one(workflow: Any, /, **options: Any) -> Any:
            return opened.enter_context(WorkflowTest(workflow, **options))

        yield open_one
