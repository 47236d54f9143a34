"""What a journal says of a byte stream: the value of a step with `stream=True`. Its bytes are beside the journal."""

from __future__ import annotations

import msgspec

from executor.core import values
from executor.core.errors import Refused

PART_BYTES = 256 * 1024
"""All parts of a stream but the last are of this size."""
PART_COUNT_MAX = 1 << 20
"""No stream has a part of this number: 256 GiB."""
ID_MAX = (1 << 63) - 1


class Described(msgspec.Struct, frozen=True):
    """`id`: of the blob that its bytes are in, unlike that of any other attempt; `sha256`: of all of it, hex."""

    id: int
    size: int
    sha256: str


def encoded(described: Described) -> bytes:
    return values.encode(msgspec.structs.asdict(described))


def described(value: bytes) -> Described:
    """Raises Refused (`value_refused`) for other bytes."""
    try:
        return msgspec.convert(values.decode(value, what="result"), Described)
    except msgspec.ValidationError as error:
        raise Refused(f"the result is not that of a step with stream=True: {error}", code="value_refused") from None


def named(value: bytes) -> int:
    """The id; 0, which no blob has, for bytes that describe none."""
    try:
        found = described(value).id
    except Refused:
        return 0
    return found if 0 < found <= ID_MAX else 0
