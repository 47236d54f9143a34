"""What callers see: the answers of the service, the same over Python, HTTP and the command line.

Values of tenants (payloads, outputs) are Python values here; `executor.core.values.to_json` gives their JSON form.
Times are integers in milliseconds since the Unix epoch.
"""

from executor.views.instances import (
    FINAL_STATES,
    CountView,
    ErrorView,
    Executing,
    InstancePage,
    InstanceView,
    ParentView,
    State,
    Status,
)
from executor.views.platform import Health
from executor.views.reading import SENSITIVE, JournalItem, LogLine, QueryResult, ResultView, StreamItem, StreamView
from executor.views.receipts import EventReceipt, UpdateReceipt
from executor.views.schedules import FiringView, ScheduleView
from executor.views.starts import BulkError, BulkResult, StartOutcome, StartRequest
from executor.views.tenants import TenantView, TokenView
from executor.views.times import format_ms
from executor.views.versions import ChannelMoveView, ChannelView, DeploymentView, GarbageView, WorkflowView
from executor.views.waits import Queued, WaitingFor

__all__ = [
    "FINAL_STATES",
    "SENSITIVE",
    "BulkError",
    "BulkResult",
    "ChannelMoveView",
    "ChannelView",
    "CountView",
    "DeploymentView",
    "ErrorView",
    "EventReceipt",
    "Executing",
    "FiringView",
    "GarbageView",
    "Health",
    "InstancePage",
    "InstanceView",
    "JournalItem",
    "LogLine",
    "ParentView",
    "QueryResult",
    "Queued",
    "ResultView",
    "ScheduleView",
    "StartOutcome",
    "StartRequest",
    "State",
    "Status",
    "StreamItem",
    "StreamView",
    "TenantView",
    "TokenView",
    "UpdateReceipt",
    "WaitingFor",
    "WorkflowView",
    "format_ms",
]
