"""This process as the inside of a sandbox, for as long as a test needs it.

Clocks and chance are replaced while any WorkflowTest is open: that shows only where `run()` executes. Output is
captured only while the test drives its runs, so that a test runner's own capturing is never in the way.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Literal

from executor.core.failure import ErrorFact
from executor.sandbox import ambient, detloop, faults, output

_open: list[object] = []
_swapped: list[tuple[dict[str, Any], str, Any]] = []


def enter(token: object, modules: Iterable[ModuleType]) -> None:
    """From now on, until `leave`. `modules`: the tenant's; names that they took by `from time import time` are
    replaced there."""
    if not _open and not ambient._replaced:
        ambient.install()
        detloop.install()
    _open.append(token)
    replaced = {id(real): getattr(owner, name) for owner, name, real in ambient._replaced if type(owner) is ModuleType}
    for module in modules:
        names = vars(module)
        for name, value in list(names.items()):
            replacement = replaced.get(id(value))
            if replacement is not None:
                _swapped.append((names, name, value))
                names[name] = replacement


def leave(token: object) -> None:
    """The last one puts the real ones back."""
    if token not in _open:
        return
    _open.remove(token)
    if not _open:
        while _swapped:
            names, name, value = _swapped.pop()
            names[name] = value
        ambient.uninstall()


@contextmanager
def driving(on_fact: Callable[[BaseException, ErrorFact], None]) -> Generator[None]:
    """While the test drives: output is captured, exceptions that become facts are told, and no other event loop runs on
    this thread (the test itself may be a coroutine of one)."""
    real_fact = faults.fact

    def fact(error: BaseException, files: Any, *, code: str) -> ErrorFact:
        made = real_fact(error, files, code=code)
        on_fact(error, made)
        return made

    is_captured = bool(output._installed)
    outer = asyncio._get_running_loop()
    sniffio = sys.modules.get("sniffio")
    library = getattr(getattr(sniffio, "thread_local", None), "name", None)
    try:
        asyncio._set_running_loop(None)
        if sniffio is not None and library is not None:
            sniffio.thread_local.name = None  # or async steps would take this loop for trio
        faults.fact = fact
        if not is_captured:
            output.install()
        yield
    finally:
        if not is_captured:
            output.uninstall()
        faults.fact = real_fact
        if sniffio is not None and library is not None:
            sniffio.thread_local.name = library
        asyncio._set_running_loop(outer)


def write(stream: Literal["stdout", "stderr"], text: str) -> None:
    """To the stream that is there when nothing captures: a test runner's."""
    place = 0 if stream == "stdout" else 1
    outer: Any = output._installed[-1][place] if output._installed else getattr(sys, stream)
    outer.write(text)
