"""The tenant's code from its bundle: one mapped file, no paths, no git.

    bytes  0..8      magic b"PDBUNDL1"
    bytes  8..12     uint32, little-endian: length N of the index
    bytes 12..12+N   index, UTF-8 JSON:
                     {"cache_tag": …, "magic": hex of importlib.util.MAGIC_NUMBER,
                      "files": {path: [source_offset, source_length, code_offset, code_length]},
                      "workflows": [[name, module], …]}
    then             the bytes that the offsets point into; code is marshalled, its file name is the path in the tree

gitstore writes it (`gitstore/bundle.py`); the two sides share this page and no code. A tenant's module never takes the
place of another: its finder is asked last. A file that would be hidden thereby, and that the tenant's code imports, is
an error that says so.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import io
import json
import linecache
import marshal
import mmap
import os
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable, TraversableResources
from typing import Any

from executor.core import values
from executor.sandbox.handlers import HandlerCode, handlers_of
from executor.workflow import Event, Workflow

MAGIC = b"PDBUNDL1"
_HEADER_BYTES = 12
_FRAMES_MAX = 40


class BundleError(ImportError):
    """The bundle cannot be used, or a file in it cannot be imported where it is."""


@dataclass(frozen=True, slots=True)
class WorkflowCode:
    """A workflow class, the types it declares for payload and result (`values.UNDECLARED` if it does not), and its
    handlers by name."""

    workflow: type[Workflow[Any, Any]]
    payload_type: Any
    result_type: Any
    updates: Mapping[str, HandlerCode] = field(default_factory=dict)
    queries: Mapping[str, HandlerCode] = field(default_factory=dict)


class Bundle:
    """The files of one version. `install` makes them importable; `load` imports the workflows."""

    def __init__(self, data: bytes | mmap.mmap) -> None:
        """Raises BundleError if it is not a bundle for this interpreter."""
        if data[:8] != MAGIC:
            raise BundleError(f"not a bundle: it begins with {bytes(data[:8])!r}, not with {MAGIC!r}")
        length = int.from_bytes(data[8:_HEADER_BYTES], "little")
        self._data = data
        self._start = _HEADER_BYTES + length
        index: dict[str, Any] = json.loads(bytes(data[_HEADER_BYTES : self._start]))
        if index["magic"] != importlib.util.MAGIC_NUMBER.hex():
            raise BundleError(
                f"the bundle was made for {index['cache_tag']}, this interpreter is {sys.implementation.cache_tag}; "
                "it has to be built again"
            )
        self._index: dict[str, list[int]] = index["files"]
        self._named: list[list[str]] = index["workflows"]
        self.files = frozenset(self._index)
        self.directories = frozenset(
            "/".join(parts[:end]) for parts in (path.split("/") for path in self.files) for end in range(1, len(parts))
        )
        self.workflows: dict[str, WorkflowCode] = {}

    @classmethod
    def map(cls, fd: int) -> Bundle:
        """The bundle behind a descriptor, which may be closed afterwards."""
        if os.fstat(fd).st_size < _HEADER_BYTES:
            raise BundleError("not a bundle: it is too short")
        return cls(mmap.mmap(fd, 0, access=mmap.ACCESS_READ))

    def read(self, path: str) -> bytes:
        """A file's bytes as they are in the tree. Raises FileNotFoundError."""
        entry = self._index.get(path)
        if entry is None:
            raise FileNotFoundError(f"{path} is not in this version")
        begin = self._start + entry[0]
        return bytes(self._data[begin : begin + entry[1]])

    def code(self, path: str) -> types.CodeType:
        """The compiled form of a `.py` file."""
        entry = self._index[path]
        if not entry[3]:
            return compile(self.read(path), path, "exec", dont_inherit=True)
        begin = self._start + entry[2]
        code: types.CodeType = marshal.loads(self._data[begin : begin + entry[3]])  # noqa: S302  # made on our side
        return code

    def install(self) -> None:
        """Let tenant modules be imported, after everything that is there already."""
        sys.meta_path.append(_Finder(self))

    def uninstall(self) -> None:
        """Forget the tenant's modules again (for tests)."""
        sys.meta_path[:] = [finder for finder in sys.meta_path if getattr(finder, "bundle", None) is not self]
        for name, module in list(sys.modules.items()):
            if getattr(getattr(module, "__loader__", None), "bundle", None) is self:
                del sys.modules[name]
        for path in self.files:
            linecache.cache.pop(path, None)

    def load(self) -> None:
        """Import the modules that have workflows. Raises whatever they raise, and BundleError."""
        self._refuse_hidden()
        for name, module_name in self._named:
            module = importlib.import_module(module_name)
            found = getattr(module, name, None)
            if not (isinstance(found, type) and issubclass(found, Workflow)):
                raise BundleError(f"{module_name}.{name} is not a class derived from executor.workflow.Workflow")
            if not inspect.iscoroutinefunction(found.run):
                raise BundleError(f"{module_name}.{name}.run must be `async def run(self, event, step)`")
            try:
                updates, queries = handlers_of(found, "update"), handlers_of(found, "query")
            except TypeError as error:
                raise BundleError(f"{module_name}.{name}: {error}") from None
            self.workflows[name] = WorkflowCode(found, *declared_types(found), updates, queries)

    def calling_line(self) -> str:
        """File and line of the innermost frame of tenant code, "" if there is none."""
        frame: types.FrameType | None = sys._getframe(1)
        for _ in range(_FRAMES_MAX):
            if frame is None:
                return ""
            if frame.f_code.co_filename in self.files:
                return f"{frame.f_code.co_filename}:{frame.f_lineno}"
            frame = frame.f_back
        return ""

    def _refuse_hidden(self) -> None:
        """A file of the name of a module that exists already would never be imported: say so if somebody wants it."""
        tops = {path.removesuffix(".py") for path in self.files if path.endswith(".py") and "/" not in path}
        tops |= {path.split("/")[0] for path in self.files if path.count("/") == 1 and path.endswith("/__init__.py")}
        wanted = {module.split(".")[0] for _, module in self._named}
        for name in sorted(tops):
            if not name.isidentifier() or not _exists_already(name):
                continue
            place = "a module that holds workflows" if name in wanted else self._import_of(name)
            if place:
                raise BundleError(
                    f"the tenant's module {name!r} is hidden by a module of the same name that Python or the platform "
                    f"has ({place} wants it); rename the file"
                )

    def _import_of(self, name: str) -> str:
        statement = re.compile(rf"^[ \t]*(?:import|from)[ \t]+{re.escape(name)}\b".encode(), re.MULTILINE)
        for path in sorted(self.files):
            if path.endswith(".py"):
                source = self.read(path)
                found = statement.search(source)
                if found is not None and path not in {f"{name}.py", f"{name}/__init__.py"}:
                    line = source.count(b"\n", 0, found.start()) + 1
                    return f"{path}:{line}"
        return ""


def _exists_already(name: str) -> bool:
    if name in sys.stdlib_module_names or name in sys.modules:
        return True
    try:
        return importlib.machinery.PathFinder.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def declared_types(workflow: type[Workflow[Any, Any]]) -> tuple[Any, Any]:
    """Payload and result types: of `Workflow[P, R]`, else of the annotations of `run`."""
    for base in workflow.__mro__:
        for original in vars(base).get("__orig_bases__", ()):
            if typing.get_origin(original) is Workflow:
                payload, result = typing.get_args(original)
                return _declared(payload), _declared(result)
    try:
        hints = typing.get_type_hints(workflow.run)
    except Exception:  # tenant code: names that only a type checker knows
        return values.UNDECLARED, values.UNDECLARED
    event = next((hint for hint in hints.values() if typing.get_origin(hint) is Event), None)
    payload = typing.get_args(event)[0] if event is not None else values.UNDECLARED
    return _declared(payload), _declared(hints.get("return", values.UNDECLARED))


def _declared(annotation: Any) -> Any:
    return values.UNDECLARED if isinstance(annotation, typing.TypeVar) or annotation is Any else annotation


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        del path, target
        base = fullname.replace(".", "/")
        for file, is_package in ((f"{base}/__init__.py", True), (f"{base}.py", False)):
            if file in self.bundle.files:
                loader = _Loader(self.bundle, file, is_package=is_package)
                spec = importlib.machinery.ModuleSpec(fullname, loader, origin=file, is_package=is_package)
                spec.has_location = True
                return spec
        if base in self.bundle.directories:  # a namespace package
            spec = importlib.machinery.ModuleSpec(fullname, None, is_package=True)
            spec.submodule_search_locations = [base]
            return spec
        return None


class _Loader(importlib.abc.InspectLoader):
    def __init__(self, bundle: Bundle, path: str, *, is_package: bool) -> None:
        self.bundle = bundle
        self.path = path
        self._is_package = is_package

    def is_package(self, fullname: str) -> bool:
        del fullname
        return self._is_package

    def get_code(self, fullname: str) -> types.CodeType:
        del fullname
        return self.bundle.code(self.path)

    def get_source(self, fullname: str) -> str:
        del fullname
        return importlib.util.decode_source(self.bundle.read(self.path))

    def get_filename(self, fullname: str) -> str:
        del fullname
        return self.path

    def get_data(self, path: str) -> bytes:
        return self.bundle.read(path)

    def get_resource_reader(self, fullname: str) -> TraversableResources:
        del fullname
        return _Resources(self.bundle, self.path.rpartition("/")[0])


class _Resources(TraversableResources):
    def __init__(self, bundle: Bundle, directory: str) -> None:
        self._bundle = bundle
        self._directory = directory

    def files(self) -> Traversable:
        return _Node(self._bundle, self._directory)


class _Node(Traversable):
    """A file or directory of the bundle, for importlib.resources."""

    def __init__(self, bundle: Bundle, path: str) -> None:
        self._bundle = bundle
        self._path = path

    @property
    def name(self) -> str:
        return self._path.rpartition("/")[2]

    def iterdir(self) -> Iterator[Traversable]:
        prefix = f"{self._path}/" if self._path else ""
        rests = (path[len(prefix) :] for path in self._bundle.files if path.startswith(prefix))
        for name in sorted({rest.split("/")[0] for rest in rests}):
            yield _Node(self._bundle, prefix + name)

    def is_dir(self) -> bool:
        return not self._path or self._path in self._bundle.directories

    def is_file(self) -> bool:
        return self._path in self._bundle.files

    def joinpath(self, *descendants: Any) -> Traversable:
        parts = [part for each in descendants for part in str(each).split("/") if part]
        if ".." in parts:
            raise FileNotFoundError("a resource's name has no '..'")
        return _Node(self._bundle, "/".join([self._path, *parts] if self._path else parts))

    __truediv__ = joinpath

    def read_bytes(self) -> bytes:
        return self._bundle.read(self._path)

    def read_text(self, encoding: str | None = None) -> str:
        return self.read_bytes().decode(encoding or "utf-8")

    def open(self, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        stream = io.BytesIO(self.read_bytes())
        return stream if "b" in mode else io.TextIOWrapper(stream, *args, **kwargs)
