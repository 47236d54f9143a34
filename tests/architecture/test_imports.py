"""Imports point one way; and the check can fail."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LINTER = str(Path(sys.executable).parent / "lint-imports")


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-c",
        "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports_command as c; c()",
    ]
    return subprocess.run(
        [*command, "--no-cache"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(root)},
    )


def test_imports_point_one_way():
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout


def test_an_import_upwards_is_found(tmp_path):
    for package in ("executor", "gitstore", "facets"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".importlinter", tmp_path)
    with (tmp_path / "facets" / "delta.py").open("a") as file:
        file.write("\nimport executor.core.errors\n")
    done = lint(tmp_path)
    assert done.returncode == 1
    assert "facets.delta -> executor.core.errors" in done.stdout


def test_sandbox_side_imports_nothing_of_the_host():
    """What runs beside tenant code must not be able to reach trio, git or the stores, even by accident."""
    code = (
        "import sys, executor.sandbox.child, executor.workflow\n"
        "bad = {'trio', 'pygit2', 'dulwich', 'gitstore', 'starlette', 'uvicorn', 'httpx2', 'cyclopts'} & set(sys.modules)\n"
        "print(sorted(bad))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_workflow_module_imports_the_standard_library_only():
    code = (
        "import sys, executor.workflow\n"
        "print(sorted(name for name in ('trio', 'msgspec', 'apsw', 'executor.core', 'executor.sandbox') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
