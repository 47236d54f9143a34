"""What the store's side and a limited child say to each other, and how an error crosses between them.

A frame of `work`: one byte of kind, four bytes of length (big-endian), the body. Request: kind `Q`. From the child:
`P` what it is doing now (text), then exactly one of `A` the answer (msgpack), `R` a refusal (msgpack), `X` a bug
(text).
A message of `control`: `Order` in msgpack, with the child's end of `work` and the helper's of `fate` as descriptors.
A message of `fate`: `Fate` in msgpack.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from .errors import Corrupt, Diagnostic, GitStoreError, LimitExceeded, NotFound, Refused, Unavailable

ANSWER_BYTES_MAX = 16 * 1024 * 1024
REQUEST_BYTES_MAX = 4 * 1024 * 1024
PROGRESS_BYTES_MAX = 4096
CONTROL_BYTES_MAX = 4096
FRAME_HEAD_BYTES = 5
Family = Literal["refused", "limit", "not_found", "unavailable", "corrupt"]


class JobLimits(msgspec.Struct, frozen=True):
    """Bounds of one job, with the names of the Limits fields they come from, for the refusal."""

    cpu_s: int
    cpu_limit: str
    memory_bytes: int
    memory_limit: str
    file_bytes: int
    file_limit: str

    @property
    def wall_s(self) -> int:
        """A child that waits (for a lock, a disk) uses no CPU time; after this long it is killed as well."""
        return 3 * self.cpu_s + 30


class Order(msgspec.Struct, frozen=True):
    """To the helper: fork a child for `job` under `limits`."""

    job: str
    limits: JobLimits


class Fate(msgspec.Struct, frozen=True):
    """From the helper: how the child ended; `number` is the exit code or the signal."""

    end: Literal["exit", "signal", "late", "unforked"]
    number: int


class Refusal(msgspec.Struct, frozen=True):
    """A GitStoreError on its way through the pipe."""

    family: Family
    message: str
    code: str
    hint: str | None
    details: dict[str, str | int | None]
    diagnostics: tuple[Diagnostic, ...]


def to_refusal(error: GitStoreError) -> Refusal:
    """`error` as it crosses the pipe; details that are neither text nor numbers become text."""
    family: Family = "refused"
    if isinstance(error, LimitExceeded):
        family = "limit"
    elif isinstance(error, NotFound):
        family = "not_found"
    elif isinstance(error, Unavailable):
        family = "unavailable"
    elif isinstance(error, Corrupt):
        family = "corrupt"
    details: dict[str, str | int | None] = {}
    for name, value in error.details.items():
        is_plain = value is None or isinstance(value, str) or (isinstance(value, int) and abs(value) < 1 << 63)
        details[name] = value if is_plain else str(value)  # type: ignore[assignment]  # is_plain has looked
    diagnostics = error.diagnostics if isinstance(error, Refused) else ()
    return Refusal(family, error.message, error.code, error.hint, details, diagnostics)


def to_error(refusal: Refusal) -> GitStoreError:
    """The error again, of the family it had."""
    if refusal.family == "unavailable":
        return Unavailable(refusal.message, code=refusal.code, hint=refusal.hint, details=refusal.details)
    if refusal.family == "corrupt":
        return Corrupt(refusal.message, code=refusal.code, hint=refusal.hint, details=refusal.details)
    # LimitExceeded makes its text from parts; here the text is made already.
    kinds: dict[Family, type[Refused]] = {"limit": LimitExceeded, "not_found": NotFound}
    kind = kinds.get(refusal.family, Refused)
    error = kind.__new__(kind)
    Refused.__init__(
        error,
        refusal.message,
        code=refusal.code,
        hint=refusal.hint,
        details=refusal.details,
        diagnostics=refusal.diagnostics,
    )
    return error
