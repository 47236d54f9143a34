"""Ports: what the engine and the service need of the world. Adapters implement them; only `main` names adapters.

Synchronous methods touch files: they are called in worker threads. Each has a contract suite in `tests/contracts`.
"""

from executor.ports.clock import Clock
from executor.ports.code import CodeSource
from executor.ports.instance_values import ChildEnd, ChildStart, Emission, Queried, Seen, Share, Start, Updated, Vitals
from executor.ports.instances import Instances
from executor.ports.peers import Peers, Slots
from executor.ports.sandboxes import Sandbox, SandboxHost
from executor.ports.schedules import Advanced, Pending, ScheduleRow, ScheduleStore, Settled
from executor.ports.state import Append, OutputText, Pages, Row, StateStore, StoredEntry, StoredMoment, StoredRow

__all__ = [
    "Advanced",
    "Append",
    "ChildEnd",
    "ChildStart",
    "Clock",
    "CodeSource",
    "Emission",
    "Instances",
    "OutputText",
    "Pages",
    "Peers",
    "Pending",
    "Queried",
    "Row",
    "Sandbox",
    "SandboxHost",
    "ScheduleRow",
    "ScheduleStore",
    "Seen",
    "Settled",
    "Share",
    "Slots",
    "Start",
    "StateStore",
    "StoredEntry",
    "StoredMoment",
    "StoredRow",
    "Updated",
    "Vitals",
]
