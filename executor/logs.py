"""The only logging setup: the standard library's, to stderr, for people or as JSON lines.

Modules log `logger.info("run ended", extra={"tenant": …, "instance": …})`: a fixed sentence, and facts as fields.
Never a payload, a step's value or a secret: those names are withheld here even if somebody passes them.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal, TextIO

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_WITHHELD = frozenset({"payload", "output", "value", "secret", "token", "authorization", "password"})


def facts(record: logging.LogRecord) -> dict[str, object]:
    """The fields that the caller gave with `extra`, withheld names replaced."""
    return {
        key: "(withheld)" if key in _WITHHELD else value
        for key, value in vars(record).items()
        if key not in _STANDARD and not key.startswith("_")
    }


class JsonLines(logging.Formatter):
    """One JSON object a line: at (RFC 3339, UTC), level, logger, message, the facts, and `error` for a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": _moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in facts(record).items() if key not in line}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class Human(logging.Formatter):
    """`12:00:01.250 info    run ended  tenant=acme instance=i-1`; one line, control characters made visible."""

    def format(self, record: logging.LogRecord) -> str:
        message = visible(record.getMessage())
        line = f"{_moment(record)[11:23]} {record.levelname.lower():7} {message}"
        fields = " ".join(f"{key}={visible(str(value))}" for key, value in facts(record).items())
        if fields:
            line += f"  {fields}"
        if not record.exc_info:
            return line
        return "\n".join([line, *map(visible, self.formatException(record.exc_info).split("\n"))])


def setup(
    level: Literal["debug", "info", "warning", "error"] = "info",
    style: Literal["human", "json"] = "human",
    *,
    stream: TextIO | None = None,
) -> None:
    """Send the log of our packages to `stream` (default stderr). Calling again replaces the former setup.

    The root logger is left alone: an embedding program keeps its own logging.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if style == "json" else Human())
    for name in ("executor", "gitstore", "facets", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
        # uvicorn warns of each client's faults; only what concerns the server itself is ours to show.
        logger.setLevel("ERROR" if name.startswith("uvicorn") else level.upper())


def _moment(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, tz=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def visible(text: str) -> str:
    """A tenant's text must not write escape sequences or further lines into an operator's terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
