"""How hostile names are written in messages: one line, no control characters, bounded length."""

from __future__ import annotations

_SHOWN_CHARACTERS_MAX = 200


def shown(name: bytes | str) -> str:
    r"""`name` for a person's terminal: control characters and invalid UTF-8 as `\x..`, the middle of long ones cut."""
    text = name.decode(errors="backslashreplace") if isinstance(name, bytes) else name
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
    if len(text) > _SHOWN_CHARACTERS_MAX:
        half = _SHOWN_CHARACTERS_MAX // 2
        text = f"{text[:half]}…{text[-half:]}"
    return text
