"""The read-only file tree that a sandbox sees: one interpreter with its library, three packages, our own few modules.

Nothing else of the host is in it: no /etc, no /home, no site-packages, no /proc, no /sys, no /dev, nothing writable.
Landlock alone would hide contents but not existence (`stat` of a host path still answers), hence a small root.

    /runtime/bin/python             the interpreter
    /runtime/lib/pythonX.Y/…        its standard library; what does not belong to it is masked, entry by entry
    /runtime/so/…                   the shared libraries that interpreter and extension modules name
    /runtime/packages/…             apsw, msgspec, landlockpy; executor and facets as namespace packages, so that
                                    their host-side `__init__` (server, git, storage) is neither needed nor present
    /usr/share/zoneinfo             time zones, where the host has them
    the ELF loader, at the very path that the interpreter names

The same description is used twice: as bind mounts of a bubblewrap cell, and as a folder of symbolic links where there
is no cell (`--unconfined`). Host side only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import os
import py_compile
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = "/runtime"
PACKAGES = f"{ROOT}/packages"
LIBRARIES = f"{ROOT}/so"
PYTHON = f"{ROOT}/bin/python"
ZONEINFO = "/usr/share/zoneinfo"

THIRD_PARTY = ("apsw", "msgspec", "landlockpy")
FACETS_INSIDE = ("image", "pages", "delta", "facet", "fence", "query", "row", "translate", "errors", "limits")
"""Modules of `facets` that work on one database in memory; the others keep state on the host's disk."""
HOST_ONLY = frozenset(
    {"__init__", "pool", "control", "spec", "watch", "probe", "cell", "runtime_tree", "seccomp_filter"}
)
"""Modules of `executor/sandbox` that only the host runs."""

_STDLIB_LEFT_OUT = frozenset(
    {"test", "idlelib", "tkinter", "turtle", "turtledemo", "lib2to3", "ensurepip", "venv", "pydoc_data", "distutils"}
)
_STDLIB_BESIDES = frozenset({"__pycache__", "lib-dynload"})
_EXTENSIONS_LEFT_OUT = re.compile(r"^(_tkinter|readline|nis|_curses|_curses_panel|_gdbm|_dbm|_test\w*|_xx\w*|xx\w*)\.")


class RuntimeTreeError(Exception):
    """Something that the sandbox needs is missing on this host, or cannot be read. `path` names it."""

    code = "runtime_incomplete"

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"the sandbox's runtime cannot be put together: {path}: {why}")
        self.path = path


@dataclasses.dataclass(frozen=True, slots=True)
class Bind:
    """`source` (a file or folder of the host) appears at `target` inside."""

    source: Path
    target: str


@dataclasses.dataclass(frozen=True, slots=True)
class RuntimeTree:
    """What the cell is made of. `masks` are entries inside a bound folder that must not be seen."""

    binds: tuple[Bind, ...]
    masked_folders: tuple[str, ...]
    masked_files: tuple[str, ...]
    packages: tuple[Bind, ...]
    python: Path
    python_paths: tuple[Path, ...]

    def bwrap_arguments(self) -> list[str]:
        """Options for bubblewrap, parents before children."""
        arguments: list[str] = []
        for bind in (*self.binds, *self.packages):
            arguments += ["--ro-bind", str(bind.source), bind.target]
        for folder in self.masked_folders:
            arguments += ["--tmpfs", folder, "--remount-ro", folder]
        for file in self.masked_files:
            # A device node on a mount without devices: it cannot even be opened.
            arguments += ["--ro-bind", "/dev/null", file]
        return arguments

    def link_packages(self, folder: Path) -> None:
        """Make `folder` look like /runtime/packages by symbolic links."""
        for bind in self.packages:
            link = folder / Path(bind.target).relative_to(PACKAGES)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(bind.source)

    def read_paths(self) -> list[str]:
        """Host paths that a process needs where there is no cell but Landlock: everything in the tree, file by file."""
        inside = [bind.source for bind in (*self.binds, *self.packages) if bind.source not in self.python_paths]
        masked = {Path(path).name for path in (*self.masked_folders, *self.masked_files)}
        for folder in self.python_paths:
            inside += [entry for entry in sorted(folder.iterdir()) if entry.name not in masked]
        return [str(path) for path in inside]


def build(*, extra: Mapping[str, Path] | None = None) -> RuntimeTree:
    """The tree for this interpreter. `extra` presents further files under /runtime/packages (used by tests).

    Raises RuntimeTreeError if a part is missing or unreadable.
    """
    python = Path(sys.executable).resolve()
    stdlib = Path(os.__file__).resolve().parent
    target = f"{ROOT}/{sys.platlibdir}/python{sys.version_info.major}.{sys.version_info.minor}"
    folders, files = _masked(stdlib)
    packages = tuple(_packages(extra or {}))
    binds = [Bind(python, PYTHON), Bind(stdlib, target)]
    extensions = [path for bind in packages for path in _extensions(bind.source)]
    dynload = stdlib / "lib-dynload"
    if dynload.is_dir():
        extensions += [path for path in sorted(dynload.glob("*.so")) if not _EXTENSIONS_LEFT_OUT.match(path.name)]
    for name, library in _shared_libraries((python, *extensions)).items():
        binds.append(Bind(library, name if name.startswith("/") else f"{LIBRARIES}/{name}"))
    if Path(ZONEINFO).is_dir():
        binds.append(Bind(Path(ZONEINFO), ZONEINFO))
    for bind in (*binds, *packages):
        if not os.access(bind.source, os.R_OK):
            raise RuntimeTreeError(
                str(bind.source),
                f"uid {os.geteuid()} may not read it; use an interpreter and an environment outside other users' homes",
            )
    return RuntimeTree(
        binds=tuple(binds),
        masked_folders=tuple(f"{target}/{name}" for name in folders),
        masked_files=tuple(f"{target}/{name}" for name in files),
        packages=packages,
        python=python,
        python_paths=(stdlib,),
    )


def _masked(stdlib: Path) -> tuple[list[str], list[str]]:
    """Entries of the library's folder that are not known modules of it: an allow-list, turned into masks."""
    allowed = (sys.stdlib_module_names | _STDLIB_BESIDES) - _STDLIB_LEFT_OUT
    folders: list[str] = []
    files: list[str] = []
    for entry in sorted(stdlib.iterdir()):
        if entry.name.removesuffix(".py") in allowed or entry.name.startswith("_sysconfigdata_"):
            continue
        if entry.is_symlink() and not entry.exists():
            continue
        if entry.is_symlink():
            # A link leads to a path that does not exist inside, and a mount cannot cover it there.
            if _leads_inside(entry, stdlib):
                (folders if entry.is_dir() else files).append(entry.resolve().relative_to(stdlib).as_posix())
            continue
        (folders if entry.is_dir() else files).append(entry.name)
    return folders, files


def _leads_inside(link: Path, folder: Path) -> bool:
    return link.resolve().is_relative_to(folder)


def _packages(extra: Mapping[str, Path]) -> Iterable[Bind]:
    for name in THIRD_PARTY:
        source = _location(name)
        yield Bind(source, f"{PACKAGES}/{source.name}")
    executor = Path(__file__).resolve().parent.parent
    workflow = executor / "workflow"
    if workflow.is_dir():
        yield Bind(workflow, f"{PACKAGES}/executor/workflow")
    elif workflow.with_suffix(".py").is_file():
        yield Bind(workflow.with_suffix(".py"), f"{PACKAGES}/executor/workflow.py")
    for path in sorted((executor / "core").glob("*.py")):
        if path.name != "__init__.py":
            yield from _module(path, f"{PACKAGES}/executor/core")
    for path in sorted((executor / "sandbox").glob("*.py")):
        if path.stem not in HOST_ONLY:
            yield from _module(path, f"{PACKAGES}/executor/sandbox")
    facets = _location("facets")
    for name in FACETS_INSIDE:
        path = facets / f"{name}.py"
        if path.is_file():
            yield from _module(path, f"{PACKAGES}/facets")
    for name, path in extra.items():
        yield Bind(path.resolve(), f"{PACKAGES}/{name}")


def _module(path: Path, folder: str) -> Iterable[Bind]:
    """A module of ours, and its bytecode if there is any: compiling all of them takes a third of the zygote's start.

    The interpreter inside compares the two as always: bytecode of another source is not used.
    """
    yield Bind(path, f"{folder}/{path.name}")
    compiled = Path(importlib.util.cache_from_source(str(path)))
    if not compiled.is_file():
        with contextlib.suppress(OSError, py_compile.PyCompileError):  # the folder may be another user's
            py_compile.compile(str(path), doraise=True)
    if compiled.is_file():
        yield Bind(compiled, f"{folder}/__pycache__/{compiled.name}")


def _location(name: str) -> Path:
    """Where an importable package lies, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise RuntimeTreeError(name, "not installed for this interpreter; install perdure's dependencies")
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve()
    if spec.origin is None:
        raise RuntimeTreeError(name, "it has no file")
    return Path(spec.origin).resolve()


def _extensions(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(path.rglob("*.so"))
    return [path] if path.suffix == ".so" else []


@functools.cache
def _shared_libraries(files: tuple[Path, ...]) -> dict[str, Path]:
    """What the dynamic loader would load for `files`: name (an absolute path for the loader itself) to file.

    Only our own interpreter and its installed extension modules are asked about: `ldd` is not for hostile files.
    """
    found = _traced(files) or _listed(files)
    if not any(name.startswith("/") for name in found):
        raise RuntimeTreeError(str(files[0]), "ldd names no loader for it; a static interpreter is not supported")
    # The C library opens this one by itself when a thread ends early; nothing names it.
    unwinder = next((path.parent / "libgcc_s.so.1" for name, path in found.items() if name.startswith("libc.so")), None)
    if unwinder is not None and unwinder.exists():
        found.setdefault("libgcc_s.so.1", unwinder.resolve())
    return found


def _traced(files: tuple[Path, ...]) -> dict[str, Path]:
    """What the loader says when it loads the interpreter and all else beside it in one process: what `ldd` does file by
    file, in a thirtieth of the time. {} where that cannot be had (another C library, a path that cannot be named so).
    """
    interpreter, *others = map(str, files)
    if any(" " in name or ":" in name for name in others):
        return {}
    environment = {"LD_TRACE_LOADED_OBJECTS": "1", "LD_PRELOAD": ":".join(others)}
    try:
        done = subprocess.run(
            [interpreter, "-c", ""],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            env=environment,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    found = _said(done.stdout, besides=frozenset(others))
    is_whole = not done.returncode and not done.stderr and any(name.startswith("/") for name in found)
    return found if is_whole else {}


def _listed(files: tuple[Path, ...]) -> dict[str, Path]:
    """What `ldd` says. Raises RuntimeTreeError if there is none."""
    try:
        done = subprocess.run(
            ["ldd", *map(str, files)], capture_output=True, text=True, check=False, env={"PATH": os.defpath}, timeout=60
        )
    except OSError as error:
        raise RuntimeTreeError("ldd", f"cannot be run ({error}); it is part of the C library's tools") from None
    return _said(done.stdout)


def _said(lines: str, *, besides: frozenset[str] = frozenset()) -> dict[str, Path]:
    """The loader's lines, "name => path (address)" or "path (address)", without the objects that it was asked about."""
    found: dict[str, Path] = {}
    for line in lines.splitlines():
        words = line.split()
        if "=>" in words and len(words) > 2 and words[2].startswith("/"):
            # A loader that is named with an arrow belongs at the path the program names.
            found.setdefault(words[0], Path(words[2]).resolve())
        elif words and words[0].startswith("/") and not words[0].endswith(":") and words[0] not in besides:
            found.setdefault(words[0], Path(words[0]).resolve())
    return found
