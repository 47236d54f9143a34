"""Spare children: confined as any other, used once, replaced, and nothing to anybody until they are handed over."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from executor.sandbox import confine, runtime_tree, zygote
from executor.sandbox.cell import Cell, CellOptions, Isolation, process_id
from executor.sandbox.limits import SandboxLimits
from executor.sandbox.pool import SandboxHost, sandbox_host
from executor.sandbox.spec import SandboxSpec
from tests.executor.fake_executor import make_bundle

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="confinement is a matter of the Linux kernel")

LIMITS = SandboxLimits(step_threads=2)
ALLOW_EVERYTHING = struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000)  # one instruction: return SECCOMP_RET_ALLOW
ENTRY = """
import os, resource, signal, threading, time
def before_seccomp(limits):
    for _ in range(limits.step_threads):
        threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
def main(control, bundle, limits):
    names = [n for n in dir(resource) if n.startswith("RLIMIT_")]
    facts = {
        "limits": {n: resource.getrlimit(getattr(resource, n)) for n in names},
        "descriptors": {fd: (kind(fd), os.get_blocking(fd), os.get_inheritable(fd)) for fd in range(64) if kind(fd)},
        "signals": {n: str(signal.getsignal(n)) for n in range(1, 32)},
        "parent": os.getppid(), "leads": os.getsid(0) == os.getpid(), "who": (os.getuid(), os.getgid()),
        "refused": [refused(os.open, "/", os.O_RDONLY), refused(os.pidfd_open, os.getpid()), refused(os.memfd_create, "x")],
        "bundle": os.pread(bundle, 100, 0) if bundle >= 0 else None,
        "environment": dict(os.environ), "threads": threading.active_count(), "limits object": repr(limits),
    }
    control.sendall(repr(facts).encode())
    control.recv(1)
def kind(fd):
    try: return os.fstat(fd).st_mode
    except OSError: return 0
def refused(call, *args):
    try: call(*args)
    except OSError as error: return error.errno
"""  # fmt: skip
FAILS_TO_REHEARSE = ENTRY + "\ndef rehearse(): raise ValueError('stage fright')\n"


class Opened:
    def __init__(self, cell: Cell, bundle: Path | None = None, limits: SandboxLimits = LIMITS) -> None:
        self.socket, theirs = socket.socketpair()
        errors, their_errors = os.pipe()
        with contextlib.ExitStack() as stack:
            stack.enter_context(theirs)
            stack.callback(os.close, their_errors)
            fd = -1
            if bundle is not None:
                fd = os.open(bundle, os.O_RDONLY)
                stack.callback(os.close, fd)
            self.number = cell.request_open(theirs, their_errors, fd, limits)
        answer, self.pidfd = next_message(cell, "opened")
        self.errors = os.fdopen(errors, "rb")
        self.pid = process_id(self.pidfd)
        self.was_spare = answer["spare"]
        self.socket.settimeout(10)

    def facts(self) -> dict[str, Any]:
        return eval(self.socket.recv(64 * 1024))

    def close(self) -> None:
        self.socket.close()
        self.errors.close()
        os.close(self.pidfd)


def next_message(cell: Cell, kind: str) -> tuple[dict[str, Any], int]:
    while True:
        message = cell.read_message()
        assert message is not None
        if kind in message[0]:
            return message


def until(claim: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 10
    while not (found := claim()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return found


def from_spare(cell: Cell, bundle: Path | None = None) -> Opened:
    """Open until it is a spare that serves: whether one is prepared yet cannot be seen from here."""

    def attempt() -> Opened | None:
        opened = Opened(cell, bundle)
        if opened.was_spare:
            return opened
        opened.close()
        next_message(cell, "exited")
        time.sleep(2 * zygote.SPARE_DELAY_S)  # requests in quick succession put the next spare off
        return None

    return until(attempt)


def children(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry.name))
    return sorted(found)


def start(
    tmp_path: Path,
    isolation: Isolation = Isolation.CELL,
    *,
    source: str = ENTRY,
    program: bytes = b"",
    damage: Callable[[], None] = lambda: None,
) -> Cell:
    entry = tmp_path / "spare_entry.py"
    entry.write_text(source)
    cell = Cell(CellOptions(isolation=isolation, entry="spare_entry:main", extra={"spare_entry.py": entry}))
    cell._program = program or cell._program
    try:
        damage()
        cell.greet()
        cell.keep_spares(LIMITS)
    except BaseException:
        cell.close()
        raise
    return cell


@pytest.fixture
def cell(tmp_path):
    cell = start(tmp_path)
    yield cell
    cell.close()


def bundle(tmp_path: Path, text: str) -> Path:
    path = tmp_path / f"{text}.bundle"
    path.write_text(text)
    return path


# --- confinement


@pytest.mark.parametrize("isolation", list(Isolation), ids=lambda isolation: isolation.value)
def test_sandbox_from_a_spare_is_what_a_fork_gives(tmp_path, isolation):
    cell = start(tmp_path, isolation)
    path = bundle(tmp_path, "x") if isolation is not Isolation.LANDLOCK else None
    try:
        spare = from_spare(cell, path)
        forked = Opened(cell, path)  # the spare is used up, and the next is not there yet
        assert not forked.was_spare
        assert spare.facts() == forked.facts()
        status = [Path(f"/proc/{one.pid}/status").read_text().splitlines() for one in (spare, forked)]
        kept = ("Uid", "Gid", "Groups", "Threads", "Sig", "Shd", "Cap", "NoNewPrivs", "Seccomp")
        first, second = ([line for line in lines if line.startswith(kept)] for lines in status)
        assert first == second
        spare.close()
        forked.close()
    finally:
        cell.close()


@pytest.mark.parametrize(
    ("program", "why"),
    [
        (b"\xff" * 8, "OSError: [Errno 22] Invalid argument"),
        (ALLOW_EVERYTHING, "it was applied without error but does not hold"),
    ],
    ids=["refused by the kernel", "allows everything"],
)
def test_spare_whose_filter_does_not_hold_ends_before_its_entry(tmp_path, program, why):
    cell = start(tmp_path, program=program)
    try:
        spare = from_spare(cell, bundle(tmp_path, "x"))
        assert spare.socket.recv(100) == b""
        assert next_message(cell, "exited")[0]["code"] == confine.EXIT_UNCONFINED
        said = spare.errors.read().decode()
        assert said == f"the sandbox's seccomp layer could not be applied: {why}; run `perdure doctor`"
        spare.close()
    finally:
        cell.close()


def test_spare_whose_landlock_rule_opens_everything_ends_before_its_entry(tmp_path, monkeypatch):
    cell = start(tmp_path, damage=lambda: monkeypatch.setattr(runtime_tree, "ZONEINFO", "/"))
    try:
        spare = from_spare(cell)
        assert spare.socket.recv(100) == b""
        assert next_message(cell, "exited")[0]["code"] == confine.EXIT_UNCONFINED
        assert b"Landlock layer could not be applied: it was applied without error but" in spare.errors.read()
        spare.close()
    finally:
        cell.close()


def test_spare_holds_no_descriptor_of_anybody_while_it_waits(cell, tmp_path):
    """A sandbox of one tenant is open, another was opened and has ended: nothing of either is in the next spare."""
    first, second = bundle(tmp_path, "of one"), bundle(tmp_path, "of another")
    one = from_spare(cell, first)
    one.facts()
    other = Opened(cell, second)
    other.facts()
    other.close()
    next_message(cell, "exited")
    waiting = process_id(cell.zygote_pidfd)
    (spare,) = until(lambda: [pid for pid in children(waiting) if pid != one.pid])
    until(lambda: len(list(Path(f"/proc/{spare}/task").iterdir())) == 3)  # its threads: all is in place
    links = {int(entry.name): os.readlink(entry) for entry in Path(f"/proc/{spare}/fd").iterdir()}
    assert sorted(links) == [0, 1, 2, 3, 4]
    assert {links[fd] for fd in (0, 1, 2, 4)} == {"/dev/null"}
    assert links[3].startswith("socket:")
    one.close()


def test_each_spare_gets_the_bundle_of_its_own_request(cell, tmp_path):
    for text in ("of one", "of another", "of a third"):
        opened = from_spare(cell, bundle(tmp_path, text))
        assert opened.facts()["bundle"] == text.encode()
        opened.close()


# --- once only, replaced, and never in the way


def test_spare_serves_once(cell):
    pids = []
    for _ in range(3):
        opened = from_spare(cell)
        pids.append(opened.pid)
        following = Opened(cell)
        assert not following.was_spare
        pids.append(following.pid)
        for one in (opened, following):
            one.close()
            next_message(cell, "exited")
    assert len(set(pids)) == 6


def test_dead_spare_is_replaced_and_nobody_is_told_of_its_end(cell):
    zygote_pid = process_id(cell.zygote_pidfd)
    (spare,) = until(lambda: children(zygote_pid))
    os.kill(spare, signal.SIGKILL)
    (another,) = until(lambda: [pid for pid in children(zygote_pid) if pid != spare])
    opened = Opened(cell)  # the first message that the host gets is the answer to its request
    assert opened.number == 1
    assert not opened.was_spare or opened.pid == another
    opened.close()
    from_spare(cell).close()


def test_request_for_other_limits_is_served_by_a_fork(cell):
    other = SandboxLimits(step_threads=1, cpu_s=5)
    zygote_pid = process_id(cell.zygote_pidfd)
    (spare,) = until(lambda: children(zygote_pid))
    until(lambda: len(list(Path(f"/proc/{spare}/task").iterdir())) == 3)
    for _ in range(3):
        time.sleep(zygote.SPARE_DELAY_S)
        opened = Opened(cell, limits=other)
        assert not opened.was_spare
        assert opened.facts()["limits"]["RLIMIT_CPU"] == (5, 7)
        opened.close()
    own = Opened(cell)
    assert own.pid == spare  # it was there all the time
    own.close()


def test_spare_that_cannot_prepare_is_no_harm(tmp_path):
    cell = start(tmp_path, source=FAILS_TO_REHEARSE)
    zygote_pid = process_id(cell.zygote_pidfd)
    try:
        until(lambda: children(zygote_pid))
        until(lambda: not children(zygote_pid))
        for _ in range(3):
            opened = Opened(cell)
            assert not opened.was_spare
            assert opened.facts()["threads"] == 3
            opened.close()
    finally:
        cell.close()


def test_spares_leave_no_descriptor_and_no_process_behind(cell):
    zygote_pid = process_id(cell.zygote_pidfd)

    def at_rest() -> list[str] | None:
        """Descriptors of the zygote while it has just its one spare."""
        return sorted(os.listdir(f"/proc/{zygote_pid}/fd")) if len(children(zygote_pid)) == 1 else None

    def use() -> None:
        from_spare(cell).close()
        next_message(cell, "exited")

    use()
    before = until(at_rest)
    for _ in range(2):
        use()
        (spare,) = until(lambda: children(zygote_pid))
        os.kill(spare, signal.SIGKILL)
        until(lambda gone=spare: gone not in children(zygote_pid))
    assert len(until(at_rest)) == len(before)
    (spare,) = until(lambda: children(zygote_pid))
    cell.close()
    assert not Path(f"/proc/{spare}").exists()


def test_spares_die_with_the_zygote(cell):
    (spare,) = until(lambda: children(process_id(cell.zygote_pidfd)))
    signal.pidfd_send_signal(cell.zygote_pidfd, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{spare}").exists())


def test_without_spares_none_is_forked(tmp_path):
    entry = tmp_path / "spare_entry.py"
    entry.write_text(ENTRY)
    cell = Cell(CellOptions(entry="spare_entry:main", extra={"spare_entry.py": entry}, spares=0))
    try:
        cell.greet()
        cell.keep_spares(LIMITS)
        opened = Opened(cell)
        opened.facts()
        time.sleep(2 * zygote.SPARE_DELAY_S)
        assert children(process_id(cell.zygote_pidfd)) == [opened.pid]
        opened.close()
    finally:
        cell.close()


# --- with the real program, through the host


def test_burst_of_fifty_opens_works_and_each_has_its_own_code(tmp_path):
    specs = []
    for number in range(50):
        path = tmp_path / f"{number}.bundle"
        source = f"from executor.workflow import Workflow\nclass W{number}(Workflow):\n    async def run(self, event, step): ...\n"
        path.write_bytes(make_bundle({"workflows.py": source}))
        specs.append(SandboxSpec(f"tenant{number}", "c" * 40, path))

    async def main():
        seen: dict[str, tuple[tuple[str, ...], int, bool]] = {}

        async def one(host: SandboxHost, spec: SandboxSpec):
            sandbox = await host.open(spec)
            seen[spec.tenant] = (sandbox.workflows, sandbox.pid, sandbox.was_spare)

        with trio.fail_after(30):
            async with sandbox_host(CellOptions(), SandboxLimits(step_threads=1)) as host:
                while not (sandbox := await host.open(specs[0])).was_spare:
                    sandbox.kill()
                    await trio.sleep(3 * zygote.SPARE_DELAY_S)
                async with trio.open_nursery() as nursery:
                    for spec in specs:
                        nursery.start_soon(one, host, spec)
                assert host.count == 51  # a spare is not a sandbox
        assert {tenant: names for tenant, (names, _, _) in seen.items()} == {
            f"tenant{number}": (f"W{number}",) for number in range(50)
        }
        assert len({pid for _, pid, _ in seen.values()}) == 50

    trio.run(main)
