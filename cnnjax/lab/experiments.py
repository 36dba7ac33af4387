"""Experiments by name. One file is one experiment: its config, its run, its table and its claims.

An experiment is a module with a docstring (what it shows, its command, its time, what to expect; the first line is the
listing's) and with what `Experiment` names. Every file of the folder `experiments/` is one; `launch.py PATH.py` runs a
file that lies anywhere else.
"""

import ast
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from cnnjax.errors import UserError, unknown_name
from cnnjax.lab import workspace
from cnnjax.lab.claims import Claim


class Experiment(Protocol):
    """What a module offers to be an experiment.

    Attributes:
        Config: a frozen dataclass of options with defaults.
    """

    __doc__: str | None
    Config: type

    def load(self, config: Any) -> Any:
        """Return the data, before anything is written; raise a UserError if the config does not fit it."""
        ...

    def run(self, config: Any, data: Any, run: Any, parallel: Any) -> dict[str, Any]:
        """Do the work, draw into `run.figures`, and return the summary, which JSON can hold."""
        ...

    def table(self, summary: dict[str, Any]) -> str:
        """Return a finished run's results as a Markdown table."""
        ...

    def claims(self, summary: dict[str, Any] | None) -> Sequence[Claim]:
        """Return the lectures' claims, checked with a finished run, or with None where no run is published."""
        ...


def files() -> dict[str, Path]:
    """Return the file of every experiment by its name; nothing is imported."""
    found = [path for folder in workspace.find().experiments for path in sorted(folder.glob("[!_]*.py"))]
    return {path.stem.replace("_", "-"): path for path in found if not path.stem.endswith(("_figures", "_claims"))}


def first_line(path: Path) -> str:
    """Return the first line of a module's docstring, without importing it."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


def load(name: str) -> Experiment:
    """Import an experiment by its name, or the file of a person's own by its path.

    Raises:
        UserError: there is no such experiment, or the file is none.
    """
    if name.endswith(".py"):
        return load_file(Path(name))
    known = files()
    if name not in known:
        raise unknown_name("experiment", name, known)
    path = known[name]
    if str(path.parents[1]) not in sys.path:
        sys.path.insert(0, str(path.parents[1]))
    return cast(Experiment, importlib.import_module(f"{path.parent.name}.{path.stem}"))


def title(name: str) -> str:
    """Return what an experiment's runs are called, given its name or the path of its file."""
    return Path(name).stem.replace("_", "-") if name.endswith(".py") else name


def load_file(path: Path) -> Experiment:
    """Import a file that holds an experiment; the networks that it registers are known from then on."""
    if not path.is_file():
        raise UserError(f"there is no file {path}: expected the path of an experiment, a Python module")
    name = f"file_{path.stem}"  # which is no other module's
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} cannot be imported: expected a Python module")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.absolute()))  # for what lies beside it
    spec.loader.exec_module(module)
    missing = [part for part in ("Config", "load", "run", "table", "claims") if not hasattr(module, part)]
    if missing:
        raise UserError(f"{path} has no {', '.join(missing)}: docs/extending.md shows what an experiment needs")
    return cast(Experiment, module)
