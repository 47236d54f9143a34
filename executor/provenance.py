"""That `executor`, `gitstore` and `facets` are ours.

Packages of the same three names by other people exist on the public index. Installed into the same environment they
overwrite our files or stand before them on the path, and would fail in strange ways; so the program looks first.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

from executor.core.errors import Refused

_MARKS = {"executor": "provenance.py", "gitstore": "limits.py", "facets": "limits.py"}
"""A file that only our package of that name has."""


def check_own_packages() -> None:
    """Raises Refused (`bad_request`) that names the package that is not ours and where it lies."""
    home = Path(__file__).resolve().parent.parent
    for name, mark in _MARKS.items():
        spec = importlib.util.find_spec(name)
        origin = Path(spec.origin).resolve().parent if spec is not None and spec.origin else None
        if origin is None or origin != home / name or not (origin / mark).is_file() or _is_installed(name):
            raise Refused(
                f'The package "{name}" that Python finds is not Perdure\'s (it is {origin or "missing"}).',
                hint="Install perdure into an environment of its own; other packages of this name must not be there.",
                package=name,
            )


def _is_installed(name: str) -> bool:
    """A distribution that is itself called so is somebody else's: ours is called perdure."""
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
