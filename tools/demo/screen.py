"""What the demonstration prints: plain when piped, colored in a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tools.demo.claims import Claims

WIDTH_PIPED = 110


class Screen:
    def __init__(self) -> None:
        console = Console(highlight=False)
        self._console = console if console.is_terminal else Console(highlight=False, width=WIDTH_PIPED)
        self._began = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def title(self, text: str) -> None:
        self._print(Text(text, "bold"))

    def act(self, text: str) -> None:
        self._print(Text.assemble(("\n▌ ", "cyan"), (text, "bold cyan"), (f"   {self.elapsed_s:.1f} s", "dim")))

    def say(self, text: str) -> None:
        self._print(Text(f"  {text}"))

    def alarm(self, text: str) -> None:
        self._print(Text(f"  {text}", "bold red"))

    def shell(self, command: str, lines: Iterable[str]) -> None:
        """A command and what it printed."""
        self._print(Text.assemble(("  $ ", "dim"), (command, "bold")))
        for line in lines:
            self._print(Text(f"  {line}", "green" if line.startswith("remote:") else "dim"))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="dim")
        for column in columns:
            table.add_column(column)
        for row in rows:
            table.add_row(*[cell if isinstance(cell, Text) else Text(str(cell)) for cell in row])
        self._console.print(Padding(table, (0, 0, 0, 2), expand=False))

    def verdict(self, claims: Claims) -> None:
        """The final table, and one line."""
        self.act("What was claimed, and what was found")
        self.table(
            ("", "claim", "found"),
            [
                (
                    Text("ok" if c.holds else "FAILED", "bold green" if c.holds else "bold red"),
                    c.text,
                    Text(c.found, "dim"),
                )
                for c in claims.all
            ],
        )
        count, failed = len(claims.all), len(claims.failed)
        if failed:
            self.alarm(f"{failed} of {count} claims FAILED, in {self.elapsed_s:.0f} s.")
        else:
            self._print(Text(f"  All {count} claims hold, in {self.elapsed_s:.0f} s.", "bold green"))

    def _print(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True)
