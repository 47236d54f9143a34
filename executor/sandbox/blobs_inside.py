"""Bytes of streams on their way to the executor and back, for all runs of the process.

One portion is under way at a time, and one part that is read: the next is sent when the executor has answered, which it
does when the portion is durable. So neither side ever holds more of a stream than that, however many are written at
once. A step thread waits for the answer; an async step awaits it, or, where it reads as a sync one does,
stops everything.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from executor.core.errors import Refused
from executor.sandbox.protocol import BlobPart, BlobStored, NeedBlob, PutBlob

Answer = BlobStored | BlobPart
_HINT = "Give less, or keep it outside and return a reference; self.continue_as_new() lets go of the streams so far."


class Host(Protocol):
    """What is needed of the process. `wait_for` blocks the main thread until it is so."""

    def need(self, question: PutBlob | NeedBlob) -> None: ...

    def wait_for(self, is_so: Callable[[], bool]) -> None: ...

    def call_on_loop(self, callback: Callable[[], object]) -> None: ...


class _Question:
    """Asked on the main thread; waited for anywhere."""

    def __init__(self, make: Callable[[int], PutBlob | NeedBlob]) -> None:
        self.make = make
        self.number = 0
        self.answer: Answer | None = None
        self.is_answered = threading.Event()
        self.future: asyncio.Future[None] | None = None

    def end(self, answer: Answer) -> None:
        self.answer = answer
        self.is_answered.set()
        if self.future is not None and not self.future.done():
            self.future.set_result(None)


class _Lane:
    """Questions of a kind, one after the other. Main thread."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._waiting: deque[_Question] = deque()
        self._asked: _Question | None = None
        self._number = 0

    def ask(self, question: _Question) -> None:
        self._waiting.append(question)
        self._next()

    def take(self, answer: Answer) -> None:
        asked = self._asked
        if asked is not None and asked.number == answer.number:
            self._asked = None
            asked.end(answer)
            self._next()

    def _next(self) -> None:
        if self._asked is None and self._waiting:
            self._asked = question = self._waiting.popleft()
            self._number += 1
            question.number = self._number
            self._host.need(question.make(self._number))


class Blobs:
    """Of the process. `put` and `part` may be called in any thread, the rest on the main thread."""

    def __init__(self, host: Host, *, wait_s: float) -> None:
        self._host = host
        self._wait_s = wait_s
        self._puts, self._needs = _Lane(host), _Lane(host)

    def take(self, answer: Answer) -> None:
        """A frame of the executor's."""
        (self._puts if isinstance(answer, BlobStored) else self._needs).take(answer)

    def put(self, run: int, path: str, id: int, first: int, parts: Sequence[bytes]) -> None:
        """Durable on return. Raises Refused (`payload_too_large`), OSError."""
        question = _Question(lambda number: PutBlob(run, number, path, id, first, list(parts)))
        _stored(self._ask(self._puts, question))

    async def put_async(self, run: int, path: str, id: int, first: int, parts: Sequence[bytes]) -> None:
        """As `put`, for the loop."""
        question = _Question(lambda number: PutBlob(run, number, path, id, first, list(parts)))
        question.future = asyncio.get_running_loop().create_future()
        self._puts.ask(question)
        await question.future
        _stored(question.answer)

    def part(self, run: int, id: int, part: int) -> bytes | None:
        """A part of a stream; None: there is none. Raises OSError."""
        return _read(self._ask(self._needs, _Question(lambda number: NeedBlob(run, number, id, part))))

    async def part_async(self, run: int, id: int, part: int) -> bytes | None:
        """As `part`, for the loop."""
        question = _Question(lambda number: NeedBlob(run, number, id, part))
        question.future = asyncio.get_running_loop().create_future()
        self._needs.ask(question)
        await question.future
        return _read(question.answer)

    def _ask(self, lane: _Lane, question: _Question) -> Answer | None:
        if threading.current_thread() is threading.main_thread():
            lane.ask(question)
            self._host.wait_for(lambda: question.answer is not None)
        else:
            self._host.call_on_loop(lambda: lane.ask(question))
            question.is_answered.wait(self._wait_s)
        return question.answer


def _stored(answer: Answer | None) -> None:
    if isinstance(answer, BlobStored) and not answer.message:
        return
    if isinstance(answer, BlobStored) and answer.is_too_large:
        raise Refused(answer.message.rstrip("."), code="payload_too_large", hint=_HINT)
    raise OSError(f"a stream cannot be written: {_message(answer)}")


def _read(answer: Answer | None) -> bytes | None:
    if not isinstance(answer, BlobPart) or answer.message:
        raise OSError(f"a stream cannot be read: {_message(answer)}")
    return answer.data


def _message(answer: Answer | None) -> str:
    return "the executor did not answer in time" if answer is None else answer.message
