"""The calls between front and shard process, and the types of what travels: the Instances port, and a few more.

Both ends run the same code, so there is no version here; the types still catch what one end gets wrong.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from executor.core.entries import FlowLimit
from executor.core.errors import PerdureError, from_json
from executor.core.search import Query
from executor.ports import (
    ChildEnd,
    ChildStart,
    Emission,
    Queried,
    Seen,
    Share,
    Start,
    StoredEntry,
    StoredRow,
    Updated,
    Vitals,
)
from executor.views import LogLine


class Setup(msgspec.Struct, frozen=True):
    """What a shard process is started with. `path`: its store's directory; `place`: that below the data directory."""

    number: int
    path: str
    place: str
    is_confined: bool
    hash_seed: int
    active_runs_max: int
    sandboxes_max: int
    sandbox_idle_s: float
    retain_complete_s: float
    retain_failed_s: float
    unloads_at_every_wait: bool
    steps_max: int
    journal_bytes_max: int
    history_bytes_max: int
    resident_bytes_max: int
    facet_bytes_max: int
    blobs_bytes_max: int
    log_level: Literal["debug", "info", "warning", "error"]
    log_format: Literal["human", "json"]


class Method:
    """One kind of call: its name and how arguments and answer are written and read."""

    __slots__ = ("_answer", "_arguments", "name")

    def __init__(self, name: str, arguments: Any, answer: Any) -> None:
        self.name = name
        self._arguments = msgspec.msgpack.Decoder(arguments)
        self._answer = msgspec.msgpack.Decoder(answer)

    def arguments(self, data: bytes | msgspec.Raw) -> tuple[Any, ...]:
        """Raises msgspec.DecodeError."""
        found: tuple[Any, ...] = self._arguments.decode(data)
        return found

    def answer(self, data: bytes | msgspec.Raw) -> Any:
        """Raises msgspec.DecodeError."""
        return self._answer.decode(data)


_encoder = msgspec.msgpack.Encoder(enc_hook=str)


def encode(value: Any) -> bytes:
    """Arguments or an answer; an error becomes its JSON shape, whose details are texts where they are no JSON."""
    if isinstance(value, list):
        value = [item.to_json() if isinstance(item, PerdureError) else item for item in value]
    return _encoder.encode(value)


def errors_inward(items: list[Seen | dict[str, Any]]) -> list[Seen | PerdureError]:
    """The answers of start_many, its errors as exceptions again."""
    return [from_json(item) if isinstance(item, dict) else item for item in items]


_KEY = tuple[str, str]
_LINE = tuple[str, tuple[FlowLimit, ...]]

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("start", tuple[Start], Seen),
        Method("start_many", tuple[list[Start]], list[Seen | dict[str, Any]]),
        Method("reschedule", tuple[str, str, bytes, int, str], Seen),
        Method("set_share", tuple[str, Share], None),
        Method("status", _KEY, Seen),
        Method("outcome", tuple[str, str, float | None], Seen),
        Method("send_event", tuple[str, str, str, str, bytes], bool),
        Method("pause", tuple[str, str, str], Seen),
        Method("resume", tuple[str, str, str], Seen),
        Method("terminate", tuple[str, str, bool, str], Seen),
        Method("restart", tuple[str, str, tuple[str, int] | None, str], Seen),
        Method("retry", tuple[str, str, str], Seen),
        Method("set_attributes", tuple[str, str, bytes], Seen),
        Method("delete", _KEY, None),
        Method("delete_tenant", tuple[str], None),
        Method("page", tuple[str, Query, int, str | None], tuple[list[StoredRow], str | None]),
        Method("matches", tuple[str, Query], int),
        Method("counts", tuple[str], dict[str, int]),
        Method("commits", tuple[str], set[str]),
        Method("journal", tuple[str, str, int, int, float], list[StoredEntry]),
        Method("output", tuple[str, str, int, int, float], list[LogLine]),
        Method("image", _KEY, bytes | list[str]),
        Method("blob_part", tuple[str, str, int, int], bytes),
        Method("query", tuple[str, str, str, bytes, int], Queried),
        Method("update", tuple[str, str, str, str, bytes, float], Updated),
        Method("ask", tuple[str, str, str, bytes], bytes),
        Method("streams", _KEY, dict[str, int]),
        Method("stream", tuple[str, str, str, int, int, float], list[Emission]),
        # Both ways: what instances ask of each other goes to the front, and from there to whoever has the other one.
        Method("child_ended", tuple[str, str, ChildEnd], None),
        Method("close_children", tuple[str, str, list[str]], None),
        Method("vitals", tuple[()], Vitals),
        Method("backup", tuple[str], None),
        Method("check", tuple[()], list[str]),
        # The front to a shard process: begin, and end in good order.
        Method("open", tuple[Setup], None),
        Method("stop", tuple[()], None),
        # A shard process to the front, which has the code store: where the bundle of a commit is, and children.
        Method("bundle", _KEY, str),
        Method("start_children", tuple[list[ChildStart]], list[Seen | dict[str, Any]]),
        # What runs begin behind, of all processes together; and the front to one that was refused before.
        Method("take_slot", _LINE, bool),
        Method("give_slot", _LINE, None),
        Method("slot_granted", _LINE, None),
    )
}
