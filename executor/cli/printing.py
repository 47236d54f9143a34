"""How the command line prints: text in lines and tables for people, one JSON document for programs."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from executor import wire
from executor.core.errors import PerdureError
from executor.core.values import to_json
from executor.logs import visible

EXIT_CODES = {
    "internal": 1,
    "refused": 2,
    "not_found": 3,
    "conflict": 4,
    "unavailable": 5,
    "corrupt": 6,
    "tenant_error": 7,
}
"""By family of the error; 0 is success, 130 an interrupt."""
Rows = Sequence[Sequence[object]]


def document(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(_json(value) + "\n")
    sys.stdout.flush()


def _json(value: Any) -> str:
    return msgspec.json.format(wire.encode(value), indent=2).decode()


def json_line(value: Any) -> None:
    """One JSON document in one line, for streams."""
    line(wire.encode(value).decode())


def line(text: str = "") -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def error(problem: PerdureError, *, as_json: bool) -> int:
    """Tell an error on standard error, and give its exit code."""
    if as_json:
        sys.stderr.write(_json(problem.to_json()) + "\n")
    else:
        sys.stderr.write(f"error: {visible(problem.message)} [{problem.code}]\n")
        for item in problem.details.get("diagnostics") or []:
            if isinstance(item, dict):
                place = ":".join(str(item[key]) for key in ("path", "line", "column") if item.get(key) is not None)
                told = f"{place}: {item.get('message', '')}"
                sys.stderr.write(f"  {visible(told)}\n")
        if isinstance(problem.details.get("traceback"), str):
            for text in problem.details["traceback"].splitlines():
                sys.stderr.write(f"  {visible(text)}\n")
        if problem.hint:
            sys.stderr.write(f"hint: {visible(problem.hint)}\n")
    sys.stderr.flush()
    return EXIT_CODES[problem.family]


def table(columns: Sequence[str], rows: Rows, *, empty: str) -> None:
    """A table as wide as its content when piped, as the terminal when shown."""
    if not rows:
        line(empty)
        return
    from rich import box  # noqa: PLC0415 - 100 ms that only tables need
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        shown.add_column(Text(visible(column)), overflow="fold")
    for row in rows:
        shown.add_row(*[Text("" if cell is None else visible(str(cell))) for cell in row])
    if sys.stdout.isatty():
        Console(file=sys.stdout, highlight=False).print(shown)
        return
    piped = io.StringIO()
    Console(file=piped, width=400, highlight=False).print(shown)
    for text in piped.getvalue().rstrip("\n").split("\n"):
        line(text.rstrip())


def facts(pairs: Iterable[tuple[str, object]]) -> None:
    """Names and values in two columns; those without a value are left out."""
    present = [(name, visible(str(value))) for name, value in pairs if value not in (None, "", [], {})]
    width = max((len(name) for name, _ in present), default=0)
    for name, value in present:
        line(f"{name:{width}}  {value}")


def value(tenants_value: Any) -> str:
    """A tenant's value as compact JSON, for people."""
    return visible(msgspec.json.encode(to_json(tenants_value)).decode())
