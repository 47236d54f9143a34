"""Lines: what `run.logs()` and `run.stream()` give, sync and async: a list, or with follow=True items as they come."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar, overload

T = TypeVar("T")
_T_co = TypeVar("_T_co", covariant=True)

FOLLOW_WAIT_S = 20.0
PAGE = 1000


class Read(Protocol[_T_co]):
    """One page of lines from a cursor on, waiting up to `wait_s` for the first."""

    def __call__(self, *, after: int, limit: int, wait_s: float) -> Sequence[_T_co]: ...


class AsyncRead(Protocol[_T_co]):
    def __call__(self, *, after: int, limit: int, wait_s: float) -> Awaitable[Sequence[_T_co]]: ...


class Lines(Sequence[T]):
    """The list of all lines that there are when it is first looked at. `cursor`: where the next one after a line is.

    With follow=True it is no list: iterating goes on, waiting for further lines, until the instance has ended.
    """

    def __init__(
        self, read: Read[T], is_final: Callable[[], bool], *, follow: bool, after: int, cursor: Callable[[T], int]
    ) -> None:
        self._read = read
        self._is_final = is_final
        self._follow = follow
        self._after = after
        self._cursor = cursor
        self._all: list[T] | None = None

    def __iter__(self) -> Iterator[T]:
        return self._lines() if self._follow else iter(self._read_all())

    def _lines(self) -> Iterator[T]:
        after, ending = self._after, False
        while True:
            wait_s = FOLLOW_WAIT_S if self._follow and not ending else 0.0
            lines = self._read(after=after, limit=PAGE, wait_s=wait_s)
            yield from lines
            if lines:
                after = self._cursor(lines[-1])
            elif not self._follow or ending:
                return
            else:
                # Lines may have come between the empty answer and the end: one more look after the end is seen.
                ending = self._is_final()

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        return self._read_all()[index]

    def __len__(self) -> int:
        return len(self._read_all())

    def __eq__(self, other: object) -> bool:
        return self._read_all() == other if isinstance(other, list) else self is other

    __hash__ = None  # type: ignore[assignment]  # it compares like the list that it stands for

    def __repr__(self) -> str:
        return "Lines(follow=True)" if self._follow else repr(self._read_all())

    def _read_all(self) -> list[T]:
        if self._all is None:
            if self._follow:
                raise TypeError("lines that are followed have no length; iterate over them")
            self._all = list(self._lines())
        return self._all


class AsyncLines(Generic[T]):
    """`await run.logs()` gives the list; `async for line in run.logs(follow=True)` each line as it comes."""

    def __init__(
        self,
        read: AsyncRead[T],
        is_final: Callable[[], Awaitable[bool]],
        *,
        follow: bool,
        after: int,
        cursor: Callable[[T], int],
    ) -> None:
        self._read = read
        self._is_final = is_final
        self._follow = follow
        self._after = after
        self._cursor = cursor

    async def __aiter__(self) -> AsyncIterator[T]:
        after, ending = self._after, False
        while True:
            wait_s = FOLLOW_WAIT_S if self._follow and not ending else 0.0
            lines = await self._read(after=after, limit=PAGE, wait_s=wait_s)
            for line in lines:
                yield line
            if lines:
                after = self._cursor(lines[-1])
            elif not self._follow or ending:
                return
            else:
                ending = await self._is_final()

    def __await__(self) -> Generator[Any, Any, list[T]]:
        return self._read_all().__await__()

    async def _read_all(self) -> list[T]:
        return [line async for line in self]
