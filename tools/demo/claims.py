"""Claims: what the demonstration says it shows, each with what was found when it was checked."""

from __future__ import annotations

from dataclasses import dataclass


class Stopped(Exception):
    """The story cannot go on; the message says why."""


@dataclass(frozen=True, slots=True)
class Claim:
    text: str
    holds: bool
    found: str


class Claims:
    """All claims in the order in which they were checked."""

    def __init__(self) -> None:
        self.all: list[Claim] = []

    def check(self, text: str, holds: object, found: object = "") -> None:
        """Record a claim. It is told at the end, also if it does not hold: the story goes on, to show all there is."""
        self.all.append(Claim(text, bool(holds), str(found)))

    @property
    def failed(self) -> list[Claim]:
        return [claim for claim in self.all if not claim.holds]
