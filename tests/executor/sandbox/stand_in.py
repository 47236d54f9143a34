"""A stand-in for `executor.sandbox.child`, presented inside as the module `stand_in`: speaks the protocol, runs no tenant."""

from __future__ import annotations

import os
import sys
import threading
import time

from executor.sandbox import protocol
from executor.sandbox.protocol import Activate, Attempt, BootFailed, Drop, Output, Ping, Pong, Ready, Turn

POOL: list[threading.Thread] = []


def before_seccomp(limits):
    """Threads made here live under the filter; none can be made later."""
    POOL.clear()
    for _ in range(limits.step_threads):
        thread = threading.Thread(target=time.sleep, args=(3600,), daemon=True)
        thread.start()
        POOL.append(thread)


def read(control):
    def exactly(count):
        data = b""
        while len(data) < count:
            piece = control.recv(count - len(data))
            if not piece:
                raise SystemExit(0)
            data += piece
        return data

    return protocol.decode_to_sandbox(exactly(int.from_bytes(exactly(4), "big")))


def say(control, *frames):
    control.sendall(protocol.encode_message(list(frames)))


def main(control, bundle, limits):
    """Ready, then: Activate → an idle Turn, or what the workflow's name says."""
    text = os.pread(bundle, 1000, 0).decode()
    if text == "cannot be imported":
        say(control, BootFailed(protocol.ErrorFact("SyntaxError", "no code")))
        time.sleep(3600)
    if text == "speaks too early":
        say(control, Turn(1, 0, [], idle=True))
        time.sleep(3600)
    if text == "hangs":
        time.sleep(3600)
    if text == "raises":
        raise ValueError("while booting")
    say(control, Ready([text]))
    silent = False
    while True:
        for frame in read(control):
            if isinstance(frame, Ping) and not silent:
                say(control, Pong(frame.number))
            elif isinstance(frame, Drop):
                silent = frame.run == 666
            elif isinstance(frame, Attempt):
                say(control, Output(frame.run, 0, frame.attempt, 0, "log", "", "", 0, frame.path))
            elif isinstance(frame, Activate):
                match frame.workflow:
                    case "fall silent":
                        silent = True
                    case "keep working":
                        pass
                    case "report":
                        facts = [
                            f"threads {sum(thread.is_alive() for thread in POOL)}",
                            f"hash {hash('perdure')}",
                            f"uid {os.getuid()}",
                            f"environment {sorted(os.environ)}",
                            f"site {'site' in sys.modules}",
                        ]
                        for number, fact in enumerate(facts):
                            say(control, Output(frame.run, 0, number, 0, "log", "", "", 0, fact))
                        say(control, Turn(frame.run, 0, [], idle=True))
                    case "segfault":
                        import ctypes

                        ctypes.string_at(0)
                    case "last words":
                        os.write(2, b"goodbye\n")
                        os._exit(3)
                    case "out of memory":
                        raise MemoryError
                    case "turn and end":
                        say(control, Turn(frame.run, 0, [], idle=True))
                        os._exit(0)
                    case _:
                        say(control, Turn(frame.run, 0, [], idle=True))
