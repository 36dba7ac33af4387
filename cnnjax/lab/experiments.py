"""Experiments by name. An experiment is one file: its config, its run, its table and its claims.

An experiment is a module with the members of `Experiment` and a docstring that says what it shows, its command, time
and what to expect; the first line stands in the listing. Every file in the folder `experiments/` is an experiment,
except drawings (`*_figures.py`) and parts of experiments (`_*.py`); `launch.py PATH.py` runs a file from anywhere else.
"""

import ast
import dataclasses
import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, cast

from cnnjax.errors import UserError, unknown_name
from cnnjax.lab import workspace
from cnnjax.lab.claims import Claim

# Modules of the package that are experiments, by their commands.
BUILT_IN = {"train": "cnnjax.lab.training", "find-lr": "cnnjax.lab.find_lr"}


class SummaryError(UserError):
    """A file of results does not hold what was written to it; the message names the file and what is wrong."""


class Experiment(Protocol):
    """The members of a module that is an experiment.

    It may also have `CAPTIONS`: what its figures show, by the names of their files without suffix.

    Attributes:
        Config: a frozen dataclass of options with defaults.
    """

    __doc__: str | None
    __file__: str | None
    Config: type

    def load(self, config: Any) -> Any:
        """Return the data, before anything is written; raise a UserError if the config does not fit it."""
        ...

    def run(self, config: Any, data: Any, run: Any, parallel: Any) -> dict[str, Any]:
        """Do the work, draw into `run.figures`, and return the summary, which must fit into JSON."""
        ...

    def table(self, summary: dict[str, Any]) -> str:
        """Return the results of a finished run as a Markdown table."""
        ...

    def claims(self, summary: dict[str, Any] | None) -> Sequence[Claim]:
        """Check the lectures' claims with the summary of a finished run, or with None if no run is published.

        Nothing but the summary is read, unless the docstring says so.
        """
        ...


def config_of(experiment: Experiment, arguments: Sequence[str] = (), config: Mapping[str, Any] | None = None) -> type:
    """Return the options of an experiment; those of `train` depend on the task.

    Args:
        experiment: its module.
        arguments: of the command line.
        config: of a run, in their place.
    """
    choose = getattr(experiment, "config_for", None)
    if choose is None:
        return experiment.Config
    chosen: type = choose(["--task", config["task"]] if config and "task" in config else arguments)
    return chosen


def files() -> dict[str, Path]:
    """Return the file of every experiment by its name, without importing any."""
    found = [path for folder in workspace.find().experiments for path in sorted(folder.glob("[!_]*.py"))]
    return {path.stem.replace("_", "-"): path for path in found if not path.stem.endswith("_figures")}


def first_line(path: Path) -> str:
    """Return the first line of a module's docstring, without importing it."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


def load(name: str) -> Experiment:
    """Import an experiment by its name, or a person's own by the path of its file.

    Raises:
        UserError: there is no such experiment, or the file is not an experiment.
    """
    if name.endswith(".py"):
        return load_file(Path(name))
    if name in BUILT_IN:
        return cast(Experiment, importlib.import_module(BUILT_IN[name]))
    known = files()
    if name not in known:
        raise unknown_name("experiment", name, known)
    path = known[name]
    if str(path.parents[1]) not in sys.path:
        sys.path.insert(0, str(path.parents[1]))
    return cast(Experiment, importlib.import_module(f"{path.parent.name}.{path.stem}"))


def title(name: str) -> str:
    """Return the name of an experiment's runs, given its own name or the path of its file."""
    return Path(name).stem.replace("_", "-") if name.endswith(".py") else name


def identity(name: str) -> dict[str, str]:
    """Return what tells an experiment of a person's own from another of the same name: its file and what is in it."""
    if not name.endswith(".py"):
        return {}
    file = Path(name).absolute()
    return {"file": str(file), "file_sha256": hashlib.sha256(file.read_bytes()).hexdigest()[:16]}


def load_file(path: Path) -> Experiment:
    """Import a file that holds an experiment, and register its networks."""
    if not path.is_file():
        raise UserError(f"there is no file {path}: expected the path of an experiment, a Python module")
    name = f"file_{path.stem}"  # so that it hides no other module
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} cannot be imported: expected a Python module")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    if str(path.parent.absolute()) not in sys.path:
        sys.path.append(str(path.parent.absolute()))  # its own imports may lie beside it
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except Exception as error:  # whatever its author wrote
        own = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f"{path}, line {own[-1]}," if own else path
        raise UserError(f"{where} cannot be imported ({type(error).__name__}: {error}): correct it") from error
    missing = [part for part in ("Config", "load", "run", "table", "claims") if not hasattr(module, part)]
    if missing:
        raise UserError(f"{path} has no {', '.join(missing)}: docs/extending.md shows what an experiment needs")
    config = cast(Any, module).Config
    if not dataclasses.is_dataclass(config):
        raise UserError(f"{path}: Config must be a dataclass of options, got {config!r}")
    bare = [
        field.name
        for field in dataclasses.fields(config)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if bare:
        raise UserError(f"{path}: every option of Config needs a default; {', '.join(bare)} has none")
    return cast(Experiment, module)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Read what an experiment wrote to a file, its table and its claims included.

    Raises:
        SummaryError: the file is not what the experiment would write.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        what = f"there is no {error}" if isinstance(error, KeyError) else error
        raise SummaryError(f"{path} is damaged: {what}") from error
