"""Type checkers infer results and reject wrong payloads: exactly the lines marked WRONG are errors."""

from __future__ import annotations

from pathlib import Path

from tests.executor.type_checkers import found_by_mypy, found_by_pyright, marked

SOURCE = Path(__file__).with_name("typed_use.py")


def test_mypy_finds_exactly_the_wrong_lines() -> None:
    assert found_by_mypy(SOURCE) == marked(SOURCE)


def test_pyright_finds_exactly_the_wrong_lines() -> None:
    assert found_by_pyright(SOURCE) == marked(SOURCE)
