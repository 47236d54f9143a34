"""What the command line shows of each thing that the server answers with, to people."""

from __future__ import annotations

from executor.cli.printing import facts, line, table, value
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
        told = f"{error.id}: {error.error['message']} [{error.error['code']}]"
        line(f"  {visible(told)}")


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


def journal(items: list[JournalItem]) -> None:
    table(
        ("#", "when", "entry", "facts"),
        [(item.sequence, format_ms(item.at_ms), item.kind, value(item.fields)) for item in items],
        empty="No entries.",
    )


def log(entry: LogLine) -> None:
    step = f" {visible(entry.step)}" + (f" #{entry.attempt}" if entry.attempt > 1 else "") if entry.step else ""
    line(f"{format_ms(entry.at_ms)} {visible(entry.level or entry.stream):7}{step}  {visible(entry.text)}")
