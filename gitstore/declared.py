"""What a workflow class declares about itself, read from its source: `flow = Flow(…)`, `schedule = …`.

Only literals are read: text, numbers, True, False, None, lists, tuples and dicts of them, and calls of the names below
with keyword arguments. They become JSON: `Flow(concurrency=5)` is {"concurrency": 5}. What the values mean, and which
of them are right, is not known here: see `check_workflow` of `GitStore.open`.
"""

from __future__ import annotations

import ast
import math
from typing import Any, Final

DECLARATIONS: Final = {"flow": ("Flow",), "schedule": ("Schedule",)}
"""Class attributes that are read, and the calls that their values may be made with."""
INTEGER_MAX = 2**63 - 1
_DEPTH_MAX = 8


class NotLiteral(Exception):
    """`node` is what cannot be read; the text says why."""

    def __init__(self, node: ast.AST, message: str) -> None:
        super().__init__(message)
        self.node = node


def value_of(name: str, node: ast.expr) -> Any:
    """What the declaration `name` says, as JSON types. Raises NotLiteral."""
    return _read(node, DECLARATIONS[name], 0)


def _read(node: ast.expr, calls: tuple[str, ...], depth: int) -> Any:
    if depth > _DEPTH_MAX:
        raise NotLiteral(node, "is nested too deeply")
    match node:
        case ast.Constant(value=str() | int() | float() | None):
            return _checked(node, node.value)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float())):
            return _checked(node, ast.literal_eval(node))
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_read(item, calls, depth + 1) for item in items]
        case ast.Dict(keys=keys, values=values):
            found: dict[str, Any] = {}
            for key, value in zip(keys, values, strict=True):
                if not (isinstance(key, ast.Constant) and isinstance(key.value, str)):
                    raise NotLiteral(key or value, "has a key that is no literal text")
                found[_checked(key, key.value)] = _read(value, calls, depth + 1)
            return found
        case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called), args=args, keywords=keywords):
            if called not in calls:
                raise NotLiteral(node, f"calls {called}; write {' or '.join(calls)}(…) with literals")
            if args or any(keyword.arg is None for keyword in keywords):
                raise NotLiteral(node, f"has arguments without a name; write {called}(name=literal, …)")
            return {str(keyword.arg): _read(keyword.value, calls, depth + 1) for keyword in keywords}
    raise NotLiteral(node, "is not made of literals; it is read without running your code")


def _checked(node: ast.AST, value: Any) -> Any:
    """A literal that every reader of JSON and of UTF-8 takes."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise NotLiteral(node, "has text with lone surrogates, which is not valid Unicode") from None
    elif isinstance(value, float) and not math.isfinite(value):
        raise NotLiteral(node, "has a number that is not finite")
    elif isinstance(value, int) and not -INTEGER_MAX <= value <= INTEGER_MAX:
        raise NotLiteral(node, "has a whole number of more than 64 bits")
    return value
