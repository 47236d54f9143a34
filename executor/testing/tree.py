"""The tenant's code as it is in the working tree, in the place of a bundle: what a run needs to know of it."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import os
import sys
import sysconfig
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import executor
from executor.sandbox.handlers import handlers_of
from executor.sandbox.loader import WorkflowCode, declared_types
from executor.workflow import Workflow

_FRAMES_MAX = 60
_MARKS = ("pyproject.toml", ".git", "setup.py", "setup.cfg")
_HOME = Path(executor.__file__).parents[1]
_PLATFORM = tuple(f"{_HOME / package}{os.sep}" for package in ("executor", "facets", "gitstore"))
_LIBRARIES = tuple(str(Path(path)) + os.sep for path in {*sysconfig.get_paths().values(), sys.base_prefix, sys.prefix})

AnyWorkflow = type[Workflow[Any, Any]]


class OwnFiles(Container[str]):
    """Whether a file is the tenant's own: below the project's folder, and of no library."""

    def __init__(self, root: str) -> None:
        self.root = root.rstrip(os.sep) + os.sep
        # An environment is often below the project's folder; the other way round, the project is no library.
        self._others = (*_PLATFORM, *(path for path in _LIBRARIES if not self.root.startswith(path)))
        self._known: dict[str, bool] = {}

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        known = self._known.get(name)
        if known is None:
            known = self._known[name] = name.startswith(self.root) and not name.startswith(self._others)
        return known

    def add(self, name: str) -> None:
        """It is, wherever it is."""
        self._known[name] = True


class WorkingTree:
    """Stands for `executor.sandbox.loader.Bundle`: workflows by name, the tenant's files, the calling line."""

    def __init__(self, workflow: AnyWorkflow, more: Iterable[AnyWorkflow] = ()) -> None:
        """`workflow` and the others of its module; `more`: of other modules. Raises TypeError for what is none."""
        self.workflows: dict[str, WorkflowCode] = {}
        for cls in (*_of_module(workflow), *more, workflow):
            updates, queries = handlers_of(_checked(cls), "update"), handlers_of(cls, "query")
            self.workflows[cls.__name__] = WorkflowCode(cls, *declared_types(cls), updates, queries)
        self.files = OwnFiles(_project_of(str(Path(_source_of(workflow)).parent)))
        for code in self.workflows.values():
            self.files.add(_source_of(code.workflow))

    def calling_line(self) -> str:
        """File and line of the innermost frame of the tenant's code, "" if there is none."""
        frame: FrameType | None = sys._getframe(1)
        for _ in range(_FRAMES_MAX):
            if frame is None:
                return ""
            if frame.f_code.co_filename in self.files:
                return f"{frame.f_code.co_filename}:{frame.f_lineno}"
            frame = frame.f_back
        return ""

    def shown(self, text: str) -> str:
        """A text with places in it, as it would be in a deployment: paths begin at the project's folder."""
        return text.replace(self.files.root, "")

    def modules(self) -> Iterator[ModuleType]:
        """The tenant's modules that are imported."""
        for module in list(sys.modules.values()):
            file = getattr(module, "__file__", None)
            if isinstance(file, str) and file in self.files:
                yield module


def find(workflow: AnyWorkflow | str | os.PathLike[str]) -> AnyWorkflow:
    """The class itself; or by name: "shop.orders:Order", "workflows.py", "workflows.py:Order".

    Without a class's name the module must have one workflow. Raises ImportError, LookupError.
    """
    if isinstance(workflow, type):
        return _checked(workflow)
    text = os.fspath(workflow)
    place, _, name = text.rpartition(":") if _has_name(text) else (text, "", "")
    module = _import_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    found = {cls.__name__: cls for cls in _in(module)}
    if name:
        if name not in found:
            raise LookupError(f"{place} has no workflow {name!r}; it has {', '.join(sorted(found)) or 'none'}")
        return found[name]
    if len(found) != 1:
        raise LookupError(f"{place} has {len(found)} workflows; write {place}:NAME, of {', '.join(sorted(found))}")
    return next(iter(found.values()))


def _has_name(text: str) -> bool:
    return text.rpartition(":")[2].isidentifier() and ":" in text


def _import_file(path: Path) -> ModuleType:
    """As if its folder were the repository: its neighbours are imported by their names."""
    path = path.resolve()
    if not path.is_file():
        raise ImportError(f"there is no file {path}")
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    name = path.stem if known is None else f"{path.stem}_of_{abs(hash(folder))}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _in(module: ModuleType) -> list[AnyWorkflow]:
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Workflow) and value.__module__ == module.__name__
    ]


def _of_module(workflow: AnyWorkflow) -> list[AnyWorkflow]:
    module = sys.modules.get(workflow.__module__)
    found = [] if module is None else _in(module)
    return [cls for cls in found if inspect.iscoroutinefunction(cls.run)]


def _checked(workflow: Any) -> AnyWorkflow:
    if not (isinstance(workflow, type) and issubclass(workflow, Workflow)):
        raise TypeError(f"{workflow!r} is no workflow: it does not derive from executor.workflow.Workflow")
    if not inspect.iscoroutinefunction(workflow.run):
        raise TypeError(f"{workflow.__name__}.run must be `async def run(self, event, step)`")
    return workflow


def _source_of(workflow: AnyWorkflow) -> str:
    name: str = inspect.unwrap(workflow.run).__code__.co_filename
    return name


@functools.cache
def _project_of(folder: str) -> str:
    """The nearest folder above that looks like the root of a project, else this one."""
    for above in (Path(folder), *Path(folder).parents):
        if any((above / mark).exists() for mark in _MARKS):
            return str(above)
    return folder
