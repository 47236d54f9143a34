"""`perdure serve` with less patience, for scenarios about hostile code: the same program, other bounds.

A sandbox that does not answer is given up after a second rather than ten, one that does not come up after two rather
than thirty, and an instance is held at the third death without progress rather than the fifth: the defaults would make
each of these scenarios a minute long. Memory is bounded lower so that hogs do not fill the machine that tests.
"""

from __future__ import annotations

import functools

from executor import cli, main
from executor.engine.engine import EngineLimits
from executor.sandbox.limits import SandboxLimits
from executor.shards import owner

MIB = 1024 * 1024
DEATHS_MAX = 3
LIMITS = functools.partial(
    SandboxLimits, turn_timeout_s=1.0, ping_after_s=0.25, boot_timeout_s=2.0, memory_bytes=128 * MIB
)

if __name__ == "__main__":
    owner.SandboxLimits = LIMITS  # type: ignore[assignment,misc]
    main.EngineLimits = functools.partial(EngineLimits, deaths_max=DEATHS_MAX)  # type: ignore[assignment,misc]
    cli.main()
