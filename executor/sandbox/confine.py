"""The boundary: the one place where a process gives up what tenant code must not have. Runs in the forked child.

Order matters, and every layer must succeed or the process ends (fail closed):

    1. descriptors   everything closed but /dev/null (0, 1), a pipe for last words (2), the control socket (3) and
                     the bundle (4)
    2. session       its own; dies with the zygote
    3. limits        kernel limits on memory, processor time, files, core dumps, locked memory
    4. Landlock      read below the runtime tree, nothing else; no signal and no abstract socket out of the domain.
                     A ruleset for each child, so that one child's domain never holds another or the zygote
    5. callback      the entry's own preparation: threads for synchronous steps
    6. seccomp       the allow-list, on all threads; from here on no thread or process can be made
    7. proof         two things that must be refused are tried; a missing protection shows itself in no other way

Threads must come after 4 (Landlock below ABI 8 binds the calling thread and its later children only) and before 6.
1 to 5 depend on the limits alone, not on the tenant, so a spare child (`spare.py`) does them before it is wanted; no
tenant code runs before 7 is passed.
"""

from __future__ import annotations

import ctypes
import dataclasses
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import landlockpy

from executor.sandbox.limits import SandboxLimits

CONTROL_FD = 3
BUNDLE_FD = 4
EXIT_UNCONFINED = 78
"""Exit status of a child whose layers could not be applied (EX_CONFIG)."""

_SECCOMP_CALL = {"x86_64": 317, "aarch64": 277, "riscv64": 277, "ppc64le": 358, "s390x": 348}
_SET_MODE_FILTER = 1
_FLAG_TSYNC = 1
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_INSTRUCTION_BYTES = 8


class ConfinementFailed(Exception):
    """A layer could not be applied, or did not hold when tried. `layer` names it. The process must end."""

    code = "confinement_failed"

    def __init__(self, layer: str, why: str) -> None:
        super().__init__(f"the sandbox's {layer} layer could not be applied: {why}; run `perdure doctor`")
        self.layer = layer


@dataclasses.dataclass(frozen=True, slots=True)
class Policy:
    """What to apply. `seccomp` empty or `landlock` False leave a layer out: only the zygote's `unconfined` mode does.

    `read_paths` are the only paths below which files may be read.
    """

    landlock: bool
    seccomp: bytes
    read_paths: tuple[str, ...]

    @property
    def confined(self) -> bool:
        return self.landlock and bool(self.seccomp)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


_libc = ctypes.CDLL(None, use_errno=True)


def descriptors(control: int, errors: int, bundle: int, *, null: int) -> None:
    """Move `control`, `errors` and `bundle` (-1: none) to their places and close every other descriptor.

    `errors` is a pipe that nobody reads while the sandbox lives: the kernel's buffer bounds what is kept of it, and a
    write to a full one fails instead of waiting.
    """
    # First out of the way of the targets, so that no move overwrites what is still to be moved.
    given = [os.dup(fd) for fd in (null, null, errors, control, *([bundle] if bundle >= 0 else []))]
    if min(given) < len(given):
        raise ConfinementFailed("descriptor", "the standard streams are not open")
    for target, fd in enumerate(given):
        os.dup2(fd, target, inheritable=target <= 2)
    os.set_blocking(2, False)
    os.closerange(len(given), _descriptor_end())


def take_places(control: int, errors: int, bundle: int = -1) -> None:
    """In a spare, whose places are taken by others: move these to theirs, and leave no other copy of them."""
    for target, fd in ((CONTROL_FD, control), (2, errors), (BUNDLE_FD, bundle)):
        if fd < 0:
            os.close(target)
            continue
        os.dup2(fd, target, inheritable=target <= 2)
        os.close(fd)
    os.set_blocking(2, False)


def _descriptor_end() -> int:
    return max(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 4096)


def apply(
    policy: Policy, limits: SandboxLimits, *, parent: int, base_bytes: int, before_seccomp: Callable[[], object]
) -> None:
    """Apply the layers 2 to 7 to this process, for good.

    `parent`: process id of the zygote, with which this process must end. `base_bytes`: address space that the zygote
    takes, on top of which the memory limit counts.

    Raises ConfinementFailed; the caller must then end the process.
    """
    settle(policy, limits, parent=parent, base_bytes=base_bytes)
    before_seccomp()
    seal(policy)


def settle(policy: Policy, limits: SandboxLimits, *, parent: int, base_bytes: int) -> None:
    """The layers 2 to 4 of `apply`."""
    _layer("session", lambda: _session(parent))
    if sys.platform == "linux" or policy.confined:
        _layer("limit", lambda: _limits(limits, base_bytes, files=not policy.confined))
    if policy.landlock:
        _layer("Landlock", lambda: _landlock(policy.read_paths))


def seal(policy: Policy) -> None:
    """The layers 6 and 7 of `apply`."""
    if policy.seccomp:
        _layer("seccomp", lambda: _seccomp(policy.seccomp))
    if policy.landlock:
        _refused("Landlock", lambda: os.close(os.open("/", os.O_RDONLY)))
    if policy.seccomp:
        _refused("seccomp", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM).close())


def _layer(name: str, step: Callable[[], None]) -> None:
    try:
        step()
    except ConfinementFailed:
        raise
    except Exception as error:  # whatever went wrong, the layer is not there
        raise ConfinementFailed(name, f"{type(error).__name__}: {error}") from error


def _refused(name: str, attempt: Callable[[], None]) -> None:
    try:
        attempt()
    except PermissionError:
        return
    except OSError as error:
        raise ConfinementFailed(name, f"it was tried and answered {error} instead of refusing") from error
    raise ConfinementFailed(name, "it was applied without error but does not hold")


def _session(parent: int) -> None:
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN if number == signal.SIGPIPE else signal.SIG_DFL)
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise ConfinementFailed("session", "the zygote ended meanwhile")


def _limits(limits: SandboxLimits, base_bytes: int, *, files: bool) -> None:
    # A quarter above the limit on memory that the host samples and kills for: the sandbox can pass its limit and be
    # told so ("memory"), but cannot run away between two samples.
    address_space = base_bytes + limits.memory_bytes + limits.memory_bytes // 4
    address_space += limits.step_threads * limits.thread_stack_bytes
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        *([] if files else [(resource.RLIMIT_FSIZE, 0)]),
        (resource.RLIMIT_NOFILE, limits.open_files_max),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_CPU, limits.cpu_s + 2),
        (resource.RLIMIT_AS, address_space),
    ):
        _lower(kind, value)
    for name in ("RLIMIT_MSGQUEUE", "RLIMIT_SIGPENDING", "RLIMIT_NICE", "RLIMIT_RTPRIO"):
        kind_number = getattr(resource, name, None)
        if kind_number is not None:
            _lower(kind_number, 0)


def _lower(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    # Processor time: the soft limit's signal tells why; the hard limit, just above, cannot be ignored.
    soft = value if kind != resource.RLIMIT_CPU else max(value - 2, 1)
    resource.setrlimit(kind, (soft, value))


def warm(policy: Policy) -> None:
    """In the zygote, before the first fork: everything that need not be done anew in each child.

    The Landlock binding looks for the C library at its first call, which takes milliseconds.
    """
    if policy.landlock:
        with _ruleset(policy.read_paths):
            pass


def _ruleset(read_paths: tuple[str, ...]) -> landlockpy.Ruleset:
    if landlockpy.abi_version() < 1:
        raise ConfinementFailed("Landlock", "this kernel does not offer it (Linux 5.13, enabled at boot)")
    scopes = landlockpy.Scope.ABSTRACT_UNIX_SOCKET | landlockpy.Scope.SIGNAL
    ruleset = landlockpy.Ruleset(scoped=scopes, best_effort=True)
    folder = landlockpy.AccessFS.READ_FILE | landlockpy.AccessFS.READ_DIR
    for path in read_paths:
        try:
            ruleset.allow_path(path, folder if Path(path).is_dir() else landlockpy.AccessFS.READ_FILE)
        except FileNotFoundError:
            continue
    return ruleset


def _landlock(read_paths: tuple[str, ...]) -> None:
    with _ruleset(read_paths) as ruleset:
        ruleset.restrict()


def _seccomp(program: bytes) -> None:
    number = _SECCOMP_CALL.get(os.uname().machine)
    if number is None:
        raise ConfinementFailed("seccomp", f"this machine ({os.uname().machine}) is not supported yet")
    if not program or len(program) % _INSTRUCTION_BYTES:
        raise ConfinementFailed("seccomp", "the filter program is damaged")
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    instructions = ctypes.create_string_buffer(program, len(program))
    filter_ = _Program(len(program) // _INSTRUCTION_BYTES, ctypes.cast(instructions, ctypes.c_void_p))
    answer = _libc.syscall(
        ctypes.c_long(number), ctypes.c_ulong(_SET_MODE_FILTER), ctypes.c_ulong(_FLAG_TSYNC), ctypes.byref(filter_)
    )
    if answer > 0:
        raise ConfinementFailed("seccomp", f"thread {answer} could not be put under the filter")
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _prctl(option: int, value: int) -> None:
    zero = ctypes.c_ulong(0)
    if _libc.prctl(ctypes.c_int(option), ctypes.c_ulong(value), zero, zero, zero) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
