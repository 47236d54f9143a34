"""How a sandbox ended, from what the kernel and its last words say."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any

from executor.sandbox.spec import DeathReason

_LAST_WORDS_BYTES = 16 * 1024

DETAILS: dict[DeathReason, str] = {
    "crashed": "it ended by itself",
    "killed": "it was told to end",
    "memory": "it took too much memory",
    "time": "it took too much time",
    "protocol": "it broke the protocol",
}


def explain(exit_: dict[str, Any] | None, last_words: str) -> tuple[DeathReason, str]:
    """Why it ended, where nobody here killed it."""
    if exit_ is None or ("signal" not in exit_ and "code" not in exit_):
        return "crashed", "it is gone, and nobody knows how"
    if "signal" in exit_:
        number = int(exit_["signal"])
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        if number == signal.SIGXCPU:
            return "time", "it used up its processor time"
        if number == signal.SIGKILL:
            return "memory", "the kernel killed it, most likely for want of memory"
        return "crashed", f"it was ended by {name}"
    code = int(exit_["code"])
    final = last_words.rstrip().rsplit("\n", 1)[-1]
    if code == 1 and final.startswith("MemoryError"):
        return "memory", "it ran out of memory"
    return "crashed", f"it exited with status {code}" + (f": {final[:200]}" if final else "")


def last_words(fd: int) -> str:
    """What is in the pipe now. Bytes of a sandbox: bounded, and text only."""
    pieces: list[bytes] = []
    left = _LAST_WORDS_BYTES
    with contextlib.suppress(BlockingIOError):
        while left > 0 and (piece := os.read(fd, left)):
            pieces.append(piece)
            left -= len(piece)
    return b"".join(pieces).decode("utf-8", "replace")
