"""Entropy: random bytes for seeds, asked of the kernel a page at a time.

Each question to the kernel lets go of the interpreter's lock; under load getting it back costs more than the answer.
"""

from __future__ import annotations

import os

PAGE_BYTES = 4096


class Entropy:
    """One thread's. No byte is handed out twice."""

    def __init__(self) -> None:
        self._page = b""
        self._at = 0

    def draw(self, count: int) -> bytes:
        """`count` bytes from the kernel's generator, at most a page."""
        if self._at + count > len(self._page):
            self._page, self._at = os.urandom(PAGE_BYTES), 0
        begin, self._at = self._at, self._at + count
        return self._page[begin : self._at]
