"""Tenant modules from a bundle."""

from __future__ import annotations

import importlib
import importlib.resources
import inspect
import json
import sys
import traceback

import pytest

from executor.sandbox.loader import Bundle, BundleError
from tests.executor.fake_executor import make_bundle

FLOW = "from executor.workflow import Workflow\nfrom lib.deep import value\n\nclass Flow(Workflow):\n    async def run(self, event, step):\n        return value\n"
FILES = {
    "workflows.py": FLOW,
    "lib/__init__.py": "",
    "lib/deep.py": "value = 41\n\ndef fail():\n    raise ValueError(value)\n",
    "lib/data/table.txt": "one\ntwo\n",
    "space/inner.py": "here = __name__\n",
    "broken.py": "",
}


@pytest.fixture
def bundle():
    bundle = Bundle(make_bundle(FILES))
    bundle.install()
    yield bundle
    bundle.uninstall()


def test_workflows_are_imported_with_their_modules(bundle) -> None:
    bundle.load()
    assert list(bundle.workflows) == ["Flow"]
    assert sys.modules["lib.deep"].__file__ == "lib/deep.py"


def test_directory_without_init_is_a_namespace_package(bundle) -> None:
    assert importlib.import_module("space.inner").here == "space.inner"


def test_source_is_there_for_tracebacks_and_inspect(bundle) -> None:
    deep = importlib.import_module("lib.deep")
    assert inspect.getsource(deep.fail) == "def fail():\n    raise ValueError(value)\n"
    with pytest.raises(ValueError) as raised:
        deep.fail()
    assert 'File "lib/deep.py", line 4, in fail\n    raise ValueError(value)' in "".join(
        traceback.format_exception(raised.value)
    )


def test_data_files_are_resources(bundle) -> None:
    files = importlib.resources.files(importlib.import_module("lib"))
    assert (files / "data" / "table.txt").read_text() == "one\ntwo\n"
    assert [entry.name for entry in files.iterdir()] == ["__init__.py", "data", "deep.py"]
    assert importlib.resources.files("lib").joinpath("data/table.txt").open().readlines() == ["one\n", "two\n"]
    with pytest.raises(FileNotFoundError):
        files / ".." / "workflows.py"


def test_missing_module_is_an_ordinary_import_error(bundle) -> None:
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'lib\.nothing'"):
        importlib.import_module("lib.nothing")


def test_wrong_magic_is_refused() -> None:
    with pytest.raises(BundleError, match="not a bundle: it begins with b'PDBUNDL2'"):
        Bundle(b"PDBUNDL2" + make_bundle(FILES)[8:])


def test_bundle_of_another_interpreter_is_refused() -> None:
    data = make_bundle(FILES)
    length = int.from_bytes(data[8:12], "little")
    index = json.loads(data[12 : 12 + length])
    index["magic"], index["cache_tag"] = "00000000", "cpython-399"
    head = json.dumps(index).encode()
    with pytest.raises(BundleError, match="the bundle was made for cpython-399, this interpreter is cpython-3"):
        Bundle(data[:8] + len(head).to_bytes(4, "little") + head + data[12 + length :])


@pytest.mark.parametrize("name", ["json", "msgspec", "executor"])
def test_module_that_would_be_hidden_is_an_error_where_it_is_imported(name) -> None:
    bundle = Bundle(make_bundle({"workflows.py": f"\nimport {name}\n", f"{name}.py": "mine = 1"}, []))
    with pytest.raises(BundleError) as refused:
        bundle.load()
    assert str(refused.value) == (
        f"the tenant's module '{name}' is hidden by a module of the same name that Python or the platform has "
        "(workflows.py:2 wants it); rename the file"
    )


def test_hidden_file_that_nobody_imports_is_no_error() -> None:
    Bundle(make_bundle({"workflows.py": "", "test/__init__.py": "", "site.py": "import site"}, [])).load()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("class Flow: pass", "workflows.Flow is not a class derived from executor.workflow.Workflow"),
        ("", "workflows.Flow is not a class derived from executor.workflow.Workflow"),
        (
            "from executor.workflow import Workflow\nclass Flow(Workflow):\n    def run(self, event, step): pass",
            "workflows.Flow.run must be `async def run(self, event, step)`",
        ),
    ],
)
def test_workflow_of_the_wrong_form_is_an_error(source, message) -> None:
    bundle = Bundle(make_bundle({"workflows.py": source}, [("Flow", "workflows")]))
    bundle.install()
    try:
        with pytest.raises(BundleError) as refused:
            bundle.load()
        assert str(refused.value) == message
    finally:
        bundle.uninstall()


def test_declared_types_come_from_the_base_or_the_annotations() -> None:
    source = """
from dataclasses import dataclass
from executor.workflow import Workflow, Event
@dataclass
class P: x: int
class One(Workflow[P, list[P]]):
    async def run(self, event, step): pass
class Two(Workflow):
    async def run(self, event: Event[P], step) -> P: pass
class Three(Workflow):
    async def run(self, event, step): pass
"""
    bundle = Bundle(make_bundle({"workflows.py": source}))
    bundle.install()
    try:
        bundle.load()
        P = sys.modules["workflows"].P
        from executor.core.values import UNDECLARED

        types = {name: (code.payload_type, code.result_type) for name, code in bundle.workflows.items()}
        assert types == {"One": (P, list[P]), "Two": (P, P), "Three": (UNDECLARED, UNDECLARED)}
    finally:
        bundle.uninstall()
