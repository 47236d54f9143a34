"""Real input: source distributions that pip fetches, or, without a network, archives of installed packages."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tools.demo.claims import Stopped

NAMES = ("mdurl", "typing_extensions", "packaging", "click")
"""Two small ones and two of some size; pure Python, with one small build backend, which pip needs to look at them."""
NAMES_PACKED = ("mdurl", "typing_extensions", "rich", "trio")
"""What stands in for them without pip: installed with Perdure, and again two small ones and two of some size."""
BACKEND = "flit_core"
PIP_TIMEOUT_S = 20
CHUNK_BYTES = 200_000


@dataclass(frozen=True)
class Release:
    """A .tar.gz with one top folder."""

    filename: str
    content: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def chunks(self) -> list[bytes]:
        return [self.content[at : at + CHUNK_BYTES] for at in range(0, len(self.content), CHUNK_BYTES)]

    @cached_property
    def files(self) -> dict[str, bytes]:
        """Unpacked by this process: what an audit's figures are compared with."""
        with tarfile.open(fileobj=io.BytesIO(self.content)) as archive:
            members = [member for member in archive.getmembers() if member.isfile()]
            return {m.name.partition("/")[2]: archive.extractfile(m).read() for m in members}  # type: ignore[union-attr]  # regular files have one

    @property
    def modules(self) -> list[str]:
        return sorted(path for path in self.files if path.endswith(".py"))


@dataclass(frozen=True, slots=True)
class Fetched:
    """`origin` says plainly where the releases come from."""

    releases: list[Release]
    origin: str


def fetch(home: Path, *, use_pip: bool = True) -> Fetched:
    """Four releases: two small ones, then two of some size."""
    if not use_pip:
        return Fetched(
            [packed(name) for name in NAMES_PACKED], "packed from the installed packages' files, as pip was not asked"
        )
    try:
        return Fetched(_by_pip(home), "source distributions, fetched by pip")
    except (OSError, subprocess.SubprocessError) as error:
        why = _reason(error)
        origin = f"NOT source distributions: pip could not fetch them ({why}), so installed packages' files were packed"
        return Fetched([packed(name) for name in NAMES_PACKED], origin)


def _by_pip(home: Path) -> list[Release]:
    backend, into = home / "backend", home / "sdists"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
    patience = ["--timeout", "8", "--retries", "1"]
    environment = dict(os.environ)
    _run([*pip, "install", *patience, "--target", str(backend), BACKEND], environment)
    # With the backend at hand, pip needs no build environment for each release: a second instead of five for each.
    environment["PYTHONPATH"] = str(backend)
    download = ["download", *patience, "--no-deps", "--no-build-isolation", "--no-binary", ",".join(NAMES)]
    _run([*pip, *download, "--dest", str(into), *NAMES], environment)
    found = []
    for name in NAMES:
        (path,) = [path for path in into.iterdir() if path.name.lower().replace("-", "_").startswith(f"{name}_")]
        found.append(Release(path.name, path.read_bytes()))
    return found


def _run(command: Sequence[str], environment: dict[str, str]) -> None:
    subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PIP_TIMEOUT_S,
        check=True,
    )


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.TimeoutExpired):
        return f"no answer within {PIP_TIMEOUT_S} s"
    if isinstance(error, subprocess.CalledProcessError):
        told = [line for line in (error.stderr or "").splitlines() if line.startswith("ERROR")]
        return told[-1].removeprefix("ERROR: ") if told else f"exit code {error.returncode}"
    return str(error)


def packed(name: str) -> Release:
    """An archive of an installed package's sources, shaped like a source distribution."""
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise Stopped(f"pip could not fetch {name}, and it is not installed here either") from None
    top = f"{name}-{distribution.version}"
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for file in sorted(distribution.files or [], key=str):
            path = str(file)
            if path.startswith("..") or path.endswith((".pyc", "RECORD", "INSTALLER", "REQUESTED")):
                continue
            content = Path(file.locate()).read_bytes()
            entry = tarfile.TarInfo(f"{top}/{'PKG-INFO' if path.endswith('METADATA') else path}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return Release(f"{top}.tar.gz", buffer.getvalue())
