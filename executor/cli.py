"""The `perdure` command: arguments in, text out. Every command talks to a server through the Python API.

Exit codes: 0 done; 1 a fault of ours; 2 refused (or wrong usage); 3 not found; 4 conflict; 5 unavailable; 6 corrupt;
7 the tenant's code failed; 130 interrupted. Errors go to standard error: message, code, hint.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from executor.config import for_server, load, read_address, read_admin_token
from executor.core.errors import PerdureError, Refused

if TYPE_CHECKING:
    from executor.platform import Platform, Run

DEFAULT_URL = "http://127.0.0.1:8420"
CONFINED_LEVEL = 2
"""The least isolation that the server accepts by itself: a cell (see executor.sandbox.probe)."""


def _version() -> str:
    return metadata.version("perdure")


app = App(
    name="perdure",
    help="Durable workflows for many tenants whose code arrives by git push.",
    version=_version,
    result_action="return_value",
)
tenants = App(name="tenants", help="Tenants and their tokens.")
tokens = App(name="tokens", help="Tokens: passwords of git remotes, and of the API.")
instances = App(name="instances", help="Instances: look at them, talk to them, stop them.")
versions = App(name="versions", help="Deployed commits, and the channels that are on them.")
tenants.command(tokens)
schedules = App(name="schedules", help="Schedules: workflows that start by themselves.")
for group in (tenants, instances, versions, schedules):
    app.command(group)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Common:
    """Where the server is, and how to print."""

    url: Annotated[str | None, Parameter(env_var="PERDURE_URL")] = None
    "The server. Default: the one of the data directory, else http://127.0.0.1:8420."
    token: Annotated[str | None, Parameter(env_var="PERDURE_TOKEN", show_env_var=True)] = None
    "Token. Default: the administrator's, from PERDURE_ADMIN_TOKEN or the data directory."
    data: Annotated[Path | None, Parameter(env_var="PERDURE_DATA")] = None
    "Data directory of a server on this machine."
    json: Annotated[bool, Parameter(negative="")] = False
    "Print one JSON document."

    @property
    def data_dir(self) -> Path:
        return self.data or Path("data")

    def connect(self) -> Platform:
        from executor.platform import Platform  # noqa: PLC0415 - loads the HTTP client; `--help` must not

        # The token that lies in ./data by chance is not for a server that was named by its address.
        kept = read_admin_token(self.data_dir) if self.data is not None or self.url is None else None
        token = self.token or os.environ.get("PERDURE_ADMIN_TOKEN") or kept
        if not token:
            raise Refused(
                "No token was given, and none is kept in a data directory.",
                code="unauthorized",
                hint="Name the server's data directory (--data DIR), or a token (--token, PERDURE_TOKEN).",
            )
        return Platform.connect(self.url or read_address(self.data_dir) or DEFAULT_URL, token=token)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Of(Common):
    """As Common, for one tenant."""

    tenant: Annotated[str, Parameter(name=["--tenant", "-t"], env_var="PERDURE_TENANT")]
    "The tenant."

    @contextmanager
    def instance(self, id: str) -> Iterator[Run[Any]]:
        with self.connect() as platform:
            yield platform.tenant(self.tenant).instance(id)


COMMON = Common()
Payload = Annotated[str, Parameter(allow_leading_hyphen=True)]
"""A lone hyphen means standard input."""


def _show(common: Common, value: Any, text: Any) -> None:
    """The JSON document of `value`, or what `text` prints."""
    from executor import cli_text  # noqa: PLC0415

    if common.json:
        cli_text.document(value)
    elif isinstance(text, str):
        cli_text.line(text)
    else:
        text(value)


def _text() -> Any:
    from executor import cli_text  # noqa: PLC0415 - views and msgspec; `--help` must not wait for them

    return cli_text


# --- the server


@app.command
def serve(
    *,
    data: Path | None = None,
    host: str | None = None,
    port: int | None = None,
    public_url: str | None = None,
    processes: int | None = None,
    unconfined: Annotated[bool, Parameter(negative="")] = False,
    config: Path | None = None,
    log_level: Literal["debug", "info", "warning", "error"] | None = None,
    log_format: Literal["human", "json"] | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Run the server until interrupted.

    Parameters
    ----------
    data
        Data directory; made if missing. Default: ./data
    host
        Address to listen on. Default: 127.0.0.1
    port
        Port to listen on; 0 takes a free one. Default: 8420
    public_url
        What clients are told, behind a proxy that changes the address.
    processes
        Processes that instances are divided among. Default: as the data is; new data: one per core.
    unconfined
        Run tenant code without confinement: only where every tenant is trusted like yourself.
    config
        Configuration file. Default: DIR/config.toml, if it exists.
    log_level
        How much to log.
    log_format
        Log for people, or as JSON lines.
    json
        Print the address as one JSON document.
    """
    flags = {
        "data_dir": data,
        "host": host,
        "port": port,
        "public_url": public_url,
        "processes": processes,
        "unconfined": unconfined or None,
        "log_level": log_level,
        "log_format": log_format,
    }
    settings = for_server(load(flags, file=config))
    from executor import daemon, logs  # noqa: PLC0415 - loads the whole platform; other commands must not

    logs.setup(settings.log_level, settings.log_format)

    def announce(address: str) -> None:
        if json:
            _text().document({"address": address, "data": str(settings.data_dir), "pid": os.getpid()})
        else:
            _text().line(f"perdure {_version()} listens on {address}  (data in {settings.data_dir})")

    daemon.run(settings, announce=announce)


@app.command
def doctor(*, json: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Say what this machine offers to confine tenant code, and how to mend what is missing. Exit code 2: not enough."""
    from executor.provenance import check_own_packages  # noqa: PLC0415
    from executor.sandbox.probe import level_of, probe  # noqa: PLC0415

    check_own_packages()
    found = probe()
    level = level_of(found)
    if json:
        rows: list[Any] = [{"name": row.name, "ok": row.ok, "detail": row.detail, "mend": row.mend} for row in found]
        _text().document({"level": level, "protections": rows})
    else:
        rows = [("ok" if row.ok else "missing", row.name, row.detail, "" if row.ok else row.mend) for row in found]
        _text().table(("", "protection", "detail", "to mend it"), rows, empty="Nothing was probed.")
        verdict = "tenant code runs confined" if level >= CONFINED_LEVEL else "the server refuses to run tenant code"
        _text().line(f"Isolation level {level}: {verdict}.")
    return 0 if level >= CONFINED_LEVEL else 2


@app.command
def health(common: Common = COMMON) -> None:
    """Show how the server is."""
    with common.connect() as platform:
        found = platform.health()
    rows = [(name, getattr(found, name)) for name in found.__struct_fields__]
    _show(common, found, lambda _: _text().facts(rows))


@app.command
def backup(target: str, common: Common = COMMON) -> None:
    """Copy everything, consistently, to TARGET: a new directory on the server's machine."""
    with common.connect() as platform:
        platform.backup(str(Path(target).absolute()))
    _show(common, {"backup": target}, f"Copied to {target}.")


@app.command
def verify(common: Common = COMMON) -> int:
    """Check everything stored; exit code 6 if a problem is found."""
    with common.connect() as platform:
        problems = platform.verify()
    _show(common, problems, "\n".join(problems) or "No problems found.")
    return 6 if problems else 0


@app.command
def gc(of: Of) -> None:
    """Drop commits of a tenant that nothing needs any more."""
    with of.connect() as platform:
        found = platform.tenant(of.tenant).collect_garbage()
    freed = f"{found.bytes_before} → {found.bytes_after} bytes, {found.kept_for_instances} commits kept for instances"
    _show(of, found, freed)


# --- tenants


@tenants.command(name="list")
def list_tenants(common: Common = COMMON) -> None:
    """List tenants."""
    with common.connect() as platform:
        found = [tenant.view for tenant in platform.tenants()]
    _show(common, found, _text().tenants)


@tenants.command(name="create")
def create_tenant(name: str, common: Common = COMMON) -> None:
    """Create a tenant."""
    with common.connect() as platform:
        tenant = platform.create_tenant(name)
        url = tenant.git_url
    _show(
        common,
        {"name": tenant.name, "created_at_ms": tenant.created_at_ms, "git_url": url},
        f"Created {name}. Push to {url}\nA token to push with: perdure tenants tokens create {name}",
    )


@tenants.command(name="show")
def show_tenant(name: str, common: Common = COMMON) -> None:
    """Show a tenant's repository address."""
    with common.connect() as platform:
        tenant = platform.tenant(name)
        found = {
            "name": tenant.name,
            "created_at_ms": tenant.created_at_ms,
            "git_url": tenant.git_url,
            "weight": tenant.view.weight,
            "concurrency": tenant.view.concurrency,
        }
    _show(common, found, lambda _: _text().facts(found.items()))


@tenants.command(name="set")
def set_tenant(name: str, *, weight: int = 1, concurrency: int | None = None, common: Common = COMMON) -> None:
    """Set what a tenant gets; what is not given is the default.

    Parameters
    ----------
    weight
        Turns when instances wait for places, relative to other tenants: 1 to 100.
    concurrency
        Runs at once, within the share that no tenant can exceed.
    """
    with common.connect() as platform:
        view = platform.set_tenant(name, weight=weight, concurrency=concurrency).view
    bound = "" if view.concurrency is None else f", at most {view.concurrency} runs at once"
    _show(common, view, f"{name} has weight {view.weight}{bound}.")


@tenants.command(name="delete")
def delete_tenant(name: str, *, yes: Annotated[bool, Parameter(negative="")] = False, common: Common = COMMON) -> None:
    """Delete a tenant with its code, tokens and instances, for good.

    Parameters
    ----------
    yes
        Do not ask.
    """
    if not yes:
        _confirm(f"Delete tenant {name} with its code, tokens and instances, for good?", name)
    with common.connect() as platform:
        platform.delete_tenant(name)
    _show(common, {"deleted": name}, f"Deleted {name}.")


@tokens.command(name="list")
def list_tokens(tenant: str, common: Common = COMMON) -> None:
    """List a tenant's tokens."""
    with common.connect() as platform:
        found = platform.tenant(tenant).tokens()
    _show(common, found, _text().tokens)


@tokens.command(name="create")
def create_token(
    tenant: str,
    *,
    access: Literal["read", "write"] = "write",
    expires_in_s: float | None = None,
    label: str = "",
    common: Common = COMMON,
) -> None:
    """Create a token; its secret is printed only now.

    Parameters
    ----------
    access
        What it allows.
    expires_in_s
        Its life in seconds. Default: until revoked.
    label
        What it is for.
    """
    with common.connect() as platform:
        found = platform.tenant(tenant).create_token(access=access, expires_in_s=expires_in_s, label=label)
    _show(common, found, str(found.secret))


@tokens.command(name="revoke")
def revoke_token(tenant: str, id: str, common: Common = COMMON) -> None:
    """Revoke a token."""
    with common.connect() as platform:
        platform.tenant(tenant).revoke_token(id)
    _show(common, {"revoked": id}, f"Revoked {id}.")


# --- code


@app.command
def deploy(directory: Path, *, message: str = "", branch: str = "main", of: Of) -> None:
    """Commit the files of DIRECTORY and deploy them, as a push does.

    Hidden files and directories, __pycache__ and *.pyc stay out.

    Parameters
    ----------
    message
        The commit's message.
    branch
        The branch whose whole tree they become.
    """
    files = _files_of(directory)
    with of.connect() as platform:
        found = platform.tenant(of.tenant).deploy(files, message=message, branch=branch)
    _show(of, found, _text().version)


@versions.command(name="list")
def list_versions(*, limit: int = 50, of: Of) -> None:
    """List deployments, newest first."""
    with of.connect() as platform:
        found = platform.tenant(of.tenant).versions(limit=limit)
    _show(of, found, _text().versions)


@versions.command(name="show")
def show_version(commit: str, *, of: Of) -> None:
    """Show one deployment."""
    with of.connect() as platform:
        found = platform.tenant(of.tenant).version(commit)
    _show(of, found, _text().version)


@versions.command(name="channels")
def list_channels(*, of: Of) -> None:
    """List channels and where they are."""
    with of.connect() as platform:
        found = platform.tenant(of.tenant).channels()
    _show(of, found, _text().channels)


@versions.command(name="history")
def channel_history(*, channel: str = "live", limit: int = 50, of: Of) -> None:
    """List every move of a channel, newest first."""
    with of.connect() as platform:
        found = platform.tenant(of.tenant).channel_history(channel, limit=limit)
    _show(of, found, _text().moves)


@versions.command
def rollback(*, to: str = "previous", channel: str = "live", why: str = "", of: Of) -> None:
    """Move a channel back. Running instances, branches and history stay as they are.

    Parameters
    ----------
    to
        "previous", or a commit.
    why
        Kept in the channel's history.
    """
    with of.connect() as platform:
        found = platform.tenant(of.tenant).rollback(to=to, channel=channel, why=why)
    _show(of, found, f"{channel}: {(found.from_commit or 'nothing')[:12]} → {found.to_commit[:12]}")


@versions.command
def pin(commit: str = "live", *, channel: str = "live", why: str = "", of: Of) -> None:
    """Keep a channel on a commit, whatever is pushed."""
    with of.connect() as platform:
        found = platform.tenant(of.tenant).pin(commit, channel=channel, why=why)
    _show(of, found, f"{channel} stays on {found.commit[:12]} until: perdure versions unpin --tenant {of.tenant}")


@versions.command
def unpin(*, channel: str = "live", why: str = "", of: Of) -> None:
    """Let pushes move the channel again."""
    with of.connect() as platform:
        found = platform.tenant(of.tenant).unpin(channel=channel, why=why)
    _show(of, found, f"{channel} is on {found.commit[:12]}, and moves with the next push.")


# --- instances


@app.command
def start(
    workflow: str,
    payload: Payload = "null",
    *,
    id: str | None = None,
    channel: str = "live",
    commit: str | None = None,
    delay: str | None = None,
    at: datetime | None = None,
    attribute: tuple[str, ...] = (),
    priority: int | None = None,
    keep_complete: str | None = None,
    keep_failed: str | None = None,
    unload: Literal["every-wait"] | None = None,
    wait: Annotated[bool, Parameter(negative="")] = False,
    timeout: float | None = None,
    of: Of,
) -> None:
    """Start an instance of WORKFLOW.

    Parameters
    ----------
    payload
        JSON; @FILE reads a file, - reads standard input.
    id
        The instance's id. Default: a new one. The same id and payload again is the same instance.
    commit
        Pin this commit instead of the channel's.
    delay
        Begin after this: "1 hour".
    at
        Begin then: 2030-01-31T06:00:00+00:00; without a zone it is this machine's.
    attribute
        A search attribute, NAME=VALUE; VALUE is JSON, or text as it is. May be repeated.
    priority
        -100 to 100; higher goes first among the tenant's own.
    keep_complete, keep_failed
        How long it is kept once it has ended: "30 days".
    unload
        every-wait drops its run at every wait.
    wait
        Wait for the result and print it.
    timeout
        Longest wait, in seconds.
    """
    value = _payload(payload)
    with of.connect() as platform:
        run = platform.tenant(of.tenant).start(
            workflow,
            value,
            id=id,
            channel=channel,
            commit=commit,
            delay=delay,
            at=None if at is None else at.astimezone() if at.tzinfo is None else at,
            attributes=dict(map(_attribute, attribute)) or None,
            priority=priority,
            retention=_given(complete=keep_complete, failed=keep_failed),
            unload=unload,
        )
        if wait:
            _result(of, run, timeout)
            return
        found = run.status()
    _show(of, found, _text().status)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Fits:
    """Which instances: those that fit all of it."""

    state: str | None = None
    "A state, or several with commas: running,waiting."
    workflow: str | None = None
    "Name of the workflow."
    commit: str | None = None
    "The commit they are pinned to, in full."
    created_from: datetime | None = None
    "Begun then or later; without a zone in UTC."
    created_to: datetime | None = None
    "Begun before then."
    updated_from: datetime | None = None
    "Changed last then or later."
    updated_to: datetime | None = None
    "Changed last before then."
    where: Annotated[list[str] | None, Parameter(allow_leading_hyphen=True, negative="", consume_multiple=False)] = None
    "A condition on a search attribute, once for each: customer=acme, 'amount>5', 'customer^=ac', urgent, '!urgent'."

    def arguments(self) -> dict[str, Any]:
        """As the Python API takes them."""
        from executor.core.search import words  # noqa: PLC0415 - msgspec; `--help` must not wait for it

        return {
            "state": self.state,
            "workflow": self.workflow,
            "commit": self.commit,
            "created_from": _in_utc(self.created_from),
            "created_to": _in_utc(self.created_to),
            "updated_from": _in_utc(self.updated_from),
            "updated_to": _in_utc(self.updated_to),
            "where": [words(text) for text in self.where] if self.where else None,
        }


FITS = Fits()


def _in_utc(at: datetime | None) -> datetime | None:
    return at.replace(tzinfo=UTC) if at is not None and at.tzinfo is None else at


def _attribute(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise Refused(f"{text!r} is no search attribute.", hint="Write NAME=VALUE.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _given(**values: str | None) -> dict[str, str] | None:
    return {name: value for name, value in values.items() if value is not None} or None


@instances.command(name="list")
def list_instances(
    *,
    fits: Fits = FITS,
    order_by: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    limit: int = 100,
    of: Of,
) -> None:
    """List instances, newest first.

    Parameters
    ----------
    order_by
        created, updated or the name of a search attribute; with - before it, the greatest comes first.
    """
    with of.connect() as platform:
        found = platform.tenant(of.tenant).instances(**fits.arguments(), order_by=order_by, limit=limit)
    _show(of, found, _text().instances)


@instances.command
def bulk(
    operation: Literal["pause", "resume", "terminate", "restart", "retry", "delete"],
    *,
    fits: Fits = FITS,
    limit: int | None = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    yes: Annotated[bool, Parameter(negative="")] = False,
    of: Of,
) -> int:
    """Do OPERATION to all instances that fit. Exit code 4 if some of them refuse.

    Parameters
    ----------
    limit
        The newest so many of them. Default: all.
    dry_run
        Only say how many there are, and the first of them.
    yes
        Do not ask.
    """
    with of.connect() as platform:
        tenant = platform.tenant(of.tenant)
        words = fits.arguments()
        if not dry_run and not yes:
            found = tenant.count(**words)
            number = f"more than {found.count}" if found.is_more else str(found.count)
            newest = "" if limit is None else f"the newest {limit} of "
            _confirm(f"{operation} {newest}{number} instances of {of.tenant}?", operation)
        result = tenant.bulk(operation, **words, limit=limit, dry_run=dry_run)
    _show(of, result, lambda _: _text().bulk(operation, result, dry_run=dry_run))
    return 4 if result.failed else 0


@instances.command(name="show")
def show_instance(id: str, *, of: Of) -> None:
    """Show an instance: state, commit, what it waits for, attempts, error, output."""
    with of.instance(id) as run:
        found = run.status()
    _show(of, found, _text().status)


@instances.command
def result(id: str, *, timeout: float | None = None, of: Of) -> None:
    """Wait for an instance's result and print it.

    Parameters
    ----------
    timeout
        Longest wait, in seconds. Default: as long as it takes.
    """
    with of.instance(id) as run:
        _result(of, run, timeout)


@instances.command
def logs(id: str, *, follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative="")] = False, of: Of) -> None:
    """Print what an instance printed and logged. With --json and -f: one document a line.

    Parameters
    ----------
    follow
        Go on with lines as they come, until the instance has ended.
    """
    with of.instance(id) as run:
        lines = run.logs(follow=follow)
        if of.json and not follow:
            _text().document(list(lines))
            return
        for line in lines:
            if of.json:
                _text().json_line(line)
            else:
                _text().log(line)


@instances.command
def journal(id: str, *, after: int = 0, limit: int = 1000, of: Of) -> None:
    """Print an instance's journal.

    Parameters
    ----------
    after
        Only entries after this sequence number.
    """
    with of.instance(id) as run:
        found = run.journal(after=after, limit=limit)
    _show(of, found, _text().journal)


@instances.command
def send_event(id: str, type: str, payload: Payload = "null", *, event_id: str | None = None, of: Of) -> None:
    """Send an event of TYPE to an instance.

    Parameters
    ----------
    payload
        JSON; @FILE reads a file, - reads standard input.
    event_id
        The same id counts once, however often it is sent.
    """
    value = _payload(payload)
    with of.instance(id) as run:
        found = run.send_event(type, value, id=event_id)
    state = "was there already" if found.is_duplicate else "is kept"
    _show(of, found, f"Event {found.id} {state}.")


@instances.command
def pause(id: str, *, of: Of) -> None:
    """Start no further step until resumed."""
    with of.instance(id) as run:
        found = run.pause()
    _show(of, found, _text().status)


@instances.command
def resume(id: str, *, of: Of) -> None:
    """Go on after a pause, or try again after being held."""
    with of.instance(id) as run:
        found = run.resume()
    _show(of, found, _text().status)


@instances.command
def terminate(id: str, *, undo: Annotated[bool, Parameter(negative="")] = False, of: Of) -> None:
    """End an instance now, for good.

    Parameters
    ----------
    undo
        First undo what its finished steps did, the latest first.
    """
    with of.instance(id) as run:
        found = run.terminate(undo=undo)
    _show(of, found, _text().status)


@instances.command
def restart(id: str, *, from_step: str | None = None, occurrence: int = 1, of: Of) -> None:
    """Run an instance again, from its beginning or from a step.

    Parameters
    ----------
    from_step
        The step's name, with its group's path before it; what was recorded before it began stays.
    occurrence
        Which one, where several steps have the name.
    """
    with of.instance(id) as run:
        found = run.restart(from_step=None if from_step is None else (from_step, occurrence))
    _show(of, found, _text().status)


@instances.command
def retry(id: str, *, of: Of) -> None:
    """Let a failed instance go on from the step that failed it, with new attempts."""
    with of.instance(id) as run:
        found = run.retry()
    _show(of, found, _text().status)


@instances.command
def set_attributes(id: str, *attributes: str, of: Of) -> None:
    """Change search attributes: NAME=VALUE for each; NAME=null takes one away.

    Parameters
    ----------
    attributes
        The value is JSON (5, true, null), or a text as it stands.
    """
    changes: dict[str, Any] = {}
    for text in attributes:
        name, equals, value = text.partition("=")
        if not equals:
            raise Refused(f"{text!r} is not NAME=VALUE.", hint="For example customer=acme amount=5")
        changes[name] = _word(value)
    with of.instance(id) as run:
        found = run.set_attributes(changes)
    _show(of, found, _text().status)


@instances.command
def update(
    id: str,
    name: str,
    payload: Payload = "null",
    *,
    update_id: str | None = None,
    timeout: float | None = None,
    of: Of,
) -> None:
    """Send update NAME to an instance, wait for its answer, and print it.

    Parameters
    ----------
    payload
        JSON; @FILE reads a file, - reads standard input.
    update_id
        The same id is the same update, however often it is sent.
    timeout
        Longest wait, in seconds. Default: as long as it takes.
    """
    given = _payload(payload)
    with of.instance(id) as run:
        value = run.update(name, given, id=update_id, timeout=timeout)
    _answer(of, value)


@instances.command
def ask(id: str, name: str, payload: Payload = "null", *, of: Of) -> None:
    """Ask query handler NAME of an instance and print its answer. Nothing is journaled.

    Parameters
    ----------
    payload
        JSON; @FILE reads a file, - reads standard input.
    """
    given = _payload(payload)
    with of.instance(id) as run:
        value = run.ask(name, given)
    _answer(of, value)


@instances.command
def query(
    id: str,
    sql: str,
    *,
    parameter: Annotated[list[str] | None, Parameter(negative="", consume_multiple=False)] = None,
    limit: int = 1000,
    of: Of,
) -> None:
    """Read an instance's facet with one SQL statement.

    Parameters
    ----------
    parameter
        For each ? of the statement, in order: JSON, or a text as it stands.
    limit
        Rows to show at most.
    """
    given = [_word(text) for text in parameter or ()]
    with of.instance(id) as run:
        found = run.query(sql, given, limit=limit)
    _show(of, found, _text().rows)


@instances.command
def streams(id: str, *, of: Of) -> None:
    """List an instance's output streams."""
    with of.instance(id) as run:
        found = run.streams()
    _show(of, found, _text().streams)


@instances.command
def stream(
    id: str,
    name: str,
    *,
    offset: int = 0,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative="")] = False,
    of: Of,
) -> None:
    """Print the items of output stream NAME, one JSON value a line. With --json: with offset, time and step.

    Parameters
    ----------
    offset
        Begin at this item; the first is 0.
    follow
        Go on with items as they come, until the instance has ended.
    """
    with of.instance(id) as run:
        items = run.stream(name, offset=offset, follow=follow)
        if of.json and not follow:
            _text().document(list(items))
            return
        for item in items:
            if of.json:
                _text().json_line(item)
            else:
                _text().line(_text().value(item.item))


@instances.command(name="delete")
def delete_instance(id: str, *, of: Of) -> None:
    """Forget an instance: journal, facet and logs."""
    with of.instance(id) as run:
        run.delete()
    _show(of, {"deleted": id}, f"Deleted {id}.")


@instances.command
def facet(id: str, *, output: Annotated[Path, Parameter(name=["--output", "-o"])], of: Of) -> None:
    """Write an instance's facet as an ordinary SQLite file.

    Parameters
    ----------
    output
        The file; it must not exist.
    """
    with of.instance(id) as run:
        content = run.facet()
    try:
        with output.open("xb") as file:
            file.write(content)
    except OSError as error:
        raise Refused(f"{output} cannot be written: {error.strerror}.", hint="Name a new file.") from None
    _show(of, {"file": str(output), "bytes": len(content)}, f"Wrote {len(content)} bytes to {output}.")


# --- schedules


@schedules.command(name="list")
def list_schedules(*, of: Of) -> None:
    """List schedules: when each fires next, and what became of the last time."""
    with of.connect() as platform:
        found = platform.tenant(of.tenant).schedules()
    _show(of, found, _text().schedules)


@schedules.command(name="show")
def show_schedule(name: str, *, of: Of) -> None:
    """Show a schedule with its next times and its last firings."""
    with of.connect() as platform:
        found = platform.tenant(of.tenant).schedule(name)
    _show(of, found, _text().schedule)


@schedules.command(name="create")
def create_schedule(
    workflow: str,
    payload: Payload = "null",
    *,
    name: str | None = None,
    channel: str = "live",
    cron: str | None = None,
    every: str | None = None,
    timezone: str = "UTC",
    start: str | None = None,
    end: str | None = None,
    overlap: Literal["skip", "queue", "cancel", "allow"] = "skip",
    catch_up: Literal["none", "last", "all"] = "last",
    catch_up_window: str | None = None,
    jitter: str = "0 seconds",
    of: Of,
) -> None:
    """Start a workflow again and again.

    Parameters
    ----------
    payload
        JSON, @FILE, or - for standard input.
    cron
        Minute, hour, day, month, weekday: "0 6 * * 1-5".
    every
        An interval in place of cron: "10 minutes".
    start
        Not before this date (ISO 8601).
    end
        Before this date.
    overlap
        What a firing does while an instance of an earlier one has not ended.
    catch_up
        Which firings are made up for that came while the platform was down.
    catch_up_window
        How far back they are.
    jitter
        Fire up to so much later.
    """
    value = _payload(payload)
    with of.connect() as platform:
        found = platform.tenant(of.tenant).create_schedule(
            workflow,
            value,
            name=name,
            channel=channel,
            cron=cron,
            every=every,
            timezone=timezone,
            start=start,
            end=end,
            overlap=overlap,
            catch_up=catch_up,
            catch_up_window=catch_up_window,
            jitter=jitter,
        )
    _show(of, found, _text().schedule)


@schedules.command(name="delete")
def delete_schedule(name: str, *, of: Of) -> None:
    """Delete a schedule that was made here or by the API; its instances go on."""
    with of.connect() as platform:
        platform.tenant(of.tenant).delete_schedule(name)
    _show(of, {"deleted": name}, f"Deleted {name}.")


@schedules.command(name="pause")
def pause_schedule(name: str, *, of: Of) -> None:
    """Fire nothing until resumed."""
    with of.connect() as platform:
        found = platform.tenant(of.tenant).pause_schedule(name)
    _show(of, found, _text().schedule)


@schedules.command(name="resume")
def resume_schedule(name: str, *, of: Of) -> None:
    """Fire again, from the next time on."""
    with of.connect() as platform:
        found = platform.tenant(of.tenant).resume_schedule(name)
    _show(of, found, _text().schedule)


@schedules.command(name="trigger")
def trigger_schedule(name: str, *, id: str | None = None, of: Of) -> None:
    """Start an instance now, as the schedule would."""
    with of.connect() as platform:
        found = platform.tenant(of.tenant).trigger_schedule(name, id=id).status()
    _show(of, found, _text().status)


# --- inside


def _result(common: Common, run: Run[Any], timeout: float | None) -> None:
    value = run.result(timeout=timeout)
    from executor.operations import ResultView  # noqa: PLC0415

    _show(common, ResultView(output=value), _text().value(value))


def _answer(common: Common, value: Any) -> None:
    from executor.operations import ResultView  # noqa: PLC0415

    _show(common, ResultView(output=value), _text().value(value))


def _word(text: str) -> Any:
    """A JSON value, or the text itself where it is none."""
    import json  # noqa: PLC0415

    from executor.core.values import from_json  # noqa: PLC0415

    try:
        return from_json(json.loads(text))
    except (ValueError, RecursionError):
        return text


def _payload(text: str) -> Any:
    """A payload from the command line, in the JSON form that the API takes."""
    import json  # noqa: PLC0415

    from executor.core.values import DEPTH_MAX, from_json  # noqa: PLC0415

    try:
        if text == "-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8")
        return from_json(json.loads(text))
    except RecursionError:
        raise Refused(
            f"payload: nested more than {DEPTH_MAX} deep",
            code="bad_payload",
            hint="Flatten it, or return it as text or bytes.",
        ) from None
    except OSError as error:
        raise Refused(f"The payload's file cannot be read: {error.strerror}.", code="bad_payload") from None
    except ValueError as error:
        hint = """Write JSON, for example '{"email": "a@b.c"}', with quotes around texts."""
        raise Refused(f"The payload is not JSON: {error}.", code="bad_payload", hint=hint) from None


def _files_of(directory: Path) -> dict[str, str | bytes]:
    if not directory.is_dir():
        raise Refused(f"There is no directory {directory}.", code="deploy_refused")
    found: dict[str, str | bytes] = {}
    for path in sorted(directory.rglob("*")):
        relative = path.relative_to(directory)
        if any(part.startswith(".") or part == "__pycache__" for part in relative.parts) or path.suffix == ".pyc":
            continue
        if path.is_symlink():
            raise Refused(f"{relative} is a symbolic link.", code="deploy_refused", hint="Deploy regular files only.")
        if path.is_file():
            found[relative.as_posix()] = path.read_bytes()
    if not found:
        raise Refused(f"There are no files in {directory}.", code="deploy_refused")
    return found


def _confirm(question: str, wanted: str) -> None:
    if not sys.stdin.isatty():
        raise Refused(f"{question} Nobody is there to confirm it.", hint="Add --yes if you mean it.")
    sys.stderr.write(f"{question} Type {wanted} to confirm: ")
    sys.stderr.flush()
    if sys.stdin.readline().strip() != wanted:
        raise Refused("Not confirmed; nothing was done.")


def main(arguments: list[str] | None = None) -> None:
    """The entry point of the `perdure` command."""
    raise SystemExit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Do what `arguments` say; the exit code."""
    as_json = "--json" in arguments
    try:
        code = app(arguments, exit_on_error=False)
    except CycloptsError:
        return 2  # told by cyclopts, with the command's usage
    except PerdureError as error:
        return int(_text().error(error, as_json=as_json))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) went away; python must not complain when it closes the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    main()
