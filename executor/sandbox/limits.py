"""Limits of one sandbox: each with its unit, its default and the reason for it.

Standard library only: this module is read on both sides of the boundary.
"""

from __future__ import annotations

import dataclasses
from typing import Any

_MIB = 1024 * 1024

THREAD_STACK_BYTES = 8 * _MIB
_THREAD_STACK_BYTES_MIN = 1 * _MIB


class LimitError(ValueError):
    """A limit is not a number of its kind, or out of its range. `name` and `value` say which and what."""

    code = "limit_invalid"

    def __init__(self, name: str, value: object, expected: str) -> None:
        super().__init__(f"sandbox limit {name} = {value!r} is not valid: expected {expected}; mend the configuration")
        self.name = name
        self.value = value


@dataclasses.dataclass(frozen=True, slots=True)
class SandboxLimits:
    """Bounds on one sandbox process. What an exception carries can be caught by tenant code, so every bound that
    matters ends in a kill from outside; the kernel's own limits (rlimits) only keep the damage small until then."""

    memory_bytes: int = 256 * _MIB
    """Bytes of memory of its own, beyond what it shares with the zygote. 256 MiB: a hundred times a warm interpreter's
    own memory, and four such sandboxes fit a 1 GiB machine."""

    cpu_s: int = 3600
    """Seconds of processor time over the whole life of the process. An hour: a sandbox that worked that long is due for
    a fresh start anyway (its instances replay), and nothing burns a core for ever unseen."""

    open_files_max: int = 64
    """Open descriptors. The runtime needs about ten; 64 leaves room for reading data files in several steps at once."""

    step_threads: int = 8
    """Threads for synchronous steps, made before the filter that refuses new ones. Eight: enough to overlap blocking
    steps on two cores; each costs about 20 KiB."""

    thread_stack_bytes: int = THREAD_STACK_BYTES
    """Stack of one step thread, 1 MiB at least. 8 MiB, what the main thread has: a thousand calls through C code, of
    whatever module, end as a RecursionError and not in a crash. Only what is touched takes memory; as address space
    the stacks are allowed for beside `memory_bytes`."""

    frame_bytes_max: int = 12 * _MIB
    """Bytes of one message in either direction, the protocol's own bound (`protocol.FRAME_BYTES_MAX`); may be lower."""

    facet_bytes_max: int = 8 * _MIB
    """Bytes of one instance's facet, up to 1 GiB. A large one is not in the sandbox's memory as a whole."""

    turn_timeout_s: float = 10.0
    """Seconds without an answer, while a run is at work, after which the sandbox is given up. Ten: long enough for a
    garbage collection or a heavy C call on a loaded machine, short enough that instances held up by a runaway neighbour
    of the same tenant move on."""

    ping_after_s: float = 1.0
    """Seconds between an answer and the next question, while a run is at work. A question costs 0.1 ms."""

    boot_timeout_s: float = 30.0
    """Seconds from open() to Ready: fork, layers and the import of the tenant's code (which may be large)."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            whole = isinstance(field.default, int)
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                raise LimitError(field.name, value, "a whole number" if whole else "a number of seconds")
            if value <= 0 and not (field.name == "step_threads" and value == 0):
                raise LimitError(field.name, value, "more than zero")
        if self.thread_stack_bytes < _THREAD_STACK_BYTES_MIN:
            raise LimitError("thread_stack_bytes", self.thread_stack_bytes, f"{_THREAD_STACK_BYTES_MIN} or more")

    def to_json(self) -> dict[str, Any]:
        """Plain values, for the zygote's control channel."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> SandboxLimits:
        """The inverse of `to_json`. Unknown names are a TypeError: both sides are the same version."""
        return cls(**values)


KILL_REASONS = ("crashed", "killed", "memory", "time", "protocol")
"""Why a sandbox ended: its own fault; somebody asked for it; too much memory; too much time; broke the protocol."""
