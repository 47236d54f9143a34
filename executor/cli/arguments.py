"""Words of the command line that stand for more than a text: payloads, attributes, directories, a yes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from executor.core.errors import Refused

Payload = Annotated[str, Parameter(allow_leading_hyphen=True)]
"""A lone hyphen means standard input."""


def word(text: str) -> Any:
    """A JSON value, or the text itself where it is none."""
    from executor.core.values import from_json  # noqa: PLC0415 - msgspec; `--help` must not wait for it

    try:
        return from_json(json.loads(text))
    except (ValueError, RecursionError):
        return text


def attribute_of(text: str) -> tuple[str, Any]:
    """A search attribute: NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not equals:
        raise Refused(f"{text!r} is not NAME=VALUE.", hint="For example customer=acme amount=5")
    return name, word(value)


def payload_of(text: str) -> Any:
    """A payload from the command line, in the JSON form that the API takes."""
    from executor.core.values import DEPTH_MAX, from_json  # noqa: PLC0415 - msgspec

    try:
        if text == "-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8")
        return from_json(json.loads(text))
    except RecursionError:
        raise Refused(
            f"payload: nested more than {DEPTH_MAX} deep",
            code="bad_payload",
            hint="Flatten it, or return it as text or bytes.",
        ) from None
    except OSError as error:
        raise Refused(f"The payload's file cannot be read: {error.strerror}.", code="bad_payload") from None
    except ValueError as error:
        hint = """Write JSON, for example '{"email": "a@b.c"}', with quotes around texts."""
        raise Refused(f"The payload is not JSON: {error}.", code="bad_payload", hint=hint) from None


def files_of(directory: Path) -> dict[str, str | bytes]:
    """What a deployment of `directory` consists of: path to content. Raises Refused (`deploy_refused`)."""
    if not directory.is_dir():
        raise Refused(f"There is no directory {directory}.", code="deploy_refused")
    found: dict[str, str | bytes] = {}
    for path in sorted(directory.rglob("*")):
        relative = path.relative_to(directory)
        if any(part.startswith(".") or part == "__pycache__" for part in relative.parts) or path.suffix == ".pyc":
            continue
        if path.is_symlink():
            raise Refused(f"{relative} is a symbolic link.", code="deploy_refused", hint="Deploy regular files only.")
        if path.is_file():
            found[relative.as_posix()] = path.read_bytes()
    if not found:
        raise Refused(f"There are no files in {directory}.", code="deploy_refused")
    return found


def confirm(question: str, wanted: str) -> None:
    """Go on only if somebody types `wanted`. Raises Refused."""
    if not sys.stdin.isatty():
        raise Refused(f"{question} Nobody is there to confirm it.", hint="Add --yes if you mean it.")
    sys.stderr.write(f"{question} Type {wanted} to confirm: ")
    sys.stderr.flush()
    if sys.stdin.readline().strip() != wanted:
        raise Refused("Not confirmed; nothing was done.")
