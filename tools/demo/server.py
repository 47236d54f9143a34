"""A real `perdure serve` as a process of its own, which can be killed and started again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from tools.demo.claims import Stopped

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 15
_ADDRESS = re.compile(r"listens on (\S+)")


@dataclass(frozen=True, slots=True)
class Process:
    """A process and the moment of its start, which together name it for ever."""

    pid: int
    started: str


class Server:
    """One data directory and port, and the process that serves them, if any."""

    def __init__(self, home: Path, *, unconfined: bool = False) -> None:
        self.data = home / "data"
        self.url = ""
        self._log = home / "server.log"
        self._unconfined = unconfined
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "the server runs"
        return self._process.pid

    def start(self) -> float:
        """Start it, on a free port the first time and on the same port afterwards; the seconds until it listens."""
        assert self._process is None, "one server at a time"
        began = time.monotonic()
        port = self.url.rpartition(":")[2] or "0"
        command = [sys.executable, "-m", "executor.cli", "serve", "--data", str(self.data), "--port", port]
        if self._unconfined:
            command.append("--unconfined")
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PERDURE_")}
        with self._log.open("ab") as log:
            # A session of its own: Ctrl-C in the terminal ends the story, and the story ends the server.
            self._process = subprocess.Popen(
                [*command, "--log-level", "warning"],
                cwd=ROOT,
                env=environment | {"PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        assert self._process.stdout is not None
        too_long = threading.Timer(START_TIMEOUT_S, self._process.kill)
        too_long.start()
        found = _ADDRESS.search(self._process.stdout.readline())
        too_long.cancel()
        if found is None:
            self.close()
            raise Stopped(f"the server did not start:\n{self.last_words()}")
        self.url = found.group(1).rstrip("/")
        return time.monotonic() - began

    def admin_token(self) -> str:
        """The administrator's token, which the server made at its first start."""
        return (self.data / "admin-token").read_text(encoding="ascii").strip()

    def family(self) -> set[Process]:
        """The server's process and all below it: git workers, the sandbox cell and the sandboxes in it."""
        children: dict[int, list[Process]] = {}
        for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
            found = _stat(pid)
            if found is not None:
                children.setdefault(found[0], []).append(found[1])
        own = _stat(self.pid)
        family = [own[1]] if own else []
        for process in family:  # grows while it is walked
            family += children.get(process.pid, [])
        return set(family)

    def kill(self) -> tuple[int, int]:
        """SIGKILL to the server's process, and to no other. How many processes its family had, and how many of them are
        left after they had time to notice."""
        family = self.family()
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._gone()
        left = family
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while left and time.monotonic() < deadline:
            left = {process for process in left if (now := _stat(process.pid)) is not None and now[1] == process}
            if left:
                time.sleep(0.02)
        return len(family), len(left)

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._gone()

    def close(self) -> None:
        """Leave no process behind, whatever happened before."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
            self._gone()

    def last_words(self) -> str:
        """The end of what the server logged."""
        try:
            return "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        except FileNotFoundError:
            return ""

    def _gone(self) -> int:
        process = self._process
        assert process is not None
        try:
            code = process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        if process.stdout is not None:
            process.stdout.close()
        self._process = None
        return code


def _stat(pid: int) -> tuple[int, Process] | None:
    """Parent and identity of a process that still lives (a zombie does not)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # after the name, which may hold anything: state, parent, …, start
    return None if fields[0] in "ZX" else (int(fields[1]), Process(pid, fields[19]))
