"""What names stand for in a tree of Python sources, read and not imported. For limited children only.

Names are followed through imports (plain, `as`, relative, `*`), simple assignments and attribute chains.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

ROOT_MODULE, ROOT_CLASS = "executor.workflow", "Workflow"
# A chain of aliases longer than this is a loop that we did not notice, or nobody's code.
_HOPS_MAX = 50

Read = Callable[[str], bytes]


class Alias(NamedTuple):
    """A name that stands for another: `attribute` of the module `module`, or the module itself if that is ""."""

    module: str
    attribute: str


class Class(NamedTuple):
    module: str
    node: ast.ClassDef


class Module(NamedTuple):
    name: str


Meaning = Class | Module


@dataclass(slots=True)
class Source:
    """A parsed module: what its top level binds."""

    name: str
    path: str
    names: dict[str, ast.ClassDef | ast.expr | Alias] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    classes: list[ast.ClassDef] = field(default_factory=list)
    repeated: list[tuple[ast.ClassDef, ast.ClassDef]] = field(default_factory=list)


ROOT = Class(ROOT_MODULE, ast.ClassDef(ROOT_CLASS, [], [], [], []))


def is_importable(path: str) -> bool:
    """Whether some import statement can name the `.py` file `path`."""
    return path.endswith(".py") and all(part.isidentifier() for part in path.removesuffix(".py").split("/"))


def module_name(path: str) -> str:
    """`workflows/billing.py` → `workflows.billing`; `workflows/__init__.py` → `workflows`."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


class Names:
    """Of one tree. `sizes` has every file of it (path → bytes); `read` fetches the content of one.

    Sources that do not parse, or are larger than `source_bytes_max`, mean nothing here.
    """

    def __init__(self, sizes: Mapping[str, int], read: Read, *, source_bytes_max: int) -> None:
        self._sizes = sizes
        self._read = read
        self._source_bytes_max = source_bytes_max
        self._sources: dict[str, Source | None] = {}
        self._meanings: dict[tuple[str, str], Meaning | None] = {}

    def path_of(self, module: str) -> str | None:
        """The file that the import of `module` reads; None: there is none in this tree."""
        stem = module.replace(".", "/")
        # A package hides a module of the same name, as at import.
        return next((path for path in (f"{stem}/__init__.py", f"{stem}.py") if path in self._sizes), None)

    def source(self, module: str) -> Source | None:
        """The module, parsed; None: there is none in this tree, or none that can be parsed."""
        if module not in self._sources:
            path = self.path_of(module)
            self._sources[module] = None
            if path is not None and self._sizes[path] <= self._source_bytes_max:
                self._sources[module] = self._parse(module, path)
        return self._sources[module]

    def attribute(self, module: str, name: str, hops: int = 0) -> Meaning | None:
        """What `name` at the top level of `module` stands for; None: no class or module, as far as is seen."""
        if module == ROOT_MODULE:
            return ROOT if name == ROOT_CLASS else None
        if (module, name) not in self._meanings and hops <= _HOPS_MAX:
            self._meanings[module, name] = None  # what a name that stands for itself means
            self._meanings[module, name] = self._look_up(module, name, hops)
        return self._meanings.get((module, name))

    def follow(self, alias: Alias, hops: int = 0) -> Meaning | None:
        if not alias.attribute:
            return Module(alias.module)
        return self.attribute(alias.module, alias.attribute, hops)

    def is_workflow(self, candidate: Class) -> bool:
        """Whether it derives from `executor.workflow.Workflow`."""
        return any(ancestor is ROOT for ancestor in self.ancestors(candidate))

    def ancestors(self, candidate: Class) -> Iterator[Class]:
        """All bases that can be followed, nearest first, each once; the candidate itself is not one of them."""
        seen = {id(candidate.node)}
        todo = [candidate]
        while todo:
            current = todo.pop(0)
            for expression in current.node.bases:
                base = self._evaluate(current.module, expression)
                if isinstance(base, Class) and id(base.node) not in seen:
                    seen.add(id(base.node))
                    yield base
                    todo.append(base)

    def _parse(self, module: str, path: str) -> Source | None:
        try:
            tree = ast.parse(self._read(path), path)
        except (SyntaxError, ValueError):  # told by whoever compiles it
            return None
        source = Source(module, path)
        package = module if path.endswith("/__init__.py") else module.rpartition(".")[0]
        plain = {id(statement) for statement in tree.body}
        for statement in statements_of(tree.body):
            self._bind(source, package, statement, is_plain=id(statement) in plain)
        return source

    def _bind(self, source: Source, package: str, statement: ast.stmt, *, is_plain: bool) -> None:
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
                    names[alias.asname or alias.name.partition(".")[0]] = Alias(
                        alias.name if alias.asname else alias.name.partition(".")[0], ""
                    )
            case ast.ImportFrom(module=module, names=aliases, level=level):
                origin = _absolute(package, module, level)
                for alias in aliases:
                    if alias.name == "*":
                        source.stars.append(origin)
                    else:
                        names[alias.asname or alias.name] = Alias(origin, alias.name)
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ):
                names[name] = value
            case _:
                for name in bound_names(statement):
                    names.pop(name, None)

    def _evaluate(self, module: str, expression: ast.expr, hops: int = 0) -> Meaning | None:
        """The class or module that an expression at the top level of `module` stands for."""
        attributes: list[str] = []
        while isinstance(expression, ast.Attribute | ast.Subscript):
            if isinstance(expression, ast.Attribute):
                attributes.append(expression.attr)
            expression = expression.value
        if not isinstance(expression, ast.Name):
            return None
        meaning = self.attribute(module, expression.id, hops)
        for attribute in reversed(attributes):
            if not isinstance(meaning, Module):
                return None
            meaning = self.attribute(meaning.name, attribute, hops)
        return meaning

    def _look_up(self, module: str, name: str, hops: int) -> Meaning | None:
        source = self.source(module)
        if source is not None:
            bound = source.names.get(name)
            if isinstance(bound, ast.ClassDef):
                return Class(module, bound)
            if isinstance(bound, Alias):
                return self.follow(bound, hops + 1)
            if bound is not None:
                return self._evaluate(module, bound, hops + 1)
            for star in source.stars:
                meaning = None if name.startswith("_") else self.attribute(star, name, hops + 1)
                if meaning is not None:
                    return meaning
        return self._submodule(f"{module}.{name}")

    def _submodule(self, name: str) -> Module | None:
        is_folder = any(path.startswith(name.replace(".", "/") + "/") for path in self._sizes)
        return Module(name) if name == ROOT_MODULE or is_folder or self.path_of(name) is not None else None


def _absolute(package: str, module: str | None, level: int) -> str:
    """The module that `from ..module import` means in `package`."""
    if level == 0:
        return module or ""
    parts = package.split(".") if package else []
    parts = parts[: len(parts) - (level - 1)]
    return ".".join([*parts, module] if module else parts)


def statements_of(statements: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
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


def bound_names(statement: ast.stmt) -> list[str]:
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
