"""The `perdure` command: arguments in, text out. Every command talks to a server through the Python API.

Exit codes: 0 done; 1 a fault of ours; 2 refused (or wrong usage); 3 not found; 4 conflict; 5 unavailable; 6 corrupt;
7 the tenant's code failed; 130 interrupted. Errors go to standard error: message, code, hint.
"""

from executor.cli.program import main, run

__all__ = ["main", "run"]
