"""The code that a stored result was measured with, and whether it has changed since."""

import ast
import hashlib
import subprocess
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from cnnjax.lab.workspace import CHECKOUT
from cnnjax.models.registry import list_models, lookup
from cnnjax.runs.code import shape

MEASURES = ("run", "load", "Config")  # what an experiment measures with; its table and claims only read the summary
# What draws, stores and judges values, but decides none.
IGNORED = ("cnnjax/viz/", "cnnjax/runs/", "cnnjax/lab/")
KEPT = ("cnnjax/lab/worked.py",)
SHORTEST = 5  # letters of a text that counts as the beginning of a network's name
DIGITS = 12


def describe(path: Path) -> dict[str, Any]:
    """Return what a summary says of its code, for an experiment or a benchmark in a file.

    Returns:
        "commit": what git has checked out, None outside of a checkout; "modified": whether files differ from that
        commit; "sources": a hash of the syntax tree, which comments and docstrings do not change, of each source file
        that the file imports, directly or not. Of `cnnjax.models` these are the families whose networks it names.
    """
    commit = _git("rev-parse", "HEAD")
    modified = None if commit is None else bool(_git("status", "--porcelain", "--", "cnnjax", "experiments"))
    return {"commit": commit, "modified": modified, "sources": sources(path)}


def changed(path: Path, recorded: Mapping[str, Any] | None) -> list[str] | None:
    """Return the files that `describe` recorded and that differ now or are gone; None if nothing was recorded."""
    if not recorded:
        return None
    now = sources(path)
    return [file for file, digest in recorded["sources"].items() if now.get(file) != digest]


def fingerprint(path: Path) -> str:
    """Return a few digits that identify the code of an experiment."""
    return hashlib.sha256(repr(sources(path)).encode()).hexdigest()[:DIGITS]


def sources(path: Path) -> dict[str, str]:
    """Return the hashes of an experiment's source files, by their path in the checkout."""
    path = path.absolute()
    own = _read(path, _mtime(path), MEASURES)
    found, waiting = {_title(path): own.digest}, [*own.imports]
    while waiting:
        for file in _files_of(waiting.pop(), path):
            title = _title(file)
            if title in found or file == path or (title.startswith(IGNORED) and title not in KEPT):
                continue
            source = _read(file, _mtime(file), ())
            found[title] = source.digest
            waiting += source.imports
            if title == "cnnjax/models/__init__.py":  # which imports all families, whatever is used of them
                waiting += [f"cnnjax.models.{Path(place).stem}" for place in _families(own.texts)]
    return dict(sorted(found.items()))


class _Source(NamedTuple):
    digest: str
    imports: tuple[str, ...]
    texts: tuple[str, ...]  # its string constants


@lru_cache(maxsize=1024)
def _read(file: Path, mtime: int, wanted: tuple[str, ...]) -> _Source:
    """Read a source file, or those of its definitions that the wanted ones need if it has any of these."""
    tree = ast.parse(file.read_text())
    nodes = list(_needed(tree, wanted)) or tree.body
    imports, texts = list[str](), list[str]()
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                imports += [name.name for name in names]
            case ast.ImportFrom(module=str(module), names=names):
                imports += [module, *(f"{module}.{name.name}" for name in names)]
            case ast.Constant(value=str(text)):
                texts.append(text)
    digest = hashlib.sha256(repr(shape(nodes)).encode()).hexdigest()
    return _Source(digest[:DIGITS], tuple(imports), tuple(texts))


def _needed(tree: ast.Module, wanted: tuple[str, ...]) -> Iterator[ast.stmt]:
    """Yield imports, and the definitions of the wanted names and of all names that these use."""
    defined: dict[str, list[ast.stmt]] = {}
    for statement in tree.body:
        for name in _names_of(statement):
            defined.setdefault(name, []).append(statement)
    waiting, seen = [name for name in wanted if name in defined], set[str]()
    if not waiting:
        return
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            uses = (node for one in defined[name] for node in ast.walk(one) if isinstance(node, ast.Name))
            waiting += [node.id for node in uses if node.id in defined]
    for statement in tree.body:
        if isinstance(statement, ast.Import | ast.ImportFrom) or seen & set(_names_of(statement)):
            yield statement


def _names_of(statement: ast.stmt) -> list[str]:
    """Return the names that a statement at the top of a module defines."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return [node.id for target in targets if target for node in ast.walk(target) if isinstance(node, ast.Name)]


def _files_of(module: str, path: Path) -> Iterator[Path]:
    """Yield the files of a module of this checkout, or beside an experiment of a person's own, and of its packages."""
    for folder in dict.fromkeys((CHECKOUT, path.parent)):
        place = folder
        for part in module.split("."):
            place = place / part
            for file in (place / "__init__.py", place.with_suffix(".py")):
                if file.is_file():
                    yield file


def _families(texts: tuple[str, ...]) -> set[str]:
    """Return the files of the networks whose names are among the texts, or begin with one that is not too short."""
    begins = tuple(text for text in texts if len(text) >= SHORTEST)
    return {lookup(name).place for name in list_models() if name in texts or name.startswith(begins)}


def _title(file: Path) -> str:
    return str(file.relative_to(CHECKOUT)) if file.is_relative_to(CHECKOUT) else file.name


def _mtime(file: Path) -> int:
    return file.stat().st_mtime_ns


def _git(*words: str) -> str | None:
    if not (CHECKOUT / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "-C", str(CHECKOUT), *words], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
