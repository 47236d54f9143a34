"""What a hostile tenant would try, one function each. Runs as the entry of a sandbox; imports the standard library only.

An attack returns a short text if it got what it wanted and raises OSError (or a kin of it) if it was refused. Where it
succeeds it does no lasting harm: signal 0, limits set to what they are, everything undone.

Entry `serve`: one JSON request a line, one JSON answer a line, so that one sandbox carries many attacks.
Entry `speak`: speaks the sandbox protocol, and misbehaves as the workflow named in Activate says.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import mmap
import os
import resource
import signal
import socket
import struct
import threading
import time
from pathlib import Path

libc = ctypes.CDLL(None, use_errno=True)
BUNDLE = 4


class Refused(Exception):
    """The attack did not get what it wanted, though no call failed."""


def syscall(number, *arguments):
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    answer = libc.syscall(ctypes.c_long(number), *converted)
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return answer


def in_fork(action):
    """Run `action` where it can do no harm to this process: in a fork if one can be made, else right here."""
    try:
        pid = os.fork()
    except OSError:
        return action()
    if pid == 0:
        try:
            action()
        except OSError as error:
            os._exit(error.errno or 255)
        except BaseException:
            os._exit(255)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status > 0:
        raise OSError(status, os.strerror(status))
    return f"done in process {pid}"


# --- files


def read_passwd():
    return Path("/etc/passwd").read_text()[:20]


def raw_open_passwd():
    fd = syscall(257, -100, b"/etc/passwd", os.O_RDONLY)
    os.close(fd)
    return "opened"


def read_file(path):
    return Path(path).read_text(errors="replace")[:20]


def stat_file(path):
    return str(os.stat(path).st_size)


def list_folder(path):
    names = os.listdir(path)
    if not names:
        raise Refused("the folder shows nothing")
    return str(names[:5])


def open_database(path):
    import sqlite3

    try:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        with contextlib.closing(connection):
            return str(connection.execute("select secret from kept").fetchone())
    except sqlite3.Error as error:
        raise Refused(str(error)) from None


def climb_out(path):
    fd = os.open(os.path.dirname(os.__file__), os.O_RDONLY)
    try:
        other = os.open("../" * 12 + path.lstrip("/"), os.O_RDONLY, dir_fd=fd)
    finally:
        os.close(fd)
    os.close(other)
    return "climbed"


def write_runtime_file():
    os.close(os.open(os.__file__, os.O_WRONLY))
    return "the standard library can be changed"


def make_file():
    last = None
    for folder in ("/tmp", "/var/tmp", "/dev/shm", "/", os.path.dirname(os.__file__), "/runtime", "."):
        path = os.path.join(folder, f"attack-{os.getpid()}")
        try:
            fd = os.open(path, os.O_CREAT | os.O_WRONLY)
        except OSError as error:
            last = error
            continue
        os.close(fd)
        os.unlink(path)
        return path
    raise last


def make_symlink(path):
    last = None
    for folder in ("/tmp", "/runtime", os.path.dirname(os.__file__), "."):
        link = os.path.join(folder, f"link-{os.getpid()}")
        try:
            os.symlink(path, link)
        except OSError as error:
            last = error
            continue
        try:
            return Path(link).read_text(errors="replace")[:20]
        finally:
            os.unlink(link)
    raise last


def make_fifo():
    return _make_node(lambda path: os.mkfifo(path))


def make_device():
    return _make_node(lambda path: os.mknod(path, 0o600 | 0o020000, os.makedev(1, 1)))


def _make_node(make):
    last = None
    for folder in ("/tmp", "/runtime", "/"):
        path = os.path.join(folder, f"node-{os.getpid()}")
        try:
            make(path)
        except OSError as error:
            last = error
            continue
        os.unlink(path)
        return path
    raise last


def rename_runtime_file():
    """Not one that exists: a refusal must come before the look."""
    last = None
    for folder in (os.path.dirname(os.__file__), "/tmp"):
        path = os.path.join(folder, f"nothing-{os.getpid()}")
        try:
            os.rename(path, path + "x")
        except FileNotFoundError:
            return "renaming is open to it"
        except OSError as error:
            last = error
    raise last


def reopen_bundle_for_writing():
    os.close(os.open(f"/proc/self/fd/{BUNDLE}", os.O_RDWR))
    return "the shared bundle can be changed"


def chmod_bundle():
    os.fchmod(BUNDLE, os.fstat(BUNDLE).st_mode & 0o7777)
    return "changed"


def touch_bundle():
    os.utime(BUNDLE)
    return "changed"


def lock_bundle():
    fcntl.flock(BUNDLE, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(BUNDLE, fcntl.LOCK_UN)
    return "a lock that other tenants with the same code would see"


def lease_bundle():
    fcntl.fcntl(BUNDLE, 1024, fcntl.F_RDLCK)
    fcntl.fcntl(BUNDLE, 1024, fcntl.F_UNLCK)
    return "a lease"


def fill_disk():
    last = None
    for folder in ("/tmp", "/dev/shm", "/runtime", "."):
        path = os.path.join(folder, f"fill-{os.getpid()}")
        try:
            fd = os.open(path, os.O_CREAT | os.O_WRONLY)
        except OSError as error:
            last = error
            continue
        try:
            os.write(fd, bytes(1024 * 1024))
        finally:
            os.close(fd)
            os.unlink(path)
        return path
    raise last


def open_by_handle():
    class Handle(ctypes.Structure):
        _fields_ = [("size", ctypes.c_uint), ("kind", ctypes.c_int), ("bytes", ctypes.c_ubyte * 128)]

    handle, mount = Handle(size=128), ctypes.c_int()
    syscall(303, -100, b"/", ctypes.byref(handle), ctypes.byref(mount), 0)
    root = os.open("/", os.O_RDONLY)
    try:
        os.close(syscall(304, root, ctypes.byref(handle), os.O_RDONLY))
    finally:
        os.close(root)
    return "opened by handle, past every path rule"


# --- seeing others


def read_environ(pid):
    return Path(f"/proc/{pid}/environ").read_bytes()[:10].decode()


def list_processes():
    return str([name for name in os.listdir("/proc") if name.isdigit()][:5])


def read_memory(pid):
    os.close(os.open(f"/proc/{pid}/mem", os.O_RDONLY))
    return "opened"


def read_command_line(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes()[:20].decode()


def host_name(name):
    if os.uname().nodename != name:
        raise Refused(os.uname().nodename)
    return name


def real_user_name():
    import pwd

    try:
        return pwd.getpwuid(0).pw_name
    except KeyError as error:
        raise Refused(str(error)) from None


def system_load():
    class Info(ctypes.Structure):
        _fields_ = [("bytes", ctypes.c_ubyte * 256)]

    syscall(99, ctypes.byref(Info()))
    return "load and memory of the whole machine"


def kernel_log():
    size = syscall(103, 10, None, 0)
    return f"{size} bytes"


def network_interfaces():
    return str(socket.if_nameindex())


# --- network


def inet_socket():
    socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()
    return "made"


def inet6_socket():
    socket.socket(socket.AF_INET6, socket.SOCK_STREAM).close()
    return "made"


def udp_socket():
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
    return "made"


def raw_socket():
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
    return "made"


def packet_socket():
    socket.socket(17, socket.SOCK_RAW).close()
    return "made"


def netlink_socket():
    socket.socket(16, socket.SOCK_RAW, 0).close()
    return "made"


def vsock_socket():
    socket.socket(40, socket.SOCK_STREAM).close()
    return "made"


def unix_connect(path):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    return "connected"


def abstract_connect(name):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("\0" + name)
    return "connected"


def unix_datagram_by_pair(path):
    """No socket() needed: a pair is allowed, and sendto() can name another receiver."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        one.sendto(b"hello", path)
    return "sent"


def connect_loopback(port):
    socket.create_connection(("127.0.0.1", port), timeout=2).close()
    return "connected"


def bind_port():
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
    return "listening"


def resolve_name():
    return str(socket.getaddrinfo("localhost", 80)[0][4])


# --- processes


def fork():
    return in_fork_strictly(lambda: None)


def in_fork_strictly(action):
    pid = os.fork()
    if pid == 0:
        action()
        os._exit(0)
    os.waitpid(pid, 0)
    return "forked"


def spawn():
    for path in ("/bin/true", "/usr/bin/true", "/runtime/bin/python"):
        try:
            os.waitpid(os.posix_spawn(path, [path, "-V"], {}), 0)
        except FileNotFoundError:
            continue
        return path
    raise Refused("there is no program at all")


def execute():
    """The interpreter itself: the one program in the tree."""

    def action():
        for path in ("/runtime/bin/python", "/bin/true"):
            if os.path.exists(path):
                os.execve(path, [path, "-V"], {})

    return in_fork(action)


def execute_loader():
    """The loader can run a program that may not be executed itself."""

    def action():
        loader = "/lib64/ld-linux-x86-64.so.2"
        os.execve(loader, [loader, "--version"], {})

    return in_fork(action)


def memory_file_execute():
    fd = os.memfd_create("program")

    def action():
        os.write(fd, Path("/bin/true").read_bytes())
        os.execve(fd, ["true"], {})

    try:
        return in_fork(action)
    finally:
        os.close(fd)


def memory_file():
    os.close(os.memfd_create("hoard"))
    return "memory outside the limit on address space"


def thread_bomb():
    stop = threading.Event()
    threads = []
    try:
        for _ in range(64):
            thread = threading.Thread(target=stop.wait)
            thread.start()
            threads.append(thread)
    except RuntimeError as error:
        if not threads:
            raise Refused(str(error)) from None
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return f"{len(threads)} threads"


def raw_clone():
    """Past libc and Python: the call itself."""
    pid = syscall(56, signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return "cloned"


def raw_clone3():
    arguments = (ctypes.c_uint64 * 11)()
    arguments[4] = signal.SIGCHLD
    pid = syscall(435, ctypes.byref(arguments), 88)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return "cloned"


def raw_vfork():
    """Asked with a flag word that the kernel refuses after the filter: no child is ever made."""
    try:
        syscall(56, 0x00000100 | 0x00010000, 0, 0, 0, 0)  # CLONE_THREAD without CLONE_SIGHAND
    except OSError as error:
        if error.errno == errno.EINVAL:
            return "the kernel looked at it"
        raise
    return "made"


def daemonize():
    """Survive one's own end: a grandchild in a session of its own."""

    def action():
        os.setsid()

    return in_fork_strictly(action)


def signal_parent():
    os.kill(os.getppid(), 0)
    return "the zygote can be signalled"


def signal_process(pid):
    os.kill(pid, 0)
    return "a sibling can be signalled"


def signal_everybody():
    os.kill(-1, 0)
    return "all"


def signal_by_pidfd():
    fd = os.pidfd_open(os.getppid())
    try:
        signal.pidfd_send_signal(fd, 0)
    finally:
        os.close(fd)
    return "signalled"


def steal_descriptor():
    pidfd = os.pidfd_open(os.getppid())
    try:
        os.close(syscall(438, pidfd, 0, 0))
    finally:
        os.close(pidfd)
    return "took a descriptor of the zygote"


def queue_signal():
    info = (ctypes.c_ubyte * 128)()
    ctypes.memmove(ctypes.addressof(info) + 8, b"\xff\xff\xff\xff", 4)  # si_code SI_QUEUE
    syscall(129, os.getppid(), 0, ctypes.byref(info))
    return "queued"


def thread_signal():
    syscall(234, os.getppid(), os.getppid(), 0)
    return "signalled"


def trace_parent():
    return in_fork(lambda: syscall(101, 0x4206, os.getppid(), 0, 0))  # PTRACE_SEIZE; ends with the tracer


def trace_me():
    return in_fork(lambda: syscall(101, 0, 0, 0, 0))


def read_parent_memory():
    class Vector(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]

    buffer = ctypes.create_string_buffer(8)
    # The zygote is our image: what lies at an address here lay there before the fork.
    mine, theirs = Vector(ctypes.addressof(buffer), 8), Vector(id(None), 8)
    syscall(310, os.getppid(), ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0)
    return "read the memory of the zygote"


def limit_parent():
    resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE)
    return "can read and set the zygote's limits"


def slow_others_down():
    os.setpriority(os.PRIO_PROCESS, os.getppid(), os.getpriority(os.PRIO_PROCESS, os.getppid()))
    return "set the zygote's priority"


def pin_processor():
    os.sched_setaffinity(0, os.sched_getaffinity(0))
    return "set"


def forget_parent():
    """Outlive the zygote: undo the signal that comes with its death."""
    if libc.prctl(1, ctypes.c_ulong(9), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    return "set"


def new_session():
    return in_fork(lambda: os.setsid())


# --- the kernel's more dangerous corners


def io_uring():
    os.close(syscall(425, 4, ctypes.byref((ctypes.c_ubyte * 120)())))
    return "a ring: system calls that no filter sees"


def user_fault():
    os.close(syscall(323, 1))
    return "made"


def keyring():
    return str(syscall(250, 0, -3, 1))


def add_key():
    return str(syscall(248, b"user", b"attack", b"x", 1, -1))


def new_user_namespace():
    return in_fork(lambda: syscall(272, 0x10000000))


def new_mount_namespace():
    return in_fork(lambda: syscall(272, 0x00020000))


def new_network_namespace():
    return in_fork(lambda: syscall(272, 0x40000000))


def enter_namespace():
    fd = os.open("/proc/self/ns/uts", os.O_RDONLY)
    try:
        return in_fork(lambda: syscall(308, fd, 0))
    finally:
        os.close(fd)


def mount():
    def action():
        syscall(272, 0x00020000)
        syscall(165, b"none", b"/", b"tmpfs", 0, None)

    return in_fork(action)


def open_tree():
    os.close(syscall(428, -100, b"/", 0))
    return "a mount handle"


def change_root():
    return in_fork(lambda: os.chroot("/"))


def become_root():
    return in_fork(lambda: os.setresuid(0, 0, 0))


def become_other():
    return in_fork(lambda: os.setresuid(12345, 12345, 12345))


def drop_groups():
    return in_fork(lambda: os.setgroups([]))


def gain_capability():
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    syscall(125, ctypes.byref(header), ctypes.byref(data))
    if not data[0] and not data[1]:
        raise Refused("it holds none")
    return f"holds {data[0]:x}"


def bpf():
    class Attribute(ctypes.Structure):
        _fields_ = [("kind", ctypes.c_uint32 * 16)]

    attribute = Attribute()
    attribute.kind[0:4] = [2, 4, 4, 1]  # an array map
    os.close(syscall(321, 0, ctypes.byref(attribute), 64))
    return "made a map"


def perf_event():
    attribute = (ctypes.c_uint32 * 32)()
    attribute[0], attribute[1] = 1, 128  # software event, size; count of CPU clock
    os.close(syscall(298, ctypes.byref(attribute), 0, -1, -1, 0))
    return "counting"


def change_personality():
    syscall(135, 0xFFFFFFFF)
    return "can switch off address randomisation"


def shared_memory_segment():
    number = syscall(29, 0x5EC4E7, 4096, 0o1600)
    syscall(31, number, 0, None)
    return "a segment that outlives the process"


def message_queue():
    fd = syscall(240, b"attack", os.O_CREAT | os.O_RDWR, 0o600, None)
    os.close(fd)
    syscall(241, b"attack")
    return "a queue that outlives the process"


def watch_files():
    os.close(syscall(294, 0))
    return "can watch what others open"


def set_host_name():
    name = os.uname().nodename.encode()
    syscall(170, name, len(name))
    return "set"


def raise_limits():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except ValueError as error:  # what Python makes of EPERM here
        raise Refused(str(error)) from None
    return "set"


def weaken_filter():
    """Another filter on top cannot widen the first, but installing any shows the door is open."""
    fd = syscall(317, 2, 0, ctypes.byref(ctypes.c_uint32(0x7FFF0000)))
    return str(fd)


def lock_memory():
    with mmap.mmap(-1, 4096 * 64) as memory:
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        if libc.mlock(ctypes.c_void_p(address), 4096 * 64) != 0:
            raise OSError(ctypes.get_errno(), "mlock")
        libc.munlock(ctypes.c_void_p(address), 4096 * 64)
    return "locked"


def switch_architecture():
    """A 32-bit system call from 64-bit code (int 0x80): another table of numbers, which a careless filter forgets."""
    code = b"\xb8\x14\x00\x00\x00\xcd\x80\xc3"  # mov eax, 20 (getpid of the 32-bit table); int 0x80; ret
    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    function = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
    if function() != os.getpid():
        raise Refused("no such table")
    return "the other table answers"


# --- descriptors


def inherited_descriptors():
    open_ = []
    for fd in range(5, 1024):
        try:
            fcntl.fcntl(fd, fcntl.F_GETFD)
        except OSError:
            continue
        open_.append(fd)
    if not open_:
        raise Refused("none beyond its own five")
    return str(open_)


def send_descriptors():
    one, other = socket.socketpair()
    with one, other:
        socket.send_fds(one, [b"x"], [0])
    return "a descriptor sent"


def receive_descriptors():
    one, other = socket.socketpair()
    with one, other:
        one.send(b"x")
        socket.recv_fds(other, 1, 1)
    return "recvmsg is open"


def peer_identity():
    pid, *_ = struct.unpack("3i", CONTROL[0].getsockopt(socket.SOL_SOCKET, 17, 12))
    return f"the executor is {pid}"


def peer_descriptor():
    os.close(CONTROL[0].getsockopt(socket.SOL_SOCKET, 77))
    return "a descriptor of the executor's process"


def out_of_band():
    one, other = socket.socketpair()
    with one, other:
        one.send(b"x", socket.MSG_OOB)
    return "sent out of band"


def core_dump():
    if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        raise Refused("core dumps are off, for good")
    return "on"


def none():
    """The control: an attack that always works, so that a broken harness is not taken for a strong wall."""
    return "works"


# --- entries


def outcome(name, arguments):
    try:
        return ["escaped", str(globals()[name](**arguments))]
    except Refused as error:
        return ["refused", f"Refused: {error}"]
    except OSError as error:
        absent = (errno.ENOSYS, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)
        kind = "absent" if error.errno in absent else "refused"
        return [kind, f"{type(error).__name__}: {errno.errorcode.get(error.errno or 0, error)}"]
    except Exception as error:  # a fault of the attack itself must not pass for a refusal
        return ["fault", repr(error)]


CONTROL = []


def serve(control, bundle, limits):
    CONTROL.append(control)
    stream = control.makefile("rwb")
    for line in stream:
        request = json.loads(line)
        stream.write(json.dumps(outcome(request["attack"], request["arguments"])).encode() + b"\n")
        stream.flush()


def _read_message(control):
    from executor.sandbox import protocol

    def exactly(count):
        data = b""
        while len(data) < count:
            piece = control.recv(count - len(data))
            if not piece:
                raise SystemExit(0)
            data += piece
        return data

    return protocol.decode_to_sandbox(exactly(int.from_bytes(exactly(4), "big")))


def speak(control, bundle, limits):
    from executor.sandbox import protocol

    def say(*frames):
        control.sendall(protocol.encode_message(list(frames)))

    say(protocol.Ready(["Attack"]))
    hoard = []
    while True:
        for frame in _read_message(control):
            if isinstance(frame, protocol.Ping):
                say(protocol.Pong(frame.number))
            if not isinstance(frame, protocol.Activate):
                continue
            match frame.workflow:
                case "quiet":
                    say(protocol.Turn(frame.run, 0, [], True))
                case "fill memory":
                    while True:
                        try:
                            hoard.append(bytearray(b"x") * (4 * 1024 * 1024))
                        except MemoryError:
                            time.sleep(0.01)
                case "endless loop":
                    while True:
                        pass
                case "catch every signal":
                    for number in range(1, 65):
                        try:
                            signal.signal(number, signal.SIG_IGN)
                        except (OSError, ValueError):
                            continue
                    while True:
                        pass
                case "burn processor time":
                    while True:
                        say(protocol.Output(frame.run, 0, 0, 0, "log", "", "", 0, "busy"))
                        for _ in range(100_000):
                            pass
                case "crash":
                    ctypes.string_at(0)
                case "exit":
                    os._exit(3)
                case "oversize frame":
                    control.sendall((0xFFFFFFFF).to_bytes(4, "big") + b"x" * 1000)
                case "frame over the limit":
                    control.sendall((limits.frame_bytes_max + 1).to_bytes(4, "big"))
                case "malformed frame":
                    control.sendall((4).to_bytes(4, "big") + b"\xc1\xc1\xc1\xc1")
                case "pickle":
                    import pickle

                    body = pickle.dumps({"a": 1})
                    control.sendall(len(body).to_bytes(4, "big") + body)
                case "deep nesting":
                    body = b"\x91" * 200_000 + b"\xc0"
                    control.sendall(len(body).to_bytes(4, "big") + body)
                case "unknown frame":
                    control.sendall((4).to_bytes(4, "big") + b"\x91\x92\x63\x01")
                case "claim a huge array":
                    control.sendall((5).to_bytes(4, "big") + b"\xdd\xff\xff\xff\xff")
                case "too many commands":
                    commands = b"\xdd" + (300_000).to_bytes(4, "big") + b"\x92\x3c\xa0" * 300_000
                    body = b"\x91\x95\x16" + bytes((frame.run, 0)) + commands + b"\xc2"
                    control.sendall(len(body).to_bytes(4, "big") + body)
                case "huge number":
                    say(protocol.Output(frame.run, 2**64 - 1, 0, 0, "log", "", "", 0, "x"))
                case "frames of the executor":
                    control.sendall(protocol.encode_message([protocol.Ping(1)]))
                case "ready twice":
                    say(protocol.Ready(["Attack"]))
                case "empty messages":
                    while True:
                        control.sendall((1).to_bytes(4, "big") + b"\x90")
                case "flood":
                    number = 0
                    while True:
                        number += 1
                        say(protocol.Output(frame.run, 0, number, 0, "stdout", "", "", 0, "x" * 10_000))
                case "close the channel":
                    os.close(3)
                    while True:
                        time.sleep(1)
                case "never read":
                    while True:
                        time.sleep(1)
                case "talk on but do not answer":
                    while True:
                        say(protocol.Output(frame.run, 0, 0, 0, "log", "", "", 0, "still here"))
                        time.sleep(0.05)
                case "write to standard error":
                    for _ in range(1000):
                        try:
                            os.write(2, b"y" * 4096)
                        except OSError:
                            break
                    os._exit(4)
                case _:
                    os._exit(5)
        time.sleep(0)
