"""`perdure deploy`, `perdure versions`: a tenant's code."""

from __future__ import annotations

from pathlib import Path

from executor.cli.app import app, versions
from executor.cli.arguments import files_of
from executor.cli.common import Of, show, tables


@app.command
def gc(of: Of) -> None:
    """Drop commits of a tenant that nothing needs any more."""
    with of.connect() as platform:
        found = platform.tenant(of.tenant).collect_garbage()
    freed = f"{found.bytes_before} → {found.bytes_after} bytes, {found.kept_for_instances} commits kept for instances"
    show(of, found, freed)


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
    files = files_of(directory)
    with of.connect() as platform:
        found = platform.tenant(of.tenant).deploy(files, message=message, branch=branch)
    show(of, found, tables().version)


@versions.command(name="list")
def list_versions(*, limit: int = 50, of: Of) -> None:
    """List deployments, newest first."""
    with of.connect() as platform:
        found = platform.tenant(of.tenant).versions(limit=limit)
    show(of, found, tables().versions)


@versions.command(name="show")
def show_version(commit: str, *, of: Of) -> None:
    """Show one deployment."""
    with of.connect() as platform:
        found = platform.tenant(of.tenant).version(commit)
    show(of, found, tables().version)


@versions.command(name="channels")
def list_channels(*, of: Of) -> None:
    """List channels and where they are."""
    with of.connect() as platform:
        found = platform.tenant(of.tenant).channels()
    show(of, found, tables().channels)


@versions.command(name="history")
def channel_history(*, channel: str = "live", limit: int = 50, of: Of) -> None:
    """List every move of a channel, newest first."""
    with of.connect() as platform:
        found = platform.tenant(of.tenant).channel_history(channel, limit=limit)
    show(of, found, tables().moves)


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
    show(of, found, f"{channel}: {(found.from_commit or 'nothing')[:12]} → {found.to_commit[:12]}")


@versions.command
def pin(commit: str = "live", *, channel: str = "live", why: str = "", of: Of) -> None:
    """Keep a channel on a commit, whatever is pushed."""
    with of.connect() as platform:
        found = platform.tenant(of.tenant).pin(commit, channel=channel, why=why)
    show(of, found, f"{channel} stays on {found.commit[:12]} until: perdure versions unpin --tenant {of.tenant}")


@versions.command
def unpin(*, channel: str = "live", why: str = "", of: Of) -> None:
    """Let pushes move the channel again."""
    with of.connect() as platform:
        found = platform.tenant(of.tenant).unpin(channel=channel, why=why)
    show(of, found, f"{channel} is on {found.commit[:12]}, and moves with the next push.")
