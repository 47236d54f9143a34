"""The program of a sandbox process: frames in, frames out, many runs of one version in between.

The main thread runs an ordinary asyncio loop: it reads frames, drives runs (`run.py`) and executes async steps; the
pool's threads execute sync steps. What runs have to say is gathered and sent once per turn of the loop, in one message,
output before the Turn that it precedes; what was received in this turn of the loop is answered in it. End of file on
the control socket ends the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from executor.sandbox import ambient, detloop, faults, output, rehearsal
from executor.sandbox.channel import Channel
from executor.sandbox.child_limits import ChildLimits
from executor.sandbox.limits import SandboxLimits
from executor.sandbox.loader import Bundle
from executor.sandbox.protocol import BootFailed, FromSandbox, Ready, encode_message
from executor.sandbox.runs import Child
from executor.sandbox.threads import LoopExecutor, StepPool
from facets import facet as facets
from facets.limits import Limits as FacetLimits

NO_THREAD_LEFT_GRACE_S = 1.0
"""Time for the failures of the attempts to be sent, and for a thread to come back after all."""
EXIT_NO_THREAD_LEFT = 75
GC_THRESHOLDS = (10_000, 20, 10)
"""A run that ends frees itself, so what is left to the collector is what tenants' code leaves: it may come more rarely
than the interpreter's 700 new objects, which a hundred steps make."""


def install() -> None:
    """Change this process for tenant code: clocks, randomness, asyncio's own sets, output. Idempotent."""
    ambient.install()
    detloop.install()
    output.install()


def before_fork() -> None:
    """In the zygote: what all children share. Without it each does it for itself, which takes some milliseconds."""
    install()
    _prepare_facets()
    loop = asyncio.new_event_loop()
    _rehearse(loop, StepPool(0))
    loop.close()


def _prepare_facets() -> None:
    if not _facets_prepared:
        _facets_prepared.append(True)
        facets.prepare_process(ChildLimits().facet)


_facets_prepared: list[bool] = []
_prepared: list[tuple[asyncio.AbstractEventLoop, StepPool]] = []


def before_seccomp(limits: SandboxLimits) -> None:
    """Make what the filter will refuse later: the step threads, and the loop with its wake-up socket pair."""
    _prepare_facets()
    _prepared.append((asyncio.new_event_loop(), StepPool(limits.step_threads, limits.thread_stack_bytes)))


def rehearse() -> None:
    """In a spare child, after `before_seccomp`: make the first work of this process as quick as its second."""
    _rehearse(*_prepared[-1])


def _rehearse(loop: asyncio.AbstractEventLoop, pool: StepPool) -> None:
    install()
    rehearsal.rehearse(
        loop, lambda control, bundle: _serve(control, loop, pool, bundle, ChildLimits()), threads=pool.count > 0
    )


def main(
    control: socket.socket, bundle_fd: int, limits: SandboxLimits, *, child_limits: ChildLimits | None = None
) -> NoReturn:
    """Import the version, say Ready (or BootFailed), then serve runs until the other side closes the socket."""
    if not _prepared:
        before_seccomp(limits)
    loop, pool = _prepared.pop()
    install()
    gc.set_threshold(*GC_THRESHOLDS)
    files: Mapping[str, Any] | frozenset[str] = frozenset()
    control.setblocking(True)
    try:
        bundle = Bundle.map(bundle_fd)
        os.close(bundle_fd)
        files = bundle.files
        bundle.install()
        bundle.load()
    except BaseException as error:  # tenant code, at import: whatever it is, the executor gets it as text
        fault = faults.fact(error, files, code="code_not_loadable")
        _say_and_exit(control, BootFailed(fault))
    child = _serve(control, loop, pool, bundle, child_limits or _limits_inside(limits))
    child.steps.on_no_thread_left = lambda: loop.call_later(NO_THREAD_LEFT_GRACE_S, _end_without_threads, child)
    loop.set_default_executor(LoopExecutor(pool).as_executor())
    loop.set_exception_handler(_report)
    asyncio.set_event_loop(loop)
    while True:
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt):  # tenant code in a callback of its own: not a reason to end
            continue


def _limits_inside(limits: SandboxLimits) -> ChildLimits:
    return ChildLimits(facet=FacetLimits(facet_bytes_max=limits.facet_bytes_max))


def _serve(
    control: socket.socket, loop: asyncio.AbstractEventLoop, pool: StepPool, bundle: Bundle, limits: ChildLimits
) -> Child:
    """A child that answers on `control` from now on, and has said Ready."""
    channel = Channel(control, loop)
    child = Child(loop, pool, bundle, limits, channel.send, channel.wait)
    channel.on_frames = child.handle
    channel.send([Ready(sorted(bundle.workflows))])
    return child


def _end_without_threads(child: Child) -> None:
    if child.steps.has_thread_left:
        return
    sys.stderr.write("every step thread executes an attempt that timed out or was cancelled and does not end\n")
    os._exit(EXIT_NO_THREAD_LEFT)


def _say_and_exit(control: socket.socket, frame: FromSandbox) -> NoReturn:
    with contextlib.suppress(OSError):
        control.sendall(encode_message([frame]))
    os._exit(0)


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Problems on the ordinary loop: of tenant code (callbacks, tasks nobody awaits), or of ours."""
    del loop
    error = context.get("exception")
    sys.stderr.write(f"{context.get('message')}: {type(error).__name__}: {error}\n")
