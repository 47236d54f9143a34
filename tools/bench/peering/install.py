"""Peers from the package registries, each in its own environment under one cache folder; nothing of theirs is ours."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

VERSIONS = {
    "dbos": ("dbos==3.4.0",),
    "absurd": ("absurd-sdk==0.5.1", "absurdctl==0.5.1"),
    "restate": ("restate-sdk==1.3.0", "hypercorn==0.18.0", "aiohttp>=3.14,<4"),
}
RESTATE_SERVER = "@restatedev/restate-server@1.7.12"
INSTALL_S_MAX = 900.0


class NotInstalled(Exception):
    """A peer that cannot be had here; the text says why."""


def python_of(cache: Path, name: str) -> Path:
    """The interpreter of the environment of peer `name`, made at the first call. Raises NotInstalled."""
    folder = cache / name
    python, done = folder / "bin/python", folder / f".installed-{'-'.join(VERSIONS[name])}".replace("/", "_")
    if not done.exists():
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *VERSIONS[name]])
        done.touch()
    return python


def restate_server(cache: Path) -> Path:
    """The server's program, from the npm package that ships it. Raises NotInstalled."""
    folder = cache / "restate-server"
    programs = sorted(folder.glob("node_modules/@restatedev/restate-server-*/bin/restate-server"))
    if not programs:
        if shutil.which("npm") is None:
            raise NotInstalled("npm, which brings the Restate server, is not installed")
        folder.mkdir(parents=True, exist_ok=True)
        _run(["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--ignore-scripts", RESTATE_SERVER])
        programs = sorted(folder.glob("node_modules/@restatedev/restate-server-*/bin/restate-server"))
    if not programs:
        raise NotInstalled("the npm package of the Restate server has no program for this machine")
    return programs[0]


def postgres_folder() -> Path:
    """Where PostgreSQL's programs are. Raises NotInstalled."""
    found = [*Path("/usr/lib/postgresql").glob("*/bin/postgres"), *filter(None, [shutil.which("postgres")])]
    if not found:
        raise NotInstalled("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    return Path(found[0]).resolve().parent


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALL_S_MAX)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalled(f"{command[0]}: {error}") from error
    if done.returncode:
        raise NotInstalled(f"{' '.join(command[:4])} …: {done.stderr.strip()[-500:]}")
