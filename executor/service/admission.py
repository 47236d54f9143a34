"""Admission: how much may be under way at once. What is over a bound is refused at once, saying what is full."""

from __future__ import annotations

from dataclasses import dataclass

from executor.core.errors import Unavailable

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """`calls_max`: starts and events under way; `bytes_max`: of their payloads; `waiting_max`: callers that wait for
    results, journals or logs, `waiting_bytes_max`: of what updates and queries among them carry. A waiting caller costs
    some KiB, a start under way about as much and its payload."""

    calls_max: int = 20_000
    bytes_max: int = 256 * MIB
    waiting_max: int = 50_000
    waiting_bytes_max: int = 256 * MIB


class Admission:
    def __init__(self, limits: AdmissionLimits) -> None:
        self.limits = limits
        self.calls = 0
        self.bytes = 0
        self.waiting = 0
        self.waiting_bytes = 0

    def enter(self, size: int, count: int = 1) -> None:
        """Take `count` calls with payloads of `size` bytes in; give them back by `leave`. Raises Unavailable."""
        limits = self.limits
        if self.calls + count > limits.calls_max:
            raise _full("starts and events under way", self.calls, limits.calls_max)
        if self.bytes + size > limits.bytes_max and self.calls:
            raise _full("bytes of payloads under way", self.bytes, limits.bytes_max)
        self.calls += count
        self.bytes += size

    def leave(self, size: int, count: int = 1) -> None:
        self.calls -= count
        self.bytes -= size

    def begin_waiting(self, size: int = 0) -> None:
        """One more caller waits, with a payload of `size` bytes; `end_waiting` when it no longer does. Raises
        Unavailable."""
        limits = self.limits
        if self.waiting >= limits.waiting_max:
            raise _full("callers that wait for instances", self.waiting, limits.waiting_max)
        if size and self.waiting_bytes and self.waiting_bytes + size > limits.waiting_bytes_max:
            raise _full("bytes of payloads that wait for instances", self.waiting_bytes, limits.waiting_bytes_max)
        self.waiting += 1
        self.waiting_bytes += size

    def end_waiting(self, size: int = 0) -> None:
        self.waiting -= 1
        self.waiting_bytes -= size


def _full(what: str, found: int, limit: int) -> Unavailable:
    return Unavailable(
        f"the platform is at its bound of {what}: {found} of {limit}",
        code="busy",
        hint="Try again after a second.",
        retry_after_s=1,
        full=what,
        limit=limit,
    )
