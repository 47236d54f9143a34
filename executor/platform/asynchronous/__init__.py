"""The Python API: AsyncPlatform, AsyncTenant, AsyncRun.

One implementation for embedded and remote use: each method names an operation of `executor.operations`, and a
transport carries it. `executor.platform.blocking` is generated from `executor.platform.asynchronous`, which is for
asyncio and trio, by tools/unasync.py; the two have the same methods.
"""

from executor.platform.asynchronous.platform import AsyncPlatform
from executor.platform.asynchronous.run import AsyncRun
from executor.platform.asynchronous.tenant import AsyncTenant

__all__ = ["AsyncPlatform", "AsyncRun", "AsyncTenant"]
