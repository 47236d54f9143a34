"""The README is true: its tour runs, in a real shell against a real server, and prints what is shown."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
PYTHON = [text for language, text in BLOCKS if language == "python"]
TIMEOUT_S = 30
END = "~~~end of output~~~"


def _commands() -> list[tuple[str, str]]:
    """Each command of the tour, and the output that is shown below it."""
    shown = "".join(text for language, text in BLOCKS if language == "console")
    return [(command, output) for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", shown, re.MULTILINE)]


def _normal(text: str) -> list[str]:
    """Lines without what differs from run to run: commits, times, ids of events, rules, spaces."""
    for pattern, word in (
        (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME"),
        (r"\bevt_\w+", "EVENT"),
        (r"\b[0-9a-f]{8,40}\b", "COMMIT"),
        (r"─+", "…"),
    ):
        text = re.sub(pattern, word, text)
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def _agrees(shown: str, real: str) -> bool:
    """Whether `real` is what is shown; a line "…" stands for any lines."""
    pattern = "\n".join(".*" if line == "…" else re.escape(line) for line in _normal(shown))
    return re.fullmatch(pattern, "\n".join(_normal(real)), flags=re.DOTALL) is not None


class Shell:
    """A bash that is given one command after the other."""

    def __init__(self, home: Path, port: int) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PERDURE_", "GIT_"))}
        self.port = port
        self._log = home / "server.log"
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=home,
            env=environment
            | {
                "PATH": f"{Path(sys.executable).parent}:{environment['PATH']}",
                "PYTHONPATH": str(ROOT),
                "HOME": str(home),
                "PERDURE_PORT": str(port),
                "GIT_CONFIG_NOSYSTEM": "1",
                "GIT_AUTHOR_NAME": "Kim",
                "GIT_AUTHOR_EMAIL": "kim@acme.example",
                "GIT_COMMITTER_NAME": "Kim",
                "GIT_COMMITTER_EMAIL": "kim@acme.example",
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, command: str) -> str:
        """What it prints, with the README's port in place of the test's."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        if command.startswith("perdure serve"):
            self._log.unlink(missing_ok=True)
        # A group, as commands must not read the script that the shell is reading.
        stdin.write(f"{{ {command.replace('8420', str(self.port))}\n}} < /dev/null\necho '{END}'\n")
        stdin.flush()
        lines = []
        too_long = threading.Timer(TIMEOUT_S, self.kill)
        too_long.start()
        try:
            for line in stdout:
                if line.strip() == END:
                    break
                if not re.match(r"bash: line \d+: +\d+ Killed", line):  # what a shell says of a job that was killed
                    lines.append(line)
            else:
                raise AssertionError(f"the shell ended at: {command}\n{''.join(lines)}")
        finally:
            too_long.cancel()
        if command.startswith("perdure serve"):
            self._wait_for_server()
        return "".join(lines).replace(str(self.port), "8420")

    def _wait_for_server(self) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not self._log.exists() or "listens on" not in self._log.read_text():
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.05)  # a process elsewhere: there is nothing to wait on but what it says

    def kill(self) -> None:
        """The shell and all that it started: they are one session."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.kill()
        self._process.wait(TIMEOUT_S)
        self._process.stdin.close()
        self._process.stdout.close()


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "hello").mkdir()
    (tmp_path / "hello" / "workflows.py").write_text(PYTHON[0])
    shell = Shell(tmp_path, port)
    try:
        yield shell
    finally:
        shell.close()


def test_the_tour_runs_and_prints_what_is_shown(shell: Shell, tmp_path: Path) -> None:
    commands = _commands()
    assert len(commands) >= 18
    for command, output in commands:
        real = shell.run(command)
        assert _agrees(output, real), f"$ {command}\n--- shown:\n{output}--- real:\n{real}"
    embedded = tmp_path / "embedded.py"
    embedded.write_text(PYTHON[1])
    real = shell.run("python embedded.py")
    (shown,) = [text for language, text in BLOCKS if language == "text"]
    assert real == shown


@pytest.mark.parametrize("target", re.findall(r"\]\((?!https?:)([^)#]+)\)", README))
def test_every_link_leads_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


@pytest.mark.parametrize("command", [*re.findall(r"\bmake (\w+)`", README), "demo", "test"])
def test_every_make_target_exists(command: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{command}:", makefile, re.MULTILINE)
