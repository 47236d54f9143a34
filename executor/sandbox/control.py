"""The host's end of a sandbox's control socket: messages out, frames in, and what either side holds for the other.

Who holds what, at most, whatever the sandbox does:
- from the sandbox: nothing is read before somebody receives. So all that the host holds is the beginning of one message
  (`frame_bytes_max`; one that is longer is refused by its length, before its body is kept), or a whole one of which not
  all parts are taken, and one read (READ_BYTES).
  The rest stays in the kernel's buffer of the socket, and stops the sandbox when that is full.
- for the sandbox: one message, until it is taken; who has more to send waits. Since when nothing of it was taken is
  `blocked_since_s`, so that a sandbox that takes nothing can be ended for it.
- in the sandbox: the kernel's buffer, and one message.
The host never calls recvmsg: descriptors cannot come in.

The rule costs little: a message for which the kernel has room is sent by one system call, without waiting; and messages
that came together are received by one, after one wait.
"""

from __future__ import annotations

import socket
from collections import deque

import msgspec
import trio

from executor.sandbox import protocol

READ_BYTES = 256 * 1024
PART_BYTES = 64 * 1024
"""Of a larger message so much is decoded at a time: a few bytes are an object, and decoding holds everybody up."""
_read_buffer = memoryview(bytearray(READ_BYTES))
"""Of all sockets: what a read brings is decoded, or kept apart, before anything else happens."""


class ControlSocket:
    """Frames over one stream socket. One task receives at a time; any number send."""

    def __init__(self, control: socket.socket, *, frame_bytes_max: int) -> None:
        control.setblocking(False)
        self.blocked_since_s: float | None = None
        self.is_cut = False
        """Half a message was sent and will never be finished: nothing can follow it."""
        self._socket = control
        self._bytes_max = min(frame_bytes_max, protocol.FRAME_BYTES_MAX)
        self._begun = bytearray()
        self._parts: deque[msgspec.Raw] = deque()
        self._turns = trio.StrictFIFOLock()

    @property
    def held_bytes(self) -> int:
        """Bytes received that are not a whole message yet."""
        return len(self._begun)

    async def send(self, message: bytes) -> None:
        """Send one message (`protocol.encode_message`), whole and in order. A checkpoint only if it has to wait.

        Raises OSError or trio.ClosedResourceError if the other side is gone. Cancelled in the middle it `is_cut`.
        """
        left = memoryview(message)
        if self._turns.locked():
            await self._turns.acquire()
        else:
            left = left[self._send_some(left) :]
            if not left:
                return
            self._turns.acquire_nowait()
        try:
            self.blocked_since_s = trio.current_time()
            while left:
                await trio.lowlevel.wait_writable(self._open_fd())
                taken = self._send_some(left)
                if taken:
                    left = left[taken:]
                    self.blocked_since_s = trio.current_time()
        finally:
            self.is_cut = 0 < len(left) < len(message)
            self.blocked_since_s = None
            self._turns.release()

    def _open_fd(self) -> int:
        fd = self._socket.fileno()
        if fd < 0:
            raise trio.ClosedResourceError("the control socket is closed")
        return fd

    def _send_some(self, data: memoryview) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0

    async def receive(self) -> list[protocol.FromSandbox]:
        """The frames of what has come, at least one; none at all: the other side has closed. A checkpoint.

        Raises ProtocolError, and trio.ClosedResourceError.
        """
        while True:
            if self._parts:
                await trio.lowlevel.checkpoint()
            else:
                await trio.lowlevel.wait_readable(self._open_fd())
            frames = self.read()
            if frames is None:
                return []
            if frames:
                return frames

    def read(self) -> list[protocol.FromSandbox] | None:
        """One read: the frames of all messages that are whole with it; None at the end. Raises ProtocolError.

        Of a large message they come in parts, before anything else is read.
        """
        if self._parts:
            return self._part()
        try:
            count = self._socket.recv_into(_read_buffer)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not count:
            return None
        if not self._begun:
            frames, end = self._decode(_read_buffer[:count])
            self._begun += _read_buffer[end:count]
            return frames
        self._begun += _read_buffer[:count]
        with memoryview(self._begun) as begun:
            frames, end = self._decode(begun)
        del self._begun[:end]
        return frames

    def _decode(self, data: memoryview) -> tuple[list[protocol.FromSandbox], int]:
        """The frames of the whole messages in `data`, and where these end."""
        frames: list[protocol.FromSandbox] = []
        begin = 0
        while len(data) - begin >= protocol.LENGTH_BYTES:
            body = begin + protocol.LENGTH_BYTES
            length = int.from_bytes(data[begin:body], "big")
            if length > self._bytes_max:
                raise protocol.ProtocolError(f"a message of {length} bytes is over the limit of {self._bytes_max}")
            if len(data) < body + length:
                break
            if self._parts or length > PART_BYTES:
                self._parts.extend(protocol.cut_from_sandbox(bytes(data[body : body + length])))
            else:
                frames += protocol.decode_from_sandbox(data[body : body + length])
            begin = body + length
        return frames, begin

    def _part(self) -> list[protocol.FromSandbox]:
        frames: list[protocol.FromSandbox] = []
        size = 0
        while self._parts and size < PART_BYTES:
            part = self._parts.popleft()
            size += len(memoryview(part))
            frames.append(protocol.decode_cut(part))
        return frames

    def has_unread(self) -> bool:
        """Something has come that nobody has received yet."""
        if self._parts:
            return True
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK))
        except OSError:  # BlockingIOError among them
            return False

    def close(self) -> None:
        """Whoever sends or receives is told so. Idempotent."""
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
