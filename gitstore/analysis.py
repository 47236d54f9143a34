"""What a tree's Python sources say, without importing them: workflows, mistakes, warnings. For limited children only.

Sources are hostile: even `ast.parse` may take gigabytes or overflow the stack, so nothing here runs on the platform's
side of the pipe.

A workflow is a class that derives, through any bases within the tree, from `Workflow` of `executor.workflow`. Names
are followed through imports (plain, `as`, relative, `*`), simple assignments and attribute chains. Workflows are
looked for in `workflows.py`, `workflows/*.py`, and where `[tool.perdure] workflows` of `pyproject.toml` points.
A class with a leading underscore, or a base without `run` that others derive from, is no workflow of its own.
"""

from __future__ import annotations

import ast
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .declared import DECLARATIONS, NotLiteral, value_of
from .errors import Diagnostic
from .file_notes import notes_on
from .meanings import (
    ROOT,
    ROOT_CLASS,
    ROOT_MODULE,
    Alias,
    Class,
    Names,
    Read,
    Source,
    bound_names,
    is_importable,
    module_name,
    statements_of,
)
from .rows import WorkflowFound
from .run_method import run_problem
from .shown import shown

DIAGNOSTICS_MAX = 50

DECLARED_CHARS_MAX = 64 * 1024

_ENTRY = "workflows"

_Origin = Literal["own", "imported", "asked for"]


@dataclass(frozen=True, slots=True)
class Analysis:
    """Workflows sorted by path and line. With any of `errors` the tree must not be deployed."""

    workflows: tuple[WorkflowFound, ...] = ()
    warnings: tuple[str, ...] = ()
    errors: tuple[Diagnostic, ...] = ()


def syntax_diagnostic(path: str, error: Exception) -> Diagnostic:
    """What the compiler has against the source `path`: a SyntaxError, ValueError (NUL), RecursionError, MemoryError."""
    if isinstance(error, SyntaxError):
        return Diagnostic(path, max(error.lineno or 1, 1), max(error.offset or 1, 1), shown(error.msg))
    if isinstance(error, ValueError):
        return Diagnostic(path, 0, 0, shown(str(error)))
    return Diagnostic(path, 0, 0, "nested too deeply for the Python compiler")


class Analyser:
    """One tree. `sizes` has every file of it (path → bytes); `read` fetches the content of one.

    Sources that do not parse, or are larger than `source_bytes_max`, are left out here: whoever compiles them says so.
    """

    def __init__(self, sizes: Mapping[str, int], read: Read, *, source_bytes_max: int) -> None:
        self._sizes = sizes
        self._read = read
        self._source_bytes_max = source_bytes_max
        self._names = Names(sizes, read, source_bytes_max=source_bytes_max)
        self._warnings: list[str] = []
        self._errors: list[Diagnostic] = []
        self._found: dict[str, WorkflowFound] = {}
        self._bases: set[int] = set()

    def run(self) -> Analysis:
        """Find the workflows and judge them. Raises MemoryError, RecursionError where the parser does."""
        candidates = [*self._in_entry_modules(), *self._configured()]
        for candidate, _ in candidates:
            self._bases.update(id(base.node) for base in self._names.ancestors(candidate))
        for candidate, origin in candidates:
            # An imported class that only serves as a base here is not meant to be started here.
            if origin != "imported" or (id(candidate.node) not in self._bases and self._run_of(candidate) is not None):
                self._judge(candidate, is_asked_for=origin == "asked for")
        found = tuple(sorted(self._found.values(), key=lambda workflow: (workflow.path, workflow.line)))
        if not found and not self._errors:
            self._warnings.insert(
                0,
                "no workflows found: define a class that derives from executor.workflow.Workflow in workflows.py"
                " or workflows/*.py",
            )
        self._warnings += notes_on(self._sizes, self._read, source_bytes_max=self._source_bytes_max)
        errors = sorted(set(self._errors), key=lambda error: (error.path, error.line, error.column, error.message))
        return Analysis(found, tuple(dict.fromkeys(self._warnings)), tuple(errors[:DIAGNOSTICS_MAX]))

    # -- where workflows are looked for

    def _in_entry_modules(self) -> Iterator[tuple[Class, _Origin]]:
        in_folder = sorted(
            path
            for path in self._sizes
            if path.startswith(f"{_ENTRY}/") and path.count("/") == 1 and path.endswith(".py")
        )
        if f"{_ENTRY}.py" in self._sizes and in_folder:
            self._errors.append(
                Diagnostic(f"{_ENTRY}.py", 0, 0, f"{_ENTRY}.py and {_ENTRY}/ mean the same module; keep one of them")
            )
        for path in [f"{_ENTRY}.py", *in_folder]:
            if path in self._sizes and not is_importable(path):
                self._warnings.append(f"{shown(path)} cannot be imported: its name is no Python identifier")
            source = self._names.source(module_name(path)) if path in self._sizes and is_importable(path) else None
            if source is None or source.path != path:
                continue
            for first, second in source.repeated:
                if self._names.is_workflow(Class(source.name, second)):
                    self._error(source, second, f"class {second.name} is defined twice, first in line {first.lineno}")
            for node in source.classes:
                yield Class(source.name, node), "own"
            # A workflow that is imported by name is meant to be one here as well.
            for name, bound in source.names.items():
                if isinstance(bound, Alias) and bound.attribute and not name.startswith("_"):
                    meaning = self._names.follow(bound)
                    if isinstance(meaning, Class) and meaning is not ROOT:
                        yield meaning, "imported"

    def _configured(self) -> Iterator[tuple[Class, _Origin]]:
        """Classes that pyproject.toml names as `package.module:Class`."""
        path = "pyproject.toml"
        if path not in self._sizes or self._sizes[path] > self._source_bytes_max:
            return
        text = self._read(path).decode(errors="replace")
        try:
            tool = tomllib.loads(text).get("tool")
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            # A broken file is its owner's business, unless it meant us.
            if "perdure" in text:
                self._errors.append(Diagnostic(path, 0, 0, shown(str(error))))
            return
        section = tool.get("perdure") if isinstance(tool, dict) else None
        names = section.get("workflows", []) if isinstance(section, dict) else []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            self._errors.append(Diagnostic(path, 0, 0, '[tool.perdure] workflows must be a list of "module:Class"'))
            return
        for name in names:
            line = 1 + text[: max(text.find(name), 0)].count("\n")
            module, colon, attribute = name.partition(":")
            meaning = self._names.attribute(module, attribute) if colon and attribute else None
            if not colon or not attribute:
                message = f'"{shown(name)}" must have the form "module:Class"'
            elif self._names.path_of(module) is None:
                message = f"there is no module {shown(module)} in this commit"
            elif not isinstance(meaning, Class) or not self._names.is_workflow(meaning):
                message = f"{shown(name)} is no class that derives from {ROOT_MODULE}.{ROOT_CLASS}"
            else:
                yield meaning, "asked for"
                continue
            self._errors.append(Diagnostic(path, line, 1, message))

    # -- judging one class

    def _judge(self, candidate: Class, *, is_asked_for: bool) -> None:
        node = candidate.node
        if not self._names.is_workflow(candidate) or (node.name.startswith("_") and not is_asked_for):
            return
        source = self._names.source(candidate.module)
        assert source is not None, "its class was found there"
        runs = self._run_of(candidate)
        if runs is None:
            if id(node) not in self._bases or is_asked_for:
                self._error(source, node, f"workflow {node.name} has no method 'async def run(self, event, step)'")
            return
        owner, run = runs
        problem = run_problem(run)
        if problem is not None:
            where = self._names.source(owner.module)
            assert where is not None
            self._error(where, run, f"{owner.node.name}.run {problem}")
            return
        found = WorkflowFound(node.name, source.path, node.lineno, source.name, self._declared(candidate))
        other = self._found.setdefault(node.name, found)
        if other != found:
            self._error(source, node, f"a workflow {node.name} exists already, in {shown(other.path)}:{other.line}")

    def _declared(self, candidate: Class) -> str:
        """The declarations of the class, each from itself or the nearest base that has it."""
        found: dict[str, Any] = {}
        for name in DECLARATIONS:
            owner, value = self._assigned(candidate, name)
            if value is None or (isinstance(value, ast.Constant) and value.value is None):
                continue
            try:
                found[name] = value_of(name, value)
            except NotLiteral as wrong:
                source = self._names.source(owner.module)
                assert source is not None, "its class was found there"
                place = wrong.node if isinstance(wrong.node, ast.expr) else value
                self._error(source, place, f"{name} of {candidate.node.name} {wrong}")
        text = json.dumps(found) if found else ""
        if len(text) > DECLARED_CHARS_MAX:
            own = self._names.source(candidate.module)
            assert own is not None, "its class was found there"
            message = f"the declarations of {candidate.node.name} have {len(text)} characters, the limit is"
            self._error(own, candidate.node, f"{message} {DECLARED_CHARS_MAX}")
            return ""
        return text

    def _assigned(self, candidate: Class, name: str) -> tuple[Class, ast.expr | None]:
        for owner in (candidate, *self._names.ancestors(candidate)):
            for statement in statements_of(owner.node.body):
                match statement:
                    case ast.Assign(targets=[ast.Name(id=bound)], value=value) if bound == name:
                        return owner, value
                    case ast.AnnAssign(target=ast.Name(id=bound), value=ast.expr() as value) if bound == name:
                        return owner, value
        return candidate, None

    def _error(self, source: Source, node: ast.stmt | ast.expr, message: str) -> None:
        self._errors.append(Diagnostic(source.path, node.lineno, node.col_offset + 1, message))

    def _run_of(self, candidate: Class) -> tuple[Class, ast.stmt] | None:
        """The statement that binds `run`, in the class or the nearest base that has one."""
        for owner in (candidate, *self._names.ancestors(candidate)):
            for statement in statements_of(owner.node.body):
                if "run" in bound_names(statement):
                    return owner, statement
        return None


def analyse(files: Mapping[str, bytes], *, source_bytes_max: int) -> Analysis:
    """The analysis of a tree that is in memory."""
    sizes = {path: len(content) for path, content in files.items()}
    return Analyser(sizes, files.__getitem__, source_bytes_max=source_bytes_max).run()
