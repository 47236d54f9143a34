"""Write the sync twins of the async sources: `python tools/unasync.py` (or `--check`: exit 1 if one is not current).

Each file of `executor/platform/asynchronous` has its twin in `executor/platform/blocking`. A token-wise translation:
`async def` becomes `def`, `await x` becomes `x`, and names change by the table below. The async source is the only one
that people edit.
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = "executor/platform/asynchronous"
TWINS = "executor/platform/blocking"
NAMES = {
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "aclose": "close",
    "asynchronous": "blocking",
}
HEADER = "# Generated from {source} by tools/unasync.py. Edit that file, and run the tool.\n"


def translate(source: str, *, name: str) -> str:
    """The sync twin of `source`."""
    out: list[str] = []
    line, column = 1, 0
    lines = source.splitlines(keepends=True)
    skip_space = False
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        start_line, start_column = token.start
        gap = _between(lines, (line, column), token.start)
        line, column = token.end
        if skip_space:
            gap = gap.lstrip(" ")
            skip_space = False
        out.append(gap)
        if token.type == tokenize.NAME and token.string in ("async", "await"):
            skip_space = True
            continue
        out.append(_text(token))
        assert (start_line, start_column) == token.start
    return _formatted(HEADER.format(source=name) + "".join(out))


def _formatted(text: str) -> str:
    """As `ruff format` and import sorting leave it: shorter names fit on fewer lines, in another order."""
    for command in (["check", "--select", "I", "--fix", "--quiet"], ["format", "--quiet"]):
        text = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(ROOT / TWINS / "twin.py"), "-"],
            input=text,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    return text


def _text(token: tokenize.TokenInfo) -> str:
    if token.type == tokenize.NAME:
        return NAMES.get(token.string, re.sub(r"^Async(?=[A-Z])", "", token.string))
    if token.type == tokenize.COMMENT and "ASYNC" in token.string:
        return ""  # an exception from a lint rule that concerns coroutines only
    if token.type in (tokenize.STRING, tokenize.COMMENT):
        return re.sub(r"\bAsync(?=[A-Z])", "", token.string)
    return token.string


def _between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    """The source text between two positions: spaces, and continued lines."""
    if start[0] == end[0]:
        return lines[start[0] - 1][start[1] : end[1]] if start[0] <= len(lines) else ""
    text = lines[start[0] - 1][start[1] :] if start[0] <= len(lines) else ""
    text += "".join(lines[start[0] : end[0] - 1])
    return text + (lines[end[0] - 1][: end[1]] if end[0] <= len(lines) else "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a twin is not current")
    arguments = parser.parse_args()
    sources = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / SOURCES).glob("*.py")}
    wanted = {name: translate(source, name=f"{SOURCES}/{name}") for name, source in sources.items()}
    found = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / TWINS).glob("*.py")}
    stale = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    for name in stale:
        path = ROOT / TWINS / name
        if arguments.check:
            print(f"{TWINS}/{name} is not current")
        elif name in wanted:
            path.parent.mkdir(exist_ok=True)
            path.write_text(wanted[name], encoding="utf-8")
            print(f"wrote {TWINS}/{name}")
        else:
            path.unlink()
            print(f"removed {TWINS}/{name}")
    return 1 if stale and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
