"""What tenant code imports. Standard library only, so that it also imports in a tenant's editor and tests.

from executor.workflow import Workflow, Retry, NonRetryableError, StepTimeout, EventTimeout
"""

from executor.workflow.base import Event, Facet, Row, Workflow
from executor.workflow.blob import Blob
from executor.workflow.current import CurrentAttempt
from executor.workflow.durations import Duration
from executor.workflow.errors import (
    ChildFailed,
    ContinueAsNew,
    EventTimeout,
    FacetBusy,
    HeartbeatTimeout,
    InstanceFailed,
    NonRetryableError,
    NotHere,
    PollTimeout,
    StepFailed,
    StepTimeout,
)
from executor.workflow.flow import Flow
from executor.workflow.options import Retry, Undo
from executor.workflow.runtime import ChildHandle, ReceivedEvent
from executor.workflow.schedules import Schedule
from executor.workflow.step import Group, Step

for _public in (
    ChildFailed,
    ContinueAsNew,
    EventTimeout,
    FacetBusy,
    HeartbeatTimeout,
    InstanceFailed,
    NonRetryableError,
    NotHere,
    PollTimeout,
    StepFailed,
    StepTimeout,
):
    _public.__module__ = __name__  # the name under which tenants know it, in tracebacks and journals too

__all__ = [
    "Blob",
    "ChildFailed",
    "ChildHandle",
    "ContinueAsNew",
    "CurrentAttempt",
    "Duration",
    "Event",
    "EventTimeout",
    "Facet",
    "FacetBusy",
    "Flow",
    "Group",
    "HeartbeatTimeout",
    "InstanceFailed",
    "NonRetryableError",
    "NotHere",
    "PollTimeout",
    "ReceivedEvent",
    "Retry",
    "Row",
    "Schedule",
    "Step",
    "StepFailed",
    "StepTimeout",
    "Undo",
    "Workflow",
]
