"""A real `perdure serve` process and what stands around it: HTTP clients, the command line, git working copies.

Scenarios only: everything here goes through what a person outside has. The command line is run in this process
(`cli.run`, the function behind the `perdure` program) where many calls are made, and as a program where one is.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from executor import Platform, cli
from executor.views import Status

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 30.0
_ADDRESS = re.compile(r"listens on (\S+)")
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Loopback is plain; loading the world's certificates for each client takes 40 ms."""


def clean_environment(home: Path) -> dict[str, str]:
    """Nothing of the machine's own configuration counts, of git or of Perdure."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PERDURE_", "GIT_"))}
    return kept | {
        "HOME": str(home),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_AUTHOR_NAME": "Ada",
        "GIT_AUTHOR_EMAIL": "ada@example.com",
        "GIT_COMMITTER_NAME": "Ada",
        "GIT_COMMITTER_EMAIL": "ada@example.com",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        "PYTHONUNBUFFERED": "1",
        "PERDURE_PROCESSES": "1",  # several are tests/scenarios/test_shards.py's matter, and cost seconds at each start
    }


@dataclass(frozen=True)
class Told:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The JSON document on standard output."""
        return json.loads(self.out)


class LiveServer:
    """One data directory and its server processes, one after the other, on one port."""

    def __init__(self, home: Path, *, program: str = "executor.cli", **settings: object) -> None:
        self.home = home
        self._program = program
        self.data = home / "data"
        self.url = ""
        self.log = home / "server.log"
        self._settings = {f"PERDURE_{key.upper()}": str(value) for key, value in settings.items()}
        self._process: subprocess.Popen[str] | None = None
        self._open = contextlib.ExitStack()

    # --- life

    def start(self) -> LiveServer:
        """Start it and return once it accepts connections."""
        port = self.url.rpartition(":")[2] or "0"
        command = [sys.executable, "-m", self._program, "serve", "--data", str(self.data), "--port", port]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=clean_environment(self.home) | self._settings,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout is not None
        found = _ADDRESS.search(self._process.stdout.readline())
        assert found, f"the server did not start:\n{self.log_text()[-3000:]}"
        self.url = found.group(1).rstrip("/")
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL to the server's own process."""
        assert self._process is not None
        self._process.kill()
        self._gone()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._gone()

    def _gone(self) -> int:
        process, self._process = self._process, None
        assert process is not None
        assert process.stdout is not None
        code = process.wait(TIMEOUT_S)
        process.stdout.close()
        return code

    def close(self) -> None:
        """Leave nothing behind."""
        self._open.close()
        if self._process is not None:
            self.kill()

    def log_text(self) -> str:
        """All that the servers of this data directory logged."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    # --- ways in

    @property
    def admin_token(self) -> str:
        return (self.data / "admin-token").read_text(encoding="ascii").strip()

    def platform(self, token: str | None = None) -> Platform:
        """The Python API with that token, else the administrator's; open until the server's end."""
        return self._open.enter_context(Platform.connect(self.url, token=token or self.admin_token))

    def http(self, token: str | None = "") -> httpx2.Client:
        """A client of /api/v1; "" stands for the administrator's token, None for no token."""
        secret = self.admin_token if token == "" else token
        return self._open.enter_context(
            httpx2.Client(
                base_url=self.url,
                headers={} if secret is None else {"Authorization": f"Bearer {secret}"},
                trust_env=False,
                verify=_NO_TLS,
                timeout=TIMEOUT_S,
            )
        )

    def cli(self, *arguments: str | Path, token: str | None = None, stdin: str = "") -> Told:
        """`perdure ARGUMENTS` in this process: what it prints, and the exit code."""
        given = [*map(str, arguments), "--url", self.url, "--token", token or self.admin_token]
        return run_cli(given, stdin=stdin)

    def program(self, *arguments: str | Path, token: str | None = None) -> Told:
        """`perdure ARGUMENTS` as the program itself."""
        done = subprocess.run(
            [sys.executable, "-m", "executor.cli", *map(str, arguments)],
            cwd=ROOT,
            env=clean_environment(self.home) | {"PERDURE_URL": self.url, "PERDURE_TOKEN": token or self.admin_token},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        return Told(done.returncode, done.stdout, done.stderr)


def run_cli(arguments: list[str], *, stdin: str = "") -> Told:
    """`cli.run` with its streams caught. The environment's own settings do not count."""
    out, err = io.StringIO(), io.StringIO()
    saved = {key: os.environ.pop(key) for key in list(os.environ) if key.startswith("PERDURE_")}
    before, sys.stdin = sys.stdin, io.StringIO(stdin)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.run(arguments)
    finally:
        sys.stdin = before
        os.environ.update(saved)
    return Told(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def serving(home: Path, *, program: str = "executor.cli", **settings: object) -> Iterator[LiveServer]:
    """A started server; killed at the end of the block. `program`: the module to run in place of `perdure` itself."""
    server = LiveServer(home, program=program, **settings)
    try:
        yield server.start()
    finally:
        server.close()


class WorkingCopy:
    """A tenant's git repository on its own disk, with the platform as remote `perdure`."""

    def __init__(self, home: Path, url: str, secret: str | None, *, name: str = "work") -> None:
        self.home = home
        self.tree = home / name
        self.tree.mkdir(parents=True)
        self.remote = url if secret is None else with_password(url, secret)
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("remote", "add", "perdure", self.remote)

    def commit(self, files: dict[str, str], message: str = "change") -> str:
        """Write `files`, commit everything; the full commit id."""
        for path, text in files.items():
            target = self.tree / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        return self.git("rev-parse", "HEAD").out.strip()

    def push(self, *arguments: str, remote: str = "perdure") -> Told:
        """`git push REMOTE …`, main if nothing is named; never raises."""
        return git(self.home, "push", remote, *(arguments or ("main",)), cwd=self.tree)

    def git(self, *arguments: str) -> Told:
        told = git(self.home, *arguments, cwd=self.tree)
        assert told.code == 0, told
        return told


def git(home: Path, *arguments: str | Path, cwd: Path | None = None) -> Told:
    done = subprocess.run(
        ["git", *map(str, arguments)],
        cwd=cwd or home,
        env=clean_environment(home),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=TIMEOUT_S,
    )
    return Told(done.returncode, done.stdout, done.stderr)


def with_password(url: str, secret: str) -> str:
    return url.replace("://", f"://anyone:{secret}@", 1)


def wait_status(run: Any, is_there: Callable[[Status], bool], timeout_s: float = TIMEOUT_S) -> Status:
    """The first status that fits. The API has no way to wait for a state that is no end, so this looks again."""
    deadline = time.monotonic() + timeout_s
    while True:
        status: Status = run.status()
        if is_there(status):
            return status
        assert not status.is_final, status
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s; it is: {status}"
        time.sleep(0.01)


def wait_waiting(run: Any, kind: str, timeout_s: float = TIMEOUT_S) -> Status:
    """Once it waits for a `sleep`, an `event` or a `retry`."""
    return wait_status(
        run,
        lambda status: status.state == "waiting" and kind in [wait.kind for wait in status.waits],
        timeout_s,
    )


def shard_processes(parent: int) -> list[int]:
    """Ids of the shard processes that the process `parent` made, in order."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found_parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if found_parent == parent and b"executor.shards.process" in command:
                found.append(int(entry.name))
    return sorted(found)


TRACES = frozenset({"activated", "released", "step_started"})


def facts(run: Any) -> list[str]:
    """Kinds of an instance's journal, without those that tell how often it was activated and which attempts began."""
    return [item.kind for item in run.journal() if item.kind not in TRACES]
