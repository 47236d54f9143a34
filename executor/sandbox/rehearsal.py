"""A small workflow of our own through the whole path, before the process is given a tenant's.

The first time is slow: each page that is written must be copied from the zygote, caches of types and of compiled
patterns are empty, the interpreter has not specialised its code. The zygote rehearses once before it forks, and so does
each spare, in its own pages, while nobody waits for it. Nothing of it may be seen later: its module, its frames and its
loop callbacks are gone when `rehearse` returns.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import json
import marshal
import socket
import sys
from collections.abc import Callable

from executor.core import codec, values
from executor.core.commands import Command, StepBegun, StepDone
from executor.core.entries import Started
from executor.sandbox.loader import Bundle
from executor.sandbox.protocol import (
    LENGTH_BYTES,
    Activate,
    Drop,
    Entries,
    FromSandbox,
    ToSandbox,
    Turn,
    decode_from_sandbox,
    encode_message,
)

MODULE = "perdure_rehearsal"
_SOURCE = b"""
import asyncio
from executor.workflow import Workflow

def in_thread(number):
    return {"number": number}

async def on_loop(number):
    await asyncio.sleep(0)
    return {"number": number}

class Rehearsal(Workflow):
    async def run(self, event, step):
        steps = [step.do("on loop", on_loop, 1)]
        if event.payload["threads"]:
            steps.append(step.do("in thread", in_thread, 2))
        await asyncio.gather(*steps)
        await step.sleep("long", "10 hours")
"""
_TIMEOUT_S = 10.0
_READ_BYTES = 64 * 1024


class RehearsalFailed(Exception):
    """The path does not work even with our own workflow: a fault of this version, or of the machine."""

    code = "rehearsal_failed"


def rehearse(
    loop: asyncio.AbstractEventLoop, serve: Callable[[socket.socket, Bundle], object], *, threads: bool
) -> None:
    """Import a bundle, let `serve` put it at work on `loop` over a socket, and run its steps until they are reported.

    `threads`: there are step threads, so let one work too. Raises RehearsalFailed.
    """
    bundle = Bundle(_bundle())
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        bundle.install()
        try:
            bundle.load()
            serve(theirs, bundle)
            _play(loop, ours, 1 + threads, threads=threads)
        finally:
            loop.remove_reader(ours)
            loop.remove_reader(theirs)
            bundle.uninstall()
    del bundle
    gc.collect()


def _play(loop: asyncio.AbstractEventLoop, channel: socket.socket, steps: int, *, threads: bool) -> None:
    commands: list[Command] = []
    received = bytearray()

    def readable() -> None:
        received.extend(channel.recv(_READ_BYTES))
        for frame in _messages(received):
            if isinstance(frame, Turn):
                commands.extend(command for command in frame.commands if not isinstance(command, StepBegun))
                if frame.idle:  # every step has its outcome
                    loop.stop()

    started = Started(0, "Rehearsal", "0" * 40, values.encode({"threads": threads}), bytes(16))
    entries: list[bytes | int] = [codec.encode(started, codec.chain_after(codec.CHAIN_START, started))]
    loop.add_reader(channel, readable)
    too_long = loop.call_later(_TIMEOUT_S, loop.stop)
    begin: list[ToSandbox] = [Activate(1, "rehearsal", "Rehearsal", "0" * 40, 1), Entries(1, 1, entries)]
    end: list[ToSandbox] = [Drop(1)]
    channel.send(encode_message(begin))
    loop.run_forever()
    too_long.cancel()
    if [type(command) for command in commands if not isinstance(command, StepBegun)] != [StepDone] * steps:
        raise RehearsalFailed(f"of {steps} steps this was reported within {_TIMEOUT_S:g} s: {commands}")
    channel.send(encode_message(end))
    loop.call_later(0, loop.call_soon, loop.stop)  # after the socket has been read
    loop.run_forever()


def _messages(received: bytearray) -> list[FromSandbox]:
    """Take whole messages out of what was received."""
    frames: list[FromSandbox] = []
    while len(received) >= LENGTH_BYTES:
        end = LENGTH_BYTES + int.from_bytes(received[:LENGTH_BYTES], "big")
        if len(received) < end:
            break
        frames += decode_from_sandbox(bytes(received[LENGTH_BYTES:end]))
        del received[:end]
    return frames


def _bundle() -> bytes:
    """In the format that `gitstore/bundle.py` draws."""
    path = f"{MODULE}.py"
    code = marshal.dumps(compile(_SOURCE, path, "exec", dont_inherit=True))
    index = json.dumps(
        {
            "cache_tag": sys.implementation.cache_tag,
            "magic": importlib.util.MAGIC_NUMBER.hex(),
            "files": {path: [0, len(_SOURCE), len(_SOURCE), len(code)]},
            "workflows": [["Rehearsal", MODULE]],
        }
    ).encode()
    return b"PDBUNDL1" + len(index).to_bytes(4, "little") + index + _SOURCE + code
