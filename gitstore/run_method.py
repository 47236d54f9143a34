"""The shape of a workflow's `run`: what can be seen of it without running it."""

from __future__ import annotations

import ast


def run_problem(run: ast.stmt) -> str | None:
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
