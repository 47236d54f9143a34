"""Type checkers infer what `executor.workflow` promises, and reject what is wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

GOOD = """
import asyncio
from dataclasses import dataclass
from datetime import datetime, timezone
from typing_extensions import assert_type
from executor.workflow import CurrentAttempt, Event, ReceivedEvent, Retry, Step, Workflow

@dataclass
class Signup:
    email: str

async def create(email: str, *, plan: str = "free") -> int:
    return len(email)

def charge(amount: float) -> bytes:
    return b""

class Plain(Workflow):
    async def run(self, event: Event, step: Step) -> object:
        return event.payload["anything"]

class Onboarding(Workflow[Signup, dict[str, int]]):
    async def run(self, event: Event[Signup], step: Step) -> dict[str, int]:
        assert_type(event.payload.email, str)
        account = await step.do("create", create, event.payload.email, plan="pro")
        assert_type(account, int)
        assert_type(await step.do("charge", charge, 1.5), bytes)
        assert_type(await step.options(retry=Retry(limit=2), timeout="1 minute").do("c", charge, 2), bytes)

        @step.do("decorated", retry=Retry(limit=1, delay="10 seconds", backoff="linear"), timeout=30)
        async def decorated(x: int) -> str:
            self.facet.execute("insert into t values (?)", [x])
            assert_type(step.current(), CurrentAttempt)
            return str(x)

        @step.do("sync")
        def sync() -> list[int]:
            return []

        assert_type(await decorated(1), str)
        assert_type(await sync(), list[int])
        first, second = await asyncio.gather(step.do("a", create, "x"), step.do("b", create, "y"))
        assert_type(first, int)
        assert_type(second, int)
        await step.sleep("s", "1 day")
        await step.sleep_until("u", datetime.now(timezone.utc))
        assert_type(await step.wait_for_event("w", type="t", timeout="7 days"), ReceivedEvent)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(step.do("task", create, "y"))
        assert_type(task.result(), int)
        return {"account": account}
"""

BAD = """
from dataclasses import dataclass
from executor.workflow import Event, Step, Workflow

@dataclass
class Signup:
    email: str

def charge(amount: float) -> bytes:
    return b""

class Onboarding(Workflow[Signup, int]):
    async def run(self, event: Event[Signup], step: Step) -> int:
        event.payload.emial                            # BAD 1
        await step.do("charge", charge, "ten")         # BAD 2
        await step.do("charge")(charge)("ten")         # BAD 3
        await step.sleep("s", None)                    # BAD 4
        await step.wait_for_event("w")                 # BAD 5
        return await step.do("charge", charge, 1.0)    # BAD 6

class Other(Workflow[Signup, int]):
    async def run(self, event: Event[int], step: Step) -> int:  # BAD 7
        return 1
"""
BAD_LINES = {number for number, line in enumerate(BAD.splitlines(), start=1) if "# BAD" in line}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "bad.py").write_text(BAD)
    (tmp_path / "executor").symlink_to(ROOT / "executor")
    return tmp_path


def reported(lines: str, marker: str) -> tuple[set[int], str]:
    """Line numbers of bad.py in a checker's report, and what it says of other files."""
    bad, other = set(), []
    for line in lines.splitlines():
        if marker not in line or "note:" in line:
            continue
        if "bad.py:" in line:
            bad.add(int(line.split("bad.py:")[1].split(":")[0]))
        else:
            other.append(line)
    return bad, "\n".join(other)


def test_mypy_infers_results_and_rejects_what_is_wrong(project: Path) -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--config-file=", "--follow-imports=silent",
         f"--cache-dir={ROOT / '.mypy_cache' / 'samples'}", "good.py", "bad.py"],
        cwd=project, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert reported(checked.stdout, "error:") == (BAD_LINES, ""), checked.stdout + checked.stderr


def test_pyright_infers_results_and_rejects_what_is_wrong(project: Path) -> None:
    (project / "pyrightconfig.json").write_text('{"include": ["good.py", "bad.py"], "reportUnusedExpression": false}')
    checked = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "good.py", "bad.py"],
        cwd=project, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert reported(checked.stdout, "error:") == (BAD_LINES, ""), checked.stdout + checked.stderr


def test_workflow_imports_with_the_standard_library_alone() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import executor.workflow\n"
        "extra = {'msgspec', 'apsw', 'trio', 'typing_extensions'} & set(sys.modules); assert not extra, extra"
    )
    subprocess.run([sys.executable, "-I", "-S", "-c", code, str(ROOT)], check=True)
