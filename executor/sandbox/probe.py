"""What this machine offers to confine tenant code: each protection tried in a throw-away sandbox. For `perdure doctor`.

level 3   a cell within control groups (not made by this version: memory is sampled and limited by rlimits instead)
level 2   a cell: namespaces and a file tree of its own; Landlock, limits and seccomp for each sandbox. The default
level 1   no namespaces: Landlock, limits and seccomp only; existence of host files can be seen. Allowed by name
level 0   a plain process: for trusted code only
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import sys
from collections.abc import Sequence
from typing import Any

import landlockpy

from executor.sandbox import seccomp_filter
from executor.sandbox.attempts import ATTEMPTS
from executor.sandbox.cell import Cell, CellOptions, Isolation, IsolationUnavailable, bubblewrap
from executor.sandbox.limits import SandboxLimits

_ENTRY = "executor.sandbox.attempts:main"
_ANSWER_TIMEOUT_S = 20.0
_CELL_ONLY = frozenset({"host files hidden", "other processes hidden", "not root"})
"""Attempts that only a cell stops; the others are stopped by Landlock and seccomp alone."""

_MENDS = {
    "Landlock": "use a kernel of 5.13 or later with Landlock enabled (`landlock` in /sys/kernel/security/lsm)",
    "seccomp": "install libseccomp (Debian, Ubuntu: apt-get install libseccomp2)",
    "namespaces": "allow user namespaces, or run on a host instead of in a container that forbids `unshare`",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Protection:
    """One protection: does it hold, what was seen, and what to do if it does not. `level`: the lowest that needs it."""

    name: str
    ok: bool
    detail: str
    mend: str
    level: int


def probe() -> list[Protection]:
    """Try every protection. Takes about a second; starts processes; must run on a thread that outlives the call.

    Never raises for a missing protection: that is what it reports.
    """
    if sys.platform != "linux":
        why = f"this is {sys.platform}"
        return [
            Protection("Linux", ok=False, detail=why, mend="run on Linux, or run trusted code --unconfined", level=1)
        ]
    found = [_landlock(), _seccomp(), _bubblewrap()]
    isolation = Isolation.CELL
    answers, why = _try(Isolation.CELL)
    if answers is None:
        found.append(Protection("namespaces", ok=False, detail=why, mend=_MENDS["namespaces"], level=2))
        isolation = Isolation.LANDLOCK
        answers, why = _try(Isolation.LANDLOCK)
    else:
        found.append(
            Protection("namespaces", ok=True, detail="user, process, network, mount, IPC, name", mend="", level=2)
        )
    for name in ATTEMPTS:
        level = 2 if name in _CELL_ONLY else 1
        if answers is None:
            found.append(Protection(name, ok=False, detail=f"not tried: {why}", mend="mend what is above", level=level))
            continue
        seen = answers.get(name, "no answer")
        detail = "tried and refused" if seen is None else str(seen)
        mend = "" if seen is None else _mend_attempt(isolation, level)
        found.append(Protection(name, ok=seen is None, detail=detail, mend=mend, level=level))
    found.append(_control_groups())
    return found


def level_of(found: Sequence[Protection]) -> int:
    """The level that the protections found amount to, 0 to 3."""
    level = 0
    for candidate in (1, 2, 3):
        if not all(protection.ok for protection in found if protection.level == candidate):
            break
        level = candidate
    return level


def _landlock() -> Protection:
    abi = landlockpy.abi_version()
    detail = f"ABI {abi}" if abi else "not offered by this kernel, or switched off at boot"
    if 0 < abi < 6:
        detail += " (signals are refused by seccomp alone)"
    return Protection("Landlock", ok=abi > 0, detail=detail, mend="" if abi else _MENDS["Landlock"], level=1)


def _seccomp() -> Protection:
    try:
        size = len(seccomp_filter.program()) // 8
    except seccomp_filter.SeccompUnavailable as error:
        return Protection("seccomp", ok=False, detail=str(error), mend=_MENDS["seccomp"], level=1)
    return Protection("seccomp", ok=True, detail=f"allow-list of {size} instructions", mend="", level=1)


def _bubblewrap() -> Protection:
    try:
        path = bubblewrap()
    except IsolationUnavailable as error:
        return Protection("bubblewrap", ok=False, detail=error.why, mend=error.mend, level=2)
    return Protection("bubblewrap", ok=True, detail=path, mend="", level=2)


def _control_groups() -> Protection:
    return Protection(
        "control groups",
        ok=False,
        detail="not used by this version: memory is bounded by rlimits and sampling",
        mend="for a bound on the whole server, run it in a service unit with MemoryMax= and TasksMax=",
        level=3,
    )


def _mend_attempt(isolation: Isolation, level: int) -> str:
    if isolation is Isolation.LANDLOCK and level == 2:
        return "needs namespaces: " + _MENDS["namespaces"]
    return "do not run untrusted code on this machine; report this as a security fault"


def _try(isolation: Isolation) -> tuple[dict[str, Any] | None, str]:
    """Answers of a sandbox that tries everything, or None and why there is no such sandbox."""
    try:
        cell = Cell.start(CellOptions(isolation=isolation, entry=_ENTRY))
    except IsolationUnavailable as error:
        return None, error.why
    with contextlib.closing(cell):
        mine, theirs = socket.socketpair()
        with mine:
            errors_fd, their_errors = os.pipe()
            try:
                with theirs:
                    cell.request_open(theirs, their_errors, -1, SandboxLimits())
            finally:
                os.close(their_errors)
            try:
                return _answers(mine, errors_fd)
            finally:
                os.close(errors_fd)


def _answers(channel: socket.socket, errors_fd: int) -> tuple[dict[str, Any] | None, str]:
    channel.settimeout(_ANSWER_TIMEOUT_S)
    try:
        with channel.makefile("rb") as stream:
            line = stream.readline(64 * 1024)
    except TimeoutError:
        return None, "the sandbox did not answer"
    if not line:
        os.set_blocking(errors_fd, False)
        with contextlib.suppress(BlockingIOError):
            return None, os.read(errors_fd, 4096).decode("utf-8", "replace").strip() or "the sandbox ended at once"
    answers: dict[str, Any] = json.loads(line)
    return answers, ""
