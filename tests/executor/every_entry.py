"""One entry of each kind, in all its forms that are shown differently."""

from __future__ import annotations

from executor.core import attributes, values
from executor.core import entries as e
from executor.core.failure import ErrorFact

ASKED = b"q" * 16
WHERE = "w.py:1"
COMMIT = "c" * 40
VALUE = values.encode({"n": 1})
ERROR = ErrorFact("ValueError", "no", "w.py:1 in charge", True, "step_failed")
OPTIONS = e.StartOptions(
    start_at_ms=9_000,
    attributes=attributes.encode({"customer": "acme"}),
    priority=3,
    limits=(e.FlowLimit("per customer", "acme", 5),),
    unload="every-wait",
    retain_failed_ms=60_000,
    parent=e.Parent("order-1", "ship#1", True),
    schedule="nightly",
    scheduled_ms=8_000,
    debounce="k",
    depth=2,
)

EVERY: list[e.AnyEntry] = [
    e.Started(1, "W", COMMIT, VALUE, b"seed", OPTIONS),
    e.Started(1, "W", COMMIT, VALUE, b"seed"),
    e.StepSucceeded(2, "audit#1/hash#3", ASKED, WHERE, 2, 1, VALUE),
    e.StepSucceeded(2, "card#1", ASKED, WHERE, 1, 1, values.encode("4111"), "sensitive"),
    e.StepSucceeded(2, "video#1", ASKED, WHERE, 1, 1, values.encode({"size": 9}), "stream"),
    e.AttemptFailed(3, "charge#1", ASKED, WHERE, 1, 2, ERROR, 4_000, 5, values.encode("half")),
    e.AttemptFailed(3, "charge#1", ASKED, WHERE, 1, 2, ERROR, 4_000, 5),
    e.StepFailed(4, "charge#1", ASKED, WHERE, 6, 3, ERROR),
    e.SleepStarted(5, "nap#1", ASKED, WHERE, 9_000, True),
    e.SleepEnded(6, "nap#1"),
    e.WaitStarted(7, "go#1", ASKED, WHERE, "approved", None, values.encode({"by": "kim"})),
    e.WaitEnded(8, "go#1", 1),
    e.EventReceived(9, "evt-1", "approved", VALUE, 1),
    e.Cancelled(10, "nap#2"),
    e.Paused(11, "token t1"),
    e.Resumed(12, "token t1"),
    e.Completed(13, VALUE),
    e.Failed(14, ERROR),
    e.Terminated(15, "admin"),
    e.Held(16, "nondeterminism", "it asked for b", e.StepRef("step", "a#1", WHERE, ASKED), None),
    e.Unheld(17),
    e.StepStarted(18, "audit#1/hash#3", WHERE, 2),
    e.Activated(19, 4),
    e.Released(20, "waits"),
    e.StepHeartbeat(21, "charge#1", 2, values.encode(50)),
    e.StatusSet(22, 1, values.encode({"stage": "packing"})),
    e.AttributesSet(23, 1, attributes.encode({"customer": "acme", "amount": 5})),
    e.Emitted(24, "tokens", 7, [values.encode("a"), values.encode("b")], "audit#1/write#1", 1, 0),
    e.Emitted(24, "tokens", 9, [values.encode("c")], "", 0, 1),
    e.ChildRequested(25, "ship#1", ASKED, WHERE, "order-1.ship", "Ship", None, "live", VALUE, "terminate", True),
    e.ChildStarted(26, "ship#1", COMMIT),
    e.ChildEnded(27, "ship#1", "complete", VALUE, None),
    e.ChildEnded(27, "ship#1", "failed", None, ERROR),
    e.ChildClosed(28, "order-1.ship"),
    e.Continued(29, "W", COMMIT, VALUE, b"seed"),
    e.Restarted(30, 4, True, "admin"),
    e.StartDue(31),
    e.Rescheduled(32, VALUE, 9_000),
    e.Undoing(33, ERROR),
    e.Undoing(33, None, "admin"),
    e.StepSucceeded(34, "undo/audit#1/hash#3", ASKED, WHERE, 1, 33, VALUE),
    e.UpdateAccepted(35, "u1", "add", VALUE),
    e.UpdateEnded(36, "u1", VALUE, None),
    e.UpdateEnded(36, "u1", None, ERROR),
    e.GroupStarted(37, "audit#1", ASKED, WHERE),
    e.GroupEnded(38, "audit#1"),
]
