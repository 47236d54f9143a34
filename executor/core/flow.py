"""Flow control, the pure part: what a workflow declares and a payload, to the limits and the time of a start."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import msgspec

from executor.core import attributes, values
from executor.core.entries import FlowLimit, StartOptions
from executor.workflow.durations import duration_ms
from executor.workflow.flow import Flow

KEY_ATTRIBUTE = "$flow"
"""The reserved search attribute by which the instances of one singleton or debounce and key are found."""
RATE_ATTRIBUTE = "$rate"
"""That of an instance whose start counts for a rate: the key, and when the start may be. The last one in order says
what the rate owes."""
KEY_BYTES = 16
VALUE_BYTES_MAX = 1 << 40
"""Payloads are bounded where they come in."""


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` starts in `period_ms`, evenly spaced, of which `burst` may be at once.

    In any window of `period_ms` there are at most `count` - 1 + `burst` of them.
    """

    count: int
    period_ms: int
    burst: int = 1

    def slot(self, debt: int, now_ms: int) -> tuple[int, int]:
        """When a start that comes now may be, and the new debt.

        `debt` is the theoretical arrival time of the generic cell rate algorithm (ITU-T I.371), in 1/`count` of a
        millisecond since the epoch, so that no rounding adds up; 0: there was none before.
        """
        earliest = debt - (self.burst - 1) * self.period_ms
        at_ms = max(now_ms, -(-earliest // self.count))
        return at_ms, max(debt, now_ms * self.count) + self.period_ms

    def debt_after(self, at_ms: int) -> int:
        """The most that the debt can be when the latest start was at `at_ms`."""
        return at_ms * self.count + self.burst * self.period_ms


@lru_cache(maxsize=1_000)
def declared(text: str) -> Flow | None:
    """The flow in the declarations of a workflow (JSON, "": none).

    Raises ValueError, TypeError with what is wrong, for whoever wrote it.
    """
    fields = json.loads(text).get("flow") if text else None
    if fields is None:
        return None
    if not isinstance(fields, dict):
        raise TypeError("flow must be Flow(…)")
    unknown = sorted(fields.keys() - set(Flow.__dataclass_fields__))
    if unknown:
        raise TypeError(f"there is no Flow({unknown[0]}=…); it takes {', '.join(Flow.__dataclass_fields__)}")
    return Flow(**fields)


def problem(text: str) -> str | None:
    """What is wrong with the flow in the declarations of a workflow; None: nothing."""
    try:
        declared(text)
    except (TypeError, ValueError) as wrong:
        return f"flow: {wrong}"
    return None


def value_at(path: str | None, payload: Any) -> Any:
    """What `path` ("payload.customer", a number for an item of a list) names in the payload; None where it is not."""
    found = payload
    for name in () if path is None else path.split(".")[1:]:
        if isinstance(found, dict):
            found = found.get(name)
        elif isinstance(found, list | tuple) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            return None
    return found


def key_of(workflow: str, flow: Flow, payload: Any) -> str:
    """What instances have in common that the flow counts together: the same text for equal values at `per`."""
    value = None if flow.per is None else _canonical(value_at(flow.per, payload))
    fact = json.dumps([workflow, flow.per]).encode() + values.encode(value, bytes_max=VALUE_BYTES_MAX)
    return blake2b(fact, digest_size=KEY_BYTES).hexdigest()


def limits_of(workflow: str, flow: Flow, key: str) -> tuple[FlowLimit, ...]:
    """What a start queues behind."""
    if flow.concurrency is None:
        return ()
    name = workflow if flow.per is None else f"{workflow} per {flow.per}"
    return (FlowLimit(name, key, flow.concurrency),)


def counted(options: StartOptions, workflow: str, flow: Flow, key: str) -> StartOptions:
    """Options of an instance of `workflow` with what it queues behind, and with what others of its key find it by: a
    debounce replaces what comes from outside only, a child is never replaced and replaces nothing."""
    added = options.attributes
    if flow.singleton is not None or (flow.debounce is not None and options.parent is None):
        added = attributes.merge(added, {KEY_ATTRIBUTE: key}, is_reserved=True)
    return msgspec.structs.replace(options, attributes=added, limits=limits_of(workflow, flow, key))


def timed(options: StartOptions, key: str, at_ms: int) -> StartOptions:
    """Options of a start that counts for the rate of `key`, and may be at `at_ms`."""
    added = attributes.merge(options.attributes, {RATE_ATTRIBUTE: f"{key}:{at_ms:020d}"}, is_reserved=True)
    return msgspec.structs.replace(options, attributes=added)


def counted_at_ms(data: bytes) -> int:
    """When the start of an instance with these attributes may be, which counted for a rate."""
    found = str(attributes.decode(data)[RATE_ATTRIBUTE])
    return int(found.rpartition(":")[2])


def rate_of(flow: Flow) -> Rate | None:
    return None if flow.rate is None else Rate(*flow.rate_parts(), flow.burst)


def debounce_ms(flow: Flow) -> int | None:
    return None if flow.debounce is None else duration_ms(flow.debounce)


def _canonical(value: Any) -> Any:
    """Equal for values that JSON does not tell apart: the order of keys, 1 and 1.0."""
    if isinstance(value, dict):
        return {key: _canonical(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
