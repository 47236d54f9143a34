"""Reading workflows out of sources: what is found, what is a mistake, what is worth a warning."""

from __future__ import annotations

import textwrap

import pytest

from gitstore.analysis import Analysis, analyse
from gitstore.meanings import is_importable, module_name
from gitstore.rows import WorkflowFound

GOOD = """
from executor.workflow import Workflow

class Onboarding(Workflow):
    async def run(self, event, step):
        return None
"""
NONE_FOUND = (
    "no workflows found: define a class that derives from executor.workflow.Workflow in workflows.py or workflows/*.py"
)


def look(files: dict[str, str], *, source_bytes_max: int = 1 << 20) -> Analysis:
    return analyse(
        {path: textwrap.dedent(text).encode() for path, text in files.items()}, source_bytes_max=source_bytes_max
    )


def names(analysis: Analysis) -> list[str]:
    assert analysis.errors == (), analysis.errors
    return [workflow.name for workflow in analysis.workflows]


def problems(files: dict[str, str]) -> list[str]:
    return [str(error) for error in look(files).errors]


def test_workflow_is_found_with_its_place() -> None:
    assert look({"workflows.py": GOOD}) == Analysis((WorkflowFound("Onboarding", "workflows.py", 4, "workflows"),))


@pytest.mark.parametrize(
    ("imports", "base"),
    [
        ("from executor.workflow import Workflow", "Workflow"),
        ("from executor.workflow import Workflow as W", "W"),
        ("from executor.workflow import *", "Workflow"),
        ("import executor.workflow", "executor.workflow.Workflow"),
        ("import executor.workflow as w", "w.Workflow"),
        ("from executor import workflow", "workflow.Workflow"),
        ("from executor import workflow as w", "w.Workflow"),
        ("import executor", "executor.workflow.Workflow"),
        ("from executor.workflow import Workflow", "Workflow[Signup, dict[str, int]]"),
        ("import executor.workflow as w", "w.Workflow[P, R]"),
        ("from executor.workflow import Workflow\nBase = Workflow", "Base"),
        ("import executor.workflow as w\nBase: type = w.Workflow", "Base"),
        ("try:\n    from executor.workflow import Workflow\nexcept ImportError:\n    raise", "Workflow"),
        ("from executor.workflow import Workflow", "Mixin, Workflow"),
        ("from executor.workflow import Workflow", "Generic[T], Workflow"),
        ("from flows.base import Base", "Base"),
        ("from flows.base import Base as B", "B"),
        ("from flows import Base", "Base"),
        ("from flows import base", "base.Base"),
        ("import flows.base", "flows.base.Base"),
        ("import flows.base as b", "b.Base[int, str]"),
        ("from flows.base import *", "Base"),
        ("from flows.again import Again", "Again"),
    ],
)
def test_base_is_followed_through_every_way_to_name_it(imports: str, base: str) -> None:
    files = {
        "workflows.py": f"{imports}\n\nclass Pay({base}):\n    async def run(self, event, step): ...\n",
        "flows/__init__.py": "from .base import Base\n",
        "flows/base.py": "from executor.workflow import Workflow\nclass Base(Workflow[P, R]):\n    x = 1\n",
        "flows/again.py": "from . import base\nclass Again(base.Base): ...\n",
    }
    assert names(look(files)) == ["Pay"]


@pytest.mark.parametrize(
    "source",
    [
        "class Workflow: ...\nclass A(Workflow):\n    async def run(self, event, step): ...\n",
        "from other import Workflow\nclass A(Workflow):\n    async def run(self, event, step): ...\n",
        "from executor.workflow import Retry\nclass A(Retry): ...\n",
        "from executor.workflow import Workflow\nclass Workflow: ...\nclass A(Workflow): ...\n",
        "from executor.workflow import Workflow\ndef Workflow(): ...\nclass A(Workflow): ...\n",
        "from executor.workflow import Workflow\nclass A(make(Workflow)): ...\n",
        "from executor.workflow import Workflow\nclass _Base(Workflow):\n    async def run(self, event, step): ...\n",
        "from executor.workflow import Workflow\ndef f():\n    class A(Workflow): ...\n",
        "A = B\nB = A\nclass C(A): ...\n",
        "from workflows import *\nclass C(A): ...\n",
        "class C(C): ...\n",
        "",
    ],
)
def test_what_only_looks_like_a_workflow_is_none(source: str) -> None:
    assert look({"workflows.py": source}) == Analysis(warnings=(NONE_FOUND,))


def test_workflows_are_found_in_the_folder_and_only_directly_in_it() -> None:
    files = {
        "workflows/__init__.py": "from .billing import Billing\n",
        "workflows/billing.py": GOOD.replace("Onboarding", "Billing"),
        "workflows/shipping.py": GOOD.replace("Onboarding", "Shipping"),
        "workflows/deep/er.py": GOOD.replace("Onboarding", "Deep"),
        "other.py": GOOD,
    }
    assert look(files).workflows == (
        WorkflowFound("Billing", "workflows/billing.py", 4, "workflows.billing"),
        WorkflowFound("Shipping", "workflows/shipping.py", 4, "workflows.shipping"),
    )


def test_workflow_imported_by_name_into_the_entry_module_is_one() -> None:
    files = {
        "workflows.py": "from app.flows import Onboarding\nfrom app.base import Base\nclass Pay(Base): ...\n",
        "app/flows.py": GOOD,
        "app/base.py": GOOD.replace("Onboarding", "Base"),
    }
    # Base is imported to be derived from, not to be started.
    assert look(files).workflows == (
        WorkflowFound("Onboarding", "app/flows.py", 4, "app.flows"),
        WorkflowFound("Pay", "workflows.py", 3, "workflows"),
    )


def test_base_without_run_is_no_workflow_but_a_class_alone_needs_one() -> None:
    source = "from executor.workflow import Workflow\nclass Base(Workflow): ...\n"
    assert names(look({"workflows.py": source + "class Pay(Base):\n    async def run(self, event, step): ...\n"})) == [
        "Pay"
    ]
    assert problems({"workflows.py": source}) == [
        "workflows.py:2:1: workflow Base has no method 'async def run(self, event, step)'"
    ]


@pytest.mark.parametrize(
    "run",
    [
        "async def run(self, event, step): ...",
        "async def run(self, _event, step, /): ...",
        "async def run(self, event, step, extra=None, *, more=1): ...",
        "async def run(self, *args): ...",
        "async def run(self, event, step) -> dict[str, int]: ...",
        "@traced\n    async def run(self, event, step): ...",
        "run = some_coroutine_function",
        "async def run(self, event, step):\n        def inner():\n            yield 1\n        return [x async for x in y()]",
    ],
)
def test_run_that_can_be_called_passes(run: str) -> None:
    source = f"from executor.workflow import Workflow\nclass A(Workflow):\n    {run}\n"
    assert names(look({"workflows.py": source})) == ["A"]


WANTED = "must be 'async def run(self, event, step)'"


@pytest.mark.parametrize(
    ("run", "why"),
    [
        ("def run(self, event, step): ...", f"{WANTED}; 'async' is missing"),
        ("async def run(self): ...", WANTED),
        ("async def run(self, event): ...", WANTED),
        ("async def run(self, event, step, more): ...", WANTED),
        ("async def run(self, event, step, *, more): ...", WANTED),
        ("@staticmethod\n    async def run(self, event, step): ...", f"{WANTED}, without @staticmethod"),
        ("async def run(self, event, step):\n        yield 1", f"{WANTED} without 'yield'"),
    ],
)
def test_run_that_cannot_work_is_an_error_at_its_line(run: str, why: str) -> None:
    source = f"from executor.workflow import Workflow\nclass A(Workflow):\n    {run}\n"
    line = 4 if run.startswith("@") else 3
    assert problems({"workflows.py": source}) == [f"workflows.py:{line}:5: A.run {why}"]


def test_run_that_is_inherited_is_judged_where_it_is() -> None:
    files = {
        "workflows.py": "from base import Base\nclass A(Base): ...\nclass B(Base): ...\n",
        "base.py": "from executor.workflow import Workflow\nclass Base(Workflow):\n    def run(self, event, step): ...\n",
    }
    assert problems(files) == [f"base.py:3:5: Base.run {WANTED}; 'async' is missing"]


def test_names_must_be_unique() -> None:
    files = {"workflows/a.py": GOOD, "workflows/b.py": GOOD}
    assert problems(files) == ["workflows/b.py:4:1: a workflow Onboarding exists already, in workflows/a.py:4"]
    twice = GOOD + GOOD
    assert problems({"workflows.py": twice}) == [
        "workflows.py:10:1: class Onboarding is defined twice, first in line 4"
    ]


def test_definitions_in_branches_are_one_class() -> None:
    source = """
        from executor.workflow import Workflow
        if FAST:
            class A(Workflow):
                async def run(self, event, step): ...
        else:
            class A(Workflow):
                async def run(self, event, step): ...
    """
    assert look({"workflows.py": source}).workflows == (WorkflowFound("A", "workflows.py", 7, "workflows"),)


def test_module_and_folder_of_the_same_name_are_refused() -> None:
    assert problems({"workflows.py": GOOD, "workflows/a.py": GOOD.replace("Onboarding", "A")})[0] == (
        "workflows.py: workflows.py and workflows/ mean the same module; keep one of them"
    )


def test_configured_workflows_are_found_anywhere() -> None:
    files = {
        "pyproject.toml": '[tool.perdure]\nworkflows = ["app.flows:Onboarding", "app:_Quiet"]\n',
        "app/__init__.py": GOOD.replace("Onboarding", "_Quiet"),
        "app/flows.py": GOOD,
    }
    assert look(files) == Analysis(
        (
            WorkflowFound("_Quiet", "app/__init__.py", 4, "app"),
            WorkflowFound("Onboarding", "app/flows.py", 4, "app.flows"),
        )
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('"app.flows"', 'pyproject.toml:3:1: "app.flows" must have the form "module:Class"'),
        ('"gone:A"', "pyproject.toml:3:1: there is no module gone in this commit"),
        (
            '"app.flows:Missing"',
            "pyproject.toml:3:1: app.flows:Missing is no class that derives from executor.workflow.Workflow",
        ),
    ],
)
def test_configured_name_that_leads_nowhere_is_an_error_at_its_line(value: str, message: str) -> None:
    files = {"pyproject.toml": f"[tool.perdure]\nworkflows = [\n  {value},\n]\n", "app/flows.py": GOOD}
    assert problems(files) == [message]


def test_configuration_of_the_wrong_shape_or_syntax_is_an_error() -> None:
    assert problems({"pyproject.toml": '[tool.perdure]\nworkflows = "a:B"\n'}) == [
        'pyproject.toml: [tool.perdure] workflows must be a list of "module:Class"'
    ]
    assert problems({"pyproject.toml": "[tool.perdure\n"})[0].startswith("pyproject.toml: ")
    assert problems({"pyproject.toml": "[broken\n", "workflows.py": GOOD}) == []


def test_things_worth_knowing_are_warnings() -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    found = look(
        {
            "workflows/my-flow.py": GOOD,
            "requirements.txt": "x==1\n",
            "pylock.toml": "",
            "big.bin": pointer,
            "huge.py": "x = 1\n" * 100,
        },
        source_bytes_max=500,
    )
    assert found.warnings == (
        NONE_FOUND,
        "workflows/my-flow.py cannot be imported: its name is no Python identifier",
        "requirements.txt: dependencies are not installed by this version of the platform",
        "pylock.toml: dependencies are not installed by this version of the platform",
        "huge.py: too large to be compiled; it is kept as data",
        "big.bin: a Git LFS pointer; the file itself is not here",
    )


def test_long_chains_and_circles_of_names_end() -> None:
    chain = "\n".join(f"A{number} = A{number + 1}" for number in range(2000))
    stars = {f"m{number}.py": "from m0 import *\nfrom m1 import *\nfrom m2 import *\n" for number in range(3)}
    source = f"from m0 import *\n{chain}\nclass B(A0): ...\nclass C(Missing): ...\n"
    assert look({"workflows.py": source, **stars}).workflows == ()


def test_source_that_does_not_parse_is_left_to_the_compiler() -> None:
    assert look({"workflows.py": "class (:\n"}) == Analysis(warnings=(NONE_FOUND,))


def test_module_names() -> None:
    assert module_name("workflows/billing.py") == "workflows.billing"
    assert module_name("workflows/__init__.py") == "workflows"
    assert is_importable("a/b_1.py")
    assert not is_importable("a/{{b}}.py")
    assert not is_importable("a.txt")
