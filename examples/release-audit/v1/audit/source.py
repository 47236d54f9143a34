"""What a Python file says about itself, read from its syntax tree: it is never imported."""

import ast
import sys
import threading

_parsing = threading.Lock()
"""Steps run in threads, and several versions of Python miscount the depth of a tree when two threads make one at once
("AST constructor recursion depth mismatch"). So one thread parses at a time."""


def tree_of(path: str, content: bytes) -> ast.Module:
    """Raises SyntaxError or ValueError."""
    with _parsing:
        return ast.parse(content, filename=path)


def facts(path: str, content: bytes) -> dict:
    """Definitions and third-party imports of one file; `problem` says why it could not be parsed."""
    try:
        tree = tree_of(path, content)
    except (SyntaxError, ValueError) as error:
        return {"path": path, "definitions": 0, "imports": [], "problem": str(error)}
    definitions = 0
    imports: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            definitions += 1
        elif isinstance(node, ast.Import):
            imports.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imports.add(node.module.partition(".")[0])
    outside = sorted(imports - sys.stdlib_module_names)
    return {"path": path, "definitions": definitions, "imports": outside, "problem": ""}
