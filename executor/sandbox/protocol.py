"""Frames between executor and sandbox: their schema, bounds and bytes.

On the wire: a 4-byte big-endian length, then MessagePack of a list of frames. Each frame is an array whose first item
is its tag. Everything that comes from a sandbox is hostile: bounded before it is read, checked against this schema
while it is decoded, never unpickled, and never trusted to name another instance: a run number means something only on
the channel that it was given out on.

One idea carries the protocol: **the sandbox advances only by journal entries that are durable.** The executor sends the
journal, the run goes as far as it can after each entry and asks (Turn) for what it needs next; the executor appends the
answer to the journal, and once that is durable sends it (Entries). Replay and live execution are the same path.

    executor                                            sandbox
      Activate(run, …, total=n) + Entries(run, 1, …)  →   import, replay n entries
                                                      ←   Turn(run, seen=n, commands=[StepDone …], idle=True)
      [append, fsync]
      Entries(run, n+1, [StepSucceeded])              →   the step's future resolves, run() goes on
                                                      ←   Turn(run, seen=n+1, commands=[Sleep …], idle=True)
      [append, fsync; the row says waiting]
      Drop(run)                                       →   forgotten: no coroutine, no memory
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec

from executor.core.commands import Command
from executor.core.failure import ErrorFact

_T = TypeVar("_T")

FRAME_BYTES_MAX = 12 * 1024 * 1024
"""One message: the largest step value (1 MiB) plus the largest facet delta, with room."""
CHUNK_BYTES = 512 * 1024
"""Journals and facet images are sent in messages of about this size, so that neither side buffers much."""
LENGTH_BYTES = 4
FRAMES_MAX = 100_000
COMMANDS_MAX = 100_000
"""Frames of one message, and commands of one Turn, from a sandbox; no honest one comes near."""
PAGE_CHUNKS_MAX = 16
"""Chunks that one NeedPages may ask for, half a MiB; `facets.pages.FETCH_COUNT_MAX` is that much."""
PAGE_CHUNK_MAX = 1 << 20
"""No image has a chunk of this number."""


Stored = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""An integer that a database can hold."""


class Frame(msgspec.Struct, frozen=True, array_like=True, tag_field="frame", gc=False):
    """Base of all frames and commands."""


# --- executor → sandbox


class Activate(Frame, frozen=True, tag=1):
    """Begin a run. `total` journal entries follow in Entries frames; until all are delivered no step executes."""

    run: int
    instance: str
    workflow: str
    commit: str
    total: int
    paused: bool = False


class Entries(Frame, frozen=True, tag=2):
    """Durable journal entries in stored form (`codec.decode`), `first` being the sequence of the first.

    A number among them stands for so many entries that are not for the run (`executor.core.visible`).
    """

    run: int
    first: int
    entries: list[bytes | int]


class Attempt(Frame, frozen=True, tag=3):
    """A retry is due: make attempt number `attempt` of the step at `path`."""

    run: int
    path: str
    attempt: int


class Quiesce(Frame, frozen=True, tag=4):
    """Start no step from now on; steps that execute finish. The run answers with an idle Turn, then is dropped."""

    run: int


class GoOn(Frame, frozen=True, tag=13):
    """A run that was told to start nothing, and whose steps still execute, may start others again."""

    run: int


class Drop(Frame, frozen=True, tag=5):
    """Forget the run now, cancelling what executes. No answer; frames already under way are ignored."""

    run: int


class FacetImage(Frame, frozen=True, tag=6):
    """Answer to NeedFacet, in chunks: `data` begins at `offset` of an image of `total` bytes (0: no facet yet)."""

    run: int
    offset: int
    total: int
    data: bytes


class FacetPages(Frame, frozen=True, tag=8):
    """Answer to NeedFacet for a large facet (`number` 0, its first chunk) and to NeedPages.

    `chunks` are packed (facets/pages.py), from `first` on, fewer than asked for at the end of the image, which has
    `size` bytes and this checksum as of the last durable entry.
    """

    run: int
    number: int
    size: int
    checksum: int
    first: int
    chunks: list[bytes]


class FacetFailed(Frame, frozen=True, tag=9):
    """Answer to NeedFacet (`number` 0) or NeedPages: it cannot be had. The run ends soon."""

    run: int
    number: int
    message: str


class Ping(Frame, frozen=True, tag=7):
    number: int


class Update(Frame, frozen=True, tag=10):
    """A request for the workflow's update handler `name`; answered by the command AcceptUpdate, or by Answer with an
    error if the validator refuses it. Sent to runs that are live only."""

    run: int
    number: int
    id: str
    name: str
    payload: bytes


class Ask(Frame, frozen=True, tag=11):
    """A question for the workflow's query handler `name`; answered by Answer."""

    run: int
    number: int
    name: str
    payload: bytes


class Query(Frame, frozen=True, tag=12):
    """SQL on the facet that NeedFacet then gets: one statement that reads. For a sandbox without code only.

    `parameters`: MessagePack of a list or a map; `limit`: rows wanted. `run`: a number of its own."""

    run: int
    sql: str
    parameters: bytes
    limit: int


class BlobStored(Frame, frozen=True, tag=14):
    """Answer to PutBlob: the parts are durable, or (`message` not "") they were not taken. Always sent, also for a run
    that is dropped."""

    run: int
    number: int
    message: str = ""
    is_too_large: bool = False


class BlobPart(Frame, frozen=True, tag=15):
    """Answer to NeedBlob. `data` None: there is no such part; `message`: why it cannot be read. Always sent."""

    run: int
    number: int
    data: bytes | None
    message: str = ""


ToSandbox = (
    Activate
    | Entries
    | Attempt
    | Quiesce
    | GoOn
    | Drop
    | FacetImage
    | FacetPages
    | FacetFailed
    | Ping
    | Update
    | Ask
    | Query
    | BlobStored
    | BlobPart
)


# --- sandbox → executor


class Ready(Frame, frozen=True, tag=20):
    """The version's code is imported; `workflows` are the classes found."""

    workflows: list[str]


class BootFailed(Frame, frozen=True, tag=21):
    """The version's code cannot be imported; the process ends after this frame."""

    error: ErrorFact


class Turn(Frame, frozen=True, tag=22):
    """What a run asks for after it has seen entries up to `seen`.

    `idle`: nothing executes here and the run cannot go on before another entry comes; after these commands are durable
    the executor may drop it.
    """

    run: int
    seen: int
    commands: Annotated[list[Command], msgspec.Meta(max_length=COMMANDS_MAX)]
    idle: bool


class Output(Frame, frozen=True, tag=23):
    """One captured line. `position` is the entry after which it was printed and `number` counts from 0 within
    (position, step, attempt): the pair makes a line that is printed again after a crash recognisable."""

    run: int
    position: Stored
    number: Stored
    at_ms: Stored
    stream: Literal["stdout", "stderr", "log"]
    level: str
    step: str
    attempt: Stored
    text: str


class NeedFacet(Frame, frozen=True, tag=24):
    """A step used the facet for the first time in this run: answered by FacetImage, or FacetPages for a large one."""

    run: int


class NeedPages(Frame, frozen=True, tag=26):
    """A statement needs chunks of a large facet. `number` counts the requests of the run; one is under way at a time.

    `count` 0: only size and checksum are asked for.
    """

    run: int
    number: int
    first: int
    count: int


class Pong(Frame, frozen=True, tag=25):
    number: int


class Answer(Frame, frozen=True, tag=27):
    """Answer to Ask, or the refusal of an Update. Exactly one of `value` and `error` is set."""

    run: int
    number: int
    value: bytes | None
    error: ErrorFact | None


class PutBlob(Frame, frozen=True, tag=29):
    """Parts of a byte stream, `first` being the number of the first, that an attempt of the step at `path` gives.

    `id`: of the attempt's own. A sandbox sends the next when this one is answered; `number` counts them, of all runs.
    """

    run: int
    number: int
    path: str
    id: int
    first: int
    parts: list[bytes]


class NeedBlob(Frame, frozen=True, tag=30):
    """A step reads a part of a stream. A sandbox asks for the next when this is answered; `number` as in PutBlob."""

    run: int
    number: int
    id: int
    part: int


class QueryAnswer(Frame, frozen=True, tag=28):
    """What the statement gave, or (`code` not "") why it was refused. `is_cut`: there were more rows. The values
    in `rows` are to be None, int, finite float, str or bytes."""

    run: int
    columns: list[str]
    rows: list[list[Any]]
    is_cut: bool
    code: str
    message: str
    hint: str


FromSandbox = (
    Ready | BootFailed | Turn | Output | NeedFacet | NeedPages | Pong | Answer | QueryAnswer | PutBlob | NeedBlob
)


class ProtocolError(Exception):
    """The other side sent bytes that are not of this protocol."""


_encoder = msgspec.msgpack.Encoder()
_to_sandbox = msgspec.msgpack.Decoder(list[ToSandbox])
_Message = Annotated[list[FromSandbox], msgspec.Meta(max_length=FRAMES_MAX)]
_from_sandbox = msgspec.msgpack.Decoder(_Message)
_one_from_sandbox = msgspec.msgpack.Decoder(FromSandbox)
_uncut = msgspec.msgpack.Decoder(Annotated[list[msgspec.Raw], msgspec.Meta(max_length=FRAMES_MAX)])


def encode_message(frames: list[ToSandbox] | list[FromSandbox]) -> bytes:
    """Length and body of one message. Raises ProtocolError if it is over FRAME_BYTES_MAX."""
    body = _encoder.encode(frames)
    if len(body) > FRAME_BYTES_MAX:
        raise ProtocolError(f"a message of {len(body)} bytes is over the limit of {FRAME_BYTES_MAX}")
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def decode_to_sandbox(body: bytes | memoryview) -> list[ToSandbox]:
    """Raises ProtocolError for anything else than a list of ToSandbox frames."""
    return _decode(_to_sandbox, body)


def decode_from_sandbox(body: bytes | memoryview) -> list[FromSandbox]:
    """Raises ProtocolError for anything else than a list of FromSandbox frames."""
    return _decode(_from_sandbox, body)


def cut_from_sandbox(body: bytes) -> list[msgspec.Raw]:
    """The frames of a message, none of them looked at yet: `decode_cut` does that, to some at a time. Raises
    ProtocolError."""
    return _decode(_uncut, body)


def decode_cut(frame: msgspec.Raw) -> FromSandbox:
    """Raises ProtocolError for anything else than a FromSandbox frame."""
    found: FromSandbox = _decode(_one_from_sandbox, memoryview(frame))
    return found


def _decode(decoder: msgspec.msgpack.Decoder[_T], body: bytes | memoryview) -> _T:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ProtocolError(f"a message of {len(body)} bytes does not fit the protocol: {error}") from None
