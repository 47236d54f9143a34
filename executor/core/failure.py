"""ErrorFact: a tenant's exception as text. Errors cross every border as these fields, never as objects."""

from __future__ import annotations

import msgspec

ERROR_MESSAGE_CHARS_MAX = 4_096
ERROR_TRACEBACK_CHARS_MAX = 16_384


class ErrorFact(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`type` is the exception's qualified name; `traceback` holds frames of the tenant's own code only."""

    type: str
    message: str
    traceback: str = ""
    retryable: bool = True
    code: str = "workflow_failed"

    def bounded(self) -> ErrorFact:
        """The same fact with its texts cut to their limits: tracebacks at the front, messages at the end."""
        return ErrorFact(
            self.type[:256],
            self.message[:ERROR_MESSAGE_CHARS_MAX],
            self.traceback[-ERROR_TRACEBACK_CHARS_MAX:],
            self.retryable,
            self.code[:64],
        )
