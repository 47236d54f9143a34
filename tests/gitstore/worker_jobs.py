"""Jobs that misbehave, for test_worker.py: put into the helper's table by the program that the test starts it with."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import msgspec

from gitstore import forkserver
from gitstore.errors import Diagnostic, Refused
from gitstore.jobs import JOBS

Report = Callable[[str], None]


class Ask(msgspec.Struct, frozen=True):
    text: str = ""
    number: int = 0


class Told(msgspec.Struct, frozen=True):
    text: str
    pid: int


def echo(ask: Ask, report: Report) -> Told:
    report("echoing")
    return Told(ask.text, os.getpid())


def refuse(ask: Ask, report: Report) -> Told:
    raise Refused("No.", code="no", hint="Ask again.", details={"n": 7}, diagnostics=[Diagnostic("a.py", 1, 2, "bad")])


def spin(ask: Ask, report: Report) -> Told:
    report("counting to infinity")
    while True:
        pass


def hog(ask: Ask, report: Report) -> Told:
    report("filling memory")
    kept = []
    while True:
        kept.append(bytearray(1 << 20))


def crash(ask: Ask, report: Report) -> Told:
    report("parsing bad.py")
    ctypes.string_at(0)
    raise AssertionError


def write(ask: Ask, report: Report) -> Told:
    report("writing much")
    with open(ask.text, "wb") as file:
        file.write(bytes(ask.number))
    return Told("", 0)


def bug(ask: Ask, report: Report) -> Told:
    raise KeyError("left behind")


def silent(ask: Ask, report: Report) -> Told:
    os._exit(3)


def killed(ask: Ask, report: Report) -> Told:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def odd(ask: Ask, report: Report) -> Any:
    return Ask("not what was asked for", 1)


def large(ask: Ask, report: Report) -> Told:
    return Told("x" * ask.number, 0)


def garbage(ask: Ask, report: Report) -> Told:
    """Write nonsense to every socket that the child has: the frames of a child that was taken over."""
    for name in os.listdir("/proc/self/fd"):
        try:
            os.write(int(name), b"P\x40\0\0\0" if ask.text == "long" else b"\xff" * 64)
        except OSError:
            continue
    os._exit(0)


def wait(ask: Ask, report: Report) -> Told:
    """Write the own process id to the file `text`, then wait without using the processor."""
    with open(ask.text + ".new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(ask.text + ".new", ask.text)
    while True:
        time.sleep(1000)


def look(ask: Ask, report: Report) -> Told:
    """What the child was given: names of its environment and how many descriptors it has."""
    return Told(",".join(sorted(os.environ)), len(os.listdir("/proc/self/fd")))


for job in (echo, refuse, spin, hog, crash, write, bug, silent, killed, odd, large, garbage, wait, look):
    JOBS[job.__name__] = (Ask, job)

main = forkserver.main
