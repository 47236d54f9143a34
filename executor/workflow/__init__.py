"""What tenant code imports. Standard library only, so that it also imports in a tenant's editor and tests.

from executor.workflow import Workflow, Retry, NonRetryableError, StepTimeout, EventTimeout
"""

from executor.workflow.base import Event, Facet, Row, Workflow
from executor.workflow.blob import Blob
from executor.workflow.durations import Duration
from executor.workflow.errors import (
    EventTimeout,
    FacetBusy,
    HeartbeatTimeout,
    NonRetryableError,
    NotHere,
    StepFailed,
    StepTimeout,
)
from executor.workflow.options import Retry, Undo
from executor.workflow.runtime import ReceivedEvent
from executor.workflow.step import CurrentAttempt, Step

for _public in (EventTimeout, FacetBusy, HeartbeatTimeout, NonRetryableError, NotHere, StepFailed, StepTimeout):
    _public.__module__ = __name__  # the name under which tenants know it, in tracebacks and journals too

__all__ = [
    "Blob",
    "CurrentAttempt",
    "Duration",
    "Event",
    "EventTimeout",
    "Facet",
    "FacetBusy",
    "HeartbeatTimeout",
    "NonRetryableError",
    "NotHere",
    "ReceivedEvent",
    "Retry",
    "Row",
    "Step",
    "StepFailed",
    "StepTimeout",
    "Undo",
    "Workflow",
]
