"""Small faults of a source file, each a piece of text that takes another's place, found by the file's syntax tree."""

import ast
import bisect
import collections
import hashlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

OPERATORS: dict[type, tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "%"),
    ast.Mod: ("%", "//"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.And: ("and", "or"),
    ast.Or: ("or", "and"),
}
NAMES = {
    "max": "min",
    "maximum": "minimum",
    "argmax": "argmin",
    "mean": "sum",
    "any": "all",
    "gt": "lt",
    "ceil": "floor",
}
NAMES |= {"psum": "pmean", "train": "eval", "var": "std", "floor": "ceil", "MAXIMUM": "MINIMUM"}
NAMES |= {other: name for name, other in NAMES.items()}
# Calls without which nothing fits any more, and those whose arguments differ in kind.
BUILTIN = {"len", "range", "tuple", "list", "set", "dict", "int", "float", "str", "bool", "iter", "next", "enumerate"}
BUILTIN |= {
    "np.array",
    "np.asarray",
    "jnp.asarray",
    "np.stack",
    "np.float32",
    "isinstance",
    "getattr",
    "super",
    "sorted",
    "zip",
    "print",
    "nnx.Param",
    "nnx.Rngs",
    "math.prod",
}
MODULES = {
    "jnp",
    "np",
    "jax",
    "lax",
    "nnx",
    "optax",
    "math",
    "nn",
    "ops",
    "jax.nn",
    "jax.random",
    "jax.tree",
    "np.random",
}
COMMUTATIVE = {"min", "max", "jnp.minimum", "jnp.maximum", "np.minimum", "np.maximum", "np.hypot", "lax.max", "lax.min"}
SELDOM_ALIKE = ast.Tuple | ast.List | ast.Lambda | ast.Starred


@dataclass(frozen=True)
class Mutant:
    """A fault: in the file `path`, the bytes from `start` to `end` are replaced.

    `number` counts the faults of a file that read the same.
    """

    path: str
    start: int
    end: int
    replacement: str
    kind: str
    line: int
    before: str
    number: int = 0

    @property
    def id(self) -> str:
        """A name that stays while the line does, wherever in its file it stands."""
        text = "\n".join((self.path, self.kind, self.before, self.replacement, str(self.number)))
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    def applied(self, source: bytes) -> bytes | None:
        """Return the source with the fault; None where that is no other program."""
        changed = source[: self.start] + self.replacement.encode() + source[self.end :]
        try:
            same = ast.dump(ast.parse(changed)) == ast.dump(ast.parse(source))
        except SyntaxError:
            return None
        return None if same else changed


def mutants_of(root: Path, path: str) -> list[Mutant]:
    """Return every fault of a file below `root`, in the order of its text."""
    source = (root / path).read_bytes()
    lines = source.splitlines(keepends=True)
    offsets = [0, *itertools.accumulate(map(len, lines))]
    found, alike = [], collections.Counter()
    for start, end, replacement, kind in _changes(ast.parse(source), source, offsets):
        line = bisect.bisect_right(offsets, start)
        before = lines[line - 1].decode().strip()
        mutant = Mutant(path, start, end, replacement, kind, line, before)
        found.append(replace(mutant, number=alike[mutant.id]))
        alike[mutant.id] += 1
    return found


Change = tuple[int, int, str, str]


def _changes(tree: ast.AST, source: bytes, lines: list[int]) -> Iterator[Change]:
    def start(node: ast.AST) -> int:
        return lines[node.lineno - 1] + node.col_offset

    def end(node: ast.AST) -> int:
        return lines[node.end_lineno - 1] + node.end_col_offset

    def text(node: ast.AST) -> str:
        return source[start(node) : end(node)].decode()

    def operator(left: ast.AST, right: ast.AST, kind: ast.AST) -> Iterator[Change]:
        if type(kind) in OPERATORS:
            old, new = OPERATORS[type(kind)]
            between = source[end(left) : start(right)].decode()
            pattern = re.escape(old) if not old[0].isalpha() else rf"\b{old}\b"
            yield start(left), end(right), text(left) + re.sub(pattern, new, between, count=1) + text(right), "operator"

    def call(node: ast.Call) -> Iterator[Change]:
        parts = sorted([*node.args, *node.keywords], key=start)
        for before, part in zip([None, *parts], parts, strict=False):
            if isinstance(part, ast.keyword) and part.arg not in (None, "rngs"):
                yield end(before) if before else start(part), end(part), "", "keyword dropped"
        first, second = (*node.args, None, None)[:2]
        # Others end in a TypeError, which any test sees.
        if (
            second
            and type(first) is type(second)
            and not isinstance(first, SELDOM_ALIKE)
            and text(node.func) not in BUILTIN | COMMUTATIVE
        ):
            between = source[end(first) : start(second)].decode()
            if not isinstance(getattr(first, "value", None), str):
                yield start(first), end(second), text(second) + between + text(first), "arguments swapped"
        if len(parts) == 1 and node.args and not isinstance(first, ast.Starred | ast.GeneratorExp):
            function = node.func.value if isinstance(node.func, ast.Attribute) else node.func
            is_method = isinstance(node.func, ast.Attribute) and text(function) not in MODULES
            if is_method and text(function) != "self":
                yield start(node), end(node), text(function), "call left out"
            elif text(node.func) not in BUILTIN:
                yield start(node), end(node), text(first), "call left out"

    def of(node: ast.AST) -> Iterator[Change]:
        match node:
            case ast.Compare(left=left, ops=[kind], comparators=[right]) | ast.BinOp(left=left, op=kind, right=right):
                yield from operator(left, right, kind)
            case ast.BoolOp(op=kind, values=[left, right, *_]):
                yield from operator(left, right, kind)
            case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand) if not isinstance(operand, ast.Constant):
                yield start(node), end(node), text(operand), "sign or not left out"
            case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
                yield start(test), end(test), f"not ({text(test)})", "condition negated"
            case ast.Constant(value=bool(value)):
                yield start(node), end(node), str(not value), "flag"
            case ast.Constant(value=int(value)):
                yield start(node), end(node), str(value + 1), "off by one"
            case ast.Constant(value=float(value)):
                yield start(node), end(node), str(2 * value or 1.0), "number doubled"
            case ast.Call(func=ast.Name(id=name)) if name in NAMES:
                yield start(node), start(node) + len(name), NAMES[name], "name"
                yield from call(node)
            case ast.Call():
                yield from call(node)
            case ast.Expr(value=ast.Call()) | ast.AugAssign():
                yield start(node), end(node), "pass", "statement left out"
            case ast.Attribute(value=owner, attr=name) if name in NAMES and text(owner) != "self":
                yield end(node) - len(name), end(node), NAMES[name], "name"

    def visit(node: ast.AST) -> Iterator[Change]:
        yield from of(node)
        for field, value in ast.iter_fields(node):
            # Messages, annotations and what Python does with a function are no computation.
            if field in ("annotation", "returns", "decorator_list") or isinstance(node, ast.Raise | ast.JoinedStr):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from visit(child)

    yield from visit(tree)
