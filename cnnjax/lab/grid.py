"""The grid of a sweep: its cells, each a run with options of its own, and the numbers in their summaries."""

import csv
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnjax import runs
from cnnjax.errors import UserError, unknown_name
from cnnjax.options import kinds

# The default for comparing cells: the first that is found.
METRICS = ("test_accuracy", "test_mean_iou", "test_joint_iou", "test_loss")
NO_RESULTS = {"config", "device", "versions"}  # parts of a summary that hold no results


@dataclass
class Cell:
    """A combination of values, and the state of its run.

    Attributes:
        values: by option, as on a command line.
        arguments: of launch.py, without the directory.
        config: the options that result.
        path: directory of the run.
        status: waiting, queued, running, finished, failed or stopped.
        job: id of its job in SLURM.
    """

    values: Mapping[str, str]
    arguments: list[str]
    config: dict[str, Any]
    path: Path
    status: str = "waiting"
    job: str | None = None

    @property
    def name(self) -> str:
        """The name in tables and messages."""
        return " ".join(f"{option}={value}" for option, value in self.values.items())

    def summary(self) -> dict[str, Any]:
        """Return the summary of the run; empty while it is unfinished."""
        return runs.read_json(self.path / "summary.json") or {}


def parse_grid(grid: Sequence[str], config: type) -> dict[str, list[str]]:
    """Return the values of every swept option, from "OPTION=VALUE,VALUE", with quotes around a value with commas.

    Raises:
        UserError: there is none, one has another form, a value that is not text is empty, or an option stands there
            twice or is not one of the dataclass `config`.
    """
    if not grid:
        raise UserError("a sweep needs --grid OPTION=VALUE,VALUE ..., e.g. --grid lr=0.1,0.01 seed=0,1,2")
    known = {name.replace("_", "-"): kind.type for name, kind in kinds(config).items()}
    options: dict[str, list[str]] = {}
    for assignment in grid:
        name, equals, values = assignment.partition("=")
        option = name.removeprefix("--").replace("_", "-")
        if not equals:
            raise UserError(f"--grid: expected OPTION=VALUE,VALUE, got {assignment!r}")
        if option not in known:
            raise unknown_name("option in --grid", option, known)
        if option in options:
            raise UserError(f"--grid has {option} twice: write all its values after one {option}=")
        options[option] = next(csv.reader([values])) or [""]
        if "" in options[option] and known[option] is not str:
            raise UserError(f"--grid: {option} takes no empty value, got {assignment!r}")
    return options


def make_cells(
    experiment: str,
    options: Mapping[str, Sequence[str]],
    arguments: Sequence[str],
    config: type,
    parse: Callable[[list[str]], Any],
) -> list[Cell]:
    """Return the cells of a grid, their paths relative to the sweep's directory; the first option changes slowest.

    Args:
        experiment: its name.
        options: the values of every swept option.
        arguments: all other options of the experiment, as they were given.
        config: the experiment's dataclass of options.
        parse: makes an instance of it from the flags of the swept options.

    Raises:
        UserError: an option is both swept and given, two cells are the same, or a value does not fit.
    """
    flags_given = [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]
    given = {re.sub("^--(no-)?", "", flag.replace("_", "-")) for flag in flags_given}
    switches = {name.replace("_", "-") for name, kind in kinds(config).items() if kind.type is bool}
    for option in options:
        if option in given:
            raise UserError(f"--{option} is given, and in --grid: leave one out")
    cells: dict[str, Cell] = {}
    for combination in itertools.product(*options.values()):
        values = dict(zip(options, combination, strict=True))
        flags = [flag for option, value in values.items() for flag in _flags(option, value, option in switches)]
        options_of_cell = runs.as_config(parse(flags))
        cell = Cell(values, [experiment, *arguments, *flags], options_of_cell, Path(_folder(values, options_of_cell)))
        same = cells.setdefault(json.dumps(options_of_cell, sort_keys=True), cell)
        if same is not cell:
            raise UserError(f"--grid: the cells {same.name!r} and {cell.name!r} are the same: leave one out")
    return list(cells.values())


def _flags(option: str, value: str, switch: bool) -> list[str]:
    if not switch:
        return [f"--{option}", value]
    if value not in ("True", "False"):
        raise UserError(f"--grid: {option} is True or False, got {value!r}")
    return [f"--{option}" if value == "True" else f"--no-{option}"]


def _folder(values: Mapping[str, str], config: Mapping[str, Any]) -> str:
    name = ",".join(f"{option}={value}" for option, value in values.items())
    plain = re.sub(r"[^\w.,=+-]+", "-", name)[:100]
    return name if name == plain else f"{plain}-{runs.config_hash(config)}"


def identity(cells: Sequence[Cell]) -> dict[str, Any]:
    """Return what identifies a sweep: its grid, and the options that all cells share."""
    swept = [option.replace("-", "_") for option in cells[0].values]
    values = {option: [cell.config[option] for cell in cells] for option in swept}
    grid = {option: list({json.dumps(one): one for one in every}.values()) for option, every in values.items()}
    return {"grid": grid, **{name: value for name, value in cells[0].config.items() if name not in swept}}


# ---------------------------------------------------------------- results of cells


def numbers(summary: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return every number of a summary by its path, e.g. "models.lecture-cnn.test_accuracy"."""
    found: dict[str, float] = {}
    for name, value in summary.items():
        if isinstance(value, Mapping) and (prefix or name not in NO_RESULTS):
            found |= numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{prefix}{name}"] = float(value)
    return found


def default_metric(found: Mapping[str, float]) -> str | None:
    """Return the path of the last of these numbers that is the first of `METRICS`; None without any of them."""
    paths = list(found)[::-1]
    return next((path for name in METRICS for path in paths if path.split(".")[-1] == name), None)
