"""Which files are the tenant's own: their lines are shown in errors and journals, others are not."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

import executor
import facets
from executor.testing.tree import OwnFiles, WorkingTree, find
from executor.workflow import Workflow


class Job(Workflow):
    async def run(self, event, step):
        return None


def test_own_files_are_below_the_projects_folder_and_of_no_library() -> None:
    root = Path(executor.__file__).parents[1]
    files = OwnFiles(str(root))
    assert str(root / "shop" / "orders.py") in files
    assert executor.__file__ not in files
    assert facets.__file__ not in files
    assert f"{sysconfig.get_paths()['purelib']}/library.py" not in files, "an environment below the project is none"
    assert f"{root}-other/orders.py" not in files
    assert "<string>" not in files
    files.add("<string>")
    assert "<string>" in files


def test_places_begin_at_the_projects_folder(tmp_path) -> None:
    for mark, folder in ((tmp_path / "pyproject.toml", tmp_path), (None, tmp_path / "alone" / "deep")):
        folder.mkdir(parents=True, exist_ok=True)
        if mark is not None:
            mark.touch()
        source = folder / f"place_{folder.name.replace('-', '_')}.py"
        source.write_text(
            "from executor.workflow import Workflow\nclass Own(Workflow):\n    async def run(self, e, s): ..."
        )
        shown = WorkingTree(find(source)).shown(f"{source}:3")
        assert shown == str(source.relative_to(tmp_path)) + ":3"


def test_a_tree_has_all_workflows_of_the_module_and_those_given() -> None:
    other = type("Other", (Job,), {})
    assert set(WorkingTree(Job, [other]).workflows) == {"Job", "Other"}
    assert set(WorkingTree(other).workflows) == {"Job", "Other"}


def test_what_is_not_there_is_told() -> None:
    with pytest.raises(ImportError, match=r"there is no file /nowhere/workflows\.py"):
        find("/nowhere/workflows.py")
    with pytest.raises(LookupError, match="has no workflow 'Jobs'; it has Job"):
        find(f"{__name__}:Jobs")
