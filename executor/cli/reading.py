"""`perdure instances`: look at one, changing nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from executor.cli.app import instances
from executor.cli.arguments import Payload, payload_of, word
from executor.cli.common import Of, printing, show, show_value, tables
from executor.core.errors import Refused


@instances.command(name="show")
def show_instance(id: str, *, of: Of) -> None:
    """Show an instance: state, commit, what it waits for, attempts, error, output."""
    with of.instance(id) as run:
        found = run.status()
    show(of, found, tables().status)


@instances.command
def result(id: str, *, timeout: float | None = None, of: Of) -> None:
    """Wait for an instance's result and print it.

    Parameters
    ----------
    timeout
        Longest wait, in seconds. Default: as long as it takes.
    """
    with of.instance(id) as run:
        show_value(of, run.result(timeout=timeout))


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
            printing().document(list(lines))
            return
        for line in lines:
            if of.json:
                printing().json_line(line)
            else:
                tables().log(line)


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
    show(of, found, tables().journal)


@instances.command
def ask(id: str, name: str, payload: Payload = "null", *, of: Of) -> None:
    """Ask query handler NAME of an instance and print its answer. Nothing is journaled.

    Parameters
    ----------
    payload
        JSON; @FILE reads a file, - reads standard input.
    """
    given = payload_of(payload)
    with of.instance(id) as run:
        value = run.ask(name, given)
    show_value(of, value)


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
    given = [word(text) for text in parameter or ()]
    with of.instance(id) as run:
        found = run.query(sql, given, limit=limit)
    show(of, found, tables().rows)


@instances.command
def streams(id: str, *, of: Of) -> None:
    """List an instance's output streams."""
    with of.instance(id) as run:
        found = run.streams()
    show(of, found, tables().streams)


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
            printing().document(list(items))
            return
        for item in items:
            if of.json:
                printing().json_line(item)
            else:
                printing().line(printing().value(item.item))


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
    show(of, {"file": str(output), "bytes": len(content)}, f"Wrote {len(content)} bytes to {output}.")
