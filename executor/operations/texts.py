"""Texts among arguments that have no UTF-8 form."""

from __future__ import annotations

from typing import Any

import msgspec

LONE_SURROGATES = "text with lone surrogates, which is not valid Unicode"


def lone_surrogates(arguments: Any) -> str | None:
    """The first place in `arguments` (`.files['a.py']`) with text that has no UTF-8 form; None: there is none.

    Python has such texts from bytes that were no UTF-8 (file names, the command line); JSON sent to the server cannot
    hold them, so only arguments made in Python need this. Payloads are values, and checked as such.
    """
    if isinstance(arguments, str):
        return None if arguments.isascii() or arguments.encode(errors="ignore").decode() == arguments else ""
    places: list[tuple[str, Any]] = []
    if isinstance(arguments, msgspec.Struct):
        names = [name for name in arguments.__struct_fields__ if name != "payload"]
        places = [(f".{name}", getattr(arguments, name)) for name in names]
    elif isinstance(arguments, dict):
        places = [(f"[{key!r}]", part) for key, value in arguments.items() for part in (key, value)]
    elif isinstance(arguments, list):
        places = [(f"[{index}]", item) for index, item in enumerate(arguments)]
    for place, part in places:
        inner = lone_surrogates(part)
        if inner is not None:
            return place + inner
    return None
