"""The boundary fails closed: a layer that is not there, or does not hold, ends the process before tenant code runs."""

from __future__ import annotations

import os
import resource
import socket
import struct
import sys
from pathlib import Path

import pytest

from executor.sandbox import cell as cell_module
from executor.sandbox import confine, runtime_tree, seccomp_filter
from executor.sandbox.cell import Cell, CellOptions, Isolation, IsolationUnavailable
from executor.sandbox.limits import LimitError, SandboxLimits
from executor.sandbox.runtime_tree import RuntimeTreeError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="confinement is a matter of the Linux kernel")

MIB = 1024 * 1024
ENTRY = """
import resource, time
def main(control, bundle, limits):
    names = [n for n in dir(resource) if n.startswith("RLIMIT_")]
    control.sendall(repr({n: resource.getrlimit(getattr(resource, n)) for n in names}).encode())
    control.recv(1)
"""
ALLOW_EVERYTHING = struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000)  # one instruction: return SECCOMP_RET_ALLOW


@pytest.fixture
def entry(tmp_path) -> Path:
    path = tmp_path / "limits_entry.py"
    path.write_text(ENTRY)
    return path


def boot(cell: Cell, limits: SandboxLimits) -> tuple[bytes, str, dict]:
    """What the child says, its last words, and how it ended."""
    mine, theirs = socket.socketpair()
    errors, their_errors = os.pipe()
    with mine:
        with theirs:
            cell.request_open(theirs, their_errors, -1, limits)
        os.close(their_errors)
        opened = cell.read_message()
        assert opened is not None
        os.close(opened[1])
        mine.settimeout(10)
        said = mine.recv(8192)
    ended = cell.read_message()
    assert ended is not None
    with os.fdopen(errors, "rb") as file:
        last_words = file.read().decode()
    return said, last_words, ended[0]


def start(entry: Path, isolation: Isolation = Isolation.CELL, *, program: bytes | None = None) -> Cell:
    options = CellOptions(isolation=isolation, entry="limits_entry:main", extra={"limits_entry.py": entry})
    cell = Cell(options)
    if program is not None:
        cell._program = program
    try:
        cell.greet()
    except BaseException:
        cell.close()
        raise
    return cell


# --- fail closed


@pytest.mark.parametrize(
    ("program", "why"),
    [
        (b"\xff" * 8, "OSError: [Errno 22] Invalid argument"),
        (b"\x06\x00\x00", "the filter program is damaged"),
        (ALLOW_EVERYTHING, "it was applied without error but does not hold"),
    ],
    ids=["refused by the kernel", "cut short", "allows everything"],
)
def test_filter_that_is_missing_or_does_not_hold_ends_the_child_before_its_entry(entry, program, why):
    # A namespace without network still makes sockets, so the filter alone is what is tried here.
    cell = start(entry, program=program)
    try:
        said, last_words, ended = boot(cell, SandboxLimits())
    finally:
        cell.close()
    assert said == b""
    assert ended["code"] == confine.EXIT_UNCONFINED
    assert last_words == f"the sandbox's seccomp layer could not be applied: {why}; run `perdure doctor`"


def test_landlock_rule_that_opens_everything_ends_the_child(entry, monkeypatch):
    options = CellOptions(entry="limits_entry:main", extra={"limits_entry.py": entry})
    cell = Cell(options)
    try:
        monkeypatch.setattr(runtime_tree, "ZONEINFO", "/")
        cell.greet()
        said, last_words, ended = boot(cell, SandboxLimits())
    finally:
        cell.close()
    assert said == b""
    assert ended["code"] == confine.EXIT_UNCONFINED
    assert last_words == (
        "the sandbox's Landlock layer could not be applied: it was applied without error but does not hold; "
        "run `perdure doctor`"
    )


def test_session_layer_refuses_when_the_zygote_is_gone(monkeypatch):
    monkeypatch.setattr(os, "setsid", lambda: None)
    monkeypatch.setattr(confine, "_prctl", lambda *_: None)
    monkeypatch.setattr(confine.signal, "signal", lambda *_: None)
    with pytest.raises(confine.ConfinementFailed, match="session layer could not be applied: the zygote ended"):
        confine._session(os.getppid() + 1)


def test_unknown_machine_is_refused(monkeypatch):
    monkeypatch.setitem(confine._SECCOMP_CALL, os.uname().machine, None)
    with pytest.raises(confine.ConfinementFailed, match="is not supported yet"):
        confine._seccomp(ALLOW_EVERYTHING)


def test_kernel_without_landlock_is_refused(monkeypatch):
    monkeypatch.setattr(confine.landlockpy, "abi_version", lambda: 0)
    with pytest.raises(confine.ConfinementFailed, match="this kernel does not offer it"):
        confine._ruleset(("/usr",))


def test_policy_is_confined_only_with_both():
    assert confine.Policy(landlock=True, seccomp=b"x" * 8, read_paths=()).confined
    assert not confine.Policy(landlock=False, seccomp=b"x" * 8, read_paths=()).confined
    assert not confine.Policy(landlock=True, seccomp=b"", read_paths=()).confined


# --- limits


@pytest.mark.parametrize("isolation", list(Isolation), ids=lambda isolation: isolation.value)
def test_kernel_limits_are_those_asked_for(entry, isolation):
    cell = start(entry, isolation)
    limits = SandboxLimits(memory_bytes=64 * MIB, cpu_s=77, open_files_max=33, step_threads=2, thread_stack_bytes=MIB)
    try:
        said, last_words, _ = boot(cell, limits)
        base_bytes = cell.base_bytes
    finally:
        cell.close()
    assert last_words == ""
    seen = eval(said)
    assert seen["RLIMIT_AS"] == (base_bytes + 80 * MIB + 2 * MIB,) * 2
    assert seen["RLIMIT_CPU"] == (77, 79)
    assert seen["RLIMIT_NOFILE"] == (33, 33)
    assert seen["RLIMIT_CORE"] == (0, 0)
    assert seen["RLIMIT_MEMLOCK"] == (0, 0)
    if isolation is not Isolation.NONE:
        assert seen["RLIMIT_FSIZE"] == (0, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"memory_bytes": 0}, "sandbox limit memory_bytes = 0 is not valid: expected more than zero"),
        ({"cpu_s": 1.5}, "sandbox limit cpu_s = 1.5 is not valid: expected a whole number"),
        ({"step_threads": True}, "sandbox limit step_threads = True is not valid: expected a whole number"),
        ({"turn_timeout_s": "1"}, "sandbox limit turn_timeout_s = '1' is not valid: expected a number of seconds"),
        ({"step_threads": -1}, "sandbox limit step_threads = -1 is not valid: expected more than zero"),
    ],
)
def test_limit_out_of_range_is_refused(change, message):
    with pytest.raises(LimitError) as caught:
        SandboxLimits(**change)
    assert str(caught.value) == f"{message}; mend the configuration"


def test_limits_survive_their_way_to_the_zygote():
    limits = SandboxLimits(step_threads=0, turn_timeout_s=3, memory_bytes=123)
    assert SandboxLimits.from_json(limits.to_json()) == limits


# --- the filter


def test_calls_that_make_or_change_something_outside_are_not_on_the_list():
    forbidden = (
        "execve execveat clone clone3 fork vfork socket connect bind listen accept accept4 sendmsg recvmsg sendmmsg "
        "recvmmsg setsockopt kill tkill tgkill rt_sigqueueinfo pidfd_open pidfd_send_signal pidfd_getfd ptrace "
        "process_vm_readv process_vm_writev io_uring_setup userfaultfd keyctl add_key unshare setns mount umount2 "
        "move_mount fsopen pivot_root chroot bpf perf_event_open memfd_create memfd_secret open_by_handle_at setuid "
        "setresuid setgroups capset setrlimit prctl fcntl ioctl flock truncate ftruncate unlink rename mkdir symlink "
        "link mknod chmod fchmod chown utimensat shmget semget msgget mq_open inotify_init1 fanotify_init personality "
        "seccomp sysinfo syslog setsid setpgid sched_setaffinity setpriority mlock splice tee vmsplice sendfile"
    ).split()
    assert not set(forbidden) & set(seccomp_filter.ALLOWED)


def test_filter_is_built_once_and_is_small():
    program = seccomp_filter.program()
    assert program is seccomp_filter.program()
    assert len(program) % 8 == 0
    assert len(program) // 8 < 400


def test_missing_libseccomp_is_said_with_its_mend(monkeypatch):
    def broken(_name: str) -> None:
        raise RuntimeError("Unable to find libseccomp")

    monkeypatch.setattr(seccomp_filter.importlib, "import_module", broken)
    with pytest.raises(seccomp_filter.SeccompUnavailable) as caught:
        seccomp_filter.program.__wrapped__()
    assert str(caught.value) == (
        "the system call filter cannot be built: Unable to find libseccomp; "
        "install libseccomp (Debian: apt-get install libseccomp2)"
    )
    monkeypatch.setattr(seccomp_filter, "program", seccomp_filter.program.__wrapped__)
    with pytest.raises(IsolationUnavailable) as refused:
        cell_module._program(CellOptions())
    assert refused.value.missing == "seccomp"
    assert cell_module._program(CellOptions(isolation=Isolation.NONE)) == b""


# --- the file tree


def test_tree_holds_the_interpreter_three_packages_and_our_own_modules_only():
    tree = runtime_tree.build()
    tops = {bind.target.removeprefix("/runtime/packages/").split("/")[0] for bind in tree.packages}
    assert tops <= {"apsw", "msgspec", "landlockpy", "executor", "facets"}
    inside = {bind.target for bind in tree.packages}
    for host_only in ("pool", "cell", "probe", "runtime_tree", "seccomp_filter", "__init__"):
        assert f"/runtime/packages/executor/sandbox/{host_only}.py" not in inside
    assert "/runtime/packages/executor/__init__.py" not in inside
    assert "/runtime/packages/facets/__init__.py" not in inside
    others = [
        bind.target
        for bind in tree.binds
        if not bind.target.startswith(("/runtime/", "/usr/share/zoneinfo")) and "ld-" not in bind.target
    ]
    assert others == []


def test_entries_beside_the_standard_library_are_masked(tmp_path):
    for name in ("os.py", "json", "lib-dynload", "__pycache__", "site-packages", "test", "somebody.py", "secrets.key"):
        if "." in name and not name.startswith("."):
            (tmp_path / name).write_text("")
        else:
            (tmp_path / name).mkdir()
    (tmp_path / "sitecustomize.py").symlink_to("/etc/python/sitecustomize.py")
    folders, files = runtime_tree._masked(tmp_path)
    assert folders == ["site-packages", "test"]
    assert files == ["secrets.key", "somebody.py"]


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(runtime_tree, "THIRD_PARTY", ("no_such_package",))
    with pytest.raises(RuntimeTreeError) as caught:
        runtime_tree.build()
    assert str(caught.value) == (
        "the sandbox's runtime cannot be put together: no_such_package: "
        "not installed for this interpreter; install perdure's dependencies"
    )
    with pytest.raises(IsolationUnavailable) as refused:
        cell_module.prepare_tree(CellOptions())
    assert refused.value.missing == "runtime"


def test_linked_tree_shows_the_same_packages(tmp_path):
    tree = runtime_tree.build()
    tree.link_packages(tmp_path)
    for bind in tree.packages:
        assert (tmp_path / Path(bind.target).relative_to(runtime_tree.PACKAGES)).resolve() == bind.source


def test_resource_module_knows_the_limits_this_module_sets():
    assert {"RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_FSIZE"} <= set(dir(resource))
