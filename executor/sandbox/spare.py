"""Spare children: forked in advance, confined but for the last layer, waiting to be given one tenant's bundle.

What every sandbox needs and no tenant has a say in (descriptors, session, kernel limits, Landlock, the loop, the step
threads, a rehearsal) takes most of a cold start. A spare has done all that and waits on a socket pair of its own for
the descriptors of one request; then it closes that socket, puts on seccomp, proves the layers and goes on like any
child.

Invariants:
- No byte of tenant code has run in a spare before seccomp is on and proved, so waiting without it is safe: all that it
  runs until then is our own, and nobody but the zygote can reach it. Seccomp cannot come first, as it refuses the very
  recvmsg by which the descriptors come.
- A spare serves one request and is never put back. It was forked when no request was being answered, so it holds
  nothing of any tenant, and it is told nothing: with the word come the descriptors, and nothing else.
- A spare was made for certain limits. A request for others is served by a plain fork.
- Only a spare that has said itself that it is prepared is used. One that fails before ends, and a plain fork, which has
  somewhere to write, then tells why.
- Spares die with the zygote, as all children do.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence
from typing import Any

from executor.sandbox import confine

_PREPARED = b"prepared"
_GO = b"go"
_DESCRIPTORS_MAX = 3
OPEN_FILES_MIN = 16
"""Limits on open files below this leave no room for the descriptors while they change places: no spares then."""


class Spare:
    """The zygote's side of one spare: its process, and the limits it was made for."""

    def __init__(self, pid: int, pidfd: int, channel: socket.socket, made_for: dict[str, Any]) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self._channel = channel
        self._made_for = made_for
        self._is_prepared = False

    def fits(self, wanted: dict[str, Any]) -> bool:
        return wanted == self._made_for

    @property
    def is_prepared(self) -> bool:
        """It has said so."""
        if not self._is_prepared:
            with contextlib.suppress(OSError):  # BlockingIOError: not yet; others: it is gone
                self._is_prepared = self._channel.recv(len(_PREPARED), socket.MSG_DONTWAIT) == _PREPARED
        return self._is_prepared

    def hand_over(self, fds: Sequence[int]) -> bool:
        """Give it the descriptors of a request: control socket, standard error and, if any, bundle. Once.

        False if it is gone; then it has received nothing.
        """
        with self._channel:
            try:
                socket.send_fds(self._channel, [_GO], list(fds))
            except OSError:
                return False
        return True

    def close(self) -> None:
        """Let go of its channel; it ends by itself if it still waits."""
        self._channel.close()


def await_request(channel: socket.socket) -> tuple[socket.socket, bool]:
    """In the spare, whose descriptors are (null, null, null, channel, null): wait, then put what came in its place.

    Returns the control socket and whether there is a bundle. The channel is closed. Ends the process if the zygote
    has no use for it any more. Raises ConfinementFailed.
    """
    channel.send(_PREPARED)
    word, fds, flags, _ = socket.recv_fds(channel, len(_GO), _DESCRIPTORS_MAX)
    if not word:
        os._exit(0)
    if word != _GO or flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC) or len(fds) not in (2, _DESCRIPTORS_MAX):
        raise confine.ConfinementFailed("descriptor", "a spare was handed something else than its descriptors")
    channel.detach()  # its number is about to be the control socket's
    confine.take_places(*fds)
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, confine.CONTROL_FD), len(fds) == _DESCRIPTORS_MAX
