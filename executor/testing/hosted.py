"""One instance of a test: its journal, facet and output, in memory."""

from __future__ import annotations

from typing import Any

from executor.core import codec, values
from executor.core.carrying import complete
from executor.core.commands import StepDone, StepError
from executor.core.entries import AnyEntry, Completed, Failed, Restarted
from executor.core.folding import fold
from executor.core.instance import Instance
from executor.core.lifecycle import State
from executor.sandbox.protocol import Output
from executor.views import LogLine
from facets.delta import apply

IMAGE_BYTES_MAX = 1 << 30
EVERY_WAIT_ENTRIES = 500
"""In journals of up to so many entries every wait is replayed."""


class Hosted:
    """`number`: of its run, None while it has none. `sent`: entries that the run was given. `is_quiet`: the run has
    seen them all and nothing of it executes; `is_resting`: and nothing can go on before another entry comes."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.instance = Instance()
        self.stored: list[bytes] = []
        self.image = b""
        self.lines: list[LogLine] = []
        self.number: int | None = None
        self.sent = 0
        self.is_quiet = False
        self.is_resting = False
        self.is_quiesced = False
        self.is_wound_up = False
        """What follows from its end is done."""
        self.attempting: set[str] = set()
        self.reports: list[StepDone | StepError] = []
        """How attempts ended, to be journaled."""
        self.idle_after = 0
        """By its last Turn nothing executes, and it has seen entries up to here; 0: something does."""
        self.activations = 0
        self._replays_at = 0
        self.execution = 0
        self.is_kept = False
        """Its run stays, however it rests: somebody is asking it something."""
        self.blobs: dict[int, list[bytes]] = {}
        """Parts of byte streams, by id."""
        self._deltas: list[tuple[int, bytes]] = []
        self._known_lines: set[tuple[int, int, str, int]] = set()

    @property
    def journal(self) -> list[AnyEntry]:
        return codec.decode_journal(self.stored)

    @property
    def state(self) -> State:
        return self.instance.state(is_resting=self.is_resting)

    @property
    def is_over(self) -> bool:
        """It ended, or is held."""
        return self.instance.outcome is not None or self.instance.held is not None

    @property
    def is_stopped(self) -> bool:
        """Nothing begins and no timer runs, for now."""
        return self.is_over or self.instance.is_paused

    @property
    def output(self) -> Any:
        """What `run()` returned, as a plain value; None while it has not."""
        outcome = self.instance.outcome
        return values.decode(outcome.value) if isinstance(outcome, Completed) else None

    def append(self, entries: tuple[AnyEntry, ...], delta: bytes | None = None) -> None:
        """As the executor does: the delta belongs to the first of the entries."""
        for given in entries:
            entry = given
            before = self.instance.resolved_at
            if isinstance(given, Restarted):
                self._restart(given)
            else:
                entry = complete(self.instance, given)
                self.instance.apply(entry)
            if self.instance.resolved_at != before:
                self.is_resting = False
            self.stored.append(codec.encode(entry, self.instance.chain))
            if delta:
                self._deltas.append((len(self.stored), delta))
                self.image = apply(self.image, delta, bytes_max=IMAGE_BYTES_MAX)
                delta = None

    def _restart(self, entry: Restarted) -> None:
        self.instance = fold([*self.journal, entry])
        self._deltas = [(sequence, delta) for sequence, delta in self._deltas if sequence <= entry.after]
        self.image = b""
        for _, delta in self._deltas:
            self.image = apply(self.image, delta, bytes_max=IMAGE_BYTES_MAX)
        self.is_resting = self.is_wound_up = False

    def is_to_be_unloaded(self) -> bool:
        """Whether a test that unloads at every wait does so at this one. Replays of all would take the square of their
        number, so in a long journal it is done when that has grown by a tenth."""
        length = len(self.stored)
        if length < self._replays_at:
            return False
        self._replays_at = length + length // 10 if length > EVERY_WAIT_ENTRIES else 0
        return True

    def note_rest(self) -> None:
        """Set `is_quiet` and `is_resting` by what the run said last."""
        is_idle = self.idle_after > 0 and not self.attempting and not self.reports
        self.is_quiet = is_idle and self.idle_after == self.sent
        self.is_resting = self.is_quiet and self.idle_after >= self.instance.resolved_at and not self.is_quiesced

    def next_wake_ms(self) -> int | None:
        """When time alone brings something about."""
        return None if self.is_stopped else self.instance.next_wake_ms(besides=self.attempting)

    def take_line(self, line: Output) -> bool:
        """False: it is one that a replay prints again."""
        key = (line.position, line.number, line.step, line.attempt)
        if key in self._known_lines:
            return False
        self._known_lines.add(key)
        self.lines.append(
            LogLine(
                cursor=len(self.lines) + 1,
                at_ms=line.at_ms,
                stream=line.stream,
                level=line.level,
                step=line.step,
                attempt=line.attempt,
                text=line.text,
            )
        )
        return True

    @property
    def failure(self) -> Failed | None:
        outcome = self.instance.outcome
        return outcome if isinstance(outcome, Failed) else None
