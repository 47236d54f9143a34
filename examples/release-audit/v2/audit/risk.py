"""Calls that deserve a second look, read from a file's syntax tree."""

import ast

from audit import source

RISKY = {
    "eval": 3,
    "exec": 3,
    "compile": 2,
    "__import__": 2,
    "system": 3,
    "popen": 3,
    "Popen": 2,
    "run": 1,
    "loads": 1,
    "import_module": 1,
}
"""Names of called functions, and how much each weighs."""


def calls(path: str, content: bytes) -> list[dict]:
    """Each risky call: where it is, and what."""
    try:
        tree = source.tree_of(path, content)
    except (SyntaxError, ValueError):
        return []
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
            if name in RISKY:
                found.append({"path": path, "line": node.lineno, "call": name, "weight": RISKY[name]})
    return found


def verdict(score: int) -> str:
    return "low" if score < 5 else "medium" if score < 40 else "high"
