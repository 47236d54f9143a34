"""Generated programs under test: unloading at every wait changes nothing, and neither does another time of day."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings

from executor.testing import WorkflowTest
from executor.testing.tree import find
from tests.executor.sandbox.programs import programs, source, stories

QUICK = settings.default.max_examples if settings.default is not None else 50
START = datetime(2030, 1, 1, tzinfo=UTC)


@contextmanager
def module(program) -> Iterator[str]:
    """A file that has the program."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "generated_program.py"
        path.write_text(source(program))
        before = list(sys.path)
        try:
            yield str(path)
        finally:
            sys.path[:] = before
            sys.modules.pop("generated_program", None)


def told(workflow, story, unload) -> tuple[object, list[str], list[str]]:
    with WorkflowTest(workflow, unload=unload, now=START) as test:
        run = test.start(id="x")
        for type_, payload in story["events"]:
            if not run.status.is_final:
                run.send_event(type_, payload)
        return run.result(), run.journal_kinds(), [line.text for line in run.logs]


@settings(max_examples=max(QUICK // 3, 10), deadline=None)
@given(programs, stories)
def test_unloading_at_every_wait_changes_nothing(program, story) -> None:
    with module(program) as path:
        workflow = find(path)
        kept = told(workflow, story, "never")
        assert told(workflow, story, "every-wait") == kept
        assert kept[1][0] == "started"
        assert kept[1][-1] == "completed"
