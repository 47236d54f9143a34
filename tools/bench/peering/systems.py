"""One way to start each system: a program that runs W3 on demand, and the servers that it needs.

A program (`programs/`) runs in its system's own environment. It reads questions as lines of JSON and answers each with
one line; what it measures itself is time, and the CPU of everything is read from outside (`Running.pids`).
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.bench.common import cpu_s
from tools.bench.peering.install import postgres_folder, python_of, restate_server

PROGRAMS = Path(__file__).parent / "programs"
ROOT = Path(__file__).resolve().parents[3]
READY_S_MAX = 90.0


@dataclass
class Running:
    """A system that is up. `pids`: the roots of all its processes, client and servers."""

    program: subprocess.Popen[str]
    pids: list[int]

    def ask(self, **question: Any) -> dict[str, Any]:
        """The program's answer, and in `cpu_s` what all processes used meanwhile. Raises RuntimeError if it ended."""
        assert self.program.stdin is not None
        before = self.cpu_s()
        self.program.stdin.write(json.dumps(question) + "\n")
        self.program.stdin.flush()
        answer = _answer(self.program)
        return answer | {"cpu_s": self.cpu_s() - before}

    def cpu_s(self) -> float:
        return sum(cpu_s(pid) for pid in self.pids)


def _answer(program: subprocess.Popen[str]) -> dict[str, Any]:
    assert program.stdout is not None
    for line in program.stdout:
        if line.startswith("{"):  # libraries may print too
            found: dict[str, Any] = json.loads(line)
            return found
    raise RuntimeError(f"{program.args!r} ended")


@contextmanager
def _program(python: Path | str, name: str, *arguments: str, servers: tuple[int, ...] = ()) -> Generator[Running]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PERDURE_", "PYTHON"))}
    if name == "ours":
        environment["PYTHONPATH"] = str(ROOT)
    process = subprocess.Popen(
        [str(python), str(PROGRAMS / f"{name}_program.py"), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        _answer(process)
        yield Running(process, [process.pid, *servers])
    finally:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        _end(process)


def _end(process: subprocess.Popen[Any]) -> None:
    """Stop a process that leads a session of its own, with its children."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            break
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def ours(_cache: Path, folder: Path, *, processes: int = 0) -> Generator[Running]:
    """Perdure, embedded, with its default sandbox."""
    with _program(sys.executable, "ours", str(folder / "data"), str(processes)) as running:
        yield running


@contextmanager
def dbos_sqlite(cache: Path, folder: Path) -> Generator[Running]:
    python = python_of(cache, "dbos")
    with _program(python, "dbos", f"sqlite:///{folder}/dbos.sqlite") as running:
        yield running


@contextmanager
def dbos_postgres(cache: Path, folder: Path) -> Generator[Running]:
    python = python_of(cache, "dbos")
    with (
        _postgres(folder) as (url, pid),
        _program(python, "dbos", url.replace("postgresql:", "postgresql+psycopg:"), servers=(pid,)) as running,
    ):
        yield running


@contextmanager
def absurd(cache: Path, folder: Path) -> Generator[Running]:
    python = python_of(cache, "absurd")
    with _postgres(folder) as (url, pid), _program(python, "absurd", url, servers=(pid,)) as running:
        yield running


@contextmanager
def restate(cache: Path, folder: Path) -> Generator[Running]:
    """The server, and the service as two processes of the web server that Restate's documents name."""
    python, server = python_of(cache, "restate"), restate_server(cache)
    ingress, admin, fabric, service = _free_ports(4)
    settings = {
        "RESTATE_DISABLE_TELEMETRY": "true",
        "RESTATE_LISTEN_MODE": "tcp",
        "RESTATE_BIND_ADDRESS": f"127.0.0.1:{fabric}",
        "RESTATE_ADVERTISED_ADDRESS": f"http://127.0.0.1:{fabric}/",
        "RESTATE_INGRESS__BIND_ADDRESS": f"127.0.0.1:{ingress}",
        "RESTATE_ADMIN__BIND_ADDRESS": f"127.0.0.1:{admin}",
        "RESTATE_LOG_FILTER": "error",
    }
    with contextlib.ExitStack() as stack:
        serving = stack.enter_context(
            _background([str(server), "--no-logo", "--base-dir", str(folder / "restate")], folder, **settings)
        )
        hypercorn = [str(python), "-m", "hypercorn", "--config", f"file:{PROGRAMS}/restate_hypercorn.py"]
        bound = ["--bind", f"127.0.0.1:{service}", "restate_service:app"]
        web = stack.enter_context(_background([*hypercorn, *bound], folder, PYTHONPATH=str(PROGRAMS)))
        _until(lambda: _get(f"http://127.0.0.1:{admin}/health"), serving)
        _until(lambda: _get(f"http://127.0.0.1:{ingress}/restate/health"), serving)
        _until(lambda: _connects(service), web)
        body = json.dumps({"uri": f"http://127.0.0.1:{service}"}).encode()
        _until(lambda: _get(f"http://127.0.0.1:{admin}/deployments", body), serving)
        url = f"http://127.0.0.1:{ingress}/Three/run"
        _until(lambda: _get(url, b"0"), serving)
        with _program(python, "restate", url, servers=(serving.pid, web.pid)) as running:
            yield running


@contextmanager
def _postgres(folder: Path) -> Generator[tuple[str, int]]:
    """A fresh PostgreSQL with its stock settings on a free loopback port; never as root, which it refuses."""
    programs, data, (port,) = postgres_folder(), folder / "postgres", _free_ports(1)
    user = _unprivileged_user()
    data.mkdir()
    if user:
        entry = pwd.getpwnam(user)
        folder.chmod(0o755)
        os.chown(data, entry.pw_uid, entry.pw_gid)
    common = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}
    made = subprocess.run(
        [str(programs / "initdb"), "-D", str(data), "-U", "bench", "-A", "trust", "-E", "UTF8", "--no-locale"],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        **common,
    )
    assert made.returncode == 0, made.stderr
    command = [str(programs / "postgres"), "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", str(data)]
    with _background(command, folder, **common) as process:
        ready = [str(programs / "pg_isready"), "-h", "127.0.0.1", "-p", str(port), "-q"]
        _until(lambda: subprocess.run(ready, check=False).returncode == 0, process)
        yield f"postgresql://bench@127.0.0.1:{port}/postgres", process.pid


def _unprivileged_user() -> str | None:
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


@contextmanager
def _background(command: list[str], folder: Path, **settings: Any) -> Generator[subprocess.Popen[bytes]]:
    """A server in a session of its own. `settings` in capitals are variables of its environment, others are Popen's."""
    variables = {name: value for name, value in settings.items() if name.isupper()}
    others = {name: value for name, value in settings.items() if not name.isupper()}
    log = folder / f"{Path(command[0]).name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            env=os.environ | variables,
            start_new_session=True,
            cwd="/",
            **others,
        )
    try:
        yield process
    finally:
        _end(process)


def _until(is_true: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + READY_S_MAX
    while not is_true():
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"{process.args!r} is not ready")
        time.sleep(0.05)


def _get(url: str, body: bytes | None = None) -> bool:
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as answer:
            return 200 <= answer.status < 300
    except (urllib.error.URLError, OSError):
        return False


def _connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


SYSTEMS: dict[str, Callable[..., AbstractContextManager[Running]]] = {
    "perdure": ours,
    "dbos-sqlite": dbos_sqlite,
    "dbos-postgres": dbos_postgres,
    "absurd": absurd,
    "restate": restate,
}
