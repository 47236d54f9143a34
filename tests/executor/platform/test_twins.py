"""The sync API is generated, current, complete, and cheap to import where tenants' code imports ours."""

from __future__ import annotations

import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import executor
from executor.platform import asynchronous, blocking

ROOT = Path(__file__).resolve().parents[3]


def _tool() -> object:
    spec = importlib.util.spec_from_file_location("unasync", ROOT / "tools" / "unasync.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_sync_twins_are_current() -> None:
    done = subprocess.run([sys.executable, ROOT / "tools/unasync.py", "--check"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_translating_changes_names_and_nothing_else() -> None:
    source = 'async def f() -> AsyncRun:  # noqa: ASYNC1 - x\n    """Of AsyncRun, awaited."""\n    async with x as y:\n        return await  y.aclose()\n'
    assert _tool().translate(source, name="a.py") == (  # type: ignore[attr-defined]
        "# Generated from a.py by tools/unasync.py. Edit that file, and run the tool.\n"
        'def f() -> Run:\n    """Of Run, awaited."""\n    with x as y:\n        return y.close()\n'
    )


@pytest.mark.parametrize("name", ["Platform", "Tenant", "Run"])
def test_both_classes_have_the_same_methods_with_the_same_parameters(name: str) -> None:
    sync, other = getattr(blocking, name), getattr(asynchronous, f"Async{name}")
    assert {key for key in dir(sync) if key[0] != "_"} == {key for key in dir(other) if key[0] != "_"}
    for key, method in inspect.getmembers(sync, inspect.isfunction):
        if key[0] != "_":
            parameters = [
                str(p).replace("Async", "") for p in inspect.signature(getattr(other, key)).parameters.values()
            ]
            assert parameters == [str(p) for p in inspect.signature(method).parameters.values()]


def test_the_package_exports_its_public_names_lazily() -> None:
    for name in executor.__all__:
        assert getattr(executor, name).__name__ == name
        assert name in dir(executor)
    with pytest.raises(AttributeError, match="module 'executor' has no attribute 'Nonsense'"):
        executor.Nonsense


def test_importing_what_tenants_import_needs_the_standard_library_only() -> None:
    """Their sandboxes hold nothing else, and pay for each module in start-up time."""
    program = (
        "import sys; import executor.workflow; "
        "print([m for m in ('trio', 'httpx2', 'starlette', 'uvicorn', 'msgspec', 'apsw', 'cyclopts', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
