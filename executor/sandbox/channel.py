"""The control socket as a sandbox has it: whole messages in, whole messages out. The host's end is `control.py`."""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections.abc import Callable

from executor.sandbox.protocol import LENGTH_BYTES, FromSandbox, ToSandbox, decode_to_sandbox, encode_message

RECEIVE_BYTES = 128 * 1024


class Channel:
    """The control socket on the loop: whole messages in, whole messages out.

    It reads no further before what it has read is handled, so that one message and one read is all that it holds of the
    executor's. What the executor does not take is kept here, where it counts as the tenant's memory.
    """

    def __init__(self, control: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        control.setblocking(False)
        self._control = control
        self._loop = loop
        self._read = memoryview(bytearray(RECEIVE_BYTES))
        self._begun = bytearray()
        self._outgoing = bytearray()
        self.on_frames: Callable[[list[ToSandbox]], None] = lambda _frames: None
        self.on_end: Callable[[], None] = lambda: os._exit(0)
        loop.add_reader(control, self._readable)

    def send(self, frames: list[FromSandbox]) -> None:
        message = encode_message(frames)
        if self._outgoing:
            self._outgoing += message
            return
        sent = self._send_some(message)
        if sent < len(message):
            self._outgoing += memoryview(message)[sent:]
            self._loop.add_writer(self._control, self._writable)

    def wait(self) -> None:
        """Block until something was received, sending what is due meanwhile."""
        readable, writable, _ = select.select([self._control], [self._control] if self._outgoing else [], [])
        if writable:
            self._writable()
        if readable:
            self._readable()

    def _writable(self) -> None:
        while self._outgoing:
            with memoryview(self._outgoing) as outgoing:
                sent = self._send_some(outgoing)
            if not sent:
                return
            del self._outgoing[:sent]
        self._loop.remove_writer(self._control)

    def _send_some(self, data: bytes | memoryview) -> int:
        try:
            return self._control.send(data)
        except BlockingIOError:
            return 0
        except ConnectionError:  # nobody listens any more: the end is about to be read, and is the end of the process
            return len(data)

    def _readable(self) -> None:
        try:
            count = self._control.recv_into(self._read)
        except BlockingIOError:
            return
        except ConnectionError:
            count = 0
        if not count:
            self.on_end()
            return
        if not self._begun:
            frames, end = _decode(self._read[:count])
            self._begun += self._read[end:count]
        else:
            self._begun += self._read[:count]
            with memoryview(self._begun) as begun:
                frames, end = _decode(begun)
            del self._begun[:end]
        if frames:
            self.on_frames(frames)


def _decode(data: memoryview) -> tuple[list[ToSandbox], int]:
    """The frames of the whole messages in `data`, and where these end."""
    frames: list[ToSandbox] = []
    begin = 0
    while len(data) - begin >= LENGTH_BYTES:
        body = begin + LENGTH_BYTES
        end = body + int.from_bytes(data[begin:body], "big")
        if len(data) < end:
            break
        frames += decode_to_sandbox(data[body:end])
        begin = end
    return frames, begin
