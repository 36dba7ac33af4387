"""Which code a result is of, by the syntax trees of its sources: comments, docstrings and layout do not count."""

import ast
import functools
import hashlib
import inspect
import textwrap
from collections.abc import Iterable
from typing import Any

DIGITS = 12


def digest(classes: Iterable[type]) -> str:
    """Return a few digits that identify the sources of classes; one whose source cannot be read counts by its name."""
    sources = sorted({f"{one.__module__}.{one.__qualname__} {_source(one)}" for one in classes})
    return hashlib.sha256("\n".join(sources).encode()).hexdigest()[:DIGITS]


@functools.cache
def _source(one: type) -> str:
    try:
        return repr(shape(ast.parse(textwrap.dedent(inspect.getsource(one)))))
    except (OSError, TypeError, SyntaxError):  # typed into a prompt, built in, or no longer what was imported
        return ""


def shape(node: Any) -> Any:
    """Return a syntax tree as nested tuples, the same in every version of Python, without docstrings."""
    if isinstance(node, list):
        return tuple(shape(one) for one in node if not _is_text(one))
    if isinstance(node, ast.JoinedStr):  # to which Python 3.12 adds empty parts
        node = ast.JoinedStr([part for part in node.values if getattr(part, "value", None) != ""])
    if isinstance(node, ast.AST):
        fields = ((name, shape(value)) for name, value in ast.iter_fields(node) if value not in (None, []))
        return (type(node).__name__, *fields)
    return node


def _is_text(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
