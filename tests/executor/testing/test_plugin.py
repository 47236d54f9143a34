"""The pytest plugin, beside other plugins and in plain processes."""

from __future__ import annotations

import subprocess
import sys
import time
from importlib.metadata import entry_points

from hypothesis import given, settings
from hypothesis import strategies as st

from executor.testing import WorkflowTest
from executor.testing.pytest_plugin import OpenWorkflowTest
from executor.workflow import Workflow


class Sum(Workflow):
    async def run(self, event, step):
        total = 0
        for number in event.payload:
            total = await step.do("add", lambda a, b: a + b, total, number)
            await step.sleep("a day", "1 day")
        return total


def test_the_fixture_opens_and_closes(workflow_test: OpenWorkflowTest) -> None:
    test = workflow_test(Sum)
    assert test.start([1, 2]).result() == 3


def test_the_plugin_is_announced_to_pytest() -> None:
    found = entry_points(group="pytest11")["perdure"]
    assert found.value == "executor.testing.pytest_plugin"


def test_a_session_that_does_not_use_it_imports_nothing_of_the_platform() -> None:
    code = (
        "import sys, executor.testing.pytest_plugin\n"
        "print([name for name in sys.modules if name.startswith('executor.')"
        " and name not in ('executor.testing', 'executor.testing.pytest_plugin')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(-1000, 1000), max_size=3))
def test_it_can_be_driven_by_hypothesis(numbers) -> None:
    with WorkflowTest(Sum) as test:
        assert test.start(numbers).result() == sum(numbers)


PLAIN = """
import os, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"pyseccomp", "seccomp", "landlock", "landlockpy", "trio", "pygit2", "dulwich",
                                  "uvicorn", "starlette", "resource"}:
            raise ImportError(f"{name} is not on this machine")
sys.meta_path.insert(0, Absent())
del os.getrandom
from executor.testing import WorkflowTest
from executor.workflow import Workflow
class Job(Workflow):
    async def run(self, event, step):
        await step.sleep("a day", "1 day")
        return await step.do("one", self.one)
    def one(self):
        self.facet.execute("create table t (a)")
        return 1
with WorkflowTest(Job) as test:
    print(test.start().result())
"""


def test_it_needs_neither_the_servers_libraries_nor_linux(tmp_path) -> None:
    script = tmp_path / "plain.py"
    script.write_text(PLAIN)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "1", done.stderr


class Trial(Workflow):
    async def run(self, event, step):
        first = await step.do("first", lambda: 1)
        await step.sleep("trial", "30 days")
        second = await step.do("second", lambda: 2)
        return [first, second, await step.do("third", lambda: 3)]


def test_thirty_days_and_three_steps_take_less_than_twenty_milliseconds() -> None:
    times = []
    for _ in range(20):
        began = time.perf_counter()
        with WorkflowTest(Trial) as test:
            assert test.start().result() == [1, 2, 3]
        times.append(time.perf_counter() - began)
    assert min(times) < 0.020, f"{min(times) * 1000:.1f} ms"
