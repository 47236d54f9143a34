"""The server, the machine it runs on, and its data as a whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from executor.cli.app import app, version
from executor.cli.common import COMMON, Common, printing, show
from executor.config import for_server, load

CONFINED_LEVEL = 2
"""The least isolation that the server accepts by itself: a cell (see executor.sandbox.probe)."""


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
            printing().document({"address": address, "data": str(settings.data_dir), "pid": os.getpid()})
        else:
            printing().line(f"perdure {version()} listens on {address}  (data in {settings.data_dir})")

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
        printing().document({"level": level, "protections": rows})
    else:
        rows = [("ok" if row.ok else "missing", row.name, row.detail, "" if row.ok else row.mend) for row in found]
        printing().table(("", "protection", "detail", "to mend it"), rows, empty="Nothing was probed.")
        verdict = "tenant code runs confined" if level >= CONFINED_LEVEL else "the server refuses to run tenant code"
        printing().line(f"Isolation level {level}: {verdict}.")
    return 0 if level >= CONFINED_LEVEL else 2


@app.command
def health(common: Common = COMMON) -> None:
    """Show how the server is."""
    with common.connect() as platform:
        found = platform.health()
    rows = [(name, getattr(found, name)) for name in found.__struct_fields__]
    show(common, found, lambda _: printing().facts(rows))


@app.command
def backup(target: str, common: Common = COMMON) -> None:
    """Copy everything, consistently, to TARGET: a new directory on the server's machine."""
    with common.connect() as platform:
        platform.backup(str(Path(target).absolute()))
    show(common, {"backup": target}, f"Copied to {target}.")


@app.command
def verify(common: Common = COMMON) -> int:
    """Check everything stored; exit code 6 if a problem is found."""
    with common.connect() as platform:
        problems = platform.verify()
    show(common, problems, "\n".join(problems) or "No problems found.")
    return 6 if problems else 0
