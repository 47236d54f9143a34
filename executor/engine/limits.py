"""Limits: what one instance may have, looked at before its run's commands are taken. See `core.bounds`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from executor.core.bounds import (
    HISTORY_BYTES_MAX,
    HISTORY_ENTRIES_MAX,
    JOURNAL_ENTRIES_MAX,
    LOOKED_BYTES_MAX,
    WARN_AT,
)
from executor.core.entries import Held
from executor.engine.resident import Resident, Run
from executor.ports import OutputText

if TYPE_CHECKING:
    from executor.engine.engine import Engine


def is_over(engine: Engine, resident: Resident, run: Run, more: int, now_ms: int) -> bool:
    """Hold an instance whose execution has grown too long: replay is linear in it, and a loop without end must not
    fill the disk. Before that its log warns."""
    instance, limits = resident.instance, engine.limits
    if (
        instance.step_count < WARN_AT * limits.steps_max
        and instance.sequence - instance.begin_at < WARN_AT * JOURNAL_ENTRIES_MAX - more
        and instance.sequence < HISTORY_ENTRIES_MAX - more
        and resident.journal_bytes < WARN_AT * limits.journal_bytes_max
        and resident.history_bytes < WARN_AT * HISTORY_BYTES_MAX
        and run.looked <= LOOKED_BYTES_MAX
    ):
        return False
    if run.looked > LOOKED_BYTES_MAX:
        message = (
            f"its waits with a match have looked through {run.looked} bytes of unread events, the limit is "
            f"{LOOKED_BYTES_MAX}; wait for events of the type without a match, or read them as they come"
        )
        return _hold(engine, resident, message, now_ms)
    history = (
        ("all its executions have", instance.sequence + more, "journal entries", HISTORY_ENTRIES_MAX),
        ("its execution with all restarts has", resident.history_bytes, "bytes of journal", HISTORY_BYTES_MAX),
    )
    for which, found, what, limit in history:
        if found > limit:
            message = f"{which} {found} {what}, the limit is {limit}; start another instance"
            return _hold(engine, resident, message, now_ms)
    measured = (
        ("steps", instance.step_count, limits.steps_max),
        ("journal entries", instance.sequence - instance.begin_at + more, JOURNAL_ENTRIES_MAX),
        ("bytes of journal", resident.journal_bytes, limits.journal_bytes_max),
    )
    for what, found, limit in measured:
        if found < WARN_AT * limit:
            continue
        hint = "self.continue_as_new(payload) begins a new execution"
        if found > limit:
            return _hold(engine, resident, f"its execution has {found} {what}, the limit is {limit}; {hint}", now_ms)
        if not resident.is_warned:
            resident.is_warned = True
            text = f"this execution has {found} {what} of at most {limit}; {hint}"
            position = instance.sequence
            line = OutputText(*resident.key, position, 0, now_ms, "log", "WARNING", "", 0, text)
            engine.output.add(line)
    return False


def _hold(engine: Engine, resident: Resident, message: str, now_ms: int) -> bool:
    """It goes on only when somebody has changed something. Always True."""
    instance = resident.instance
    is_going = instance.held is None and instance.outcome is None
    held = (Held(now_ms, "limit_exceeded", message, None, None),) if is_going else ()
    if held or resident.unsent:
        engine.commit(resident, held)
    return True
