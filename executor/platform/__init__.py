"""The Python API: Platform (sync) and AsyncPlatform (asyncio and trio), embedded or remote."""

from executor.platform.api import Platform, Run, Tenant
from executor.platform.async_api import AsyncPlatform, AsyncRun, AsyncTenant

__all__ = ["AsyncPlatform", "AsyncRun", "AsyncTenant", "Platform", "Run", "Tenant"]
