"""README.md of `cnnjax/ops/cpu` has every form that the code can choose, and every threshold with its value."""

import ast
import importlib
import re
from pathlib import Path

import pytest

from cnnjax.ops import cpu

FOLDER = Path(cpu.__file__).parent
TABLE = (FOLDER / "README.md").read_text()
MODULES = {path.stem: ast.parse(path.read_text()) for path in FOLDER.glob("*.py") if path.stem != "__init__"}
FORMS = {
    f"{module}.{node.name}"
    for module, tree in MODULES.items()
    for node in tree.body
    if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
}


def chosen(module, function):
    """The functions of this package whose results a function returns as they are."""
    calls = [node.value for node in ast.walk(function) if isinstance(node, ast.Return)]
    names = [ast.unparse(call.func) for call in calls if isinstance(call, ast.Call)]
    return {name if "." in name else f"{module}.{name}" for name in names} & FORMS


CHOICES = {
    f"{module}.{node.name}": forms
    for module, tree in MODULES.items()
    for node in tree.body
    if isinstance(node, ast.FunctionDef) and len(forms := chosen(module, node)) > 1
}


def test_every_form_that_the_code_can_choose_is_in_the_table_and_no_other():
    sections = re.findall(r"^## `(.+?)`\n(.*?)(?=^## |\Z)", TABLE, re.MULTILINE | re.DOTALL)
    tables = {name: set(re.findall(r"^\| `(.+?)` \|", rows, re.MULTILINE)) for name, rows in sections}
    assert tables == CHOICES
    assert {"conv.forward", "dense.convolution", "extremes.extremes"} <= set(CHOICES)


def thresholds():
    """(module, name, value) of every number that stands in capitals."""
    for module in MODULES:
        names = vars(importlib.import_module(f"cnnjax.ops.cpu.{module}"))
        imported = {name for node in MODULES[module].body if isinstance(node, ast.ImportFrom) for name in aliases(node)}
        for name in sorted(set(names) - imported):
            if name.isupper() and type(names[name]) in (int, float):
                yield module, name, names[name]


def aliases(node):
    return (alias.asname or alias.name for alias in node.names)


def test_every_threshold_exists_once_and_is_in_the_table():
    names = [name for _, name, _ in thresholds()]
    assert len(names) == len(set(names))
    assert {f"{module}.{name}" for module, name, _ in thresholds()} <= set(re.findall(r"`(\w+\.[A-Z_]+) = ", TABLE))


@pytest.mark.parametrize(("name", "value"), sorted(set(re.findall(r"`(\w+\.[A-Z_]+) = (.+?)`", TABLE))))
def test_the_table_states_the_value_of_a_threshold(name, value):
    module, _, constant = name.partition(".")
    package = "cnnjax.ops.cpu" if module in MODULES else "cnnjax.ops"
    assert getattr(importlib.import_module(f"{package}.{module}"), constant) == float(value)
