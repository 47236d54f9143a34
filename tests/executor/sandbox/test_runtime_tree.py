"""The file tree of a cell: which libraries, which bytecode, and how they are found."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from executor.sandbox import runtime_tree

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a cell is a matter of the Linux kernel")


def extensions() -> tuple[Path, ...]:
    folder = Path(os.__file__).resolve().parent / "lib-dynload"
    return tuple(path for path in sorted(folder.glob("*.so")) if not path.name.startswith(("_test", "_xx", "xx")))[:12]


def test_one_trace_finds_what_ldd_finds_file_by_file() -> None:
    files = (Path(sys.executable).resolve(), *extensions())
    traced = runtime_tree._traced(files)
    if not traced:
        pytest.skip("this C library's loader does not trace")
    assert traced == runtime_tree._listed(files)


def test_what_cannot_be_traced_is_listed_by_ldd(tmp_path: Path) -> None:
    """A preloaded object that is none is refused by the loader with a warning, which must not pass for an answer."""
    none = tmp_path / "none.so"
    none.write_bytes(b"not a library")
    python = Path(sys.executable).resolve()
    assert runtime_tree._traced((python, none)) == {}
    assert runtime_tree._traced((python, tmp_path / "with space.so")) == {}
    assert runtime_tree._shared_libraries((python, none)) == runtime_tree._shared_libraries((python,))


def test_our_modules_come_with_their_bytecode() -> None:
    targets = {bind.target: bind.source for bind in runtime_tree.build().packages}
    source = f"{runtime_tree.PACKAGES}/executor/sandbox/run.py"
    compiled = importlib.util.cache_from_source(source)
    assert targets[compiled] == Path(importlib.util.cache_from_source(str(targets[source])))


def test_modules_of_the_host_are_not_inside() -> None:
    names = {Path(bind.target).name for bind in runtime_tree.build().packages if "/sandbox/" in bind.target}
    assert {"child.py", "run.py", "steps.py", "limits.py"} <= names
    assert names.isdisjoint({"pool.py", "control.py", "cell.py", "spec.py", "probe.py", "runtime_tree.py"})
