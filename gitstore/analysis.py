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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from .declared import DECLARATIONS, NotLiteral, value_of
from .errors import Diagnostic
from .rows import WorkflowFound
from .shown import shown

ROOT_MODULE, ROOT_CLASS = "executor.workflow", "Workflow"
LOCK_FILES = ("requirements.txt", "pylock.toml")
LFS_HEAD = b"version https://git-lfs.github.com/spec/"
DIAGNOSTICS_MAX = 50
DECLARED_CHARS_MAX = 64 * 1024
_ENTRY = "workflows"
# A chain of aliases longer than this is a loop that we did not notice, or nobody's code.
_HOPS_MAX = 50

Read = Callable[[str], bytes]


@dataclass(frozen=True, slots=True)
class Analysis:
    """Workflows sorted by path and line. With any of `errors` the tree must not be deployed."""

    workflows: tuple[WorkflowFound, ...] = ()
    warnings: tuple[str, ...] = ()
    errors: tuple[Diagnostic, ...] = ()


class _Alias(NamedTuple):
    """A name that stands for another: `attribute` of the module `module`, or the module itself if that is ""."""

    module: str
    attribute: str


class _Class(NamedTuple):
    module: str
    node: ast.ClassDef


class _Module(NamedTuple):
    name: str


_Meaning = _Class | _Module
_Origin = Literal["own", "imported", "asked for"]


@dataclass(slots=True)
class _Source:
    """A parsed module: what its top level binds."""

    name: str
    path: str
    names: dict[str, ast.ClassDef | ast.expr | _Alias] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    classes: list[ast.ClassDef] = field(default_factory=list)
    repeated: list[tuple[ast.ClassDef, ast.ClassDef]] = field(default_factory=list)


_ROOT = _Class(ROOT_MODULE, ast.ClassDef(ROOT_CLASS, [], [], [], []))


def is_importable(path: str) -> bool:
    """Whether some import statement can name the `.py` file `path`."""
    return path.endswith(".py") and all(part.isidentifier() for part in path.removesuffix(".py").split("/"))


def module_name(path: str) -> str:
    """`workflows/billing.py` → `workflows.billing`; `workflows/__init__.py` → `workflows`."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


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
        self._sources: dict[str, _Source | None] = {}
        self._warnings: list[str] = []
        self._errors: list[Diagnostic] = []
        self._found: dict[str, WorkflowFound] = {}
        self._bases: set[int] = set()
        self._meanings: dict[tuple[str, str], _Meaning | None] = {}

    def run(self) -> Analysis:
        """Find the workflows and judge them. Raises MemoryError, RecursionError where the parser does."""
        candidates = [*self._in_entry_modules(), *self._configured()]
        for candidate, _ in candidates:
            self._bases.update(id(base.node) for base in self._ancestors(candidate))
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
        self._look_at_files()
        errors = sorted(set(self._errors), key=lambda error: (error.path, error.line, error.column, error.message))
        return Analysis(found, tuple(dict.fromkeys(self._warnings)), tuple(errors[:DIAGNOSTICS_MAX]))

    # -- where workflows are looked for

    def _in_entry_modules(self) -> Iterator[tuple[_Class, _Origin]]:
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
            source = self._source(module_name(path)) if path in self._sizes and is_importable(path) else None
            if source is None or source.path != path:
                continue
            for first, second in source.repeated:
                if self._is_workflow(_Class(source.name, second)):
                    self._error(source, second, f"class {second.name} is defined twice, first in line {first.lineno}")
            for node in source.classes:
                yield _Class(source.name, node), "own"
            # A workflow that is imported by name is meant to be one here as well.
            for name, bound in source.names.items():
                if isinstance(bound, _Alias) and bound.attribute and not name.startswith("_"):
                    meaning = self._follow(bound)
                    if isinstance(meaning, _Class) and meaning is not _ROOT:
                        yield meaning, "imported"

    def _configured(self) -> Iterator[tuple[_Class, _Origin]]:
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
            meaning = self._attribute(module, attribute) if colon and attribute else None
            if not colon or not attribute:
                message = f'"{shown(name)}" must have the form "module:Class"'
            elif self._path(module) is None:
                message = f"there is no module {shown(module)} in this commit"
            elif not isinstance(meaning, _Class) or not self._is_workflow(meaning):
                message = f"{shown(name)} is no class that derives from {ROOT_MODULE}.{ROOT_CLASS}"
            else:
                yield meaning, "asked for"
                continue
            self._errors.append(Diagnostic(path, line, 1, message))

    # -- judging one class

    def _judge(self, candidate: _Class, *, is_asked_for: bool) -> None:
        node = candidate.node
        if not self._is_workflow(candidate) or (node.name.startswith("_") and not is_asked_for):
            return
        source = self._source(candidate.module)
        assert source is not None, "its class was found there"
        runs = self._run_of(candidate)
        if runs is None:
            if id(node) not in self._bases or is_asked_for:
                self._error(source, node, f"workflow {node.name} has no method 'async def run(self, event, step)'")
            return
        owner, run = runs
        problem = _run_problem(run)
        if problem is not None:
            where = self._source(owner.module)
            assert where is not None
            self._error(where, run, f"{owner.node.name}.run {problem}")
            return
        found = WorkflowFound(node.name, source.path, node.lineno, source.name, self._declared(candidate))
        other = self._found.setdefault(node.name, found)
        if other != found:
            self._error(source, node, f"a workflow {node.name} exists already, in {shown(other.path)}:{other.line}")

    def _declared(self, candidate: _Class) -> str:
        """The declarations of the class, each from itself or the nearest base that has it."""
        found: dict[str, Any] = {}
        for name in DECLARATIONS:
            owner, value = self._assigned(candidate, name)
            if value is None or (isinstance(value, ast.Constant) and value.value is None):
                continue
            try:
                found[name] = value_of(name, value)
            except NotLiteral as wrong:
                source = self._source(owner.module)
                assert source is not None, "its class was found there"
                place = wrong.node if isinstance(wrong.node, ast.expr) else value
                self._error(source, place, f"{name} of {candidate.node.name} {wrong}")
        text = json.dumps(found) if found else ""
        if len(text) > DECLARED_CHARS_MAX:
            own = self._source(candidate.module)
            assert own is not None, "its class was found there"
            message = f"the declarations of {candidate.node.name} have {len(text)} characters, the limit is"
            self._error(own, candidate.node, f"{message} {DECLARED_CHARS_MAX}")
            return ""
        return text

    def _assigned(self, candidate: _Class, name: str) -> tuple[_Class, ast.expr | None]:
        for owner in (candidate, *self._ancestors(candidate)):
            for statement in _flat(owner.node.body):
                match statement:
                    case ast.Assign(targets=[ast.Name(id=bound)], value=value) if bound == name:
                        return owner, value
                    case ast.AnnAssign(target=ast.Name(id=bound), value=ast.expr() as value) if bound == name:
                        return owner, value
        return candidate, None

    def _error(self, source: _Source, node: ast.stmt | ast.expr, message: str) -> None:
        self._errors.append(Diagnostic(source.path, node.lineno, node.col_offset + 1, message))

    def _is_workflow(self, candidate: _Class) -> bool:
        return any(ancestor is _ROOT for ancestor in self._ancestors(candidate))

    def _ancestors(self, candidate: _Class) -> Iterator[_Class]:
        """All bases that can be followed, nearest first, each once; the candidate itself is not one of them."""
        seen = {id(candidate.node)}
        todo = [candidate]
        while todo:
            current = todo.pop(0)
            for expression in current.node.bases:
                base = self._evaluate(current.module, expression)
                if isinstance(base, _Class) and id(base.node) not in seen:
                    seen.add(id(base.node))
                    yield base
                    todo.append(base)

    def _run_of(self, candidate: _Class) -> tuple[_Class, ast.stmt] | None:
        """The statement that binds `run`, in the class or the nearest base that has one."""
        for owner in (candidate, *self._ancestors(candidate)):
            for statement in _flat(owner.node.body):
                if "run" in _bound_names(statement):
                    return owner, statement
        return None

    # -- following names

    def _path(self, module: str) -> str | None:
        stem = module.replace(".", "/")
        # A package hides a module of the same name, as at import.
        return next((path for path in (f"{stem}/__init__.py", f"{stem}.py") if path in self._sizes), None)

    def _source(self, module: str) -> _Source | None:
        if module not in self._sources:
            path = self._path(module)
            self._sources[module] = None
            if path is not None and self._sizes[path] <= self._source_bytes_max:
                self._sources[module] = self._parse(module, path)
        return self._sources[module]

    def _parse(self, module: str, path: str) -> _Source | None:
        try:
            tree = ast.parse(self._read(path), path)
        except (SyntaxError, ValueError):  # told by whoever compiles it
            return None
        source = _Source(module, path)
        package = module if path.endswith("/__init__.py") else module.rpartition(".")[0]
        plain = {id(statement) for statement in tree.body}
        for statement in _flat(tree.body):
            self._bind(source, package, statement, is_plain=id(statement) in plain)
        return source

    def _bind(self, source: _Source, package: str, statement: ast.stmt, *, is_plain: bool) -> None:
        names = source.names
        match statement:
            case ast.ClassDef(name=name):
                before = names.get(name)
                # Two definitions in the branches of an `if` or `try` are one class; two in a row are a slip.
                if isinstance(before, ast.ClassDef) and is_plain:
                    source.repeated.append((before, statement))
                if isinstance(before, ast.ClassDef):
                    source.classes.remove(before)
                names[name] = statement
                source.classes.append(statement)
            case ast.Import(names=aliases):
                for alias in aliases:
                    # `import a.b` binds a; `import a.b as c` binds a.b.
                    names[alias.asname or alias.name.partition(".")[0]] = _Alias(
                        alias.name if alias.asname else alias.name.partition(".")[0], ""
                    )
            case ast.ImportFrom(module=module, names=aliases, level=level):
                origin = _absolute(package, module, level)
                for alias in aliases:
                    if alias.name == "*":
                        source.stars.append(origin)
                    else:
                        names[alias.asname or alias.name] = _Alias(origin, alias.name)
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ):
                names[name] = value
            case _:
                for name in _bound_names(statement):
                    names.pop(name, None)

    def _evaluate(self, module: str, expression: ast.expr, hops: int = 0) -> _Meaning | None:
        """The class or module that an expression at the top level of `module` stands for."""
        attributes: list[str] = []
        while isinstance(expression, ast.Attribute | ast.Subscript):
            if isinstance(expression, ast.Attribute):
                attributes.append(expression.attr)
            expression = expression.value
        if not isinstance(expression, ast.Name):
            return None
        meaning = self._attribute(module, expression.id, hops)
        for attribute in reversed(attributes):
            if not isinstance(meaning, _Module):
                return None
            meaning = self._attribute(meaning.name, attribute, hops)
        return meaning

    def _attribute(self, module: str, name: str, hops: int = 0) -> _Meaning | None:
        if module == ROOT_MODULE:
            return _ROOT if name == ROOT_CLASS else None
        if (module, name) not in self._meanings and hops <= _HOPS_MAX:
            self._meanings[module, name] = None  # what a name that stands for itself means
            self._meanings[module, name] = self._look_up(module, name, hops)
        return self._meanings.get((module, name))

    def _look_up(self, module: str, name: str, hops: int) -> _Meaning | None:
        source = self._source(module)
        if source is not None:
            bound = source.names.get(name)
            if isinstance(bound, ast.ClassDef):
                return _Class(module, bound)
            if isinstance(bound, _Alias):
                return self._follow(bound, hops + 1)
            if bound is not None:
                return self._evaluate(module, bound, hops + 1)
            for star in source.stars:
                meaning = None if name.startswith("_") else self._attribute(star, name, hops + 1)
                if meaning is not None:
                    return meaning
        return self._submodule(f"{module}.{name}")

    def _follow(self, alias: _Alias, hops: int = 0) -> _Meaning | None:
        if not alias.attribute:
            return _Module(alias.module)
        return self._attribute(alias.module, alias.attribute, hops)

    def _submodule(self, name: str) -> _Module | None:
        is_folder = any(path.startswith(name.replace(".", "/") + "/") for path in self._sizes)
        return _Module(name) if name == ROOT_MODULE or is_folder or self._path(name) is not None else None

    # -- what else people should know

    def _look_at_files(self) -> None:
        for path in LOCK_FILES:
            if path in self._sizes:
                self._warnings.append(f"{path}: dependencies are not installed by this version of the platform")
        large = [path for path, size in self._sizes.items() if path.endswith(".py") and size > self._source_bytes_max]
        self._warnings += [f"{shown(path)}: too large to be compiled; it is kept as data" for path in large[:5]]
        # A pointer file of Git LFS is at most some hundred bytes long.
        pointers = [
            path for path, size in sorted(self._sizes.items()) if size < 1024 and self._read(path).startswith(LFS_HEAD)
        ]
        if pointers:
            more = f" and {len(pointers) - 1} more" if len(pointers) > 1 else ""
            self._warnings.append(f"{shown(pointers[0])}{more}: a Git LFS pointer; the file itself is not here")


def analyse(files: Mapping[str, bytes], *, source_bytes_max: int) -> Analysis:
    """The analysis of a tree that is in memory."""
    sizes = {path: len(content) for path, content in files.items()}
    return Analyser(sizes, files.__getitem__, source_bytes_max=source_bytes_max).run()


def _absolute(package: str, module: str | None, level: int) -> str:
    """The module that `from ..module import` means in `package`."""
    if level == 0:
        return module or ""
    parts = package.split(".") if package else []
    parts = parts[: len(parts) - (level - 1)]
    return ".".join([*parts, module] if module else parts)


def _flat(statements: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements in order, with those inside `if`, `try` and `with`, which bind names of the same scope."""
    todo = list(reversed(statements))
    while todo:
        statement = todo.pop()
        if isinstance(statement, ast.If | ast.Try | ast.TryStar | ast.With):
            inner: list[ast.stmt] = list(statement.body)
            if isinstance(statement, ast.Try | ast.TryStar):
                inner += [one for handler in statement.handlers for one in handler.body]
                inner += statement.orelse + statement.finalbody
            elif isinstance(statement, ast.If):
                inner += statement.orelse
            todo += reversed(inner)
        else:
            yield statement


def _bound_names(statement: ast.stmt) -> list[str]:
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Assign(targets=targets):
            return [target.id for target in targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr()):
            return [name]
        case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
            return [alias.asname or alias.name for alias in aliases]
    return []


def _run_problem(run: ast.stmt) -> str | None:
    """Why the statement that binds `run` cannot work; None if it may."""
    wanted = "must be 'async def run(self, event, step)'"
    if isinstance(run, ast.FunctionDef):
        return f"{wanted}; 'async' is missing"
    if not isinstance(run, ast.AsyncFunctionDef):
        return None  # an assignment: reading cannot tell what it binds
    for decorator in run.decorator_list:
        if isinstance(decorator, ast.Name) and decorator.id in ("staticmethod", "classmethod"):
            return f"{wanted}, without @{decorator.id}"
    arguments = run.args
    positional = [*arguments.posonlyargs, *arguments.args]
    required = len(positional) - len(arguments.defaults)
    keyword_required = any(default is None for default in arguments.kw_defaults)
    if required > 3 or (len(positional) < 3 and arguments.vararg is None) or keyword_required:
        return wanted
    if _yields(run):
        return f"{wanted} without 'yield'"
    return None


def _yields(function: ast.AsyncFunctionDef) -> bool:
    """Whether the function itself yields, not one inside it."""
    todo: list[ast.AST] = list(function.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Yield | ast.YieldFrom):
            return True
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            todo += ast.iter_child_nodes(node)
    return False
