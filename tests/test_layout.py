"""Imports point one way: experiments -> lab -> train, viz -> tasks, runs, interop -> models -> nn -> ops."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# What each part may import from cnnjax, besides itself. Of `ops` the data may import one module, which needs JAX alone.
BASE = {"errors", "options", "compat"}
MODELS = {"models", "nn", "ops", "geometry", "errors"}
RUNS = {"runs", "data", "__version__", *BASE}
TRAIN = {"train", "viz", "tasks", "interop", *RUNS, *MODELS}
ALLOWED = {
    "errors": set(),
    "compat": set(),
    "geometry": set(),
    "options": {"errors"},
    "ops": set(),
    "data": {"ops.cpu.fusion", *BASE},
    "nn": {"ops", "geometry", "errors"},
    "models": MODELS,
    "interop": MODELS,
    "runs": RUNS,
    "tasks": {"viz", "data", *BASE, *MODELS},
    "viz": {"data", "interop", *BASE, *MODELS},
    "train": TRAIN,
    "lab": {"lab", *TRAIN},
    "__main__": {"lab"},
}
SOURCES = sorted((ROOT / "cnnjax").rglob("*.py"))


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "cnnjax":
            yield from (f"cnnjax.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    part = path.relative_to(ROOT / "cnnjax").parts[0].removesuffix(".py")
    if part == "__init__":
        assert not list(imports(path))
        return
    for module in imports(path):
        names = module.split(".")
        assert names[0] not in ("experiments", "launch")
        if names[0] == "cnnjax":
            assert {names[1], ".".join(names[1:])} & (ALLOWED[part] | {part}), module


def test_what_data_imports_of_ops_needs_jax_alone():
    modules = imports(ROOT / "cnnjax" / "ops" / "cpu" / "fusion.py")
    assert {module.split(".")[0] for module in modules} == {"collections", "typing", "jax"}


@pytest.mark.parametrize("path", [path for path in SOURCES if "ops" in path.parts], ids=lambda path: path.name)
def test_ops_needs_jax_alone(path):
    standard = {"__future__", "operator", "collections", "functools", "typing", "math"}
    assert {module.split(".")[0] for module in imports(path)} <= standard | {"jax", "numpy", "cnnjax", "jaxtyping"}


EXECUTES = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
PROGRAM = [*SOURCES, ROOT / "launch.py", *sorted((ROOT / "experiments").rglob("*.py"))]


def calls(path):
    """Every call as (what is called, its arguments by name)."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}


@pytest.mark.parametrize("path", PROGRAM, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_is_read_can_execute(path):
    written = {"cloudpickle"} if path.name == "slurm.py" else set()  # submitit's jobs, which it reads itself
    assert not {module.split(".")[0] for module in imports(path) if module} & EXECUTES - written
    for function, named in calls(path):
        assert function not in ("eval", "exec", "compile", "__import__"), function
        if function in ("np.load", "numpy.load"):
            assert named.get("allow_pickle", "False") == "False"
        if function == "torch.load":
            assert named.get("weights_only") == "True"
