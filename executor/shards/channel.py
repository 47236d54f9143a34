"""Channel: calls and answers between two processes of one executor, over a socket pair.

    frame     u32 big-endian length, then a MessagePack array of messages
    message   [1, number, method, arguments]   call
              [2, number, value]               answer
              [3, number, error]               failure, in the JSON shape of errors; number 0: the sender's end
              [4, number]                      cancel: nobody waits for that answer any more
              [5, stream, bytes, is_last]      part of a message too long for one frame

Everything said within one turn of the event loop goes in one frame and one system call; so does what is read.

What is bounded:
- calls under way and the bytes of their arguments, by the caller: one more is refused as `busy`, at once. So what
  waits to be sent there is bounded too.
- answers: there are no more of them than calls. Whoever makes large ones waits for `room` first, so a peer that does
  not read holds up those who make them, and costs ROOM_BYTES and what is being made.
- a message is cut into parts that take turns with what is short, so an image of megabytes delays no start.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
import outcome
import trio
from trio.lowlevel import Abort, ParkingLot, Task, reschedule, wait_task_rescheduled

from executor.core.errors import PerdureError, Unavailable, from_json
from executor.shards.calls import METHODS, encode

READ_BYTES = 256 * 1024
FRAME_BYTES = 512 * 1024
PART_BYTES = 256 * 1024
ROOM_BYTES = 8 * 1024 * 1024
MESSAGE_BYTES_MAX = 1 << 30
CALLS_MAX = 100_000
CALL_BYTES_MAX = 256 * 1024 * 1024


class Call(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    number: int
    method: str
    arguments: msgspec.Raw


class Answer(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
    number: int
    value: msgspec.Raw


class Failure(msgspec.Struct, frozen=True, array_like=True, tag=3):
    number: int
    error: dict[str, Any]


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag=4, gc=False):
    number: int


class Part(msgspec.Struct, frozen=True, array_like=True, tag=5, gc=False):
    stream: int
    data: bytes
    is_last: bool


Message = Call | Answer | Failure | Cancel | Part

_encoder = msgspec.msgpack.Encoder(enc_hook=str)
_frame_decoder = msgspec.msgpack.Decoder(list[Message])
_message_decoder = msgspec.msgpack.Decoder(Message)

OnCalls = Callable[[list[Call]], None]
OnCancel = Callable[[int], None]


class _Pending:
    __slots__ = ("size", "task")

    def __init__(self, task: Task, size: int) -> None:
        self.task = task
        self.size = size


class Channel:
    """One end. `run` carries; `call` may be used while it runs.

    `on_calls` gets all calls of one read at once; each is to be answered by `answer` or `fail`. `on_cancel` gets the
    numbers of calls that nobody waits for any more. `lost`: what callers are told when the other end is gone.
    """

    def __init__(
        self,
        ours: socket.socket,
        *,
        on_calls: OnCalls,
        on_cancel: OnCancel,
        lost: Unavailable,
        calls_max: int = CALLS_MAX,
        bytes_max: int = CALL_BYTES_MAX,
    ) -> None:
        ours.setblocking(False)
        self._socket = ours
        self._on_calls = on_calls
        self._on_cancel = on_cancel
        self._lost = lost
        self._calls_max = calls_max
        self._bytes_max = bytes_max
        self._pending: dict[int, _Pending] = {}
        self._pending_bytes = 0
        self._number = 0
        self._stream = 0
        self._outbox: deque[bytes] = deque()
        self._large: deque[tuple[int, memoryview]] = deque()
        self._out_bytes = 0
        self._writer = ParkingLot()
        self._waits_for_room = ParkingLot()
        self._parts: dict[int, bytearray] = {}
        self.is_over = False
        self.end: PerdureError | None = None
        """Why the other end is going away, if it said so."""

    # --- for callers

    async def call(self, name: str, *arguments: Any) -> Any:
        """Raises what the other end raised, and Unavailable (`busy`: too much is under way; or the other end is gone).

        A caller that is cancelled goes away at once, and the other end is told.
        """
        if self.is_over:
            raise self._gone()
        method = METHODS[name]
        data = encode(arguments)
        size = len(data)
        if len(self._pending) >= self._calls_max:
            raise _full("calls", len(self._pending), self._calls_max)
        if self._pending_bytes + size > self._bytes_max and self._pending:
            raise _full("bytes", self._pending_bytes, self._bytes_max)
        self._number = number = self._number + 1
        self._pending[number] = _Pending(trio.lowlevel.current_task(), size)
        self._pending_bytes += size
        self._post(_encoder.encode(Call(number, name, msgspec.Raw(data))))

        def abort(_raise_cancel: object) -> Abort:
            self._settle(number)
            self._post(_encoder.encode(Cancel(number)))
            return Abort.SUCCEEDED

        return method.answer(await wait_task_rescheduled(abort))

    def tell(self, name: str, *arguments: Any) -> None:
        """A call that nobody waits for; nothing if the other end is gone. Whoever tells bounds how much."""
        self._number += 1
        self._post(_encoder.encode(Call(self._number, name, msgspec.Raw(encode(arguments)))))

    def answer(self, number: int, value: Any) -> None:
        """Answer call `number`."""
        self._post(_encoder.encode(Answer(number, msgspec.Raw(encode(value)))))

    def fail(self, number: int, error: PerdureError) -> None:
        """Answer call `number` with an error; 0: this end is going away because of it."""
        self._post(_encoder.encode(Failure(number, error.to_json())))

    async def room(self) -> None:
        """Wait until the other end has taken most of what was said."""
        while self._out_bytes > ROOM_BYTES and not self.is_over:
            await self._waits_for_room.park()

    # --- carrying

    async def run(self) -> None:
        """Carry messages until the other end is gone; then all who wait are told. Closes the socket."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                await self._read()
                nursery.cancel_scope.cancel()
        finally:
            self.is_over = True
            self._socket.close()
            self._waits_for_room.unpark_all()
            pending, self._pending = self._pending, {}
            for waiting in pending.values():
                reschedule(waiting.task, outcome.Error(self._gone()))

    async def flushed(self) -> None:
        """Wait until all that was said is with the kernel, or cannot be any more."""
        while (self._outbox or self._large or self._out_bytes) and not self.is_over:
            await trio.lowlevel.checkpoint()

    def _gone(self) -> PerdureError:
        lost = self._lost
        return Unavailable(lost.message, code=lost.code, hint=lost.hint, **lost.details)

    def _settle(self, number: int) -> _Pending | None:
        waiting = self._pending.pop(number, None)
        if waiting is not None:
            self._pending_bytes -= waiting.size
        return waiting

    def _post(self, message: bytes) -> None:
        if self.is_over:
            return
        self._out_bytes += len(message)
        if len(message) > PART_BYTES:
            self._stream += 1
            self._large.append((self._stream, memoryview(message)))
        else:
            self._outbox.append(message)
        self._writer.unpark()

    def _frame(self) -> tuple[bytes, int]:
        """The next frame, and how much of what was posted is in it."""
        messages: list[bytes] = []
        size = 0
        while self._outbox and size < FRAME_BYTES:
            message = self._outbox.popleft()
            messages.append(message)
            size += len(message)
        if self._large and size < FRAME_BYTES:
            stream, rest = self._large.popleft()
            data, rest = rest[:PART_BYTES], rest[PART_BYTES:]
            messages.append(_encoder.encode(Part(stream, bytes(data), not rest)))
            size += len(data)
            if rest:
                self._large.append((stream, rest))  # the others have their turn
        count = len(messages)
        head = bytes((0x90 | count,)) if count < 16 else b"\xdd" + count.to_bytes(4, "big")
        body = b"".join(messages)
        return b"".join(((len(head) + len(body)).to_bytes(4, "big"), head, body)), size

    async def _write(self) -> None:
        try:
            while True:
                while self._outbox or self._large:
                    frame, size = self._frame()
                    view = memoryview(frame)
                    while view:
                        try:
                            view = view[self._socket.send(view) :]
                        except BlockingIOError:
                            await trio.lowlevel.wait_writable(self._socket)
                    self._out_bytes -= size
                    if self._waits_for_room and self._out_bytes <= ROOM_BYTES:
                        self._waits_for_room.unpark_all()
                    if self._large:
                        await trio.lowlevel.cancel_shielded_checkpoint()  # so that what is short comes in between
                await self._writer.park()
        except (BrokenPipeError, ConnectionResetError):
            return  # the reader sees the end too

    async def _read(self) -> None:
        buffer = bytearray()
        while True:
            # A checkpoint each time: a peer that always has more to say must not keep the loop to itself.
            await trio.lowlevel.wait_readable(self._socket)
            try:
                data = self._socket.recv(READ_BYTES)
            except BlockingIOError:
                continue
            except ConnectionResetError:
                return
            if not data:
                return
            buffer += data
            at = 0
            while len(buffer) - at >= 4:
                end = at + 4 + int.from_bytes(buffer[at : at + 4], "big")
                if end > len(buffer):
                    break
                self._take(bytes(memoryview(buffer)[at + 4 : end]))
                at = end
            if at:
                del buffer[:at]

    def _take(self, frame: bytes) -> None:
        calls: list[Call] = []
        for message in _frame_decoder.decode(frame):
            whole = self._joined(message) if isinstance(message, Part) else message
            if isinstance(whole, Answer):
                waiting = self._settle(whole.number)
                if waiting is not None:
                    reschedule(waiting.task, outcome.Value(whole.value))
            elif isinstance(whole, Call):
                calls.append(whole)
            elif isinstance(whole, Cancel):
                if calls:  # they came before it
                    self._on_calls(calls)
                    calls = []
                self._on_cancel(whole.number)
            elif isinstance(whole, Failure):
                self._take_failure(whole)
        if calls:
            self._on_calls(calls)

    def _take_failure(self, failure: Failure) -> None:
        error = from_json(failure.error)
        if not failure.number:
            self.end = error
            return
        waiting = self._settle(failure.number)
        if waiting is not None:
            reschedule(waiting.task, outcome.Error(error))

    def _joined(self, part: Part) -> Message | None:
        """The message that the last part completes."""
        parts = self._parts.setdefault(part.stream, bytearray())
        parts += part.data
        assert len(parts) <= MESSAGE_BYTES_MAX, "a message of this size is nobody's"
        if not part.is_last:
            return None
        del self._parts[part.stream]
        whole: Message = _message_decoder.decode(bytes(parts))
        return whole


def _full(what: str, found: int, limit: int) -> Unavailable:
    return Unavailable(
        f"a shard process is at its bound of {what} under way: {found} of {limit}",
        code="busy",
        hint="Try again after a second.",
        retry_after_s=1,
        full=what,
        limit=limit,
    )
