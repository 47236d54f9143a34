"""The fork server, spoken to directly: what it answers, what it lets go of, and how it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from executor.sandbox.cell import Cell, CellOptions, Isolation, IsolationUnavailable, process_id
from executor.sandbox.limits import SandboxLimits

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="confinement is a matter of the Linux kernel")

ENTRY = """
import os, socket
def main(control, bundle, limits):
    control.sendall(b"in")
    word = control.recv(100)
    if word.startswith(b"exit"): os._exit(int(word[4:]))
    if word == b"fds":
        control.sendall(repr([fd for fd in range(1024) if is_open(fd)]).encode())
    if word == b"ids":
        control.sendall(repr((os.getpid(), os.getppid(), os.getsid(0) == os.getpid())).encode())
    if word == b"wait":
        while True: control.recv(1) or os._exit(9)
    if word == b"stay":
        import time; time.sleep(3600)
def is_open(fd):
    try: os.fstat(fd)
    except OSError: return False
    return True
"""  # fmt: skip


class Child:
    def __init__(self, cell: Cell, bundle: Path | None = None) -> None:
        self.socket, theirs = socket.socketpair()
        self.errors, their_errors = os.pipe()
        fd = os.open(bundle, os.O_RDONLY) if bundle else -1
        self.number = cell.request_open(theirs, their_errors, fd, SandboxLimits(step_threads=0))
        for descriptor in (their_errors, *([fd] if bundle else [])):
            os.close(descriptor)
        theirs.close()
        self.socket.settimeout(10)
        self.answer = cell.read_message()
        while "opened" not in self.answer[0]:  # the end of an earlier one came in between
            self.answer = cell.read_message()
        self.pidfd = self.answer[1]

    def ask(self, word: bytes) -> bytes:
        assert self.socket.recv(2) == b"in"
        self.socket.sendall(word)
        return self.socket.recv(4096)

    def close(self) -> None:
        self.socket.close()
        os.close(self.errors)
        os.close(self.pidfd)


@pytest.fixture(scope="module")
def entry(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("entry") / "zygote_entry.py"
    path.write_text(ENTRY)
    return path


@pytest.fixture(params=[Isolation.CELL, Isolation.NONE], ids=["cell", "none"])
def cell(request, entry):
    options = CellOptions(isolation=request.param, entry="zygote_entry:main", extra={"zygote_entry.py": entry})
    cell = Cell.start(options)
    yield cell
    cell.close()


def test_exits_and_signals_are_reported_under_the_number_of_the_request(cell):
    first, second, third = Child(cell), Child(cell), Child(cell)
    assert [child.answer[0]["opened"] for child in (first, second, third)] == [1, 2, 3]
    second.ask(b"exit7")
    assert cell.read_message() == ({"exited": 2, "code": 7}, -1)
    signal.pidfd_send_signal(third.pidfd, signal.SIGKILL)
    assert cell.read_message() == ({"exited": 3, "signal": 9}, -1)
    assert first.socket.recv(2) == b"in"
    first.socket.close()
    assert cell.read_message() == ({"exited": 1, "code": 0}, -1)
    for child in (first, second, third):
        child.close()


def test_child_has_five_descriptors_and_a_session_of_its_own(cell, tmp_path):
    bundle = tmp_path / "b"
    bundle.write_bytes(b"x")
    elder = Child(cell, bundle)
    child = Child(cell, bundle)
    assert child.ask(b"fds") == b"[0, 1, 2, 3, 4]"
    other = Child(cell)
    assert other.ask(b"fds") == b"[0, 1, 2, 3]"
    third = Child(cell)
    own, parent, leads = eval(third.ask(b"ids"))
    assert own == third.answer[0]["pid"]
    assert leads is True
    if cell.options.isolation is Isolation.CELL:
        assert parent == 2  # bubblewrap's reaper is 1: inside, nobody else has a number
    else:
        assert parent == cell.process.pid
    for one in (elder, child, other, third):
        one.close()


def test_zygote_keeps_nothing_of_children_that_are_gone(cell):
    zygote = process_id(cell.zygote_pidfd)
    Child(cell).close()
    cell.read_message()
    before = sorted(os.listdir(f"/proc/{zygote}/fd"))
    for _ in range(5):
        child = Child(cell)
        child.ask(b"exit0")
        assert "exited" in cell.read_message()[0]
        child.close()
    assert sorted(os.listdir(f"/proc/{zygote}/fd")) == before


def test_end_of_the_control_socket_ends_zygote_and_children(cell):
    child = Child(cell)
    pid = process_id(child.pidfd)
    assert child.socket.recv(2) == b"in"
    child.socket.sendall(b"stay")
    cell.close()
    assert cell.process.poll() is not None
    deadline = time.monotonic() + 5
    while process_id(child.pidfd) != -1 and time.monotonic() < deadline:
        os.sched_yield()
    assert process_id(child.pidfd) == -1
    assert not Path(f"/proc/{pid}").exists()
    child.close()


def test_death_of_the_zygote_takes_its_children_along(cell):
    child = Child(cell)
    assert child.socket.recv(2) == b"in"
    child.socket.sendall(b"stay")
    signal.pidfd_send_signal(cell.zygote_pidfd, signal.SIGKILL)
    assert cell.read_message() is None
    with contextlib.suppress(ConnectionResetError):  # its end is closed, by its death, with or without unread bytes
        assert child.socket.recv(1) == b""
    child.close()


def test_cell_has_namespaces_of_its_own_and_no_capabilities(entry):
    """Looked at from the host: inside, seccomp and Landlock refuse the same things, so a missing namespace would hide."""
    cell = Cell.start(CellOptions(entry="zygote_entry:main", extra={"zygote_entry.py": entry}))
    try:
        child = Child(cell)
        assert child.socket.recv(2) == b"in"  # the entry runs: all layers are on
        for pid in (process_id(cell.zygote_pidfd), process_id(child.pidfd)):
            for kind in ("user", "pid", "net", "ipc", "uts", "mnt"):
                own, its = (os.readlink(f"/proc/{who}/ns/{kind}") for who in ("self", pid))
                assert own != its, kind
            status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == int(status["CapBnd"], 16) == 0
            assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"  # the child's; the zygote itself runs no tenant code
        child.close()
    finally:
        cell.close()


def test_environment_of_the_executor_does_not_reach_the_zygote(monkeypatch, entry):
    monkeypatch.setenv("PERDURE_ADMIN_TOKEN", "secret of the executor")
    for isolation in (Isolation.CELL, Isolation.NONE):
        options = CellOptions(isolation=isolation, entry="zygote_entry:main", extra={"zygote_entry.py": entry})
        cell = Cell.start(options)
        try:
            zygote = process_id(cell.zygote_pidfd)
            environment = Path(f"/proc/{zygote}/environ").read_bytes()
            assert b"secret" not in environment
            assert b"PERDURE" not in environment
        finally:
            cell.close()


@pytest.mark.parametrize("isolation", [Isolation.CELL, Isolation.NONE], ids=["cell", "none"])
def test_entry_that_cannot_be_imported_refuses_to_start_and_says_why(isolation):
    with pytest.raises(IsolationUnavailable) as caught:
        Cell.start(CellOptions(isolation=isolation, entry="no_such_module:main"))
    assert caught.value.missing == "zygote"
    assert "No module named 'no_such_module'" in caught.value.why


def test_entry_is_warm_and_what_is_missing_of_the_warm_list_is_told(entry):
    options = CellOptions(entry="zygote_entry:main", extra={"zygote_entry.py": entry}, warm=("no_such_module", "json"))
    cell = Cell.start(options)
    cell.close()
    assert "no_such_module: No module named 'no_such_module'" in cell.missing
    assert cell.base_bytes > 10 * 1024 * 1024
