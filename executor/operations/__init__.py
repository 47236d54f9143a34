"""The table of operations: one row for each use case, read by everything that carries it.

`http/api.py` makes its routes from these rows, `http/openapi.py` its document, and `platform/` calls them, embedded or
remote. So a surface cannot offer an operation that another one lacks, or take other arguments than it.

`Operation.name` is the method of `executor.service.Service`: it is called with the caller, the values of the path's
parameters in their order, and the remaining arguments by name.
"""

from executor.operations.instances import INSTANCES
from executor.operations.operation import API_PREFIX, Arguments, Operation
from executor.operations.platform import PLATFORM
from executor.operations.reading import READING
from executor.operations.schedules import SCHEDULES
from executor.operations.steering import STEERING
from executor.operations.tenants import TENANTS
from executor.operations.versions import VERSIONS

__all__ = ["API_PREFIX", "OPERATIONS", "Arguments", "Operation"]

OPERATIONS: dict[str, Operation] = {
    row.name: row for rows in (PLATFORM, TENANTS, VERSIONS, INSTANCES, STEERING, READING, SCHEDULES) for row in rows
}
