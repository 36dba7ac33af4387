"""List the networks, with their parameters and the library that has the same.

    python launch.py models
    python launch.py models "resnet*"
    python launch.py models --task segmentation

Parameters are those for 1,000 classes, or 21 for segmentation, and three channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro
from flax import nnx

from cnnjax import models
from cnnjax.errors import UserError, unknown_name
from cnnjax.lab.options import parse
from cnnjax.models.registry import lookup
from cnnjax.options import Checked


@dataclass(frozen=True)
class Models(Checked):
    """Which networks."""

    pattern: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="PATTERN")] = "*"
    """Names, with the wildcards of a shell, in quotes: "resnet*"."""
    task: str | None = None
    """Only networks that learn this task."""


def main(arguments: Sequence[str]) -> int:
    """Print the table."""
    (options,) = parse("models", __doc__, arguments, Models)
    tasks = sorted({lookup(name).task for name in models.list_models()})
    if options.task not in (None, *tasks):
        raise unknown_name("`task`", str(options.task), tasks)
    names = models.list_models(options.pattern, options.task)
    if not names and not set(options.pattern) & set("*?["):
        raise unknown_name("model", options.pattern, models.list_models(task=options.task))
    if not names:
        raise UserError(f"no name of a network matches {options.pattern!r}: `models` lists all of them")
    rows = [
        ("network", "task", "the same in"),
        *((name, lookup(name).task, lookup(name).reference or "") for name in names),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:  # each when it is known: to trace a network takes a third of a second
        params = f"{params_of(row[0]):,}" if row is not rows[0] else "parameters"
        print(
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)), f"{params:>12}", flush=True
        )
    return 0


def params_of(name: str) -> int:
    """Return a network's number of parameters; none of them is made."""
    return models.count_params(nnx.eval_shape(lambda: models.create_model(name)))
