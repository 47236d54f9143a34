"""How long the history of an instance may become: its replay takes time and memory in proportion."""

STEP_COUNT_MAX = 25_000
"""Steps of one execution, as the engine's limits have it by default; an instance that asks for more is held
(`limit_exceeded`)."""
JOURNAL_ENTRIES_MAX = 200_000
"""Entries of one execution, in which each step has two, and traces come on top: a loop without end must not fill the
disk."""
WARN_AT = 0.8
"""From this part of a limit on the status carries a warning."""
