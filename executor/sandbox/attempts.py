"""What `perdure doctor` tries inside a throw-away sandbox, to see each protection hold rather than believe it.

Runs inside, as the zygote's entry, in place of tenant code. Every attempt does no harm where it succeeds.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from executor.sandbox.limits import SandboxLimits

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWUSER = 0x10000000


class _Held(Exception):
    """The attempt came to nothing, though no call failed."""


def _read_host_files() -> str:
    for path in ("/etc/passwd", "/etc/hosts", "/usr/bin/env"):
        if Path(path).exists():
            return f"{path} is there"
    raise _Held


def _open_host_files() -> str:
    with Path("/etc/passwd").open("rb") as file:
        return f"/etc/passwd gave {len(file.read())} bytes"


def _see_processes() -> str:
    names = [name for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - names only
    if not names:
        raise _Held
    return f"{len(names)} processes are visible"


def _write_files() -> str:
    for folder in ("/tmp", "/dev/shm", "/", str(Path(os.__file__).parent)):  # noqa: S108 - the point of the attempt
        path = Path(folder) / f"perdure-doctor-{os.getpid()}"
        try:
            path.touch()
        except OSError:
            continue
        path.unlink()
        return f"{folder} is writable"
    raise _Held


def _make_sockets() -> str:
    for family in (socket.AF_INET, socket.AF_UNIX, 16, 40):
        try:
            socket.socket(family, socket.SOCK_STREAM if family != 16 else socket.SOCK_RAW).close()
        except OSError:
            continue
        return f"a socket of family {family} was made"
    raise _Held


def _fork() -> str:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return "a process was made"


def _start_thread() -> str:
    try:
        thread = threading.Thread(target=lambda: None)
        thread.start()
        thread.join()
    except RuntimeError:
        raise _Held from None
    return "a thread was made"


def _execute() -> str:
    # A program that does not exist: the filter must refuse before the kernel looks.
    try:
        os.execv("/nothing", ["nothing"])  # noqa: S606
    except FileNotFoundError:
        return "execve reaches the kernel"


def _signal_zygote() -> str:
    os.kill(os.getppid(), 0)
    return "the zygote can be signalled"


def _new_user_namespace() -> str:
    if _libc.unshare(_CLONE_NEWUSER) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return "a user namespace was made"


def _lock_bundle() -> str:
    fcntl.flock(0, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return "files can be locked"


def _be_root() -> str:
    if os.getuid() != 0:
        raise _Held
    return "it runs as uid 0"


ATTEMPTS: dict[str, Callable[[], str]] = {
    "host files hidden": _read_host_files,
    "host files closed": _open_host_files,
    "other processes hidden": _see_processes,
    "nothing writable": _write_files,
    "no sockets": _make_sockets,
    "no new processes": _fork,
    "no new threads": _start_thread,
    "no programs": _execute,
    "no signals to others": _signal_zygote,
    "no file locks": _lock_bundle,
    "not root": _be_root,
    "no new namespaces": _new_user_namespace,  # last: where it succeeds, this process is somebody else
}


def main(control: socket.socket, _bundle_fd: int, _limits: SandboxLimits) -> NoReturn:
    """Try everything and answer with one JSON object: name to null (held) or to what was possible."""
    answers: dict[str, str | None] = {}
    for name, attempt in ATTEMPTS.items():
        try:
            answers[name] = attempt()
        except (OSError, _Held):
            answers[name] = None
    control.sendall(json.dumps(answers).encode() + b"\n")
    os._exit(0)
