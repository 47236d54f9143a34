"""The system calls that tenant code may make, as a program for the kernel. Host side: needs libseccomp.

An allow-list: what is not named here is answered with EPERM. The list is what CPython, asyncio, a SQLite database in
memory and reading files from the runtime tree were seen to need, and nothing that makes or changes something outside
the process: no execve, no clone or fork, no socket, no signal to anybody, no file made, changed, renamed or removed,
no ptrace, io_uring, userfaultfd, keyctl, unshare, mount, bpf, perf_event_open, memfd_create.

`sendmsg` and `recvmsg` are left out, so that no descriptor can travel over the control channel, nor over a socket pair.
`flock` and most of `fcntl` are left out, because the bundle's file is shared by all sandboxes of the same code.
"""

from __future__ import annotations

import errno
import functools
import importlib
import tempfile
from typing import Any

ALLOWED = (  # noqa: SIM905 - grouped words are read more easily than a hundred quoted strings
    # files: read only (writing goes to descriptors that exist already)
    "read pread64 readv preadv write writev close close_range lseek fstat newfstatat fstatat64 stat lstat statx access "
    "faccessat faccessat2 open openat readlink readlinkat getdents64 getcwd fadvise64 "
    "dup dup2 dup3 pipe pipe2 eventfd2 "
    # memory
    "mmap munmap mprotect mremap madvise brk "
    # threads that exist, signals to itself
    "futex futex_waitv set_robust_list get_robust_list rseq membarrier sched_yield sched_getaffinity getcpu "
    "rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending sigaltstack restart_syscall exit exit_group "
    # time and randomness
    "clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time times getrusage getrandom "
    # waiting
    "poll ppoll select pselect6 epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 "
    # who am I
    "getpid getppid gettid getuid geteuid getgid getegid getpgrp getpgid getsid getgroups getresuid getresgid uname "
    # the control channel, and asyncio's pair of sockets to wake itself
    "getsockname getpeername shutdown"
).split()

_AF_UNIX = 1
_MSG_OOB = 1
_SOL_SOCKET = 1
_SOCKET_OPTIONS = (3, 4, 38, 39)  # SO_TYPE, SO_ERROR, SO_PROTOCOL, SO_DOMAIN
_FCNTL = (0, 1, 2, 3, 4, 1030)  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC
_IOCTL = (0x5421, 0x5451, 0x5450, 0x541B, 0x5401)  # FIONBIO, FIOCLEX, FIONCLEX, FIONREAD, TCGETS (isatty)
_PRCTL = (15, 16)  # PR_SET_NAME, PR_GET_NAME


class SeccompUnavailable(Exception):
    """The filter cannot be written on this host. The text says why and what to do."""

    code = "seccomp_unavailable"


@functools.cache
def program() -> bytes:
    """The filter for this machine: an array of `struct sock_filter`, to be installed with TSYNC. Built once.

    Raises SeccompUnavailable if libseccomp (the C library) or its binding is missing.
    """
    seccomp = _binding()
    filter_ = seccomp.SyscallFilter(seccomp.ERRNO(errno.EPERM))
    for name in ALLOWED:
        _allow(seccomp, filter_, name)
    # One rule for each permitted value of the argument that matters.
    _allow(seccomp, filter_, "socketpair", seccomp.Arg(0, seccomp.EQ, _AF_UNIX))
    # No address (the connected peer only), and no out-of-band bytes, a corner of unix sockets that exploits have used.
    in_band = seccomp.Arg(3, seccomp.MASKED_EQ, _MSG_OOB, 0)
    _allow(seccomp, filter_, "sendto", in_band, seccomp.Arg(4, seccomp.EQ, 0))
    _allow(seccomp, filter_, "recvfrom", in_band)
    # Type, error, protocol, domain; not the peer's identity, of which the newest form is a descriptor of its process.
    for option in _SOCKET_OPTIONS:
        _allow(
            seccomp, filter_, "getsockopt", seccomp.Arg(1, seccomp.EQ, _SOL_SOCKET), seccomp.Arg(2, seccomp.EQ, option)
        )
    for command in _FCNTL:
        _allow(seccomp, filter_, "fcntl", seccomp.Arg(1, seccomp.EQ, command))
    for request in _IOCTL:
        _allow(seccomp, filter_, "ioctl", seccomp.Arg(1, seccomp.MASKED_EQ, 0xFFFFFFFF, request))
    for option in _PRCTL:
        _allow(seccomp, filter_, "prctl", seccomp.Arg(0, seccomp.EQ, option))
    # Reading limits of itself is harmless; setting any is not offered.
    _allow(seccomp, filter_, "getrlimit")
    _allow(seccomp, filter_, "prlimit64", seccomp.Arg(0, seccomp.EQ, 0), seccomp.Arg(2, seccomp.EQ, 0))
    # Some C libraries try these first and fall back only on ENOSYS.
    for name in ("clone3", "openat2", "statmount"):
        _refuse(seccomp, filter_, name, errno.ENOSYS)
    with tempfile.TemporaryFile() as file:
        filter_.export_bpf(file)
        file.seek(0)
        return file.read()


def _binding() -> Any:
    try:
        return importlib.import_module("pyseccomp")
    except (ImportError, RuntimeError, OSError) as error:
        raise SeccompUnavailable(
            f"the system call filter cannot be built: {error}; install libseccomp (Debian: apt-get install libseccomp2)"
        ) from None


def _allow(seccomp: Any, filter_: Any, name: str, *conditions: Any) -> None:
    number = seccomp.resolve_syscall(seccomp.Arch.NATIVE, name)
    # Not every machine has every call (`open` is unknown to arm64), nor does every libseccomp know the newest.
    if number >= 0:
        filter_.add_rule(seccomp.ALLOW, number, *conditions)


def _refuse(seccomp: Any, filter_: Any, name: str, answer: int) -> None:
    number = seccomp.resolve_syscall(seccomp.Arch.NATIVE, name)
    if number >= 0:
        filter_.add_rule(seccomp.ERRNO(answer), number)
