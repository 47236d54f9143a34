"""Entropy: random bytes for seeds and names, asked of the kernel a page at a time.

Each question to the kernel lets go of the interpreter's lock; under load getting it back costs more than the answer.
"""

from __future__ import annotations

import os
import threading
import time

PAGE_BYTES = 4096


class Entropy:
    """No byte is handed out twice. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._page = b""
        self._at = 0

    def draw(self, count: int) -> bytes:
        """`count` bytes from the kernel's generator, at most a page."""
        with self._lock:
            if self._at + count > len(self._page):
                self._page, self._at = os.urandom(PAGE_BYTES), 0
            begin, self._at = self._at, self._at + count
            return self._page[begin : self._at]


_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [first + second for first in _DIGITS for second in _DIGITS]
_shared = Entropy()


def new_name(prefix: str) -> str:
    """Sortable by time of making, unique by 80 random bits: prefix and 26 characters (Crockford base 32, ULID)."""
    number = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(_shared.draw(10), "big")
    return f"{prefix}_" + "".join([_PAIRS[number >> shift & 1023] for shift in range(120, -1, -10)])
