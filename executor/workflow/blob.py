"""Blob: the bytes that a step with `stream=True` gave, kept beside the instance's facet."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

from executor.workflow import runtime
from executor.workflow.errors import NotHere

PART_BYTES = 256 * 1024
"""All parts of a stream but the last are of this size."""


@dataclass(frozen=True, slots=True)
class Blob:
    """`size` bytes with this `sha256` (hex). They are read in steps of the same execution: hand the Blob to one, as an
    argument."""

    id: int
    size: int
    sha256: str

    def read(self) -> bytes:
        """All of it. Inside a step only."""
        return b"".join(self.chunks())

    def chunks(self) -> Iterator[bytes]:
        """Its bytes in order, in parts of up to 256 KiB. Inside a step only; in an async one, `async for part in blob`
        holds up nobody else."""
        return self._parts(_attempt())

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """As `chunks`, for async steps."""
        attempt = _attempt()
        for number in range(self._part_count):
            yield self._checked(number, await attempt.stream_part_async(self.id, number))

    def __perdure_identity__(self) -> tuple[int, int, str]:
        """What counts of it where a step is asked for."""
        return self.id, self.size, self.sha256

    def _parts(self, attempt: runtime.AttemptRuntime) -> Iterator[bytes]:
        for number in range(self._part_count):
            yield self._checked(number, attempt.stream_part(self.id, number))

    @property
    def _part_count(self) -> int:
        return -(-self.size // PART_BYTES)

    def _checked(self, number: int, part: bytes | None) -> bytes:
        if part is None or len(part) != min(self.size - number * PART_BYTES, PART_BYTES):
            raise NotHere(
                f"the bytes of this Blob ({self.size}, sha256 {self.sha256[:12]}…) are not there: "
                "they belong to another instance, or to an execution that is over"
            )
        return part


def _attempt() -> runtime.AttemptRuntime:
    if runtime.in_run():
        raise NotHere(
            "a Blob was read in run(); read it inside a step and give it as an argument: "
            'await step.do("name", function, blob)'
        )
    attempt = runtime.current_attempt.get()
    if attempt is None:
        raise NotHere("a Blob was read outside of a step; its bytes are with a running instance")
    return attempt
