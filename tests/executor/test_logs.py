"""Laws of the log: facts as fields, one line each, no payloads or secrets, no escape sequences of tenants."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from executor import logs


@pytest.fixture(autouse=True)
def _loggers_as_before() -> Iterator[None]:
    names = ("executor", "gitstore", "facets", "uvicorn.error")
    before = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in map(logging.getLogger, names)]
    yield
    for logger, handlers, level, propagate in before:
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


def _written(style: str, *, level: str = "info") -> tuple[logging.Logger, io.StringIO]:
    stream = io.StringIO()
    logs.setup(level, style, stream=stream)  # type: ignore[arg-type]
    return logging.getLogger("executor.engine.runner"), stream


def test_json_lines_carry_facts_as_fields() -> None:
    logger, stream = _written("json")
    logger.info("run ended", extra={"tenant": "acme", "attempt": 2})
    line = json.loads(stream.getvalue())
    assert line.pop("at").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "executor.engine.runner",
        "message": "run ended",
        "tenant": "acme",
        "attempt": 2,
    }


def test_payloads_and_secrets_are_withheld_even_if_somebody_passes_them() -> None:
    for style in ("json", "human"):
        logger, stream = _written(style)
        logger.info("x", extra={"payload": "SECRET", "secret": "SECRET", "token": "SECRET", "output": "SECRET"})
        assert "SECRET" not in stream.getvalue()
        assert stream.getvalue().count("(withheld)") == 4


def test_a_tenants_text_cannot_write_into_the_operators_terminal_or_forge_a_line() -> None:
    logger, stream = _written("human")
    logger.warning("step failed", extra={"step": "a\n12:00 error\x1b[2J"})
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().endswith("warning step failed  step=a\\n12:00 error\\x1b[2J\n")


def test_setting_up_again_replaces_and_the_root_logger_is_left_alone() -> None:
    root = logging.getLogger().handlers[:]
    _, first = _written("human")
    logger, second = _written("human", level="warning")
    logger.info("quiet")
    logger.warning("loud")
    assert (first.getvalue(), second.getvalue().count("\n")) == ("", 1)
    assert logging.getLogger().handlers == root


def test_an_error_carries_its_traceback() -> None:
    logger, stream = _written("json")
    try:
        raise ZeroDivisionError("bug")
    except ZeroDivisionError:
        logger.exception("failed")
    assert "ZeroDivisionError: bug" in json.loads(stream.getvalue())["error"]
