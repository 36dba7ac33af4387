"""What the wheel holds and needs, that it trains by itself, and what it may touch of other packages."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
BY_EXTRA = {extra: [Requirement(text) for text in listed] for extra, listed in EXTRAS.items()}
NEEDED = [Requirement(text) for text in PROJECT["dependencies"]]
OLDEST = dict(re.findall(r"^([\w-]+)==([\w.]+)$", (ROOT / ".ci" / "oldest.txt").read_text(), re.MULTILINE))
SOURCES = sorted((ROOT / "cnnjax").rglob("*.py"))


def names(requirements):
    return {canonicalize_name(requirement.name) for requirement in requirements}


# ---------------------------------------------------------------- what is imported

OPTIONAL = names(requirement for listed in BY_EXTRA.values() for requirement in listed)
# Modules whose distribution need not be installed where this test runs, by the distribution that has them.
MODULES = {"torch": "torch", "keras": "keras", "h5py": "h5py", "huggingface_hub": "huggingface-hub"}
MODULES["pycocotools"] = "pycocotools"
REFERENCES = {"torchvision", "timm"}  # installed without their dependencies, which would bring another torch
# What tensorflow-datasets and jax.export import without requiring it.
UNSEEN = {"array-record", "importlib-resources", "flatbuffers"}


def imported(folder):
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                yield node.module.partition(".")[0]


def distributions(folder):
    """The distributions that the files of a folder import, as many as could be meant by a module's name."""
    known = packages_distributions()
    for module in sorted(set(imported(folder)) - sys.stdlib_module_names - {"cnnjax", "experiments"} - REFERENCES):
        found = {MODULES[module]} if module in MODULES else {canonicalize_name(name) for name in known[module]}
        yield module, found


@pytest.mark.parametrize("folder", ["cnnjax", "experiments"])
def test_whatever_is_imported_is_declared(folder):
    declared = names(NEEDED) | OPTIONAL
    assert not {module: found for module, found in distributions(folder) if not found & declared}


def test_whatever_is_declared_is_imported():
    found = set().union(*(found for folder in ("cnnjax", "experiments") for _, found in distributions(folder)))
    assert names(NEEDED) <= found | UNSEEN


def test_lower_bounds_are_the_oldest_versions_that_ci_runs():
    suite = [*NEEDED, *BY_EXTRA["slurm"], *BY_EXTRA["test"]]
    bounds = {requirement.name: str(requirement.specifier).removeprefix(">=") for requirement in suite}
    tools = {"cnnjax", "ruff", "mypy", "playwright"}  # the matrix runs the suite only
    padded = {name: version.split(".") for name, version in bounds.items() if name not in tools}
    assert {name: OLDEST[name].split(".")[: len(parts)] for name, parts in padded.items()} == padded


# ---------------------------------------------------------------- other packages' private names

DOCUMENTED = {"_replace", "_asdict", "_fields", "_make", "_exit"}  # of named tuples, and os._exit


def is_private(name):
    return name.startswith("_") and not name.endswith("__")


def hooks(path):
    """Every private name of another package that a file touches, and every part of one that it replaces."""
    tree = ast.parse(path.read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    foreign = {
        (alias.asname or alias.name).partition(".")[0]
        for node in imports
        for alias in node.names
        if (getattr(node, "module", None) or alias.name).partition(".")[0] not in sys.stdlib_module_names | {"cnnjax"}
    }
    for node in imports:
        module = getattr(node, "module", None) or ""
        for alias in node.names:
            if not module.startswith("cnnjax") and any(map(is_private, f"{module}.{alias.name}".split("."))):
                yield f"import {module} {alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if is_private(node.attr) and not own and node.attr not in DOCUMENTED:
                yield ast.unparse(node)
            if isinstance(node.ctx, ast.Store) and ast.unparse(node).partition(".")[0] in foreign:
                yield f"{ast.unparse(node)} = ..."


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_compat_touches_private_interfaces(path):
    assert bool(list(hooks(path))) == (path.name == "compat.py")


# ---------------------------------------------------------------- the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", ROOT, "--no-deps", "--wheel-dir", folder)
    (path,) = folder.glob("*.whl")
    return path


def pip(*arguments):
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *map(str, arguments)], check=True)


@pytest.mark.wheel
def test_the_wheel_holds_the_package_alone(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "cnnjax"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert held == set(listed.stdout.splitlines())
    assert {"cnnjax/py.typed", "cnnjax/lab/assets/explorer.js", "cnnjax/lab/assets/style.css"} <= held


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The console script of the wheel alone, and the environment that it needs."""
    target = tmp_path_factory.mktemp("installed")
    pip("install", wheel, "--no-deps", "--target", target)
    return target / "bin" / "cnnjax", {**os.environ, "PYTHONPATH": str(target)}


def called(installed, folder, *arguments):
    script, environment = installed
    return subprocess.run(
        [sys.executable, script, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.wheel
@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_the_console_script_says_what_there_is(arguments, installed, tmp_path):
    told = called(installed, tmp_path, *arguments)
    assert told.returncode == 0, told.stderr
    assert "sweep" in told.stdout
    assert "fcn-vs-cnn" not in told.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.wheel
def test_the_console_script_trains_an_experiment_of_ones_own(installed, tmp_path):
    page = (ROOT / "docs" / "extending.md").read_text()
    (tmp_path / "mine.py").write_text("\n\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)))
    told = called(installed, tmp_path, "mine.py", "--data", "shapes", "--epochs", "1")
    assert told.returncode == 0, told.stderr
    (run,) = (tmp_path / "results" / "runs").iterdir()
    assert json.loads((run / "summary.json").read_text())["distance"] < 0.3
