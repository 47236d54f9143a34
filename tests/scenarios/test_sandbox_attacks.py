"""Attacks on the sandbox, each tried in both directions: confined it is refused, unconfined it gets what it wants.

The second direction matters as much as the first: an attack that fails everywhere proves nothing. Some attacks need
root, or something that a kernel may lack; then only the first direction is judged, and says so in the table.

weakness: what an attacker would use. attack: the function in sandbox_attack_code.py. proves: what a refusal shows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import socket
import sqlite3
import sys
import time
from pathlib import Path

import landlockpy
import pytest
import trio

from executor.sandbox import protocol
from executor.sandbox.cell import Cell, CellOptions, Isolation
from executor.sandbox.control import READ_BYTES
from executor.sandbox.limits import SandboxLimits
from executor.sandbox.pool import sandbox_host
from executor.sandbox.spec import SandboxDied, SandboxSpec
from executor.sandbox.zygote import SPARE_DELAY_S

CODE = Path(__file__).with_name("sandbox_attack_code.py")
MIB = 1024 * 1024
X86 = platform.machine() == "x86_64"
ROOT = os.geteuid() == 0

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="confinement is a matter of the Linux kernel")


@dataclasses.dataclass(frozen=True)
class Attack:
    weakness: str
    attack: str
    proves: str
    root: bool = False  # unconfined it works for root only
    absent: bool = False  # some kernels do not have the thing at all, or give it to nobody
    x86: bool = False  # written with this machine's call numbers
    alike: bool = False  # the plain fork has this protection too: the other direction is this very process

    def __str__(self) -> str:
        return self.attack


ATTACKS = [
    # --- the host's files
    Attack("host files readable", "read_passwd", "the cell's tree holds no /etc"),
    Attack(
        "checks in Python, not in the kernel",
        "raw_open_passwd",
        "the raw call is refused like the polite one",
        x86=True,
    ),
    Attack("host files readable", "read_file:secret", "a world-readable file of the host is not there"),
    Attack("existence leaks through Landlock", "stat_file:secret", "not even its existence can be asked"),
    Attack("host folders listed", "list_folder:root", "the root folder cannot be listed"),
    Attack("other software's files beside the interpreter", "list_folder:site", "site-packages is masked"),
    Attack("git store readable", "read_file:git", "other tenants' code is out of reach"),
    Attack("state database readable", "open_database:state", "other tenants' state is out of reach"),
    Attack(
        "bundles readable by path", "read_file:bundle", "another tenant's bundle cannot be opened by guessing its name"
    ),
    Attack("path rules passed with ..", "climb_out:secret", "a folder descriptor is no way out"),
    Attack("path rules passed with handles", "open_by_handle", "files cannot be opened by handle", root=True, x86=True),
    Attack("path rules passed with links", "make_symlink:secret", "no link can be made, so none can be followed"),
    # --- changing something
    Attack("runtime shared and writable", "write_runtime_file", "no tenant can change what others import", root=True),
    Attack("writable folder", "make_file", "nothing can be written anywhere"),
    Attack("disk shared", "fill_disk", "the disk cannot be filled"),
    Attack("pipes in the file tree", "make_fifo", "no named pipe can be made"),
    Attack("devices", "make_device", "no device node can be made", root=True),
    Attack("rename", "rename_runtime_file", "renaming is refused before any look at the names"),
    Attack(
        "bundle shared by tenants with equal code",
        "reopen_bundle_for_writing",
        "it cannot be reopened for writing",
        root=True,
    ),
    Attack("bundle shared", "chmod_bundle", "its mode cannot be changed through the descriptor"),
    Attack("bundle shared", "touch_bundle", "its times cannot be changed"),
    Attack("bundle shared: a covert channel", "lock_bundle", "it cannot be locked"),
    Attack("bundle shared: a covert channel", "lease_bundle", "no lease can be taken on it"),
    Attack("one filter for all calls", "set_host_name", "the machine's name cannot be set", root=True, x86=True),
    Attack("limits can be set", "raise_limits", "limits cannot be touched any more"),
    # --- seeing others
    Attack("environment of the executor", "read_environ:executor", "secrets in the executor's environment stay there"),
    Attack("memory of the executor", "read_memory:executor", "its memory cannot be opened"),
    Attack("other processes visible", "list_processes", "no process list"),
    Attack("command lines visible", "read_command_line:executor", "no command line"),
    Attack("machine's name", "host_name:here", "the host's name is hidden"),
    Attack("names of users", "real_user_name", "no user database"),
    Attack("load of the machine: a side channel", "system_load", "load and memory cannot be asked", x86=True),
    Attack("kernel log", "kernel_log", "the kernel's log is closed", root=True, x86=True),
    Attack("network interfaces visible", "network_interfaces", "none can be listed"),
    # --- network
    Attack("network open", "inet_socket", "no TCP socket"),
    Attack("network open", "inet6_socket", "no TCP socket over version 6", absent=True),
    Attack("Landlock bounds TCP only", "udp_socket", "no UDP socket"),
    Attack("raw packets", "raw_socket", "no raw socket", root=True),
    Attack("raw packets", "packet_socket", "no packet socket", root=True, absent=True),
    Attack("kernel configuration by netlink", "netlink_socket", "no netlink socket"),
    Attack("a network namespace does not hold vsock", "vsock_socket", "no vsock socket", absent=True),
    Attack("services on the host", "connect_loopback:port", "the host's loopback cannot be reached"),
    Attack("pretend to be a service", "bind_port", "no port can be bound"),
    Attack("data out by name look-ups", "resolve_name", "no name resolves"),
    Attack("unix sockets of the host", "unix_connect:socket", "no local service can be reached"),
    Attack("abstract sockets have no path", "abstract_connect:abstract", "nor one without a path"),
    Attack("a socket pair that sends elsewhere", "unix_datagram_by_pair:datagram", "a pair talks to itself only"),
    # --- processes
    Attack("fork bomb", "fork", "no process can be made"),
    Attack("fork bomb past Python", "raw_clone", "the raw call is refused", x86=True),
    Attack("the newer call forgotten", "raw_clone3", "clone3 is refused too", x86=True),
    Attack("flags forgotten", "raw_vfork", "clone is refused with any flags", x86=True),
    Attack("thread bomb", "thread_bomb", "no thread beyond those of the step pool"),
    Attack("programs of the host", "spawn", "no program can be started"),
    Attack("the interpreter itself", "execute", "nor the interpreter", absent=False),
    Attack("the loader runs what may not run", "execute_loader", "nor the loader", x86=True),
    Attack("program without a file", "memory_file_execute", "nor a program in memory"),
    Attack("memory that no limit counts", "memory_file", "no file in memory"),
    Attack("survive the end of the run", "daemonize", "nothing outlives its sandbox"),
    Attack("survive the zygote", "forget_parent", "the signal of the zygote's death cannot be switched off"),
    Attack("leave the session", "new_session", "no new session"),
    Attack("kill the zygote", "signal_parent", "it cannot be signalled"),
    Attack("kill a sibling", "signal_process:sibling", "another tenant's sandbox cannot be signalled"),
    Attack("kill everybody", "signal_everybody", "nor all at once"),
    Attack("signals by other calls", "signal_by_pidfd", "nor through a pidfd"),
    Attack("signals by other calls", "queue_signal", "nor by queueing", x86=True),
    Attack("signals by other calls", "thread_signal", "nor by thread", x86=True),
    Attack(
        "descriptors of others",
        "steal_descriptor",
        "no descriptor of another process can be taken",
        absent=True,
        x86=True,
    ),
    Attack("ptrace", "trace_parent", "the zygote cannot be traced", x86=True),
    Attack("ptrace", "trace_me", "tracing is refused altogether", x86=True),
    Attack("memory of the zygote, mother of all sandboxes", "read_parent_memory", "it cannot be read", x86=True),
    Attack("limits of others", "limit_parent", "they cannot be read or set"),
    Attack("priority of others", "slow_others_down", "it cannot be set"),
    Attack("take a processor for itself", "pin_processor", "affinity cannot be set"),
    # --- the kernel's dangerous corners
    Attack("io_uring: calls that no filter sees", "io_uring", "no ring", absent=True, x86=True),
    Attack("userfaultfd: a favourite of exploits", "user_fault", "refused", absent=True, x86=True),
    Attack("keyrings are shared by uid", "keyring", "refused", absent=True, x86=True),
    Attack("keyrings are shared by uid", "add_key", "refused", absent=True, x86=True),
    Attack("new user namespace: root over new ground", "new_user_namespace", "refused", absent=True, x86=True),
    Attack("new mount namespace", "new_mount_namespace", "refused", root=True, x86=True),
    Attack("new network namespace", "new_network_namespace", "refused", root=True, x86=True),
    Attack("enter a namespace", "enter_namespace", "refused", root=True, x86=True),
    Attack("mount", "mount", "refused", root=True, x86=True),
    Attack("the newer mount calls", "open_tree", "refused", absent=True, x86=True),
    Attack("chroot", "change_root", "refused", root=True),
    Attack("setuid", "become_root", "refused", root=True),
    Attack("setuid", "become_other", "refused", root=True),
    Attack("groups", "drop_groups", "refused", root=True),
    Attack("capabilities left over", "gain_capability", "none is held, and none can be asked for", root=True, x86=True),
    Attack("bpf", "bpf", "refused", root=True, absent=True, x86=True),
    Attack("perf events", "perf_event", "refused", root=True, absent=True, x86=True),
    Attack("personality", "change_personality", "refused", x86=True),
    Attack("System V shared memory outlives its maker", "shared_memory_segment", "refused", absent=True, x86=True),
    Attack("message queues outlive their maker", "message_queue", "refused", absent=True, x86=True),
    Attack("watching files of others", "watch_files", "refused", absent=True, x86=True),
    Attack("a second filter", "weaken_filter", "the door is closed", absent=True, x86=True),
    # --- descriptors and limits
    Attack("descriptors inherited from the zygote", "inherited_descriptors", "none beyond its own five", alike=True),
    Attack("descriptors piled up in a socket", "send_descriptors", "none can be sent"),
    Attack("descriptors piled up in a socket", "receive_descriptors", "none can be taken"),
    Attack("who is the executor?", "peer_identity", "the channel does not tell"),
    Attack("a descriptor of the executor", "peer_descriptor", "the channel does not give one", absent=True),
    Attack("out-of-band bytes, a favourite of exploits", "out_of_band", "refused"),
    Attack("core dumps on the host's disk", "core_dump", "they are off", alike=True, absent=True),
    Attack("memory pinned", "lock_memory", "no memory can be locked", absent=True),
]


class Prisoner:
    """One sandbox that carries many attacks, over a cell of its own. `spare`: it was forked before it was asked for."""

    def __init__(self, isolation: Isolation, bundle: Path, *, spare: bool = False) -> None:
        options = CellOptions(
            isolation=isolation, entry="sandbox_attack_code:serve", extra={"sandbox_attack_code.py": CODE}
        )
        self.cell = Cell.start(options)
        self.bundle = bundle
        self.sibling, self.sibling_pid, _ = self._open()
        self.socket, self.pid, _ = self._open()
        if spare:
            self._await_spare()
        self.stream = self.socket.makefile("rwb")

    def _await_spare(self) -> None:
        self.cell.keep_spares(SandboxLimits())
        deadline_s = time.monotonic() + 20
        was_spare = False
        while not was_spare:
            assert time.monotonic() < deadline_s
            time.sleep(2 * SPARE_DELAY_S)  # the zygote makes one when it has been left alone for a while
            self.socket.close()
            self.socket, self.pid, was_spare = self._open()

    def _open(self) -> tuple[socket.socket, int, bool]:
        mine, theirs = socket.socketpair()
        errors, their_errors = os.pipe()
        fd = os.open(self.bundle, os.O_RDONLY)
        self.cell.request_open(theirs, their_errors, fd, SandboxLimits())
        for descriptor in (errors, their_errors, fd):
            os.close(descriptor)
        theirs.close()
        message = self.cell.read_message()
        while message is not None and "exited" in message[0]:
            message = self.cell.read_message()
        assert message is not None
        os.close(message[1])
        mine.settimeout(20)
        return mine, message[0]["pid"], message[0]["spare"]

    def attempt(self, attack: str, arguments: dict) -> list[str]:
        self.stream.write(json.dumps({"attack": attack, "arguments": arguments}).encode() + b"\n")
        self.stream.flush()
        return json.loads(self.stream.readline())

    def close(self) -> None:
        self.stream.close()
        self.socket.close()
        self.sibling.close()
        self.cell.close()


@dataclasses.dataclass
class Ground:
    """What lies about on the host for an attacker to want."""

    arguments: dict[str, dict]
    confined: Prisoner
    spare: Prisoner
    unconfined: Prisoner


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    folder.chmod(0o755)
    (folder / "git").mkdir()
    (folder / "git" / "workflows.py").write_text("secret = 'of another tenant'")
    (folder / "secret").write_text("a secret")
    bundle = folder / "other.bundle"
    bundle.write_bytes(b"PDBUNDL1")
    with sqlite3.connect(folder / "state.sqlite") as database:
        database.execute("create table kept (secret text)")
        database.execute("insert into kept values ('x')")
    database.close()
    with contextlib.ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        path = stack.enter_context(socket.socket(socket.AF_UNIX))
        path.bind(str(folder / "service"))
        path.listen(8)
        datagram = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        datagram.bind(str(folder / "datagram"))
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        abstract.bind(f"\0perdure-test-{os.getpid()}")
        abstract.listen(8)
        confined = Prisoner(Isolation.CELL, bundle)
        stack.callback(confined.close)
        spare = Prisoner(Isolation.CELL, bundle, spare=True)
        stack.callback(spare.close)
        unconfined = Prisoner(Isolation.NONE, bundle)
        stack.callback(unconfined.close)
        yield Ground(
            {
                "secret": {"path": str(folder / "secret")},
                "root": {"path": "/"},
                "site": {"path": str(Path(landlockpy.__file__).resolve().parents[1])},
                "git": {"path": str(folder / "git" / "workflows.py")},
                "state": {"path": str(folder / "state.sqlite")},
                "bundle": {"path": str(bundle)},
                "executor": {"pid": os.getpid()},
                "here": {"name": socket.gethostname()},
                "port": {"port": tcp.getsockname()[1]},
                "socket": {"path": str(folder / "service")},
                "datagram": {"path": str(folder / "datagram")},
                "abstract": {"name": f"perdure-test-{os.getpid()}"},
                "": {},
            },
            confined,
            spare,
            unconfined,
        )


def _aim(ground: Ground, attack: Attack, prisoner: Prisoner) -> tuple[str, dict]:
    name, _, target = attack.attack.partition(":")
    if target == "sibling":
        return name, {"pid": prisoner.sibling_pid}
    if target == "executor" and prisoner is not ground.unconfined:
        # Inside the cell numbers are others: all that there are get tried by the one that exists for sure.
        return name, {"pid": 1}
    if target == "site" and prisoner is not ground.unconfined:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return name, {"path": f"/runtime/{sys.platlibdir}/{version}/site-packages"}
    return name, ground.arguments[target]


@pytest.mark.parametrize("came", ["forked", "spare"])
@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_confined_attack_is_refused(ground, attack, came):
    """Whether the sandbox was forked for its request, or in advance."""
    if attack.x86 and not X86:
        pytest.skip("written with the call numbers of x86_64")
    prisoner = ground.spare if came == "spare" else ground.confined
    name, arguments = _aim(ground, attack, prisoner)
    result, detail = prisoner.attempt(name, arguments)
    assert result in ("refused", "absent"), f"{attack.weakness}: {detail}. It should show that: {attack.proves}"
    if result == "absent":
        # "No such thing" is an answer only where the filter says so on purpose, or no such thing exists out here either.
        other, _ = ground.unconfined.attempt(*_aim(ground, attack, ground.unconfined))
        assert name == "raw_clone3" or other == "absent", detail


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
def test_same_attack_works_without_confinement(ground, attack):
    if attack.x86 and not X86:
        pytest.skip("written with the call numbers of x86_64")
    name, arguments = _aim(ground, attack, ground.unconfined)
    if attack.alike:
        import importlib.util

        spec = importlib.util.spec_from_file_location("sandbox_attack_code", CODE)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        with socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX):
            result, detail = module.outcome(name, arguments)
    else:
        result, detail = ground.unconfined.attempt(name, arguments)
    possible = ("escaped", "absent", "refused") if attack.absent or (attack.root and not ROOT) else ("escaped",)
    assert result in possible, detail


def test_harness_can_tell_success(ground):
    """The control: an attack that always works says so, inside as well."""
    for prisoner in (ground.confined, ground.spare):
        assert prisoner.attempt("none", {}) == ["escaped", "works"]


def test_confined_process_survives_all_refusals(ground):
    """The refusals are answers, not kills: the sandbox still serves after all of them."""
    for prisoner in (ground.confined, ground.spare):
        assert prisoner.attempt("fork", {})[0] == "refused"
        assert prisoner.attempt("none", {})[0] == "escaped"


@pytest.mark.skipif(not X86, reason="machine code of x86_64")
def test_other_architectures_calls_end_the_process(tmp_path):
    """Weakness: a 32-bit call from 64-bit code uses another table of numbers. Proves: the kernel ends whoever tries."""
    bundle = tmp_path / "b"
    bundle.write_bytes(b"")
    prisoner = Prisoner(Isolation.CELL, bundle)
    try:
        with pytest.raises(json.JSONDecodeError):
            prisoner.attempt("switch_architecture", {})
        message = prisoner.cell.read_message()
        assert message is not None
        assert message[0]["signal"] == 31  # SIGSYS
    finally:
        prisoner.close()


# --- attacks on the host through the channel, and by taking too much

LIMITS = SandboxLimits(
    memory_bytes=48 * MIB, turn_timeout_s=0.8, ping_after_s=0.3, boot_timeout_s=10, frame_bytes_max=MIB,
)  # fmt: skip

# weakness, workflow (the misbehaviour), reason, part of the detail
MISBEHAVIOUR = [
    ("memory of all", "fill memory", "memory", "its limit is 50331648"),
    ("time of all", "endless loop", "time", "no answer to a Ping within 0.8 s"),
    ("a kill that can be caught", "catch every signal", "time", "no answer to a Ping within 0.8 s"),
    ("signs of life from a loop that hangs", "talk on but do not answer", "time", "no answer to a Ping within 0.8 s"),
    ("signs of life while it burns", "burn processor time", "time", "no answer to a Ping within 0.8 s"),
    ("reading nothing", "never read", "time", "no answer to a Ping within 0.8 s"),
    ("native crash", "crash", "crashed", "it was ended by SIGSEGV"),
    ("silent end", "exit", "crashed", "it exited with status 3"),
    ("length field", "oversize frame", "protocol", "a message of 4294967295 bytes is over the limit of 1048576"),
    ("length field", "frame over the limit", "protocol", "a message of 1048577 bytes is over the limit of 1048576"),
    ("decoder", "malformed frame", "protocol", "a message of 4 bytes does not fit the protocol"),
    ("unpickling", "pickle", "protocol", "does not fit the protocol"),
    ("recursion of the decoder", "deep nesting", "protocol", "does not fit the protocol"),
    ("schema", "unknown frame", "protocol", "does not fit the protocol"),
    ("memory for a claimed length", "claim a huge array", "protocol", "does not fit the protocol"),
    ("time of the loop", "too many commands", "protocol", "Expected `array` of length <= 100000"),
    ("numbers of the store", "huge number", "protocol", "Expected `int` <= 9223372036854775807"),
    ("frames of the wrong direction", "frames of the executor", "protocol", "does not fit the protocol"),
    ("state machine", "ready twice", "protocol", "a Ready frame came out of turn"),
    ("half-dead sandbox", "close the channel", "protocol", "it closed its control channel but went on"),
    ("log flooding", "write to standard error", "crashed", "it exited with status 4"),
]


@pytest.mark.parametrize("isolation", [Isolation.CELL, Isolation.NONE], ids=["confined", "unconfined"])
def test_misbehaving_sandbox_is_ended_alone_and_for_the_right_reason(isolation, tmp_path):
    """All at once, beside a neighbour that must not notice. The host's defences do not rest on confinement: the same
    holds for a plain process (the memory limit too, as the host samples it)."""
    bundle = tmp_path / "bundle"
    bundle.write_bytes(b"")
    spec = SandboxSpec("acme", "c" * 40, bundle)
    options = CellOptions(
        isolation=isolation, entry="sandbox_attack_code:speak", extra={"sandbox_attack_code.py": CODE}
    )
    seen: dict[str, SandboxDied] = {}

    async def misbehave(host, how):
        sandbox = await host.open(spec)
        await sandbox.send([protocol.Activate(1, "i", how, "c", 0)])
        with pytest.raises(SandboxDied) as caught:
            while True:
                await sandbox.receive()
        seen[how] = caught.value

    async def scenario():
        async with sandbox_host(options, LIMITS) as host:
            neighbour = await host.open(SandboxSpec("other", "d" * 40, bundle))
            with trio.fail_after(40):
                # A few at a time: the watch-dog is about a busy machine, not about an overloaded one.
                for start in range(0, len(MISBEHAVIOUR), 3):
                    async with trio.open_nursery() as nursery:
                        for _, how, _, _ in MISBEHAVIOUR[start : start + 3]:
                            nursery.start_soon(misbehave, host, how)
                await neighbour.send([protocol.Activate(7, "i", "quiet", "c", 0)])
                assert await neighbour.receive() == [protocol.Turn(7, 0, [], True)]
            assert host.count == 1
            assert host.restarts == 0

    trio.run(scenario)
    told = {how: (death.reason, death.detail) for how, death in seen.items()}
    for _, how, reason, detail in MISBEHAVIOUR:
        assert told[how][0] == reason, (how, told[how])
        assert detail in told[how][1], (how, told[how])
    assert len(seen["write to standard error"].last_words) <= 16 * 1024


def test_flood_is_held_back_by_the_host_that_does_not_read(tmp_path):
    """Weakness: memory of the executor. Attack: frames without end while the engine takes none. Proves: the host keeps
    nothing that nobody received, gives up one read at a time, and goes on."""
    bundle = tmp_path / "bundle"
    bundle.write_bytes(b"")
    options = CellOptions(entry="sandbox_attack_code:speak", extra={"sandbox_attack_code.py": CODE})

    async def scenario():
        async with sandbox_host(options, LIMITS) as host:
            for how in ("flood", "empty messages"):
                sandbox = await host.open(SandboxSpec("acme", "c" * 40, bundle))
                await sandbox.send([protocol.Activate(1, "i", how, "c", 0)])
                with trio.fail_after(30):
                    while not sandbox._control.has_unread():
                        await trio.lowlevel.checkpoint()
                assert sandbox._control.held_bytes == 0
                if how == "flood":
                    frames = await sandbox.receive()
                    assert [frame.number for frame in frames] == list(range(1, len(frames) + 1))
                    assert sandbox._control.held_bytes <= READ_BYTES
                sandbox.kill()
                death = await sandbox.wait_dead()
                assert death.reason == "killed"

    trio.run(scenario)


def test_end_of_the_host_ends_every_sandbox(tmp_path):
    """Weakness: survive. Attack: catch every signal and loop. Proves: when the host goes, so does everything."""
    bundle = tmp_path / "bundle"
    bundle.write_bytes(b"")
    options = CellOptions(entry="sandbox_attack_code:speak", extra={"sandbox_attack_code.py": CODE})
    pids: list[int] = []

    async def scenario():
        async with sandbox_host(options, SandboxLimits()) as host:
            for _ in range(3):
                sandbox = await host.open(SandboxSpec("acme", "c" * 40, bundle))
                await sandbox.send([protocol.Activate(1, "i", "catch every signal", "c", 0)])
                pids.append(sandbox.pid)

    trio.run(scenario)
    assert len(pids) == 3
    for pid in pids:
        assert not Path(f"/proc/{pid}").exists()


def test_listed_attacks_are_many_and_distinct():
    names = [attack.attack for attack in ATTACKS]
    assert len(set(names)) == len(names)
    assert len(names) + len(MISBEHAVIOUR) >= 40
