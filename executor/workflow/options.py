"""Options of a step, checked where they are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias, get_args

from executor.workflow.durations import Duration, duration_ms

Backoff = Literal["constant", "linear", "exponential"]
Delay: TypeAlias = Duration | Callable[[int, Exception], Duration]
NonRetryable: TypeAlias = "type[BaseException] | tuple[type[BaseException], ...] | Callable[[Exception], bool]"

OPTIONS = frozenset({"retry", "timeout", "undo", "sensitive", "heartbeat", "stream", "grace"})
OPTIONS_LATER = frozenset({"isolation"})
"""Names that are reserved by the design and not built yet: refused, never ignored."""

RETRY_LIMIT_MAX = 10_000
GRACE_MS_DEFAULT = 5_000
GRACE_MS_MAX = 300_000
"""What is being cleaned up after holds a place in the process, and the next attempt waits for it."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and when a failed step is tried again.

    `limit` retries follow the first attempt (0: none). The n-th waits `delay` (constant), n times `delay` (linear) or
    2^(n-1) times `delay` (exponential), never more than `max_delay`; up to the share `jitter` of it is taken away.

    `delay` may be a function of the attempt that failed (1, 2, …) and its error: what it returns is waited, whatever
    `backoff` says. `non_retryable`: exception classes, or a function that says of an error whether no retry can help.
    A group of exceptions is of a class if one of its members is. Both functions are called after the failure, in the
    attempt's context, and have 5 seconds; if one fails, so does the step, without a retry.
    """

    limit: int = 5
    delay: Delay = "1 second"
    backoff: Backoff = "exponential"
    max_delay: Duration = "1 hour"
    jitter: float = 0.1
    non_retryable: NonRetryable = ()

    def __post_init__(self) -> None:
        if isinstance(self.limit, bool) or not isinstance(self.limit, int):
            raise TypeError(f"Retry(limit=…) is of type {type(self.limit).__name__}; write a whole number")
        if not 0 <= self.limit <= RETRY_LIMIT_MAX:
            raise ValueError(f"Retry(limit={self.limit}) is not between 0 and {RETRY_LIMIT_MAX}")
        if self.backoff not in get_args(Backoff):
            raise ValueError(f'Retry(backoff={self.backoff!r}) is not "constant", "linear" or "exponential"')
        if isinstance(self.jitter, bool) or not isinstance(self.jitter, int | float):
            raise TypeError(f"Retry(jitter=…) is of type {type(self.jitter).__name__}; write a number from 0 to 1")
        if not math.isfinite(self.jitter) or not 0 <= self.jitter <= 1:
            raise ValueError(f"Retry(jitter={self.jitter}) is not between 0 and 1")
        if not callable(self.delay):
            duration_ms(self.delay, of="Retry(delay=…)")
        duration_ms(self.max_delay, of="Retry(max_delay=…)")
        if not _says_what_is_non_retryable(self.non_retryable):
            raise TypeError(
                "Retry(non_retryable=…) takes exception classes, (ValueError, KeyError), "
                "or a function that is given the error and returns True or False"
            )

    @property
    def delay_function(self) -> Callable[[int, Exception], Duration] | None:
        return self.delay if callable(self.delay) else None

    @property
    def delay_ms(self) -> int:
        """Milliseconds; 0 if a function says."""
        return 0 if callable(self.delay) else duration_ms(self.delay)

    @property
    def max_delay_ms(self) -> int:
        return duration_ms(self.max_delay)

    @property
    def non_retryable_classes(self) -> tuple[type[BaseException], ...]:
        if isinstance(self.non_retryable, tuple):
            return self.non_retryable
        return (self.non_retryable,) if isinstance(self.non_retryable, type) else ()

    @property
    def is_non_retryable(self) -> Callable[[Exception], bool] | None:
        """The function, if it is one."""
        given = self.non_retryable
        return None if isinstance(given, tuple | type) else given


def _says_what_is_non_retryable(given: object) -> bool:
    if isinstance(given, tuple):
        return all(isinstance(item, type) and issubclass(item, BaseException) for item in given)
    return issubclass(given, BaseException) if isinstance(given, type) else callable(given)


@dataclass(frozen=True, slots=True)
class Undo:
    """What undoes a finished step when its instance fails or is terminated with undo.

    `function(output, error)` is a step of its own: `output` is what the step returned, `error` why the instance failed
    (None: it was terminated). `retry` and `timeout` are those of the undoing.
    """

    function: Callable[..., Any]
    retry: Retry = field(default_factory=Retry)
    timeout: Duration | None = None

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"Undo(…) was given a {type(self.function).__name__}, which cannot be called")
        if not isinstance(self.retry, Retry):
            raise TypeError(f"Undo(retry=…) is of type {type(self.retry).__name__}; write retry=Retry(limit=3)")
        _positive_ms(self.timeout, of="Undo(timeout=…)", why="which no attempt could meet")

    @property
    def timeout_ms(self) -> int | None:
        return None if self.timeout is None else duration_ms(self.timeout)


@dataclass(frozen=True, slots=True)
class StepOptions:
    """`timeout_ms` bounds one attempt and `heartbeat_ms` the time between its heartbeats; None: no bound.

    `grace_ms`: what an async attempt has for its clean-up, once it is cancelled. `is_sensitive`: its output is shown
    nowhere outside, and of its errors the type only. `is_stream`: it gives bytes, that are kept beside the facet.
    """

    retry: Retry = Retry()
    timeout_ms: int | None = None
    undo: Undo | None = None
    is_sensitive: bool = False
    heartbeat_ms: int | None = None
    is_stream: bool = False
    grace_ms: int = GRACE_MS_DEFAULT

    def changed(self, options: Mapping[str, object]) -> StepOptions:
        """These options with the given ones in their place. Raises TypeError or ValueError naming the option."""
        changes: dict[str, Any] = {}
        for name, value in options.items():
            if name in OPTIONS_LATER:
                raise TypeError(f"step option {name}= is not supported by this release; leave it out")
            if name not in _READERS:
                known = ", ".join(f"{each}=" for each in _READERS)
                raise TypeError(f"there is no step option {name}=; the options are {known}")
            attribute, read = _READERS[name]
            changes[attribute] = read(value)
        changed = replace(self, **changes)
        changed._check_together()
        return changed

    def _check_together(self) -> None:
        if self.is_stream and self.is_sensitive:
            raise ValueError(
                "step options stream= and sensitive= do not go together: the bytes of a stream are not hidden"
            )
        if self.heartbeat_ms is not None and self.timeout_ms is not None and self.heartbeat_ms >= self.timeout_ms:
            raise ValueError(
                f"step option heartbeat= is {self.heartbeat_ms / 1000:g} s and "
                f"timeout= is {self.timeout_ms / 1000:g} s: "
                "the timeout would always come first; make heartbeat= the shorter one"
            )


def _retry(value: object) -> Retry:
    if not isinstance(value, Retry):
        raise TypeError(f"step option retry= is of type {type(value).__name__}; write retry=Retry(limit=3)")
    return value


def _timeout_ms(value: object) -> int | None:
    return _positive_ms(value, of="step option timeout=", why="which no attempt could meet")


def _heartbeat_ms(value: object) -> int | None:
    return _positive_ms(value, of="step option heartbeat=", why="which no attempt could meet")


def _grace_ms(value: object) -> int:
    milliseconds = duration_ms(value, of="step option grace=")  # type: ignore[arg-type]  # it checks the type itself
    if milliseconds > GRACE_MS_MAX:
        raise ValueError(f"step option grace= is {value!r}; it may be 5 minutes at most")
    return milliseconds


def _undo(value: object) -> Undo | None:
    if value is None or isinstance(value, Undo):
        return value
    if not callable(value):
        raise TypeError(
            f"step option undo= is of type {type(value).__name__}; write a function of output and error, "
            "or Undo(function, retry=…)"
        )
    return Undo(value)


def _switch(name: str) -> Callable[[object], bool]:
    def read(value: object) -> bool:
        if not isinstance(value, bool):
            raise TypeError(f"step option {name}= is of type {type(value).__name__}; write {name}=True or leave it out")
        return value

    return read


_READERS: dict[str, tuple[str, Callable[[object], object]]] = {
    "retry": ("retry", _retry),
    "timeout": ("timeout_ms", _timeout_ms),
    "undo": ("undo", _undo),
    "sensitive": ("is_sensitive", _switch("sensitive")),
    "heartbeat": ("heartbeat_ms", _heartbeat_ms),
    "stream": ("is_stream", _switch("stream")),
    "grace": ("grace_ms", _grace_ms),
}
"""Option to attribute, and what reads it."""


def _positive_ms(value: object, *, of: str, why: str) -> int | None:
    if value is None:
        return None
    milliseconds = duration_ms(value, of=of)  # type: ignore[arg-type]  # it checks the type itself
    if milliseconds == 0:
        raise ValueError(f"{of} is 0, {why}")
    return milliseconds
