"""What goes into a facet and what comes out: values, parameters, and rows that also answer to column names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, SupportsIndex, TypeAlias, overload

from facets.errors import Refused

Value: TypeAlias = int | float | str | bytes | None
Parameters: TypeAlias = Sequence[Value] | Mapping[str, Value]


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


def checked(parameters: Parameters) -> Parameters:
    """The parameters, if each is a value that a facet can hold."""
    if isinstance(parameters, str | bytes | bytearray) or not isinstance(parameters, Sequence | Mapping):
        raise Refused(
            f"Parameters are a sequence or a mapping, not {type(parameters).__name__}.",
            code="facet_parameters",
            hint="For a single value write (value,).",
        )
    for value in parameters.values() if isinstance(parameters, Mapping) else parameters:
        if value is None or isinstance(value, int | str | bytes):
            continue
        if not isinstance(value, float):
            raise _bad_value(f"A facet holds None, int, float, str and bytes, not {type(value).__name__}.")
        if math.isnan(value):
            raise _bad_value("A facet cannot hold NaN: SQLite would store NULL.")
    return parameters


def _bad_value(message: str) -> Refused:
    return Refused(message, code="facet_value", hint="Convert it: json.dumps(), .isoformat(), str(), float().")
