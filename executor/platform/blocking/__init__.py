# Generated from executor/platform/asynchronous/__init__.py by tools/unasync.py. Edit that file, and run the tool.
"""The Python API: Platform, Tenant, Run.

One implementation for embedded and remote use: each method names an operation of `executor.operations`, and a
transport carries it. `executor.platform.blocking` is generated from `executor.platform.asynchronous`, which is for
asyncio and trio, by tools/unasync.py; the two have the same methods.
"""

from executor.platform.blocking.platform import Platform
from executor.platform.blocking.run import Run
from executor.platform.blocking.tenant import Tenant

__all__ = ["Platform", "Run", "Tenant"]
