"""What to append: a command of a run, a message from outside or the clock, to journal entries.

Each function looks at an Instance and returns the entries that follow; it changes nothing. Commands come from a sandbox
and are hostile: one that no honest sandbox sends raises Violation, and the sandbox is ended.
"""

from executor.core.decide.command import on_command
from executor.core.decide.decided import UNDO, Decided, Violation
from executor.core.decide.waits import after_restart, due_retries, on_clock, on_event

__all__ = [
    "UNDO",
    "Decided",
    "Violation",
    "after_restart",
    "due_retries",
    "on_clock",
    "on_command",
    "on_event",
]
