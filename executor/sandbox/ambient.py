"""Clocks and randomness inside `run()`: deterministic by replacement, not by prohibition.

While a deterministic loop runs on this thread (`inside`), the clocks tell the logical time of the entry being delivered
and every source of randomness draws from generators seeded by the instance. Everywhere else, in steps above all, the
same names are the real thing. The replacement is done once per process, before tenant code is imported, so that
`from time import time` gets it too. It is an aid, not a wall: the wall is the kernel's.

Threads, processes and sockets inside `run()` are refused (most by an audit hook), with an error that names the step.
"""

from __future__ import annotations

import _thread
import asyncio
import ctypes
import functools
import gc
import os
import random
import sys
import threading
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import date, datetime, timezone
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from executor.sandbox.detloop import not_in_run
from executor.workflow import runtime
from executor.workflow.errors import NotHere

if TYPE_CHECKING:
    from executor.sandbox.output import Scope


class Ambient:
    """What one run sees as time and chance. Everything follows from `seed` and the order of the calls."""

    __slots__ = ("_entropy_count", "_random", "_seed", "now_ms", "output", "run")

    def __init__(self, seed: bytes, output: Scope | None = None, run: runtime.RunRuntime | None = None) -> None:
        """`output`: where the run's lines go; kept here for `executor.sandbox.output`. `run`: what `self` asks."""
        self.now_ms = 0
        self.output = output
        self.run = run
        self._seed = seed
        self._entropy_count = 0
        self._random: random.Random | None = None

    def entropy(self, size: int) -> bytes:
        """`os.urandom` of the run: BLAKE2b in counter mode, apart from the generator that the code may seed itself."""
        blocks: list[bytes] = []
        for _ in range(0, size, 64):
            self._entropy_count += 1
            counter = self._entropy_count.to_bytes(8, "big")
            blocks.append(blake2b(counter, key=self._seed[:64], person=b"perdure entropy").digest())
        return b"".join(blocks)[:size]

    @property
    def random(self) -> random.Random:
        """The generator behind the functions of the module `random`."""
        if self._random is None:
            self._random = random.Random(int.from_bytes(self.entropy(32), "big"))  # noqa: S311  # not for secrets
        return self._random


class _Active(threading.local):
    """The run whose code executes on this thread: by thread, as steps run on others at the same time."""

    ambient: Ambient | None = None


_active = _Active()


def enter(ambient: Ambient | None) -> Ambient | None:
    """From now on `run()` executes on this thread. Returns what was so before: `enter` it again afterwards."""
    outer = _active.ambient
    _active.ambient = ambient
    return outer


@contextmanager
def inside(ambient: Ambient) -> Generator[None]:
    """`run()` executes on this thread."""
    outer = enter(ambient)
    try:
        yield
    finally:
        enter(outer)


def in_run() -> bool:
    """Whether `run()` executes on this thread."""
    return _active.ambient is not None


def current() -> Ambient | None:
    """The run that executes on this thread."""
    return _active.ambient


def current_run() -> runtime.RunRuntime | None:
    """What code of `run()` on this thread asks by `self`."""
    ambient = _active.ambient
    return None if ambient is None else ambient.run


# --- replacements. Each takes the real function first and falls back to it.


def _clock(value: Callable[[int], Any]) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    def replace(real: Callable[[], Any]) -> Callable[[], Any]:
        @functools.wraps(real)
        def clock() -> Any:
            ambient = _active.ambient
            return real() if ambient is None else value(ambient.now_ms)

        return clock

    return replace


def _split_time(real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    def split(seconds: float | None = None) -> Any:
        ambient = _active.ambient
        return real(ambient.now_ms / 1000 if ambient is not None and seconds is None else seconds)

    return split


def _strftime(real: Callable[..., str]) -> Callable[..., str]:
    @functools.wraps(real)
    def strftime(format: str, *when: Any) -> str:
        ambient = _active.ambient
        return real(format, *(when if when or ambient is None else (time.localtime(ambient.now_ms / 1000),)))

    return strftime


def _asctime(real: Callable[..., str]) -> Callable[..., str]:
    @functools.wraps(real)
    def asctime(*when: Any) -> str:
        ambient = _active.ambient
        return real(*(when if when or ambient is None else (time.localtime(ambient.now_ms / 1000),)))

    return asctime


def _sleep(real: Callable[[float], None]) -> Callable[[float], None]:
    @functools.wraps(real)
    def sleep(seconds: float) -> None:
        if _active.ambient is not None:
            raise NotHere('time.sleep() is not available in run(); write: await step.sleep("name", seconds)')
        real(seconds)

    return sleep


def _start_thread(real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    def start_thread(*args: Any, **options: Any) -> Any:
        if _active.ambient is not None:
            raise not_in_run("starting a thread")
        return real(*args, **options)

    return start_thread


def _urandom(real: Callable[[int], bytes]) -> Callable[[int], bytes]:
    @functools.wraps(real)
    def urandom(size: int, /) -> bytes:
        ambient = _active.ambient
        return real(size) if ambient is None else ambient.entropy(size)

    return urandom


def _getrandom(real: Callable[..., bytes]) -> Callable[..., bytes]:
    @functools.wraps(real)
    def getrandom(size: int, flags: int = 0) -> bytes:
        ambient = _active.ambient
        return real(size, flags) if ambient is None else ambient.entropy(size)

    return getrandom


def _random_function(real: Callable[..., Any]) -> Callable[..., Any]:
    name = real.__name__

    @functools.wraps(real)
    def function(*args: Any, **kwargs: Any) -> Any:
        ambient = _active.ambient
        return real(*args, **kwargs) if ambient is None else getattr(ambient.random, name)(*args, **kwargs)

    return function


def _random_seed(real: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(real)
    def seed(self: random.Random, a: Any = None, version: int = 2) -> None:
        ambient = _active.ambient
        if a is None and ambient is not None:
            a = int.from_bytes(ambient.entropy(32), "big")
        real(self, a, version)

    return seed


def _uuid1(real: Callable[..., uuid.UUID]) -> Callable[..., uuid.UUID]:
    @functools.wraps(real)
    def uuid1(node: int | None = None, clock_seq: int | None = None) -> uuid.UUID:
        ambient = _active.ambient
        if ambient is None:
            return real(node, clock_seq)
        drawn = int.from_bytes(ambient.entropy(8), "big")
        ticks = ambient.now_ms * 10_000 + 0x01B21DD213814000  # of 100 ns since 1582
        clock_seq = (drawn >> 48) & 0x3FFF if clock_seq is None else clock_seq
        node = (drawn & 0xFFFF_FFFF_FFFF) | 0x0100_0000_0000 if node is None else node  # marked as not an address
        fields = (ticks & 0xFFFF_FFFF, (ticks >> 32) & 0xFFFF, (ticks >> 48) & 0x0FFF)
        return uuid.UUID(fields=(*fields, (clock_seq >> 8) & 0x3F, clock_seq & 0xFF, node), version=1)

    return uuid1


def _now(real: Any) -> Any:
    def now(cls: type[datetime], tz: Any = None) -> datetime:
        ambient = _active.ambient
        return real.__get__(None, cls)(tz) if ambient is None else cls.fromtimestamp(ambient.now_ms / 1000, tz)

    return classmethod(now)


def _utcnow(real: Any) -> Any:
    def utcnow(cls: type[datetime]) -> datetime:
        ambient = _active.ambient
        if ambient is None:
            return real.__get__(None, cls)()  # type: ignore[no-any-return]
        return cls.fromtimestamp(ambient.now_ms / 1000, timezone.utc).replace(tzinfo=None)  # noqa: UP017

    return classmethod(utcnow)


def _today(real: Any) -> Any:
    def today(cls: type[date]) -> date:
        ambient = _active.ambient
        if ambient is None:
            return real.__get__(None, cls)()  # type: ignore[no-any-return]
        return cls.fromtimestamp(ambient.now_ms / 1000)

    return classmethod(today)


def _as_completed(real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    def as_completed(fs: Any, *, timeout: float | None = None) -> Any:
        if _active.ambient is not None:
            # It makes a set of what it is given; coroutines hash by address, so they become tasks first, in order.
            unique = {id(item): item for item in fs}
            fs = [asyncio.ensure_future(item) for item in unique.values()]
        return real(fs, timeout=timeout)

    return as_completed


def _all_tasks(real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    def all_tasks(loop: Any = None) -> Any:
        if _active.ambient is not None and loop is None:
            return set(asyncio.get_running_loop().live_tasks())  # type: ignore[attr-defined]  # it is a DetLoop
        return real(loop)

    return all_tasks


_RANDOM_FUNCTIONS = (
    "betavariate", "binomialvariate", "choice", "choices", "expovariate", "gammavariate", "gauss", "getrandbits",
    "getstate", "lognormvariate", "normalvariate", "paretovariate", "randbytes", "randint", "random", "randrange",
    "sample", "seed", "setstate", "shuffle", "triangular", "uniform", "vonmisesvariate", "weibullvariate",
)  # fmt: skip


def _replacements() -> list[tuple[Any, str, Callable[[Any], Any]]]:
    seconds = _clock(lambda now_ms: now_ms / 1000)
    nanoseconds = _clock(lambda now_ms: now_ms * 1_000_000)
    table: list[tuple[Any, str, Callable[[Any], Any]]] = []
    for name in ("time", "monotonic", "perf_counter", "process_time", "thread_time"):
        table += [(time, name, seconds), (time, f"{name}_ns", nanoseconds)]
    table += [(time, name, _split_time) for name in ("localtime", "gmtime", "ctime")]
    table += [(time, "strftime", _strftime), (time, "asctime", _asctime), (time, "sleep", _sleep)]
    table += [(random, name, _random_function) for name in _RANDOM_FUNCTIONS if hasattr(random, name)]
    table += [(random.Random, "seed", _random_seed), (random, "_urandom", _urandom), (os, "urandom", _urandom)]
    table += [(uuid, "uuid1", _uuid1)]
    if hasattr(os, "getrandom"):  # Linux has it; tenants test their code elsewhere too
        table.append((os, "getrandom", _getrandom))
    for module, name in ((_thread, "start_new_thread"), (threading, "_start_new_thread")):
        table += [(module, name, _start_thread)] if hasattr(module, name) else []
    if hasattr(threading, "_start_joinable_thread"):  # from Python 3.13
        table += [(threading, "_start_joinable_thread", _start_thread)]
    for module in (asyncio, asyncio.tasks):
        table += [(module, "as_completed", _as_completed), (module, "all_tasks", _all_tasks)]
    table += [(datetime, "now", _now), (datetime, "utcnow", _utcnow), (date, "today", _today)]
    return table


_replaced: list[tuple[Any, str, Any]] = []


def install() -> None:
    """Put the replacements in place, once. Call it before tenant code is imported."""
    if _replaced:
        return
    for owner, name, replace in _replacements():
        real = vars(owner)[name]
        _replaced.append((owner, name, real))
        _set(owner, name, replace(real))
    runtime.set_hooks(in_run, current_run)
    _install_audit_hook()


def uninstall() -> None:
    """Put the real ones back (for tests; modules that imported a name keep what they got)."""
    while _replaced:
        _set(*_replaced.pop())
    runtime.set_hooks()


def _set(owner: Any, name: str, value: Any) -> None:
    if owner is datetime or owner is date:
        # Built-in types refuse setattr. A subclass in their place would break isinstance, pickles and models (other
        # sandboxes' trouble), so the methods are replaced in the type itself.
        (attributes,) = gc.get_referents(vars(owner))
        attributes[name] = value
        ctypes.pythonapi.PyType_Modified(ctypes.py_object(owner))
    else:
        setattr(owner, name, value)


_REFUSED_EVENTS = {
    "subprocess.Popen": "starting a process",
    "os.system": "starting a process",
    "os.posix_spawn": "starting a process",
    "os.spawn": "starting a process",
    "os.exec": "starting a process",
    "os.fork": "starting a process",
    "os.forkpty": "starting a process",
    "socket.__new__": "opening a socket",
    "socket.connect": "using a socket",
    "socket.sendto": "using a socket",
    "socket.getaddrinfo": "asking the network",
    "socket.gethostbyname": "asking the network",
}
_hooked: list[bool] = []


def _audit(event: str, _args: object) -> None:
    if event in _REFUSED_EVENTS and _active.ambient is not None:  # in this order: hot calls raise events as well
        raise not_in_run(_REFUSED_EVENTS[event])


def _install_audit_hook() -> None:
    if not _hooked:  # a hook cannot be taken away again
        _hooked.append(True)
        sys.addaudithook(_audit)
