"""Type checkers infer results and reject what is wrong, of the Python API and of runs under test: exactly the lines
marked WRONG are errors. One run of each checker looks at all files: most of its time is ours, not theirs."""

from __future__ import annotations

from pathlib import Path

from tests.executor.typed.checkers import found_by_mypy, found_by_pyright, marked

SOURCES = sorted(Path(__file__).parent.glob("*_use.py"))


def test_there_are_wrong_lines_in_each_file() -> None:
    assert {source.name for source in SOURCES if marked(source)} == {"platform_use.py", "testing_use.py"}


def test_mypy_finds_exactly_the_wrong_lines() -> None:
    assert found_by_mypy(SOURCES) == {source.name: marked(source) for source in SOURCES}


def test_pyright_finds_exactly_the_wrong_lines() -> None:
    assert found_by_pyright(SOURCES) == {source.name: marked(source) for source in SOURCES}
