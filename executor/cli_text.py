"""What the command line prints: tables for people, one JSON document for programs."""

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
from executor.views import (
    BulkResult,
    ChannelMoveView,
    ChannelView,
    DeploymentView,
    FiringView,
    InstanceView,
    JournalItem,
    LogLine,
    QueryResult,
    ScheduleView,
    Status,
    StreamView,
    TenantView,
    TokenView,
    format_ms,
)

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
        shown.add_column(column, overflow="fold")
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


def tenants(views: list[TenantView]) -> None:
    table(
        ("tenant", "created", "repository"),
        [(view.name, format_ms(view.created_at_ms), view.git_path) for view in views],
        empty="No tenants. Create one: perdure tenants create NAME",
    )


def tokens(views: list[TokenView]) -> None:
    table(
        ("token", "access", "label", "created", "expires"),
        [
            (
                view.id,
                view.access,
                view.label,
                format_ms(view.created_at_ms),
                "never" if view.expires_at_ms is None else format_ms(view.expires_at_ms),
            )
            for view in views
        ],
        empty="No tokens.",
    )


def versions(views: list[DeploymentView]) -> None:
    table(
        ("commit", "live on", "workflows", "who", "when", "message"),
        [
            (
                view.commit[:12],
                ", ".join(view.live_on),
                ", ".join(found.name for found in view.workflows),
                view.who,
                format_ms(view.created_at_ms),
                view.message.partition("\n")[0],
            )
            for view in views
        ],
        empty="No versions. Deploy one: perdure deploy DIR --tenant NAME, or git push.",
    )


def version(view: DeploymentView) -> None:
    facts(
        [
            ("commit", view.commit),
            ("branch", view.branch),
            ("channel", view.channel or "(not moved)"),
            ("live on", ", ".join(view.live_on)),
            ("who", view.who),
            ("when", format_ms(view.created_at_ms)),
            ("message", view.message),
        ]
    )
    for found in view.workflows:
        line(f"workflow  {visible(found.name)}  {visible(found.path)}:{found.line}")
    for kind, texts in (("warning", view.warnings), ("check", view.checks)):
        for text in texts:
            line(f"{kind}  {visible(text)}")


def channels(views: list[ChannelView]) -> None:
    table(
        ("channel", "commit", "pinned", "moved", "who"),
        [
            (view.name, view.commit[:12], "yes" if view.pinned else "", format_ms(view.moved_at_ms), view.who)
            for view in views
        ],
        empty="No channels yet: nothing was deployed.",
    )


def moves(views: list[ChannelMoveView]) -> None:
    table(
        ("when", "kind", "from", "to", "who", "why"),
        [
            (format_ms(view.at_ms), view.kind, (view.from_commit or "")[:12], view.to_commit[:12], view.who, view.why)
            for view in views
        ],
        empty="The channel has not moved yet.",
    )


def instances(views: list[InstanceView]) -> None:
    table(
        ("instance", "workflow", "state", "waits for", "commit", "updated"),
        [
            (view.id, view.workflow, view.state, view.waiting_for, view.commit[:12], format_ms(view.updated_at_ms))
            for view in views
        ],
        empty="No instances.",
    )


def bulk(operation: str, found: BulkResult, *, dry_run: bool) -> None:
    if dry_run:
        more = "More than " if found.is_more else ""
        line(f"{more}{found.matched} instances would be asked to {operation}.")
        for name in found.ids:
            line(f"  {name}")
        return
    line(f"{found.matched} instances: {found.done} done, {found.unchanged} unchanged, {found.failed} refused.")
    for error in found.errors:
        line(f"  {error.id}: {error.error['message']} [{error.error['code']}]")


def rows(found: QueryResult) -> None:
    table(
        tuple(found.columns),
        [tuple(cell if isinstance(cell, str) else value(cell) for cell in row) for row in found.rows],
        empty="No rows.",
    )
    if found.is_cut:
        line("There are more rows: raise --limit.")


def streams(views: list[StreamView]) -> None:
    table(("stream", "items"), [(view.name, view.count) for view in views], empty="Nothing was emitted yet.")


def status(view: Status) -> None:
    facts(
        [
            ("instance", view.id),
            ("workflow", view.workflow),
            ("commit", view.commit),
            ("state", view.state),
            ("waits for", view.waiting_for),
            ("executes", ", ".join(f"{step.path} ({step.attempt})" for step in view.executing)),
            ("attempts", ", ".join(f"{step} {count}" for step, count in view.attempts.items())),
            ("status", value(view.status) if view.status is not None else None),
            ("attributes", value(view.attributes) if view.attributes else None),
            ("parent", f"{view.parent.id} {view.parent.path}" if view.parent else None),
            ("warning", "; ".join(view.warnings) or None),
            ("error", f"{view.error.type}: {view.error.message} [{view.error.code}]" if view.error else None),
            ("output", value(view.output) if view.state == "complete" else None),
            ("entries", view.sequence),
            ("created", format_ms(view.created_at_ms)),
            ("updated", format_ms(view.updated_at_ms)),
        ]
    )


def schedules(views: list[ScheduleView]) -> None:
    table(
        ("schedule", "workflow", "when", "next", "last"),
        [
            (view.name, view.workflow, _when(view), _next(view), firing_text(view.firings[0]) if view.firings else "")
            for view in views
        ],
        empty="No schedules. Declare one in a workflow's class, or: perdure schedules create WORKFLOW --cron …",
    )


def schedule(view: ScheduleView) -> None:
    facts(
        [
            ("schedule", view.name),
            ("workflow", view.workflow),
            ("channel", view.channel),
            ("declared in", "code" if view.origin == "code" else None),
            ("when", _when(view)),
            ("from", None if view.start_ms is None else format_ms(view.start_ms)),
            ("until", None if view.end_ms is None else format_ms(view.end_ms)),
            ("overlap", view.overlap),
            ("catch up", view.catch_up),
            ("payload", None if view.payload is None else value(view.payload)),
            ("paused by", view.paused_by),
            ("running", ", ".join(view.running)),
            ("due", ", ".join(map(format_ms, view.waiting))),
            ("next", ", ".join(map(format_ms, view.next_ms))),
        ]
    )
    for firing in view.firings:
        line(f"{format_ms(firing.scheduled_ms)}  {visible(firing_text(firing))}")


def firing_text(firing: FiringView) -> str:
    """What became of a time, in a line."""
    parts = [firing.outcome, firing.instance, f"({firing.reason})" if firing.reason else None]
    return " ".join(part for part in parts if part)


def _when(view: ScheduleView) -> str:
    if view.cron is not None:
        return f"{view.cron} {view.timezone}"
    assert view.every_ms is not None, "it has cron or an interval"
    return f"every {view.every_ms / 1000:g} s"


def _next(view: ScheduleView) -> str:
    if view.paused:
        return "(paused)"
    return format_ms(view.next_ms[0]) if view.next_ms else "(ended)"


def value(tenants_value: Any) -> str:
    """A tenant's value as compact JSON."""
    return msgspec.json.encode(to_json(tenants_value)).decode()


def journal(items: list[JournalItem]) -> None:
    table(
        ("#", "when", "entry", "facts"),
        [(item.sequence, format_ms(item.at_ms), item.kind, value(item.fields)) for item in items],
        empty="No entries.",
    )


def log(entry: LogLine) -> None:
    step = f" {visible(entry.step)}" + (f" #{entry.attempt}" if entry.attempt > 1 else "") if entry.step else ""
    line(f"{format_ms(entry.at_ms)} {entry.level or entry.stream:7}{step}  {visible(entry.text)}")
