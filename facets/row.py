"""Rows of a facet: tuples that also answer to column names."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar, SupportsIndex, TypeAlias, overload

Value: TypeAlias = int | float | str | bytes | None


class Row(tuple[Any, ...]):
    """One row: `row[0]`, `row["name"]`, `row.keys()`, `dict(row)`; unpacks and compares like the tuple that it is.

    Names match exactly or, failing that, without regard to case; of two columns of one name the first is meant. Values
    are None, int, float, str or bytes; they are typed `Any` because the schema that knows them is the tenant's.
    """

    __slots__ = ()
    _names: ClassVar[tuple[str, ...]] = ()
    _places: ClassVar[dict[str, int]] = {}

    @overload
    def __getitem__(self, key: SupportsIndex | str) -> Any: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[Any, ...]: ...
    def __getitem__(self, key: SupportsIndex | str | slice) -> Any:
        if isinstance(key, str):
            place = self._places.get(key)
            if place is None:
                place = self._places.get(key.lower())
            if place is None:
                raise KeyError(f"no column {key!r}; there are: {', '.join(self._names)}")
            return tuple.__getitem__(self, place)
        return tuple.__getitem__(self, key)

    def keys(self) -> tuple[str, ...]:
        """Column names, in their order."""
        return self._names

    def __repr__(self) -> str:
        return f"Row({', '.join(f'{name}={value!r}' for name, value in zip(self._names, self, strict=True))})"

    def __reduce__(self) -> tuple[Any, ...]:
        # Classes are made per statement, so a copy is rebuilt from its names rather than found by its class's name.
        return _rebuild, (self._names, tuple(self))


@lru_cache(maxsize=256)
def row_class(names: tuple[str, ...]) -> type[Row]:
    """The class of rows with these columns."""
    places: dict[str, int] = {}
    for place, name in enumerate(names):
        places.setdefault(name, place)
    for place, name in enumerate(names):
        places.setdefault(name.lower(), place)
    return type("Row", (Row,), {"__slots__": (), "_names": names, "_places": places})


def _rebuild(names: tuple[str, ...], values: tuple[Value, ...]) -> Row:
    return row_class(names)(values)
