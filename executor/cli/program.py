"""The program: a command line in, an exit code out."""

from __future__ import annotations

import os
import sys

from cyclopts import CycloptsError

from executor.cli import reading, schedules, search, server, start, steering, tenants, versions
from executor.cli.app import app
from executor.cli.common import printing
from executor.core.errors import PerdureError

COMMANDS = (server, tenants, versions, start, search, reading, steering, schedules)
"""Importing them adds their commands to `app`."""


def main(arguments: list[str] | None = None) -> None:
    """The entry point of the `perdure` command."""
    raise SystemExit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Do what `arguments` say; the exit code."""
    as_json = "--json" in arguments
    try:
        code = app(arguments, exit_on_error=False)
    except CycloptsError:
        return 2  # told by cyclopts, with the command's usage
    except PerdureError as error:
        return int(printing().error(error, as_json=as_json))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) went away; python must not complain when it closes the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code if isinstance(code, int) else 0
