"""The Python API: Platform (sync) and AsyncPlatform (asyncio and trio), embedded or remote."""

from executor.platform.asynchronous import AsyncPlatform, AsyncRun, AsyncTenant
from executor.platform.blocking import Platform, Run, Tenant

__all__ = ["AsyncPlatform", "AsyncRun", "AsyncTenant", "Platform", "Run", "Tenant"]
